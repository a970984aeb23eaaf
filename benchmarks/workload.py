"""What the benchmarks measure: SASRec's epochs on Beauty, or on the built-in data without it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    """A call that trains the next epoch, as training does it, and the number of steps.

    Laying out the epoch after it is part of the call, and overlaps as it does in training.
    """
    settings = dataclasses.replace(MODELS["sasrec"]("beauty", "sevo-adamw"), **changes)
    run = Run("sasrec", data.name, optimizer, 0, settings)
    transformation = make_optimizer(optimizer, settings, data)
    graphdef, params = nnx.split(make_model(run, data.num_items), nnx.Param)
    corpus, layouts = make_corpus(data), EpochLayouts(data, settings, 0)
    step = make_step(graphdef, transformation, settings.max_len, layouts.few_rows)
    epoch = make_epoch(step)
    packer = ThreadPoolExecutor(1)
    state = TrainState(params, transformation.init(params))
    upcoming, number = packer.submit(layouts, 0), 0

    def call() -> jax.Array:
        nonlocal state, upcoming, number
        cells, number = upcoming.result(), number + 1
        upcoming = packer.submit(layouts, number)
        state, losses = epoch(state, corpus, cells, jax.random.key(number))
        return losses

    return call, layouts.users_per_step.size
