"""Hyper-parameters: for each model a folder, with one file a data set.

A file holds the published values of the run with SEvo, which ``adamw`` shares, and in a table
``[adam]`` what the plain run, which was tuned on its own and decays weights by an L2 term, has
otherwise; so do the other optimisers with an L2 term, for want of published values. What a file
leaves out is in the model's ``default.toml``, which is also for data sets that have no file.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from experiments.configs.base import OPTIMIZERS, Hyperparameters, option
from experiments.errors import UserError

FOLDER = Path(__file__).parent
DECOUPLED = ("adamw", "sevo-adamw")


@cache
def hyperparameters(model: str, dataset: str, optimizer: str) -> Hyperparameters:
    """The settings of a model on a data set, by registered name or path."""
    folder = FOLDER / model
    own = folder / f"{dataset.removeprefix('synthetic-')}.toml"
    values: dict[str, Any] = {}
    for file in (folder / "default.toml", own):
        if file.parent == folder and file.exists():
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            plain = content.pop("adam", {})
            values |= content | ({} if optimizer in DECOUPLED else plain)
    return dataclasses.replace(Hyperparameters(), **values)


MODELS: dict[str, Callable[[str, str], Hyperparameters]] = {
    folder.name: partial(hyperparameters, folder.name)
    for folder in sorted(FOLDER.iterdir())
    if (folder / "default.toml").exists()
}

BUILT_IN = frozenset(MODELS)
_READERS = {f.name: f.metadata["readers"] for f in dataclasses.fields(Hyperparameters)}


def reads(model: str, optimizer: str, setting: str) -> bool:
    """Whether a run reads a setting; what a model that is not built in reads is not known."""
    readers = _READERS[setting]
    if not readers or optimizer in readers or model in readers:
        return True
    return model not in BUILT_IN and not set(readers) <= set(OPTIMIZERS)


def check_read(model: str, optimizers: Sequence[str], settings: Iterable[str]) -> None:
    """A `UserError` that names the option, unless some optimiser's run reads each setting."""
    for setting in settings:
        if not any(reads(model, optimizer, setting) for optimizer in optimizers):
            raise UserError(
                f"{option(setting)}: read by {', '.join(_READERS[setting])} alone; "
                f"{model} with {' and '.join(optimizers)} ignores it"
            )


__all__ = ["MODELS", "OPTIMIZERS", "Hyperparameters", "check_read", "reads"]
