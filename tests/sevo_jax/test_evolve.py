"""SEvo for other trainers: a table's way since the last call, smoothed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sevo_jax
from tests.sevo_jax.graphs import NODES, dense_psi, random_graph


def tables(dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    before, after = np.random.default_rng(0).standard_normal((2, NODES, 3)).astype(dtype)
    return before, after


@pytest.mark.parametrize("method", ["neumann", "neumann_unscaled", "iterative", "exact"])
@pytest.mark.parametrize("kind", ["graph", "SciPy"])
def test_doubles_of_numpy_are_computed_in_double_precision(method, kind):
    """Whatever JAX's flags say; the operator has the precision that it is given in."""
    assert not jax.config.jax_enable_x64
    with jax.enable_x64(kind == "SciPy"):
        graph = random_graph(0, dtype=np.float64)
        psi = dense_psi(graph, 0.9, 3, method)
        given = graph if kind == "graph" else graph.to_scipy()
    before, after = tables()
    got = sevo_jax.evolve(given, before, after, 0.9, 3, method, tol=1e-14)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, before + psi @ (after - before), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_dtypes_stay(dtype):
    before, after = tables(dtype)
    got = sevo_jax.evolve(random_graph(0), before, after, 0.9)
    assert isinstance(got, np.ndarray)
    assert got.dtype == dtype
    on_device = jnp.asarray(before), jnp.asarray(after)
    by_jax = sevo_jax.evolve(random_graph(0), *on_device, 0.9)
    assert isinstance(by_jax, jax.Array)
    assert by_jax.dtype == dtype
    want = before + dense_psi(random_graph(0), 0.9, 3, "neumann") @ (after - before)
    atol = 1e-5 if dtype == np.float32 else 0.1
    for result in (got, by_jax):
        np.testing.assert_allclose(np.asarray(result, np.float64), want, atol=atol)


def test_other_axes_and_jit():
    before, after = tables(np.float32)
    compiled = jax.jit(lambda a, b: sevo_jax.evolve(random_graph(0), a, b))(before, after)
    want = sevo_jax.evolve(random_graph(0), before, after)
    np.testing.assert_allclose(compiled, want, atol=1e-6)
    vector = sevo_jax.evolve(random_graph(0), before[:, 0], after[:, 0])
    np.testing.assert_allclose(vector, want[:, 0], atol=1e-6)


def test_it_equals_every():
    """A plain optimiser and ``evolve`` are the optimiser that smooths every k-th step."""
    graph, rounds, every = random_graph(0), 2, 3
    gradients = np.random.default_rng(1).standard_normal((rounds * every, NODES, 2), np.float32)
    start = np.ones((NODES, 2), np.float32)

    def train(tx: optax.GradientTransformation, k: int | None) -> np.ndarray:
        table = before = jnp.asarray(start)
        state, update = tx.init(table), jax.jit(tx.update)
        for count, g in enumerate(gradients, 1):
            updates, state = update(g, state, table)
            table = optax.apply_updates(table, updates)
            if k and count % k == 0:
                before = table = sevo_jax.evolve(graph, before, table, 0.9, 2)
        return np.asarray(table)

    plain = train(optax.sgd(0.1, 0.9), every)
    own = sevo_jax.sevo_sgd(0.1, graph, beta=0.9, num_layers=2, momentum=0.9, every=every)
    np.testing.assert_allclose(plain, train(own, None), atol=1e-6)


class Tensor:
    """An array of another framework."""


BEFORE, AFTER = tables(np.float32)


@pytest.mark.parametrize(
    ("before", "after", "error", "told"),
    [
        (BEFORE, AFTER[:, :2], ValueError, r"one shape, got \(7, 3\) and \(7, 2\)"),
        (BEFORE, AFTER.astype(np.float64), TypeError, "one dtype, got float32 and float64"),
        (BEFORE.astype(int), AFTER, TypeError, "before must be floating, got int64"),
        (BEFORE, AFTER.astype(np.int32), TypeError, "after must be floating, got int32"),
        (BEFORE[:5], AFTER[:5], ValueError, r"graph's 7 nodes, got shape \(5, 3\)"),
        (BEFORE[0, 0, None][0], AFTER, TypeError, "before must be an array"),
        (np.array(1.0), np.array(2.0), ValueError, r"graph's 7 nodes, got shape \(\)"),
        (BEFORE.tolist(), AFTER, TypeError, "before must be an array .*, got list"),
        (BEFORE, Tensor(), TypeError, r"got Tensor; .*weight\.detach\(\)\.cpu\(\)\.numpy\(\)"),
        (BEFORE, np.ma.masked_less(AFTER, 0), ValueError, "after must have a value everywhere"),
    ],
)
def test_bad_tables(before, after, error, told):
    with pytest.raises(error, match=told):
        sevo_jax.evolve(random_graph(0), before, after)
