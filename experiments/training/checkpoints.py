"""The checkpoints of a run.

The newest two are kept, each with the checksums of its files. If the newest one is damaged, the run
goes on from the one before, and computes the later epochs again, to the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import textwrap
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.console import say
from experiments.errors import ArgumentError, UserError
from experiments.files import read_json, write_json
from experiments.training import processes
from experiments.training.state import Checkpoint

CHECKSUMS = "checksums.json"


@contextlib.contextmanager
def open_checkpoints(folder: Path, *, clean: bool = False) -> Generator[ocp.CheckpointManager]:
    """Opens the checkpoints in a run's folder.

    Args:
        folder: the run's folder.
        clean: whether to remove the leftovers of killed writes; only safe under the folder's lock.

    Raises:
        UserError: the folder cannot be used.
    """
    # The error that Orbax raises is enough; each of its tasks would also log a traceback.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=clean
    )
    path = (folder / "checkpoints").absolute()
    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(_plain_path(path)) if _misread(path) else path
            saved = stack.enter_context(ocp.CheckpointManager(plain, options=options))
        except OSError as error:
            raise UserError(f"{path}: cannot be used ({error.strerror})") from error
        yield saved


def _misread(path: Path) -> list[str]:
    """Returns the characters of a path that Orbax or TensorStore would misread.

    Orbax searches by a glob pattern that begins with the whole path. TensorStore takes neither
    backslashes nor names that are not UTF-8.
    """
    return [c for c in dict.fromkeys(str(path)) if c in "*?[]\\" or "\ud800" <= c <= "\udfff"]


@contextlib.contextmanager
def _plain_path(path: Path) -> Generator[Path]:
    """Makes a temporary link to a folder, whose path has no character that Orbax misreads."""
    if jax.process_count() > 1:  # all would need the same link, but each has its own TMPDIR
        raise ArgumentError(
            "out",
            f"several processes cannot write to {path}, for Orbax takes "
            f"{' '.join(_misread(path))} in it for a pattern; name a folder without it",
        )
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sevo-") as place:
        if wrong := _misread(Path(place)):
            raise UserError(
                f"TMPDIR: {place} has {' '.join(wrong)} in it, which Orbax takes for a pattern; "
                "set it to a folder without"
            )
        link = Path(place) / path.name
        link.symlink_to(path, target_is_directory=True)
        yield link


def _stored(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns a checkpoint as it is stored, without the empty trees of a model without state."""
    stored = checkpoint._asdict() | {"state": checkpoint.state._asdict()}
    if not jax.tree.leaves(checkpoint.best_carried):
        del stored["best_carried"], stored["state"]["carried"]
    return stored


def save_checkpoint(saved: ocp.CheckpointManager, checkpoint: Checkpoint, folder: Path) -> None:
    """Saves a checkpoint, and reads a run's first one back to see that it can be read.

    Raises:
        UserError: it cannot be written, or cannot be read again.
    """
    first = not saved.all_steps()
    log = logging.getLogger("absl")
    level = log.level
    # Orbax logs a traceback for every thread that fails, some of them after it has raised an error:
    # the log is heard again only after a write that succeeds.
    log.setLevel(logging.CRITICAL)
    try:
        done = saved.save(checkpoint.epoch, args=ocp.args.StandardSave(_stored(checkpoint)))
    except Exception as error:  # Orbax, TensorStore and the file system have errors of their own
        processes.stop_if_another_ended()
        raise UserError(
            f"{folder}: the checkpoint of epoch {checkpoint.epoch} could not be written "
            f"({_brief(error)}); any before it is intact, so make room and resume "
            "the run"
        ) from error
    log.setLevel(level)
    if not done:
        raise UserError(f"{folder}: holds a checkpoint of a later epoch than {checkpoint.epoch}")
    if first:
        _read_back(saved, checkpoint, folder)
    if processes.is_first():
        step = _step_folder(saved, checkpoint.epoch)
        write_json(step / CHECKSUMS, _checksums(step))


