"""What the benchmarks measure: SASRec's epochs on Beauty, or on the built-in data without it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from experiments.batches import make_corpus
from experiments.configs import MODELS
from experiments.data import Interactions, load
from experiments.errors import UserError
from experiments.optimizers import make_optimizer
from experiments.trainer import EpochLayouts, Run, TrainState, make_epoch, make_model, make_step


def cores() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def dataset() -> Interactions:
    """Beauty if its file can be had, else the built-in data set."""
    try:
        return load("beauty")
    except UserError as error:
        print(f"Beauty is not at hand, so on synthetic data: {error}")
        return load("synthetic")


def epoch_runner(
    data: Interactions, optimizer: str, **changes: Any
) -> tuple[Callable[[], jax.Array], int]:
    """A call that trains one epoch, always the same batches of users, and the number of steps."""
    settings = dataclasses.replace(MODELS["sasrec"]("beauty", "sevo-adamw"), **changes)
    run = Run("sasrec", data.name, optimizer, 0, settings)
    transformation = make_optimizer(optimizer, settings, data)
    graphdef, params = nnx.split(make_model(run, data.num_items), nnx.Param)
    epoch = make_epoch(make_step(graphdef, transformation, settings.max_len))
    corpus, cells = make_corpus(data), EpochLayouts(data, settings, 0)(0)
    state = [TrainState(params, transformation.init(params))]

    def call() -> jax.Array:
        state[0], losses = epoch(state[0], corpus, cells, jax.random.key(0))
        return losses

    return call, cells.shape[0]
