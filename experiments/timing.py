"""Measuring time: candidates in turn, and the epochs and evaluations to measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from experiments.data import Interactions
from experiments.epochs import EpochLayouts, Epochs
from experiments.folders import Run
from experiments.trainer import Setup, initial_checkpoint

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
    runs: Sequence[Run], setup: Setup, data: Interactions, max_steps: int | None = None
) -> tuple[Callable[[], jax.Array], int, int]:
    """A call that trains the next epoch, as training does it.

    Laying out the epoch after it is part of the call, and overlaps as it does in training.

    Args:
        runs: one, or several that differ in their seeds alone; these train in one program.
        setup: of the first run.
        data: what they train on.
        max_steps: if given, the call trains the first steps of the epoch alone.

    Returns:
        The call, the steps that it trains, and the steps of an epoch.
    """
    states = [initial_checkpoint(run, setup, data).state for run in runs]
    layouts = [EpochLayouts(data, setup.settings, run.seed) for run in runs]
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.corpus, layouts, states[0])
    state, number = epochs.stack(states), 0
    packer = ThreadPoolExecutor(1)
    upcoming = packer.submit(epochs.lay_out, 0)
    whole = layouts[0].users_per_step.size
    steps = min(whole, max_steps or whole)

    def call() -> jax.Array:
        nonlocal state, upcoming, number
        cells = upcoming.result()
        upcoming = packer.submit(epochs.lay_out, number + 1)
        state, losses = epochs(state, cells if steps == whole else cells[:steps], number)
        number += 1
        return losses

    return call, steps, whole
