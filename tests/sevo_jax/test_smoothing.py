"""`smooth` and `spmm` against dense linear algebra in float64, on hundreds of random graphs."""

from __future__ import annotations

import warnings
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCSR

import sevo_jax
from tests.sevo_jax.graphs import NODES, dense, dense_psi, graphs, random_graph

METHODS = ("neumann", "neumann_unscaled", "iterative", "exact")
BETAS = st.floats(0, 0.99) | st.sampled_from([0.0, 0.5, 0.9, 0.99])
SEEDS = st.integers(0, 2**32 - 1)

smooth = jax.jit(sevo_jax.smooth, static_argnames=("num_layers", "method", "tol"))


def table(seed: int, *features: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((NODES, *features))


@given(graphs(), SEEDS, BETAS, st.integers(0, 5), st.sampled_from(METHODS))
@settings(max_examples=250, deadline=None)
def test_float64_to_twelve_digits(graph, seed, beta, layers, method):
    with jax.enable_x64(True):
        x = table(seed, 3)
        graph = jax.tree.map(jnp.asarray, sevo_jax.Graph.from_operator(
            graph.to_scipy().astype(np.float64), check=False, capacity=graph.capacity
        ))  # fmt: skip
        got = smooth(graph, jnp.asarray(x), beta, layers, method, tol=1e-14)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, dense_psi(graph, beta, layers, method) @ x, atol=1e-12)


@given(graphs(np.float32), SEEDS, BETAS, st.integers(0, 5), st.sampled_from(METHODS))
@settings(max_examples=250, deadline=None)
def test_float32_to_five_digits(graph, seed, beta, layers, method):
    x = table(seed, 3).astype(np.float32)
    got = smooth(graph, jnp.asarray(x), beta, layers, method, tol=1e-7)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, dense_psi(graph, beta, layers, method) @ x, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("features", [(), (5,), (2, 3), (0,)])
