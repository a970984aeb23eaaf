"""`Graph` itself: operators in every form, growth, files, and its life as a pytree."""

from __future__ import annotations

import json
import zipfile

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


@pytest.mark.parametrize("large", [1.0, 1e6])
@pytest.mark.parametrize(
    ("given", "dtype"), [("f4", None), ("f4", jnp.bfloat16), ("f8", "f4"), ("g", "f4")]
)
def test_weights_are_symmetric_beside_their_degrees(large, given, dtype):
    """A large weight elsewhere, or a coarse dtype to come, excuses no directed edge."""
    weights = np.zeros((5, 5), given)
    weights[0, 1] = weights[1, 0] = large
    weights[2, 3], weights[3, 2] = 1, 0.99
    with pytest.raises(ValueError, match=r"symmetric, got .* at \((2, 3|3, 2)\)"):
        sevo_jax.Graph.from_weights(weights, dtype)
    weights[3, 2] = np.nextafter(weights[2, 3], 2)  # a rounding is none
    sevo_jax.Graph.from_weights(weights, dtype)


def test_similarities_are_symmetric_up_to_rounding():
    """Sums of signed products may be small beside the roundings of their terms."""
    features = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    similar = np.maximum(features @ features.T, 0)
    noise = np.random.default_rng(1).uniform(-1, 1, similar.shape) * similar.diagonal().max()
    similar += (similar > 0) * noise.astype(np.float32) * np.finfo(np.float32).eps
    graph = sevo_jax.Graph.from_weights(np.maximum(similar, 0))
    assert graph.capacity > 50


def test_degrees_must_be_finite():
    with jax.enable_x64(True), pytest.raises(ValueError, match="finite degree at every node"):
        sevo_jax.edge_graph([0, 0], [1, 2], 3, np.array([1e308, 1e308]))


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


def test_trees_of_a_graph_that_hold_no_arrays_have_a_name():
    graph = random_graph(0)
    shape = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    for leaf, told in (
        (None, "leaves=NoneType"),
        ((4, 2), "leaves=tuple"),
        ("text", "leaves=str"),
        (1.5, "leaves=float"),
        (True, "leaves=bool"),
        (shape, "capacity=3, dtype=bfloat16"),
    ):
        named = jax.tree.map(lambda _, leaf=leaf: leaf, graph)
        assert repr(named) == f"Graph(num_nodes=7, {told})"
    mesh = jax.make_mesh((1,), ("model",))
    split = random_graph(0).shard(jax.NamedSharding(mesh, jax.P("model")), exchange="halo")
    shapes = jax.tree.map(lambda leaf: leaf.shape, split)
    assert repr(shapes) == "Graph(num_nodes=7, leaves=tuple, parts=1, exchange=halo)"


def test_a_graph_without_edges(tmp_path):
    graph = sevo_jax.edge_graph([], [], 3)
    graph.save(tmp_path / "empty")
    loaded = sevo_jax.Graph.load(tmp_path / "empty")
    assert loaded.capacity == 0
    assert w(loaded).shape == (3, 3)
    x = jnp.ones((3, 2))
    np.testing.assert_allclose(sevo_jax.smooth(loaded, x, 0.5, 1), x / 1.5)


def damaged(form: str, indices: list[int], pointers: tuple[int, ...] = (0, 1, 2, 3)):
    """A matrix of 3 rows whose columns (rows, for csc) and pointers are as given."""
    data, indices, pointers = np.full(len(indices), 0.5), np.array(indices), np.array(pointers)
    if form == "bcsr":
        arrays = (jnp.asarray(data), jnp.asarray(indices), jnp.asarray(pointers))
        return BCSR(arrays, shape=(3, 3))
    rows = np.arange(len(indices)) % 3
    if form == "bcoo":
        return BCOO((jnp.asarray(data), jnp.stack([rows, indices], axis=1)), shape=(3, 3))
    matrix = sp.coo_array((data, (rows, rows)), shape=(3, 3)).asformat(form)
    if form == "coo":
        matrix.coords = (rows, indices)
    else:
        matrix.indices, matrix.indptr = indices, pointers
    return matrix


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "bcsr", "bcoo"])
@pytest.mark.parametrize("index", [3, 70_000_000, -1])
def test_indices_out_of_range(form, index):
    if form == "bcoo" and index == 3:
        index = 4
    for make in (
        sevo_jax.Graph.from_weights,
        sevo_jax.Graph.from_operator,
        lambda matrix: sevo_jax.Graph.from_operator(matrix, check=False),
        lambda matrix: sevo_jax.sevo_smooth(matrix),
    ):
        with pytest.raises(ValueError, match=rf"indices must lie in \[0, 3\), got {index}"):
            make(damaged(form, [0, index, 1]))


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "bcsr"])
@pytest.mark.parametrize("pointers", [(1, 1, 2, 3), (0, 3, 1, 3), (0, 1, 2, 90_000_000)])
def test_pointers_that_point_elsewhere(form, pointers):
    with pytest.raises(ValueError, match="pointers"):
        sevo_jax.Graph.from_weights(damaged(form, [0, 1, 2], pointers))


def test_padding_of_bcoo_is_both_indices_one_past_the_end():
    padding = [[0, 1], [1, 0], [2, 2], [2, 2]]
    values = jnp.array([0.5, 0.5, 0.0, 7.0])  # JAX reads no value of padding
    graph = sevo_jax.Graph.from_operator(BCOO((values, jnp.array(padding)), shape=(2, 2)))
    np.testing.assert_array_equal(dense(graph), [[0, 0.5], [0.5, 0]])
    one_based = BCOO((jnp.ones(2), jnp.array([[1, 2], [2, 1]])), shape=(2, 2))
    with pytest.raises(ValueError, match=r"row indices must lie in \[0, 2\), got 2"):
        sevo_jax.Graph.from_weights(one_based)