def _read_back(saved: ocp.CheckpointManager, checkpoint: Checkpoint, folder: Path) -> None:
    """Raises a `UserError` unless a checkpoint can be read again."""

    def target(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            return np.empty(leaf.shape, leaf.dtype)  # on the host: the device may be full
        return leaf

    try:
        saved.restore(
            checkpoint.epoch,
            args=ocp.args.StandardRestore(jax.tree.map(target, _stored(checkpoint))),
        )
    except Exception as error:  # as in `save_checkpoint`
        processes.stop_if_another_ended()
        raise UserError(
            f"{folder}: the checkpoint of epoch {checkpoint.epoch} was written and cannot be read "
            f"again ({_brief(error)}); write to another folder"
        ) from error


def resume_checkpoint(saved: ocp.CheckpointManager, start: Checkpoint) -> Checkpoint:
    """Restores a checkpoint to train on from; see `restore_checkpoint`.

    Newer checkpoints, which cannot be read, are removed: the run will write them again.
    """
    checkpoint = restore_checkpoint(saved, start)
    for step in saved.all_steps():
        if step > checkpoint.epoch:
            saved.delete(step)
    return checkpoint


def restore_checkpoint(saved: ocp.CheckpointManager, start: Checkpoint) -> Checkpoint:
    """Returns the newest checkpoint that can be read, or ``start`` if there is none.

    Args:
        saved: the run's checkpoints.
        start: the run's state before its first epoch. Checkpoints must have its shapes.

    Raises:
        UserError: there are checkpoints, and none of them can be read.
    """
    stored = _restore_newest(saved, ocp.args.StandardRestore(_stored(start)))
    if stored is None:
        return start
    state = start.state._replace(**stored.pop("state"))
    return start._replace(**stored, state=state)


def restore_best_params(folder: Path, params: Any) -> Any:
    """Returns the parameters of a run's best epoch.

    Args:
        folder: the run's folder.
        params: any parameters of the model; those in the checkpoint must have their shapes.

    Raises:
        UserError: there is no checkpoint, or none with parameters of these shapes.
    """
    target = {"best_params": params}
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    with open_checkpoints(folder) as saved:
        stored = _restore_newest(
            saved,
            ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True),
        )
    if stored is None:
        raise UserError(
            f"{folder}: holds no checkpoint (results that are shared often do not); train the "
            "run again, in another folder"
        )
    return stored["best_params"]


def _restore_newest(saved: ocp.CheckpointManager, args: ocp.args.CheckpointArgs) -> Any:
    """Returns the content of the newest checkpoint that can be read; ``None`` without checkpoints.

    Raises:
        UserError: there are checkpoints, and none of them can be read.
    """
    reasons: list[str] = []
    for step in sorted(saved.all_steps(), reverse=True):
        try:
            _verify(_step_folder(saved, step))
            stored: Any = saved.restore(step, args=args)
        except Exception as error:  # as in `save_checkpoint`
            reasons.append(f"the checkpoint of epoch {step} cannot be read ({_brief(error)})")
            continue
        for reason in reasons:
            if processes.is_first():
                say(f"{_folder(saved)}: {reason}; the one of epoch {step} is taken")
        return stored
    if reasons:
        raise UserError(
            f"{_folder(saved)}: {'; '.join(reasons)}; expected one of this run, on the same data; "
            "to start over, remove the folder"
        )
    return None


def _step_folder(saved: ocp.CheckpointManager, epoch: int) -> Path:
    return Path(saved.directory) / str(epoch)


def _folder(saved: ocp.CheckpointManager) -> Path:
    """Returns the folder itself, also where Orbax was given a link to it."""
    return Path(saved.directory).resolve()


def _checksums(step: Path) -> dict[str, str]:
    """Computes the checksum of each file of a checkpoint."""
    # Orbax checks some of its own files, but no arrays.
    sums: dict[str, str] = {}
    for path in sorted(step.rglob("*")):
        if path.is_file() and path.name != CHECKSUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            sums[path.relative_to(step).as_posix()] = digest
    return sums


def _verify(step: Path) -> None:
    """Raises a `UserError` that names a file of a checkpoint that has changed since it was written.

    A checkpoint without checksums passes: its process was killed before it wrote them.
    """
    if not (step / CHECKSUMS).exists():
        return
    found = _checksums(step)
    for name, digest in read_json(step / CHECKSUMS).items():
        if found.get(name) != digest:
            raise UserError(f"{name} is {'damaged' if name in found else 'missing'}")


def _brief(error: Exception) -> str:
    """Shortens an error's message: TensorStore adds pages of context after `` [``."""
    return textwrap.shorten(str(error).partition(" [")[0], 1000)
