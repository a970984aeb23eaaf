"""`Graph` itself: operators in every form, growth, files, and its life as a pytree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from jax.experimental.sparse import BCOO, BCSR

import sevo_jax
from tests.sevo_jax.graphs import CAPACITY, NODES, dense, graphs, random_graph

A = np.array([[0.5, 0.2, 0], [0.2, 0, 0.7], [0, 0.7, 0]], np.float32)


def w(graph: sevo_jax.Graph) -> np.ndarray:
    return graph.to_scipy(normalized=False).toarray()


FORMS = [np.asarray, jnp.asarray, sp.coo_array, sp.csc_matrix, BCOO.fromdense, BCSR.fromdense]


@pytest.mark.parametrize("form", FORMS)
def test_operators_are_used_as_given(form):
    graph = sevo_jax.Graph.from_operator(form(A))
    np.testing.assert_array_equal(dense(graph), A)
    assert graph.weights is None
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(sevo_jax.spmm(graph, x), A @ x, rtol=1e-6)
    tx = sevo_jax.sevo_smooth(form(A))
    got, _ = tx.update(jnp.asarray(x), tx.init(jnp.asarray(x)))
    np.testing.assert_allclose(got, sevo_jax.smooth(graph, jnp.asarray(x)), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_weights_in_every_form(form):
    graph = sevo_jax.Graph.from_weights(form(A))
    np.testing.assert_array_equal(w(graph), A)
    scale = A.sum(1) ** -0.5
    np.testing.assert_allclose(dense(graph), scale[:, None] * A * scale, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, np.float64, np.int64])
def test_precision_of_operators(dtype):
    graph = sevo_jax.Graph.from_operator(np.eye(3, dtype=dtype))
    assert graph.dtype == (dtype if jnp.dtype(dtype).itemsize < 8 else np.float32)


def test_padding_of_bcoo_and_bcsr_is_left_out():
    padded = BCOO.fromdense(jnp.asarray(A), nse=9)
    np.testing.assert_array_equal(dense(sevo_jax.Graph.from_operator(padded)), A)
    roomy = sevo_jax.Graph.from_operator(A, capacity=9)
    again = sevo_jax.Graph.from_operator(roomy.operator)
    np.testing.assert_array_equal(dense(again), A)
    assert again.capacity == np.count_nonzero(A)


@pytest.mark.parametrize("make", [sevo_jax.Graph.from_weights, sevo_jax.Graph.from_operator])
def test_the_callers_matrix_stays_as_it_was(make):
    """A matrix with unsorted columns, duplicates and stored zeros, which we sort, sum and drop."""
    parts = np.array([0.2, 0.3, 0.0, 0.5]), np.array([1, 1, 0, 0]), np.array([0, 3, 4])
    matrix = sp.csr_array(tuple(part.copy() for part in parts), shape=(2, 2))
    graph = make(matrix)
    assert graph.to_scipy().toarray()[0, 1] > 0
    for now, before in zip((matrix.data, matrix.indices, matrix.indptr), parts, strict=True):
        np.testing.assert_array_equal(now, before)


def test_unchecked_operators():
    wild = np.array([[0.0, 3.0], [1.0, 0.0]])
    graph = sevo_jax.Graph.from_operator(wild, check=False)
    np.testing.assert_array_equal(dense(graph), wild)


def test_large_operators_are_checked_by_their_spectrum():
    """Row sums above 1 and a radius of 1: the case that needs eigenvalues, dense and Lanczos."""
    for nodes in (10, 300):
        star = sevo_jax.edge_graph(np.zeros(nodes - 1, int), np.arange(1, nodes), nodes)
        matrix = star.to_scipy()
        assert matrix.sum(axis=1).max() > 1.5
        sevo_jax.Graph.from_operator(matrix)
        with pytest.raises(ValueError, match=r"spectral radius of at most 1, got 1\.01"):
            sevo_jax.Graph.from_operator(1.01 * matrix)


def test_chains_are_checked_in_reasonable_time():
    """Their leading eigenvalues crowd at 1, where Lanczos to many digits takes minutes."""
    nodes = 5000
    chain = sevo_jax.edge_graph(np.arange(nodes - 1), np.arange(1, nodes), nodes)
    sevo_jax.Graph.from_operator(chain.to_scipy())


def test_a_float64_operator_may_have_been_rounded_to_float32():
    single = random_graph(0).to_scipy().toarray()
    single[1, 2] = np.nextafter(single[1, 2], 1, dtype=np.float32)
    sevo_jax.Graph.from_operator(single.astype(np.float64))


@given(graphs(np.float32), graphs(np.float32))
@settings(max_examples=40, deadline=None)
def test_add_edges(one, other):
    edges = sp.coo_array(sp.triu(other.to_scipy(normalized=False)))
    loops = edges.coords[0] == edges.coords[1]
    weights = np.where(loops, edges.data / 2, edges.data).astype(np.float32)
    grown = one.add_edges(*edges.coords, weights)
    np.testing.assert_allclose(w(grown), w(one) + w(other), rtol=1e-6)
    want = sevo_jax.Graph.from_weights(w(one).astype(float) + w(other))
    np.testing.assert_allclose(dense(grown), dense(want), rtol=1e-5, atol=1e-9)
    assert grown.capacity == CAPACITY


def test_add_nodes():
    graph = random_graph(0)
    grown = graph.add_edges([0], [NODES], num_nodes=NODES + 2, self_loops="isolated")
    assert grown.num_nodes == NODES + 2
    assert grown.capacity == graph.capacity
    assert w(grown)[NODES, 0] == w(grown)[NODES + 1, NODES + 1] == 1
    with pytest.raises(ValueError, match="num_nodes must be at least the present 7, got 5"):
        graph.add_edges([], [], num_nodes=5)


def test_add_edges_beyond_the_capacity():
    graph = sevo_jax.edge_graph([0], [1], 4)
    assert graph.add_edges([1, 2], [2, 3]).capacity == 6
    assert graph.add_edges([1, 2], [2, 3], capacity=10).capacity == 10
    with pytest.raises(ValueError, match="capacity must be at least the graph's 6 entries, got 4"):
        graph.add_edges([1, 2], [2, 3], capacity=4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("kind", ["weights", "operator"])
def test_files(tmp_path, dtype, kind):
    graph = random_graph(0, dtype=dtype)
    if kind == "operator":
        graph = sevo_jax.Graph.from_operator(graph.operator, check=False, capacity=CAPACITY)
    graph.save(tmp_path / "graph")
    loaded = sevo_jax.Graph.load(tmp_path / "graph.npz")
    assert jax.tree.structure(loaded) == jax.tree.structure(graph)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(graph), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    matrix = sp.load_npz(tmp_path / "graph.npz")
    np.testing.assert_array_equal(
        matrix.toarray(), w(graph) if kind == "weights" else graph.to_scipy().toarray()
    )


def test_files_of_scipy_are_weights(tmp_path):
    sp.save_npz(tmp_path / "w.npz", sp.csr_array(A))
    np.testing.assert_array_equal(w(sevo_jax.Graph.load(tmp_path / "w.npz")), A)


@pytest.mark.parametrize("dtype", [np.int64, bool, np.uint8])
def test_files_of_counts_become_floats(tmp_path, dtype):
    counts = np.array([[0, 3, 0], [3, 0, 1], [0, 1, 0]]).astype(dtype)
    sp.save_npz(tmp_path / "w.npz", sp.csr_array(counts))
    graph = sevo_jax.Graph.load(tmp_path / "w.npz")
    assert graph.dtype == jnp.float32
    np.testing.assert_array_equal(w(graph), counts)
    np.testing.assert_array_equal(dense(graph), dense(sevo_jax.Graph.from_weights(counts)))


def test_files_that_are_no_graph(tmp_path):
    with pytest.raises(FileNotFoundError):
        sevo_jax.Graph.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=f"{name}.npz holds no sparse matrix"):
            sevo_jax.Graph.load(tmp_path / f"{name}.npz")
    sp.save_npz(tmp_path / "crooked.npz", sp.csr_array(np.array([[0.0, 1.0], [0.0, 0.0]])))
    with pytest.raises(ValueError, match="weights must be symmetric"):
        sevo_jax.Graph.load(tmp_path / "crooked.npz")


def test_a_graph_is_a_pytree():
    graph = random_graph(0)
    leaves, structure = jax.tree.flatten(graph)
    assert len(leaves) == 6
    again = jax.tree.unflatten(structure, leaves)
    assert again.num_nodes == NODES
    assert repr(again) == "Graph(num_nodes=7, capacity=49, dtype=float32)"
    placeholder = jax.tree.map(lambda _: None, graph)  # unflattening checks nothing
    assert placeholder.operator.data is None
    doubled = jax.jit(lambda g: jax.tree.map(lambda leaf: leaf + leaf, g))(graph)
    np.testing.assert_array_equal(doubled.operator.data, 2 * graph.operator.data)
