"""Diagnostics against dense linear algebra."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sevo_jax
from sevo_jax import diagnostics
from tests.sevo_jax.graphs import NODES, dense, dense_psi, graphs, random_graph


def table(seed: int, *features: int) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((NODES, *features)), jnp.float32)


@given(graphs(np.float32), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_smoothness(graph, seed):
    """The trace; half of Eq. 2's sum over ordered pairs, and isolated nodes by their norm."""
    x = np.asarray(table(seed, 2), np.float64)
    got = float(diagnostics.smoothness(graph, jnp.asarray(x, jnp.float32)))
    assert got == pytest.approx(np.trace(x.T @ (np.eye(NODES) - dense(graph)) @ x), abs=1e-4)
    weights = graph.to_scipy(normalized=False).toarray().astype(float)
    degrees = weights.sum(1)
    scaled = x / np.sqrt(np.where(degrees > 0, degrees, 1))[:, None]
    gaps = ((scaled[:, None] - scaled[None]) ** 2).sum(-1)
    want = (weights * gaps).sum() / 2 + (x[degrees == 0] ** 2).sum()
    assert got == pytest.approx(want, abs=1e-3)


def test_smoothness_of_other_shapes_and_precisions():
    graph, x = random_graph(0), table(1, 2, 3)
    want = diagnostics.smoothness(graph, x.reshape(NODES, 6))
    np.testing.assert_allclose(diagnostics.smoothness(graph, x), want, rtol=1e-6)
    assert diagnostics.smoothness(graph, x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_direction_and_structure():
    graph, x = random_graph(0), table(1, 3)
    smoothed = sevo_jax.smooth(graph, x, 0.9)
    assert float(diagnostics.direction(x, smoothed)) == pytest.approx(float((x * smoothed).sum()))
    difference = diagnostics.smoothness(graph, x) - diagnostics.smoothness(graph, smoothed)
    assert float(diagnostics.structure(graph, x, smoothed)) == pytest.approx(float(difference))
    assert float(diagnostics.structure(graph, smoothed, x)) < 0


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_convergence_factors_are_those_of_theorem_4(beta, layers):
    low, high = sevo_jax.diagnostics.spectral_bounds(beta, layers)
    # gamma = a C (2 - b C), with eigenvalues of the joint step in [a, b]; here C = 1.
    assert sevo_jax.diagnostics.convergence_factor(
        beta, layers, "neumann_unscaled"
    ) == pytest.approx(min(low, 1) * (2 - max(high, 1)) if beta == 0 else low * (2 - high))
    assert sevo_jax.diagnostics.convergence_factor(beta, layers) == pytest.approx(low / high)


def test_convergence_without_smoothing_is_gradient_descent():
    assert sevo_jax.diagnostics.convergence_factor(0.0, 3) == 1
    assert sevo_jax.diagnostics.spectral_bounds(0.0, 3) == (1, 1)
    assert sevo_jax.diagnostics.spectral_bounds(0.5, 0) == (0, 0.5)


def test_limits_of_convergence_factors():
    """Eq. 36 and 37: without rescaling 1 / gamma grows like L^-1 (1-β)^-2, with it 2 (L+1) / L."""
    for layers in (1, 3, 5):
        gap = 1e-5
        plain = sevo_jax.diagnostics.convergence_factor(1 - gap, layers, "neumann_unscaled")
        scaled = sevo_jax.diagnostics.convergence_factor(1 - gap, layers)
        assert gap**2 / plain == pytest.approx(1 / layers, rel=1e-3)
        assert gap / scaled == pytest.approx(2 * (layers + 1) / layers, rel=1e-3)


def test_optimum_share():
    graph, x = random_graph(0), table(1, 3)
    shares = [float(sevo_jax.diagnostics.optimum_share(graph, x, 0.8, n)) for n in (0, 1, 3, 9, 60)]
    assert shares[0] == pytest.approx(0, abs=1e-6)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=1e-4)

    def objective(y):
        laplacian = np.eye(NODES) - dense(graph)
        return 0.2 * ((y - x) ** 2).sum() + 0.8 * np.trace(y.T @ laplacian @ y)

    best = dense_psi(graph, 0.8, 0, "exact") @ np.asarray(x)
    mine = dense_psi(graph, 0.8, 3, "neumann") @ np.asarray(x)
    want = (objective(x) - objective(mine)) / (objective(x) - objective(best))
    assert shares[2] == pytest.approx(float(want), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_optimum_share_of_half_precision(dtype):
    """A sum of squares beyond float16's 65,504 is no overflow."""
    nodes = np.arange(2_999)
    path = sevo_jax.edge_graph(nodes, nodes + 1, 3_000)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3_000, 32)), dtype)
    want = sevo_jax.diagnostics.optimum_share(path, x.astype(jnp.float32))
    np.testing.assert_allclose(sevo_jax.diagnostics.optimum_share(path, x), want, rtol=1e-6)


def test_corrected_rows():
    grads = {
        "items": {"embedding": jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 2.0]])},
        "kernel": jnp.ones((2, 2)),
        "bias": jnp.zeros(3),
    }
    everything = sevo_jax.diagnostics.corrected_rows(grads)
    assert {k: float(v) for k, v in everything.items()} == {"items/embedding": 0.5, "kernel": 0.0}
    one = sevo_jax.diagnostics.corrected_rows(grads, "items")
    assert {k: float(v) for k, v in one.items()} == {"items/embedding": 0.5}
    both = sevo_jax.diagnostics.corrected_rows(grads, [["items"], ["bias"]])
    assert {k: float(v) for k, v in both.items()} == {"items/embedding": 0.5, "bias": 1.0}
    assert not sevo_jax.diagnostics.corrected_rows({"scale": 1.0, "bias": [0.0, 1.0]})


def test_an_l2_term_shows_as_no_corrected_rows():
    table = jnp.ones((4, 2))
    grads = {"table": jnp.zeros((4, 2)).at[0].set(1.0)}
    assert float(sevo_jax.diagnostics.corrected_rows(grads)["table"]) == 0.75
    decayed = {"table": grads["table"] + 1e-6 * table}
    assert float(sevo_jax.diagnostics.corrected_rows(decayed)["table"]) == 0
