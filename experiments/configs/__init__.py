"""Hyper-parameters: for each model a folder, with one file a data set.

A file holds the published values of the run with SEvo, which ``adamw`` and the other optimisers
share, and in a table ``[adam]`` what the plain run, which was tuned on its own, has otherwise. What
a file leaves out is in the model's ``default.toml``, which is also for data sets that have no file.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from experiments.configs.base import OPTIMIZERS, Hyperparameters

FOLDER = Path(__file__).parent


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
            values |= content | (plain if optimizer == "adam" else {})
    return dataclasses.replace(Hyperparameters(), **values)


MODELS: dict[str, Callable[[str, str], Hyperparameters]] = {
    folder.name: partial(hyperparameters, folder.name)
    for folder in sorted(FOLDER.iterdir())
    if (folder / "default.toml").exists()
}

__all__ = ["MODELS", "OPTIMIZERS", "Hyperparameters"]
