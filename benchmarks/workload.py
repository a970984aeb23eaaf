"""What the benchmarks measure: SASRec's epochs on Beauty, or on the built-in data without it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import MODELS
from experiments.data import Interactions, load
from experiments.errors import UserError
from experiments.trainer import (
    EpochLayouts,
    Run,
    initial_checkpoint,
    make_epoch,
    make_setup,
    make_step,
    stack_cells,
    stack_states,
    state_axes,
)


def cores() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def dataset(quick: bool = False) -> Interactions:
    """Beauty if its file can be had, else the built-in data set; that one if it is to be quick."""
    if quick:
        return load("synthetic")
    try:
        return load("beauty")
    except UserError as error:
        print(f"Beauty is not at hand, so on synthetic data: {error}")
        return load("synthetic")


def epoch_runner(
    data: Interactions, optimizer: str, *, seeds: int = 1, **changes: Any
) -> tuple[Callable[[], jax.Array], int]:
    """A call that trains the next epoch, as training does it, and the number of steps.

    Laying out the epoch after it is part of the call, and overlaps as it does in training. More
    than one seed is trained in one program.
    """
    settings = dataclasses.replace(MODELS["sasrec"]("beauty", optimizer), **changes)
    runs = [Run("sasrec", data.name, optimizer, seed, settings) for seed in range(seeds)]
    setup = make_setup(runs[0], data)
    states = [initial_checkpoint(run, setup, data).state for run in runs]
    layouts = [EpochLayouts(data, settings, run.seed) for run in runs]
    axes = state_axes(setup.optimizer, states[0])
    few_rows = layouts[0].few_rows if seeds == 1 else None
    step = make_step(setup.graphdef, setup.optimizer, settings.max_len, few_rows)
    epoch = make_epoch(step, None if seeds == 1 else axes)
    state = states[0] if seeds == 1 else stack_states(states, axes)

    def lay_out(number: int) -> np.ndarray:
        cells = [layout(number) for layout in layouts]
        return cells[0] if seeds == 1 else stack_cells(cells)

    packer = ThreadPoolExecutor(1)
    upcoming, number = packer.submit(lay_out, 0), 0

    def call() -> jax.Array:
        nonlocal state, upcoming, number
        cells, number = upcoming.result(), number + 1
        upcoming = packer.submit(lay_out, number)
        keys = [jax.random.key(seeds * number + seed) for seed in range(seeds)]
        key = keys[0] if seeds == 1 else jnp.stack(keys)
        state, losses = epoch(state, setup.corpus, cells, key)
        return losses

    return call, layouts[0].users_per_step.size
