"""The program of an update on accelerators that are not here, as `jax.export` lowers it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sevo_jax
from tests.programs import (
    PLATFORMS,
    as_beside_a_gpu,
    check_kernel,
    largest_constant,
    lower,
    scatters,
)

NODES, DIM = 500, 8


def graph(kernel: str | None = None) -> sevo_jax.Graph:
    """Node 0 has so many neighbours that its row has blocks of its own."""
    rng = np.random.default_rng(0)
    others = np.arange(1, NODES)
    ends = np.concatenate([[0 * others, others], rng.integers(NODES, size=(2, 900))], axis=1)
    return sevo_jax.edge_graph(*ends, NODES).with_kernel(kernel)


def update(every: int, kernel: str | None = None):
    """A step of SEvo-AdamW, and shapes of its arguments."""
    tx = sevo_jax.sevo_adamw(1e-2, graph(kernel), every=every)
    table = jnp.zeros((NODES, DIM))

    def step(table, state, gradient):
        updates, state = tx.update(gradient, state, table)
        return optax.apply_updates(table, updates), state

    return step, jax.eval_shape(lambda *a: a, table, tx.init(table), table)


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_update(platform, every, monkeypatch):
    as_beside_a_gpu(monkeypatch)
    step, arguments = update(every)
    text = lower(step, platform, *arguments)
    check_kernel(text, platform)
    assert largest_constant(text) < 64
    # Triton's blocks that lie within a row are marked by integers; nothing else is scattered.
    assert scatters(text) == (
        ["i32"] * text.count('"stablehlo.scatter"') if platform == "cuda" else []
    )


def test_what_these_checks_would_see():
    """A scatter of sums, a graph that is a constant, and the kernel of another GPU."""
    step, arguments = update(1, "bcsr")
    assert "f32" in scatters(lower(step, "tpu", *arguments))
    g = graph()
    text = lower(lambda x: sevo_jax.smooth(g, x), "cuda", arguments[0])
    assert largest_constant(text) >= g.operator.nse
    with pytest.raises(AssertionError):
        check_kernel(text, "cuda")  # without a GPU here, the choice is to gather