def test_matrices_of_no_use_as_a_graph_are_refused_before_memory_is_taken():
    vast = 2**33
    for matrix in (
        sp.dia_array((np.ones((1, 1)), [0]), shape=(vast, vast)),
        sp.coo_array((np.ones(1), ([0], [0])), shape=(vast, vast)),
    ):
        with pytest.raises(ValueError, match="fewer than 2147483647 nodes"):
            sevo_jax.Graph.from_weights(matrix)
    with pytest.raises(ValueError, match=r"square, got shape \(4,\)"):
        sevo_jax.Graph.from_weights(sp.coo_array(np.ones(4)))
    with pytest.raises(ValueError, match="real, got dtype object"):
        sevo_jax.Graph.from_weights(np.array([[None, 1], [1, None]]))


def test_duplicates_of_narrow_counts_do_not_overflow():
    twice = (np.full(4, 100, np.int8), ([0, 0, 1, 1], [1, 1, 0, 0]))
    graph = sevo_jax.Graph.from_weights(sp.coo_array(twice, shape=(2, 2)))
    np.testing.assert_array_equal(w(graph), [[0, 200], [200, 0]])


def test_flags_of_scipy_are_not_believed():
    matrix = sp.csr_array((np.array([0.2, 0.3, 0.5]), np.array([1, 1, 0]), np.array([0, 2, 3])))
    matrix.has_canonical_format = matrix.has_sorted_indices = True
    graph = sevo_jax.Graph.from_operator(matrix)
    assert graph.capacity == 2
    np.testing.assert_allclose(dense(graph), [[0, 0.5], [0.5, 0]])


def write_npz(path, meta=None, **arrays):
    whole = {
        "format": np.array(b"csr"), "shape": np.array([3, 3]), "data": np.full(4, 0.5),
        "indices": np.array([1, 0, 2, 1]), "indptr": np.array([0, 1, 3, 4]),
    }  # fmt: skip
    np.savez(path, **(whole | arrays))
    if meta is not None:
        with zipfile.ZipFile(path, "a") as archive, archive.open("sevo_jax.npy", "w") as file:
            np.save(file, np.array(meta if isinstance(meta, str) else json.dumps(meta)))


METAS = [
    (7, "must be an object"),
    ("[", "is no JSON"),
    ("[" * 100_000, "is no JSON"),
    ({"nodes": 3}, "must be an object of capacity, dtype"),
    ({"dtype": ["float32"]}, "dtype must name a floating-point type"),
    ({"dtype": "int32"}, "dtype must name a floating-point type"),
    ({"capacity": -1}, "capacity must be at least 0, got -1"),
    ({"capacity": 3}, "capacity must be at least the graph's 4 entries"),
    ({"capacity": 4.5}, "capacity must be an integer"),
    ({"normalized": "yes"}, "normalized must be true or false"),
    ({"kernel": 3}, "kernel must be one of"),
    ({"kernel": ["gather"]}, "kernel must be one of"),
    ({"precision": "float8"}, "precision must be one of"),
    ({"kernel": "bcsr", "precision": "bfloat16"}, "has no precision"),
]


@pytest.mark.parametrize(("meta", "told"), METAS, ids=range(len(METAS)))
def test_files_whose_meta_is_not_ours(tmp_path, meta, told):
    write_npz(tmp_path / "own.npz", meta)
    with pytest.raises(ValueError, match=rf"own\.npz: .*{told}"):
        sevo_jax.Graph.load(tmp_path / "own.npz")


ARRAYS = [
    {"indices": np.array([1, 0, 30_000_000, 1])},
    {"indices": np.array([1, 0, 2, -9_000_000])},
    {"indptr": np.array([0, 4, 1, 4])},
    {"indptr": np.array([0, 4])},
    {"format": np.array(b"csc"), "indices": np.array([1, 0, 3, 1])},
    {"shape": np.array([3, 2**50])},
    {"shape": np.array(["a", "b"])},
    {"data": np.array(["0.5"] * 4)},
    {"data": np.full(4, 0.5j)},
]


@pytest.mark.parametrize("arrays", ARRAYS, ids=range(len(ARRAYS)))
@pytest.mark.parametrize("normalized", [False, True])
def test_files_whose_matrix_is_damaged(tmp_path, arrays, normalized):
    write_npz(tmp_path / "sound.npz", {"normalized": normalized})
    assert sevo_jax.Graph.load(tmp_path / "sound.npz").num_nodes == 3
    write_npz(tmp_path / "own.npz", {"normalized": normalized}, **arrays)
    with pytest.raises(ValueError, match=r"own\.npz"):
        sevo_jax.Graph.load(tmp_path / "own.npz")


def test_files_that_were_cut_or_overwritten(tmp_path):
    random_graph(0).save(tmp_path / "whole.npz")
    content = (tmp_path / "whole.npz").read_bytes()
    middle = len(content) // 3
    for damage in (b"", content[:middle], content[:middle] + b"\0" * 200 + content[middle + 200 :]):
        (tmp_path / "own.npz").write_bytes(damage)
        with pytest.raises(ValueError, match=r"own\.npz"):
            sevo_jax.Graph.load(tmp_path / "own.npz")
