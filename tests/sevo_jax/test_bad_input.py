"""Malformed calls: each raises where the mistake is made, and says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import sevo_jax
from sevo_jax import (
    Graph,
    bipartite_graph,
    category_graph,
    combine_graphs,
    diagnostics,
    edge_graph,
    knn_graph,
    sequence_graph,
    sevo_adamw,
    sevo_smooth,
    smooth,
    smooth_exact,
)

GRAPH = edge_graph([0, 1], [1, 2], 3)
X = jnp.ones((3, 2))
HALF = {
    dtype: Graph.from_weights(GRAPH.to_scipy(normalized=False), dtype)
    for dtype in ("bfloat16", "float16")
}
TWO = {"a": X, "b": X, "small": jnp.ones(2)}


def init(params: Any = X, **options: Any) -> Callable[[], Any]:
    return lambda: sevo_smooth(GRAPH, **options).init(params)


def operator(*rows: list[float]) -> Callable[[], Any]:
    return lambda: Graph.from_operator(np.array(rows))


CALLS: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    # operators
    (operator([0.0, 1.0], [0.5, 0.0]), ValueError, ["symmetric", "(0, 1)"]),
    (operator([0.0, 1.0, 0.0], [1.0, 0.0, 0.0]), ValueError, ["square", "(2, 3)"]),
    (operator([0.0, np.nan], [np.nan, 0.0]), ValueError, ["finite", "nan"]),
    (operator([0.0, np.inf], [np.inf, 0.0]), ValueError, ["finite", "inf"]),
    (operator([0.0, 2.0], [2.0, 0.0]), ValueError, ["spectral radius", "from_weights"]),
    (lambda: sevo_smooth(sp.eye_array(3) * 1.1), ValueError, ["spectral radius", "1.1"]),
    (lambda: sevo_adamw(0.1, "graph"), TypeError, ["Graph", "str"]),  # type: ignore
    (lambda: jax.jit(sevo_smooth)(np.eye(3)), TypeError, ["traced", "static_args"]),
    (lambda: Graph.from_weights(-np.eye(2)), ValueError, ["non-negative", "-1"]),
    (lambda: Graph.from_operator(np.eye(2)).to_scipy(normalized=False), ValueError, ["weights"]),
    (lambda: Graph.from_operator(np.eye(2) * 1j), ValueError, ["real", "complex128"]),
    (lambda: Graph.from_operator(GRAPH), TypeError, ["got a Graph", "to_scipy()"]),  # type: ignore
    (lambda: Graph.from_weights(GRAPH), TypeError, ["weights", "normalized=False"]),  # type: ignore
    (lambda: edge_graph([0], [1], 2, [1e-320]), ValueError, ["must not round to 0 in float32"]),
    (lambda: edge_graph([0], [1], 2, [1j]), TypeError, ["weights", "real", "complex128"]),
    (lambda: combine_graphs([GRAPH], [0.5, 0.5]), ValueError, ["one entry a graph", "(2,)"]),
    (lambda: knn_graph(np.array([["1", "0"], ["0", "1"]]), 1), TypeError, ["features", "real"]),
    (lambda: knn_graph(np.eye(3, dtype=object), 1), TypeError, ["object", "astype(float)"]),
    (lambda: knn_graph(np.eye(3) * 1j, 1), TypeError, ["features", "real", "complex128"]),
    (lambda: category_graph({"a": {0, 1}}, 3), TypeError, ["members", "a set", "sorted"]),
    (lambda: category_graph(sp.eye_array(3), 3, padding=0), TypeError, ["sparse", "padding"]),
    # sizes
    (lambda: sequence_graph([[0, 1]], 2**31), ValueError, ["num_nodes", "2147483648", "unique"]),
    (lambda: category_graph([[0]], 10**13), ValueError, ["num_nodes", "number the ids from 0"]),
    (lambda: edge_graph([], [], 2**31 - 1), ValueError, ["num_nodes", "2147483647"]),
    (lambda: bipartite_graph([0], [0], 2**30, 2**30), ValueError, ["num_rows + num_cols"]),
    (lambda: GRAPH.add_edges([0], [1], num_nodes=2**40), ValueError, ["num_nodes"]),
    (lambda: sequence_graph([[1, 2], [[0], [1, 2]]], 3), TypeError, ["position 1", "not flat"]),
    # tables
    (
        init({"a": jnp.ones(()), "b": X}, tables={"a": True, "b": False}),
        ValueError,
        ["'a'", "rows"],
    ),
    (
        init({"a": jnp.ones((1, 2)), "b": jnp.ones((2, 3))}, tables=("a", "b")),
        ValueError,
        ["agree in features", "a[1, 2], b[2, 3]"],
    ),
    (
        lambda: jax.jit(lambda t: sevo_jax.diagnostics.corrected_rows({"a": X}, tables=t))(1.0),
        TypeError,
        ["tables must be static"],
    ),
    (lambda: knn_graph(np.eye(3), k=1, temperature="warm"), TypeError, ["temperature", "'warm'"]),  # type: ignore
    # edge lists
    (lambda: edge_graph([0, 3], [1, 1], 3), ValueError, ["senders", "[0, 3)", "got 3"]),
    (lambda: edge_graph([0], [-1], 3), ValueError, ["receivers", "-1"]),
    (lambda: edge_graph([0.5], [1], 3), TypeError, ["senders", "integer"]),
    (lambda: edge_graph([0], [1, 2], 3), ValueError, ["same length"]),
    (lambda: edge_graph([[0]], [[1]], 3), ValueError, ["one-dimensional"]),
    (lambda: edge_graph([0], [1], 3, [np.nan]), ValueError, ["weights", "nan", "position 0"]),
    (lambda: edge_graph([0], [1], 3, [-1.0]), ValueError, ["weights", "-1.0"]),
    (lambda: edge_graph([0], [1], 3, [1.0, 2.0]), ValueError, ["weights", "(2,)"]),
    (lambda: edge_graph([], [], 0), ValueError, ["num_nodes", "at least 1"]),
    (lambda: edge_graph([], [], 2.5), TypeError, ["num_nodes", "2.5"]),  # type: ignore
    # sequences
    (lambda: sequence_graph([[1, 9]], 3), ValueError, ["sequences", "got 9"]),
    (lambda: sequence_graph([[1.0, 2.0]], 3), TypeError, ["sequences", "integer"]),
    (lambda: sequence_graph([1, 2], 3, lengths=[3]), ValueError, ["lengths", "add up"]),
    (lambda: sequence_graph([1, 2], 3, lengths=[3, -1]), ValueError, ["lengths", "-1"]),
    (lambda: sequence_graph([1, 2], 3, lengths=[2.0]), TypeError, ["lengths"]),
    (lambda: sequence_graph([[1, 2]], 3, walk_length=0), ValueError, ["walk_length", "at least 1"]),
    (lambda: sequence_graph([[1, 2]], 3, max_len=0), ValueError, ["max_len"]),
    (
        lambda: sequence_graph([[1, 2]], 3, keep="lats"),  # type: ignore
        ValueError,
        ["keep", "did you mean 'last'"],
    ),
    (
        lambda: sequence_graph([[1, 2]], 3, weighting="distnce"),  # type: ignore
        ValueError,
        ["weighting", "did you mean 'distance'"],
    ),
    # other builders
    (
        lambda: sequence_graph([1, 2, 3], 4),  # type: ignore
        TypeError,
        ["sequences", "position 0", "length of each run"],
    ),
    (lambda: sequence_graph(3, 4), TypeError, ["sequences", "int"]),  # type: ignore
    (lambda: bipartite_graph([0, 2], [0, 0], 2, 1), ValueError, ["rows", "num_rows", "got 2"]),
    (lambda: bipartite_graph([0], [-1], 2, 1), ValueError, ["cols", "num_cols", "got -1"]),
    (lambda: bipartite_graph([0], [0, 0], 2, 1), ValueError, ["same length", "1 and 2"]),
    (lambda: bipartite_graph([0], [0], 0, 1), ValueError, ["num_rows", "at least 1"]),
    (
        lambda: bipartite_graph([0], [0], 1, 1, weights=[np.inf]),
        ValueError,
        ["weights", "inf", "position 0"],
    ),
    (lambda: category_graph([[0, 3]], 3), ValueError, ["members", "[0, 3)", "got 3"]),
    (lambda: category_graph([[0.5]], 3), TypeError, ["members", "integer"]),
    (lambda: category_graph([[0]], 3, max_category_size=0), ValueError, ["max_category_size"]),
    (
        lambda: category_graph([[0, 1, 2]], 3, max_entries=5),
        ValueError,
        ["6 entries", "max_category_size", "max_entries"],
    ),
    (lambda: category_graph([], 3, max_entries=-1), ValueError, ["max_entries", "at least 0"]),
    (lambda: category_graph([[0]], 3, max_entries="a"), TypeError, ["max_entries", "integer"]),
    (lambda: category_graph(sp.eye_array(4), 3), ValueError, ["one row a node", "(4, 4)"]),
    (lambda: knn_graph(np.ones((3, 2)), 3), ValueError, ["k", "less than the 3 nodes", "got 3"]),
    (lambda: knn_graph(np.ones((3, 2)), 0), ValueError, ["k", "at least 1"]),
    (lambda: knn_graph(np.ones((3, 2)), 1.5), TypeError, ["k", "1.5"]),  # type: ignore
    (lambda: knn_graph(np.ones((3, 2)), 1, 0.0), ValueError, ["temperature", "above 0"]),
    (lambda: knn_graph(np.ones((3, 2)), 1, -1.0), ValueError, ["temperature", "-1"]),
    (lambda: knn_graph(np.eye(3), 1, 0.01), ValueError, ["temperature is too small", "float32"]),
    # weights that the graph could not keep
    (lambda: edge_graph([0, 1], [1, 2], 3, [1.0, 1e-60]), ValueError, ["1e-60", "round to 0"]),
    (lambda: edge_graph([0], [1], 2).add_edges([0], [0], [1e-60]), ValueError, ["round to 0"]),
    (lambda: Graph.from_weights(1e-60 * np.eye(2)), ValueError, ["round to 0", "float32"]),
    (lambda: Graph.from_weights(1e-9 * np.eye(2), np.float16), ValueError, ["0 in float16"]),
    (lambda: knn_graph(np.eye(3)[:, :2], 1), ValueError, ["features", "row 2", "norm 0"]),
    (lambda: knn_graph(np.full((3, 2), np.nan), 1), ValueError, ["features", "row 0", "nan"]),
    (lambda: knn_graph(np.ones(3), 1), ValueError, ["features", "(3,)"]),
    (lambda: edge_graph([0], [1], 3, self_loops="al"), ValueError, ["self_loops", "mean 'all'"]),  # type: ignore
    (lambda: edge_graph([0], [1], 3, capacity=1), ValueError, ["capacity", "2 entries", "got 1"]),
    (lambda: edge_graph([0], [1], 3, capacity=2.5), TypeError, ["capacity", "2.5"]),  # type: ignore
    (lambda: edge_graph([0], [1], 3, capacity=2**31), ValueError, ["2147483647", "2147483648"]),
    (lambda: combine_graphs([], []), ValueError, ["at least one graph"]),
    (lambda: combine_graphs([GRAPH, GRAPH], [0.5, 0.6]), ValueError, ["add up to 1", "1.1"]),
    (lambda: combine_graphs([GRAPH, GRAPH], [1.5, -0.5]), ValueError, ["non-negative", "-0.5"]),
    (
        lambda: combine_graphs([GRAPH], [1.0], self_loops="all"),
        ValueError,
        ["self_loops", "'isolated'", "all"],
    ),
    (lambda: knn_graph(sp.eye_array(3), 1), TypeError, ["features", "dense", "toarray"]),
    (
        lambda: sequence_graph(pl.Series([[0, None], [1]]), 3),
        ValueError,
        ["sequences", "nulls", "got 1"],
    ),
    (lambda: Graph.from_operator(np.eye(2), dtype=int), TypeError, ["dtype", "floating", "int"]),
    (
        lambda: edge_graph([0, 0], [1, 1], 2, np.full(2, 4e4, np.float16)),
        ValueError,
        ["weights", "float16", "80000"],
    ),
    (
        lambda: Graph.from_operator(BCOO.fromdense(jnp.zeros((2, 2, 2)), n_dense=1)),
        ValueError,
        ["square", "dense axes"],
    ),
    (lambda: combine_graphs([GRAPH], [0.5, 0.5]), ValueError, ["weights", "(1,)", "(2,)"]),
    (
        lambda: combine_graphs([GRAPH, edge_graph([], [], 4)], [0.5, 0.5]),
        ValueError,
        ["same number of nodes", "[3, 4]"],
    ),
    (lambda: GRAPH.add_edges([0], [3]), ValueError, ["receivers", "got 3"]),
    (lambda: Graph.from_operator(np.eye(3)).add_edges([], []), ValueError, ["no weights"]),
    # hyper-parameters
    (init(beta=1.0), ValueError, ["beta", "[0, 1)", "1.0"]),
    (init(beta=-0.1), ValueError, ["beta", "-0.1"]),
    (init(beta=float("nan")), ValueError, ["beta", "nan"]),
    (init(beta=jnp.ones(2)), TypeError, ["beta", "scalar"]),
    (init(beta=lambda count: 1.5 + 0 * count), ValueError, ["beta", "1.5"]),
    (init(num_layers=-1), ValueError, ["num_layers", "-1"]),
    (init(num_layers=1.5), TypeError, ["num_layers", "1.5"]),
    (init(num_layers=True), TypeError, ["num_layers", "True"]),
    (
        lambda: jax.jit(lambda n: smooth(GRAPH, X, 0.5, n))(1),
        TypeError,
        ["num_layers", "static_args"],
    ),
    (init(tol=0.0), ValueError, ["tol", "above 0"]),
    (lambda: smooth_exact(GRAPH, X, 0.5, tol=float("nan")), ValueError, ["tol", "nan"]),
    (lambda: smooth_exact(GRAPH, X, 1.0), ValueError, ["beta", "[0, 1)"]),
    (lambda: sevo_jax.sevo_sgd(0.1, GRAPH, beta=2.0), ValueError, ["beta", "2.0"]),
    (lambda: sevo_jax.sevo_adam(0.1, GRAPH, num_layers=-2), ValueError, ["num_layers", "-2"]),
    (
        lambda: sevo_jax.diagnostics.convergence_factor(0.5, 0),
        ValueError,
        ["num_layers", "at least 1"],
    ),
    (lambda: sevo_jax.diagnostics.spectral_bounds(1.0, 2), ValueError, ["beta", "1.0"]),
    (
        lambda: sevo_jax.diagnostics.spectral_bounds(0.5, 2, "iterative"),  # type: ignore
        ValueError,
        ["method", "'neumann'", "iterative"],
    ),
    (
        lambda: diagnostics.direction(X, X[:2]),
        ValueError,
        ["same shape", "(3, 2)", "(2, 2)"],
    ),
    (lambda: diagnostics.direction([1.0], [1]), TypeError, ["smoothed", "floating", "int32"]),
    (lambda: diagnostics.communication(GRAPH, 2, 2, dtype="int32"), TypeError, ["dtype", "int32"]),
    (lambda: sevo_jax.diagnostics.corrected_rows(TWO, "c"), ValueError, ["'c'", "matches no leaf"]),
    (init(method="neuman"), ValueError, ["method", "did you mean 'neumann'"]),
    *(
        (call, ValueError, ["exact", "float32 or wider", dtype])
        for dtype in ("bfloat16", "float16")
        for call in (
            lambda g=HALF[dtype]: smooth(g, X, method="exact"),
            lambda g=HALF[dtype]: diagnostics.optimum_share(g, X),
            lambda g=HALF[dtype]: sevo_adamw(0.1, g, method="exact"),
        )
    ),
    (lambda: smooth_exact(GRAPH, X, 1 - 1e-9), ValueError, ["beta", "rounds to 1 in float32"]),
    (lambda: jax.jit(lambda x: smooth_exact(GRAPH, x, 1 - 1e-9))(X), ValueError, ["rounds to 1"]),
    # tables
    (init(jnp.ones((4, 2))), ValueError, ["no leaf", "3 rows", "[4, 2]"]),
    (init(TWO), ValueError, ["several leaves", "a[3, 2]", "b[3, 2]", "tables="]),
    (init(TWO, tables="c"), ValueError, ["'c'", "matches no leaf", "a[3, 2]"]),
    (init({"m": TWO}, tables="m"), ValueError, ["'m'", "several leaves", "m/a"]),
    (init({"x": {"a": X}, "y": {"a": X}}, tables="a"), ValueError, ["matches several", "x/a"]),
    (init(TWO, tables="small"), ValueError, ["small", "2 rows", "3 nodes"]),
    (init(TWO, tables=("a", "b")), ValueError, ["add up", "6 rows"]),
    (init(TWO, tables=[["a"], ["a"]]), ValueError, ["'a'", "more than once"]),
    (init(TWO, tables=["a", ["b"]]), ValueError, ["mixture"]),
    (init(TWO, tables=[]), ValueError, ["at least one"]),
    (init({"a": jnp.ones((3, 2), int)}, tables="a"), TypeError, ["'a'", "floating", "int32"]),
    (init(TWO, tables={"a": 1, "b": 0, "small": 0}), TypeError, ["tables", "mask", "booleans"]),
    (init(TWO, tables=42), TypeError, ["tables", "booleans", "42"]),
    (init(TWO, tables={"a": True}), ValueError, ["tables", "structure", "b[3, 2]"]),
    (init(TWO, tables=lambda t: jax.tree.map(lambda _: False, t)), ValueError, ["selects no leaf"]),
    (
        lambda: sevo_jax.scale_by_adam(moment_correction={"a": 1}).init({"a": X}),
        TypeError,
        ["moment_correction", "booleans"],
    ),
    # arrays
    (lambda: smooth(GRAPH, jnp.ones((4, 2))), ValueError, ["3 nodes", "(4, 2)"]),
    *(
        (lambda f=f: f(GRAPH, jnp.ones((3, 2), int)), TypeError, ["floating", "int32"])
        for f in (sevo_jax.spmm, smooth, diagnostics.smoothness, diagnostics.optimum_share)
    ),
]


def test_an_operator_without_entries_is_one():
    assert Graph.from_operator(sp.csr_array((2, 2))).capacity == 0


@pytest.mark.parametrize(("call", "error", "words"), CALLS, ids=range(len(CALLS)))
def test_bad_input(call: Callable[[], Any], error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
