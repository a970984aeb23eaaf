"""The state of training: what a step changes, and what a run needs to go on."""

from __future__ import annotations

from typing import Any, NamedTuple

from flax import nnx

from models import Backbone, Constant


class TrainState(NamedTuple):
    """What an epoch changes.

    Attributes:
        params: the model's parameters.
        opt_state: the optimiser's state.
        carried: what else a step of the model leaves to the next, such as running statistics.
    """

    params: Any
    opt_state: Any
    carried: Any


class Checkpoint(NamedTuple):
    """What a run needs to go on."""

    state: TrainState | Any  # None while the run is trained: an epoch takes its memory
    best_params: Any
    best_carried: Any
    epoch: int
    best_epoch: int
    best_score: float
    seconds: float


def split_model(model: Backbone) -> tuple[nnx.GraphDef[Backbone], Any, Any, Any]:
    """A model's structure, its parameters, what else training changes, and its constants."""
    graphdef, params, constants, carried = nnx.split(model, nnx.Param, Constant, ...)
    return graphdef, params, carried, constants
