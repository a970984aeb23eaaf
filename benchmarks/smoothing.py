"""``python -m benchmarks.smoothing``: what SEvo adds to a step, and the product behind it."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental.sparse import BCOO

import sevo_jax
from benchmarks import report, workload
from experiments.optimizers import item_graph


def main() -> None:
    """Measures and writes ``results/smoothing-DEVICE.json``."""
    data = workload.dataset()
    sevo, steps = workload.epoch_runner(data, "sevo-adamw")
    adamw, _ = workload.epoch_runner(data, "adamw")
    seconds = report.in_turn({"sevo_adamw": sevo, "optax.adamw": adamw}, rounds=11)
    step = report.case(f"SASRec step, packed, {data.name}", seconds, "ms", 1e3 / steps)

    graph = item_graph(data, max_len=50)
    bcoo = BCOO.from_scipy_sparse(graph.to_scipy())
    x = jax.random.normal(jax.random.key(0), (graph.num_nodes, 64), np.float32)
    ours = jax.jit(sevo_jax.spmm)
    peer = jax.jit(lambda matrix, y: matrix @ y)
    products = {
        "sevo_jax.spmm": lambda: ours(graph, x),
        "BCOO": lambda: peer(bcoo, x),
        "BCSR": lambda: peer(graph.operator, x),
    }
    seconds = report.in_turn(products, rounds=31)
    product = report.case(f"{graph!r} @ float32[nodes, 64]", seconds, "ms", 1e3)
    report.write("smoothing", [step, product])


if __name__ == "__main__":
    main()
