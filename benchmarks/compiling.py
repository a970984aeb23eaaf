"""``python -m benchmarks.compiling``: compile time of SASRec's step for a small and a large graph.

The graph is an argument of the compiled step, not a constant in it. So its size should not matter.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

import sevo_jax
from benchmarks import report
from benchmarks.graphs import random_graph
from experiments.data import load
from experiments.inputs.layout import EpochLayouts
from experiments.run import Run
from experiments.settings.published import published
from experiments.training.prepare import initial_checkpoint, make_setup
from experiments.training.steps import Epochs

FEW, MANY = 200_000, 15_000_000
NODES = 400_000


def compiler(graph: sevo_jax.Graph) -> Callable[[], float]:
    """Returns a call that compiles an epoch of SASRec for a graph, and returns the seconds."""
    data = dataclasses.replace(load("synthetic"), item_ids=np.arange(1, graph.num_nodes))
    settings = published("sasrec", "beauty", "sevo-adamw")
    run = Run("sasrec", data.name, "adamw", 0, settings)  # which builds no graph of its own
    optimizer = sevo_jax.sevo_adamw(1e-3, graph, tables="item_embedding")
    setup = dataclasses.replace(make_setup(run, data), optimizer=optimizer)
    state = initial_checkpoint(run, setup, data).state
    layouts = EpochLayouts(data, settings.training, 0)
    cells = layouts(0)
    key = jax.random.key(0)

    def call() -> float:
        jax.clear_caches()
        start = time.perf_counter()
        epochs = Epochs(setup.graphdef, optimizer, setup.inputs, [layouts], state)
        epochs.compiled.lower(state, setup.inputs, cells, key).compile()
        return time.perf_counter() - start

    return call


def measure(quick: bool) -> list[report.Case]:
    """Measures seconds to trace, lower and compile, the two sizes in turns."""
    jax.config.update("jax_enable_compilation_cache", False)
    few, many, nodes = (2_000, 20_000, 1_000) if quick else (FEW, MANY, NODES)
    compilers = {f"{edges} edges": compiler(random_graph(nodes, edges)) for edges in (many, few)}
    rounds = 1 if quick else 7
    seconds: dict[str, list[float]] = {name: [] for name in compilers}
    for _ in range(rounds):
        for name, call in compilers.items():
            seconds[name].append(call())
    arrays = {name: np.array(values) for name, values in seconds.items()}
    return [report.case(f"SASRec epoch, {nodes} nodes", arrays, "s", 1)]


if __name__ == "__main__":
    report.command("compiling", measure)
