"""The state of training, and the checkpoint of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from flax import nnx

from models import Backbone, Constant


class TrainState(NamedTuple):
    """The state that every step changes.

    Attributes:
        params: the model's parameters.
        opt_state: the optimiser's state.
        carried: other state that the model changes in training, such as running statistics.
    """

    params: Any
    opt_state: Any
    carried: Any


class Checkpoint(NamedTuple):
    """Everything that a run needs to go on.

    Attributes:
        state: the state after ``epoch``. It is ``None`` while the run is trained, since a compiled
            epoch takes over its memory.
        best_params: the parameters of the best epoch.
        best_carried: the carried state of the best epoch.
        epoch: the epochs that are done.
        best_epoch: the epoch with the best score; 0 before the first validation, or for the
            parameters of the run that this one goes on from.
        best_score: its validation score; -1 before the first validation.
        seconds: the time that training has taken.
    """

    state: TrainState | Any
    best_params: Any
    best_carried: Any
    epoch: int
    best_epoch: int
    best_score: float
    seconds: float


def split_model(model: Backbone) -> tuple[nnx.GraphDef[Backbone], Any, Any, Any]:
    """Splits a model into its structure, parameters, carried state and constants."""
    graphdef, params, constants, carried = nnx.split(model, nnx.Param, Constant, ...)
    return graphdef, params, carried, constants


def in_table(path: Any, table: str) -> bool:
    """Tells whether a leaf of parameters, or of a tree like them, is a table's, by its path."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.startswith(f"{table}/")
