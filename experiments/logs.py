"""Loggers of runs: where the numbers of an epoch go beside ``metrics.jsonl``."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from experiments.errors import ArgumentError, check_name

Log = Callable[[Path, int, Mapping[str, float]], None]
"""Called after every epoch with a run's folder, the epoch and numbers by name."""


@contextlib.contextmanager
def tensorboard() -> Generator[Log]:
    """Yields a logger that writes TensorBoard's files into the folders of runs."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ArgumentError(
            "log", "tensorboard needs a package that is not installed: pip install tensorboardX"
        )
    from tensorboardX import SummaryWriter

    with contextlib.ExitStack() as stack:
        writers: dict[Path, SummaryWriter] = {}

        def log(folder: Path, epoch: int, numbers: Mapping[str, float]) -> None:
            if folder not in writers:
                # What an interrupted run has logged beyond its last checkpoint comes again.
                writer = SummaryWriter(str(folder), purge_step=epoch)
                writers[folder] = stack.enter_context(writer)
            for name, value in numbers.items():
                writers[folder].add_scalar(name.replace("@", "_"), value, epoch)  # its own letters
            writers[folder].flush()

        yield log


LOGGERS = {"tensorboard": tensorboard}


@contextlib.contextmanager
def open_log(name: str | None) -> Generator[Log | None]:
    """Opens a logger by its name, if there is one.

    Raises:
        UserError: the logger is unknown, or its package is missing.
    """
    if name is None:
        yield None
        return
    check_name("logger", name, LOGGERS)
    with LOGGERS[name]() as log:
        yield log
