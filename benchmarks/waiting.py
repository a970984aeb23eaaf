"""``python -m benchmarks.waiting``: the cost of smoothings that wait (``every``) over plain AdamW.

- SASRec's packed step on Beauty, smoothed once an epoch.
- An update of a table of each size of the paper's Table 1, smoothed once in 100 steps.
- An update of a million rows over 30 million entries, at every step and once in 100: time and peak
  memory.
- The bytes that each of four devices receives in a step, for a table whose rows are split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax
from benchmarks import report
from benchmarks.graphs import graph, random_graph
from benchmarks.scaling import QUICK_SIDE, SIDE, simulated
from benchmarks.smoothing import DECAY, DIM, RATE, training_step, update_of
from experiments.data.table1 import TABLE_1
from experiments.training.timing import in_turn

EVERY = 100
NODES, EDGES = 10**6, 15 * 10**6


def updates(quick: bool) -> Iterator[report.Case]:
    """Measures an update of the item table of each data set, with the gradients of a batch."""
    every, rounds = (2, 1) if quick else (EVERY, 7)
    for name, size in TABLE_1.items():
        if quick and name != "ml-1m":
            continue
        own = graph(size)
        table, gradient = _table(own.num_nodes)
        calls = {
            label: update_of(transformation, table, gradient, every)
            for label, transformation in {
                "sevo_adamw": sevo_jax.sevo_adamw(RATE, own, weight_decay=DECAY, every=every),
                "optax.adamw": optax.adamw(RATE, weight_decay=DECAY),
                "no smoothing": sevo_jax.sevo_adamw(RATE, own, weight_decay=DECAY, num_layers=0),
            }.items()
        }
        seconds = in_turn(calls, rounds)
        corrected = seconds.pop("no smoothing")
        case = report.case(
            f"update, {own.num_nodes} x {DIM} ({name}), smoothed once in {every} steps",
            seconds,
            "ms",
            1e3 / every,
        )
        # The moment correction alone, for what it adds to AdamW.
        yield case | {
            "moment correction alone": round(float(np.median(corrected)) * 1e3 / every, 4)
        }


def large(quick: bool) -> Iterator[report.Case]:
    """Measures an update of a large table, at every step and once in 100."""
    nodes, edges = (1000, 5000) if quick else (NODES, EDGES)
    every, rounds = (2, 1) if quick else (EVERY, 2)
    own = random_graph(nodes, edges)
    table, gradient = _table(nodes)
    for k in (1, every):
        transformation = sevo_jax.sevo_adamw(RATE, own, weight_decay=DECAY, every=k)
        steps = every if k > 1 else max(every // 20, 1)
        calls = {"sevo_adamw": update_of(transformation, table, gradient, steps)}
        seconds = {name: own / steps for name, own in in_turn(calls, rounds).items()}
        case = report.case(
            f"update, {nodes} x {DIM}, {2 * edges} entries, every={k}", seconds, "ms", 1e3
        )
        yield case | {"tables": _tables(transformation, table)}


def exchanged(quick: bool) -> Iterator[report.Case]:
    """Counts the bytes that a device receives, in the compiled programs of four devices."""
    every = 2 if quick else EVERY
    for k in (1, every):
        for found in simulated(4, QUICK_SIDE if quick else SIDE, 1, k):
            if found["split"] != "features":
                name = f"received by each of 4 devices, {found['split']}, every={k}"
                yield report.case(name, {"": np.array([found["received"]])}, "bytes", 1)


def _table(rows: int) -> tuple[jax.Array, jax.Array]:
    """Draws a table, and a gradient of which three rows in ten are not zero."""
    rng = np.random.default_rng(0)
    touched = rng.random((rows, 1), np.float32) < 0.3
    gradient = np.where(touched, rng.standard_normal((rows, DIM), np.float32), np.float32(0))
    return jnp.asarray(rng.standard_normal((rows, DIM), np.float32)), jnp.asarray(gradient)


def _tables(transformation: optax.GradientTransformation, table: jax.Array) -> dict[str, float]:
    """Counts the memory of an update, in tables: its state, and its temporaries."""
    shape: Any = jax.ShapeDtypeStruct(table.shape, table.dtype)
    state = jax.eval_shape(transformation.init, shape)
    compiled = jax.jit(transformation.update, donate_argnums=1).lower(shape, state, shape).compile()
    memory: Any = compiled.memory_analysis()
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return {
        "state": round(held / table.nbytes, 3),
        "temporaries": round(memory.temp_size_in_bytes / table.nbytes, 3),
    }


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures the training step, updates of the paper's sizes and a large one, and traffic."""
    yield training_step(quick, ", smoothed once an epoch", every_epochs=1)
    yield from updates(quick)
    yield from large(quick)
    yield from exchanged(quick)


if __name__ == "__main__":
    report.command("waiting", measure)
