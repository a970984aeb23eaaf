"""``python -m benchmarks.memory``: an update's memory beside parameters, state and gradient.

XLA plans the buffers of the compiled update beforehand, and reports them. The state is donated.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

import sevo_jax
from benchmarks import report
from benchmarks.graphs import graph
from experiments.data import TABLE_1

DIM = 64


def temporaries(transformation: optax.GradientTransformation, nodes: int) -> float:
    """Returns the peak of the temporary buffers of ``update``, in tables, without its output."""
    table = jnp.zeros((nodes, DIM))

    def update(gradient: jax.Array, state: Any, params: jax.Array) -> Any:
        return transformation.update(gradient, state, params)

    state = transformation.init(table)
    compiled = jax.jit(update, donate_argnums=1).lower(table, state, table).compile()
    analysis: Any = compiled.memory_analysis()
    return analysis.temp_size_in_bytes / table.nbytes


def measure(quick: bool) -> list[report.Case]:
    """Counts the tables of temporaries, one case a method."""
    g = graph(TABLE_1["ml-1m" if quick else "beauty"])
    adamw = round(temporaries(optax.adamw(1e-3), g.num_nodes), 3)
    cases: list[report.Case] = []
    for method in ("neumann", "iterative", "exact"):
        ours = temporaries(sevo_jax.sevo_adamw(1e-3, g, method=method), g.num_nodes)
        # JAX 0.10.0 plans AdamW without any temporaries: then there is nothing to divide by.
        ratio = round(ours / adamw, 3) if adamw else None
        cases.append(
            {
                "case": f"update, {method}, {g.num_nodes} x {DIM}",
                "ours": round(ours, 3),
                "unit": "tables",
                "peers": {"optax.adamw": adamw},
                "ratio": ratio,
                "spread": [round(ours, 3) if ratio is None else ratio] * 2,
            }
        )
    return cases


if __name__ == "__main__":
    report.command("memory", measure)
