"""Measuring time: candidates in turn, and the epochs and evaluations to measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from experiments.data import Interactions
from experiments.run import Run
from experiments.training.loop import Setup, initial_checkpoint
from experiments.training.steps import Epochs, TrainState

QUICK_CALL, SLOW_CALL = 0.2, 30.0


def in_turn(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each candidate, ``float[rounds]``, in turns, after two calls to warm up.

    Turns let a change of the machine's speed meet all candidates alike, and every other round goes
    backwards, so that none always follows the same one. A quick call is preceded by one that is
    not counted, so that none finds the caches that another has filled.
    """

    def seconds_of(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    quick = {}
    for name, call in candidates.items():
        first = seconds_of(call)  # which may compile
        quick[name] = first < SLOW_CALL and seconds_of(call) < QUICK_CALL
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            if quick[name]:
                jax.block_until_ready(candidates[name]())
            seconds[name].append(seconds_of(candidates[name]))
    return {name: np.array(values) for name, values in seconds.items()}


def epoch_runner(
    runs: Sequence[Run], setup: Setup, data: Interactions
) -> tuple[Callable[[], jax.Array], int]:
    """A call that trains the next epoch, as training does it, and the number of its steps.

    Laying out the epoch after it is part of the call, and overlaps as it does in training. Runs
    that differ in their seeds alone are trained in one program.
    """
    epochs, state, steps = _begin(runs, setup, data)
    number = 0
    packer = ThreadPoolExecutor(1)
    upcoming = packer.submit(epochs.lay_out, 0)

    def call() -> jax.Array:
        nonlocal state, upcoming, number
        rows = upcoming.result()
        upcoming = packer.submit(epochs.lay_out, number + 1)
        state, losses = epochs(state, rows, number)
        number += 1
        return losses

    return call, steps


def steps_runner(
    run: Run, setup: Setup, data: Interactions, max_steps: int
) -> tuple[Callable[[], jax.Array], int, int]:
    """A call that trains the first steps of an epoch, their number, and that of a whole epoch.

    For epochs that take too long to be measured whole; laying them out is not part of the call.
    """
    epochs, state, whole = _begin([run], setup, data)
    rows = jax.tree.map(lambda x: x[:max_steps], epochs.lay_out(0))

    def call() -> jax.Array:
        nonlocal state
        state, losses = epochs(state, rows, 0)
        return losses

    return call, min(max_steps, whole), whole


def _begin(runs: Sequence[Run], setup: Setup, data: Interactions) -> tuple[Epochs, TrainState, int]:
    """The epochs of runs, the state before the first, and the steps of each."""
    states = [initial_checkpoint(run, setup, data).state for run in runs]
    layouts = [setup.layouts(data, run.seed) for run in runs]
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, layouts, states[0])
    return epochs, epochs.stack(states), layouts[0].sequences_per_step.size
