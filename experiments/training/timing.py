"""Measuring time: candidates in turn, and the epochs to measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from experiments.data import Interactions
from experiments.run import Run
from experiments.training.prepare import Setup, initial_checkpoint
from experiments.training.steps import Epochs, TrainState

QUICK_CALL, SLOW_CALL = 0.2, 30.0


def in_turn(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Measures the seconds of each candidate, ``float[rounds]``, in turns, after warming up.

    If the machine's speed changes, it changes for all candidates alike. Every other round goes
    backwards, so that no candidate always follows the same one. A quick candidate is called once
    before each measured call, so that it does not find the caches that another has filled.
    """

    def seconds_of(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    quick = {}
    for name, call in candidates.items():
        first = seconds_of(call)  # the first call may compile
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
    """Returns a call that trains the next epoch as `loop.train` does, and the number of its steps.

    The call also lays out the epoch after it, at the same time, as training does. Runs that differ
    in their seeds alone are trained in one program.
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
    """Returns a call that trains the first steps of an epoch, and two numbers of steps.

    It serves epochs that take too long to be measured whole. The call does not lay them out.

    Returns:
        The call, the steps that it trains, and the steps of a whole epoch.
    """
    epochs, state, whole = _begin([run], setup, data)
    rows = jax.tree.map(lambda x: x[:max_steps], epochs.lay_out(0))

    def call() -> jax.Array:
        nonlocal state
        state, losses = epochs(state, rows, 0)
        return losses

    return call, min(max_steps, whole), whole


def _begin(runs: Sequence[Run], setup: Setup, data: Interactions) -> tuple[Epochs, TrainState, int]:
    """Returns the epochs of runs, the state before the first, and the steps of an epoch."""
    states = [initial_checkpoint(run, setup, data).state for run in runs]
    layouts = [setup.layouts(data, run.seed) for run in runs]
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, layouts, states[0])
    return epochs, epochs.stack(states), layouts[0].sequences_per_step.size