def test_any_trailing_axes(method, features):
    graph, x = random_graph(0), table(1, *features).astype(np.float32)
    got = sevo_jax.smooth(graph, jnp.asarray(x), 0.9, 2, method)
    assert got.shape == x.shape
    want = np.tensordot(dense_psi(graph, 0.9, 2, method), x, axes=1)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_half_precision_is_computed_in_float32(method, dtype):
    graph, x = random_graph(0), jnp.asarray(table(1, 4), dtype)
    got = sevo_jax.smooth(graph, x, 0.9, 3, method)
    assert got.dtype == dtype
    want = sevo_jax.smooth(graph, x.astype(jnp.float32), 0.9, 3, method).astype(dtype)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_edges_of_any_precision_are_cast_to_the_table(dtype):
    graph = random_graph(0, dtype=dtype)
    assert graph.dtype == dtype
    x = jnp.asarray(table(1, 4), jnp.float32)
    product = sevo_jax.spmm(graph, x)
    assert product.dtype == jnp.float32
    np.testing.assert_allclose(product, dense(graph) @ np.asarray(x), atol=1e-5)


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_methods(self):
        graph, x = random_graph(0), jnp.asarray(table(1, 4), jnp.float32)
        for method in METHODS:
            call = self.variant(partial(sevo_jax.smooth, num_layers=3, method=method))
            want = dense_psi(graph, 0.9, 3, method) @ np.asarray(x)
            np.testing.assert_allclose(call(graph, x, 0.9), want, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_vmap_over_tables_and_graphs(self):
        graph, xs = random_graph(0), jnp.asarray(table(1, 4, 3), jnp.float32)
        for method in METHODS:
            call = partial(sevo_jax.smooth, num_layers=2, method=method)
            got = self.variant(jax.vmap(call, (None, 2, None), 2))(graph, xs, 0.9)
            want = np.tensordot(dense_psi(graph, 0.9, 2, method), np.asarray(xs), axes=1)
            np.testing.assert_allclose(got, want, atol=1e-5)
            betas = jnp.array([0.1, 0.5, 0.9])
            got = self.variant(jax.vmap(call, (None, 2, 0), 2))(graph, xs, betas)
            for i, beta in enumerate(betas):
                want = dense_psi(graph, float(beta), 2, method) @ np.asarray(xs[..., i])
                np.testing.assert_allclose(got[..., i], want, atol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_gradients(self):
        graph, x = random_graph(0), jnp.asarray(table(1, 4), jnp.float32)
        weights = jnp.asarray(table(2, 4), jnp.float32)

        def loss(x):
            return (weights * sevo_jax.smooth(graph, x, 0.9, 3)).sum()

        want = dense_psi(graph, 0.9, 3, "neumann") @ np.asarray(weights)  # psi is symmetric
        np.testing.assert_allclose(self.variant(jax.grad(loss))(x), want, atol=1e-5)


def test_gradients_of_the_operators_values():
    """dL/dÃ_ij = g_i · x_j for every stored entry, and nothing for the padding."""
    graph, x, g = random_graph(0), table(1, 4), table(2, 4)
    matrix = graph.operator

    def loss(matrix):
        changed = sevo_jax.Graph(None, matrix, NODES)
        return (
            jnp.asarray(g, jnp.float32) * sevo_jax.spmm(changed, jnp.asarray(x, jnp.float32))
        ).sum()

    got = jax.grad(loss, allow_int=True)(matrix).data
    stored = graph.to_scipy().tocoo()
    np.testing.assert_allclose(
        got[: stored.nnz], (g[stored.coords[0]] * x[stored.coords[1]]).sum(-1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(got[stored.nnz :], 0)


def test_gradients_under_vmap_and_vmap_of_vmap():
    graph, xs = random_graph(0), jnp.asarray(table(1, 4, 3, 2), jnp.float32)

    def squared(x):
        return (sevo_jax.smooth(graph, x, 0.9, 2) ** 2).sum()

    got = jax.jit(jax.vmap(jax.vmap(jax.grad(squared), 2, 2), 3, 3))(xs)
    psi = dense_psi(graph, 0.9, 2, "neumann")
    want = np.tensordot(2 * psi @ psi, np.asarray(xs), axes=1)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_a_graph_for_each_table_under_vmap():
    each = [random_graph(seed) for seed in range(3)]
    xs = [jnp.asarray(table(seed, 4), jnp.float32) for seed in range(3)]

    def product(data, indices, indptr, x):
        matrix = BCSR((data, indices, indptr), shape=(NODES, NODES))
        return sevo_jax.spmm(sevo_jax.Graph(None, matrix, NODES), x)

    parts = [(g.operator.data, g.operator.indices, g.operator.indptr, x)
             for g, x in zip(each, xs, strict=True)]  # fmt: skip
    got = jax.vmap(product)(*(jnp.stack(p) for p in zip(*parts, strict=True)))
    for product_, graph, x in zip(got, each, xs, strict=True):
        np.testing.assert_allclose(product_, dense(graph) @ np.asarray(x), atol=1e-5)


def test_zero_beta_or_no_layers_return_the_table():
    graph, x = random_graph(0), jnp.asarray(table(1, 4), jnp.float32)
    for method in ("neumann", "iterative", "exact"):
        np.testing.assert_array_equal(sevo_jax.smooth(graph, x, 0.0, 3, method), x)
    np.testing.assert_array_equal(sevo_jax.smooth(graph, x, 0.9, 0), x)


def test_an_empty_graph_only_scales():
    graph = sevo_jax.edge_graph([], [], NODES)
    x = jnp.asarray(table(1, 4), jnp.float32)
    scale = (1 - 0.9) / (1 - 0.9**4)
    np.testing.assert_allclose(sevo_jax.smooth(graph, x, 0.9, 3), scale * x, rtol=1e-6)


def test_beta_near_one_keeps_its_digits():
    graph = sevo_jax.edge_graph([0], [1], 2)
    x = jnp.ones((2, 1))
    for beta in (1 - 1e-6, 1 - 1e-12):
        np.testing.assert_allclose(sevo_jax.smooth(graph, x, beta, 3), x, rtol=1e-6)


def test_exact_reports_its_iterations_and_keeps_to_the_bound():
    rng = np.random.default_rng(0)
    graph = sevo_jax.edge_graph(*rng.integers(400, size=(2, 1200)), 400)
    x = jnp.asarray(rng.standard_normal((400, 3)), jnp.float32)
    loose, few = sevo_jax.smooth_exact(graph, x, 0.99, tol=1e-2)
    tight, more = sevo_jax.smooth_exact(graph, x, 0.99, tol=1e-6)
    assert 0 < int(few) < int(more) < 120
    residual = tight - 0.99 * sevo_jax.spmm(graph, tight) - 0.01 * x
    assert float(jnp.linalg.norm(residual)) < 1e-5 * float(jnp.linalg.norm(x))
    assert not np.allclose(loose, tight, atol=1e-6)


@pytest.mark.parametrize("beta", [0.99, 0.9999, 0.999999, 0.9999999])
def test_exact_leaves_a_constant_of_a_regular_graph(beta):
    """It solves with one rounding of beta: 1 - beta is that of the system."""
    nodes = np.arange(50)
    ring = sevo_jax.edge_graph(nodes, (nodes + 1) % 50, 50)
    got = sevo_jax.smooth(ring, jnp.ones((50, 1)), beta, method="exact")
    np.testing.assert_allclose(got, 1, rtol=2e-3)
    traced = jax.jit(lambda b: sevo_jax.smooth(ring, jnp.ones((50, 1)), b, method="exact"))(beta)
    np.testing.assert_allclose(traced, got, rtol=1e-6)


def test_exact_passes_a_nan_on_and_leaves_zero_columns_zero():
    graph = random_graph(0)
    x = jnp.asarray(table(1, 3), jnp.float32).at[:, 0].set(0).at[2, 1].set(jnp.nan)
    got, _ = sevo_jax.smooth_exact(graph, x, 0.9)
    np.testing.assert_array_equal(got[:, 0], 0)
    assert np.isnan(got[:, 1]).all()
    want = dense_psi(graph, 0.9, 0, "exact") @ np.asarray(x[:, 2])
    np.testing.assert_allclose(got[:, 2], want, atol=1e-5)


def test_layers_approach_the_exact_optimum():
    graph, x = random_graph(0), jnp.asarray(table(1, 3), jnp.float32)
    exact = sevo_jax.smooth(graph, x, 0.7, method="exact", tol=1e-7)
    errors = [float(jnp.abs(sevo_jax.smooth(graph, x, 0.7, n) - exact).max()) for n in (2, 8, 40)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e20, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_tables_of_any_magnitude(method, scale):
    graph, x = random_graph(0), jnp.asarray(table(1, 3), jnp.float32)
    got = sevo_jax.smooth(graph, x * scale, 0.9, 3, method)
    np.testing.assert_allclose(got / scale, sevo_jax.smooth(graph, x, 0.9, 3, method), atol=1e-5)


@pytest.mark.parametrize("method", ["neumann", "exact"])
def test_gradients_of_gradients(method, x64):
    graph = random_graph(0, dtype=np.float64)
    x, v = jnp.asarray(table(1, 3)), jnp.asarray(table(2, 3))
    psi = dense_psi(graph, 0.9, 3, method)

    def squared(x):
        return (sevo_jax.smooth(graph, x, 0.9, 3, method, tol=1e-14) ** 2).sum()

    got = jax.jit(jax.grad(squared))(x)
    np.testing.assert_allclose(got, 2 * psi @ psi @ np.asarray(x), atol=1e-9)
    twice = jax.jit(jax.grad(lambda x: (jax.grad(squared)(x) * v).sum()))(x)
    np.testing.assert_allclose(twice, 2 * psi @ psi @ np.asarray(v), atol=1e-9)


@pytest.mark.parametrize("form", [sp.csr_array, np.asarray, BCSR.fromdense])
def test_an_operator_in_place_of_a_graph(form):
    graph, x = random_graph(0), jnp.asarray(table(1, 3), jnp.float32)
    operator = form(dense(graph).astype(np.float32))
    for call in (sevo_jax.smooth, sevo_jax.spmm, sevo_jax.diagnostics.smoothness):
        np.testing.assert_allclose(call(operator, x), call(graph, x), rtol=1e-5, atol=1e-6)


@pytest.mark.lenient
@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist])
def test_tables_of_the_host(form):
    """Arrays of NumPy are narrowed without a warning, as JAX does, and lists are taken."""
    graph, x = random_graph(0), table(1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (sevo_jax.smooth, sevo_jax.spmm, sevo_jax.diagnostics.smoothness):
            wanted = call(graph, jnp.asarray(x, jnp.float32))
            np.testing.assert_allclose(call(graph, form(x)), wanted, rtol=1e-5, atol=1e-6)


def test_beta_in_half_precision():
    graph, x = random_graph(0), jnp.asarray(table(1, 3), jnp.float32)
    got = sevo_jax.smooth(graph, x, jnp.bfloat16(0.5))
    np.testing.assert_allclose(got, sevo_jax.smooth(graph, x, 0.5), rtol=1e-5)


LEGAL, ILLEGAL = 0.75, (1.0, 2.0, -0.25, np.nan, np.inf)


LAYERS = [(method, 2) for method in METHODS] + [(method, 0) for method in METHODS[:3]]


@pytest.mark.parametrize(("method", "layers"), LAYERS)
def test_traced_betas_out_of_range_give_nan(method, layers):
    """Never zeros, raw steps or steps that grow: the range can only be seen on the device."""
    graph, x = random_graph(0), jnp.asarray(table(0, 2), jnp.float32)
    for beta in ILLEGAL:
        assert np.isnan(smooth(graph, x, beta, layers, method)).all()
    got = smooth(graph, x, LEGAL, layers, method)
    np.testing.assert_allclose(got, sevo_jax.smooth(graph, x, LEGAL, layers, method), rtol=1e-5)


def test_a_traced_beta_has_its_gradient_and_no_nan_on_the_way():
    graph, x = random_graph(0), jnp.asarray(table(0, 2), jnp.float32)

    def total(beta):
        return sevo_jax.smooth(graph, x, beta, 2).sum()

    with jax.debug_nans(True):
        slope = jax.grad(total)(0.5)
        with pytest.raises((ValueError, FloatingPointError), match=r"beta must lie|nan"):
            smooth(graph, x, 1.0, 2, "neumann")
    want = (total(0.501) - total(0.499)) / 0.002
    np.testing.assert_allclose(slope, want, rtol=2e-2)


@pytest.mark.parametrize("method", METHODS)
def test_no_rank_is_promoted(method):
    graph = random_graph(0)
    tx = sevo_jax.sevo_adamw(0.1, graph, method=method)
    with jax.numpy_rank_promotion("raise"):  # raises as functions are traced
        for features in ((3,), (2, 3)):
            x = jax.ShapeDtypeStruct((NODES, *features), jnp.float32)
            jax.eval_shape(lambda x: sevo_jax.smooth(graph, x, 0.5, 2, method), x)
            jax.eval_shape(lambda x: tx.update(x, tx.init(x), x), x)
