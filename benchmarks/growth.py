"""``python -m benchmarks.growth``: an update's time over edges, features, layers and rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax
from benchmarks import report
from benchmarks.graphs import random_graph
from benchmarks.smoothing import update_of
from experiments.training.timing import in_turn

BASE = {"edges": 160_000, "features": 64, "layers": 3, "rows": 20_000}
SERIES = {
    "edges": (20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000),
    "features": (8, 16, 32, 64, 128, 256, 512),
    "layers": (0, 1, 2, 3, 4, 6, 8),
    "rows": (2_500, 5_000, 10_000, 20_000, 40_000, 80_000, 160_000),
}
STEPS = 5


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures milliseconds an update; edges grow with rows, so that the mean degree stays."""
    for name, values in SERIES.items():
        for value in values[:2] if quick else values:
            sizes: dict[str, Any] = BASE | {name: value}
            if name == "rows":
                sizes["edges"] = BASE["edges"] * value // BASE["rows"]
            graph = random_graph(sizes["rows"], sizes["edges"])
            rng = np.random.default_rng(0)
            table = jnp.asarray(rng.standard_normal((sizes["rows"], sizes["features"]), np.float32))
            given = table, jax.random.normal(jax.random.key(0), table.shape), STEPS
            sevo = sevo_jax.sevo_adamw(1e-3, graph, num_layers=sizes["layers"])
            calls = {
                "sevo_adamw": update_of(sevo, *given),
                "optax.adamw": update_of(optax.adamw(1e-3), *given),
            }
            seconds = in_turn(calls, rounds=1 if quick else 7)
            case = report.case(f"{name}: {value}", seconds, "ms", 1e3 / STEPS)
            yield case | {"varied": name, "value": value}


if __name__ == "__main__":
    report.command("growth", measure)
