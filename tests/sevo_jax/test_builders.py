"""Graphs: builders against the paper's dictionary loop, operators in every form, normalisation."""

from __future__ import annotations

from collections import defaultdict

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO, BCSR

import sevo_jax

N = 6
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=8), min_size=1, max_size=5)


def algorithm_4(sequences, max_len, keep, walk_length, weighting) -> np.ndarray:
    weights: dict = defaultdict(float)
    for sequence in sequences:
        items = sequence[-max_len:] if keep == "last" else sequence[:max_len]
        for i, item in enumerate(items):
            for h in range(1, walk_length + 1):
                if i + h < len(items):
                    w = 1 / h if weighting == "distance" else 1
                    weights[item, items[i + h]] += w
                    weights[items[i + h], item] += w
    dense = np.zeros((N, N))
    for (i, j), w in weights.items():
        dense[i, j] = w
    return dense


@settings(max_examples=60, deadline=None)
@given(
    SEQUENCES,
    st.integers(1, 9),
    st.sampled_from(["first", "last"]),
    st.integers(1, 4),
    st.sampled_from(["distance", "frequency"]),
)
def test_sequence_graph_is_algorithm_4(sequences, max_len, keep, walk_length, weighting) -> None:
    options = {"max_len": max_len, "keep": keep, "walk_length": walk_length, "weighting": weighting}
    graph = sevo_jax.sequence_graph(sequences, N, **options)
    want = algorithm_4(sequences, **options)
    np.testing.assert_allclose(graph.to_scipy(normalized=False).toarray(), want, rtol=1e-6)
    flat = np.array([i for s in sequences for i in s], int)
    lengths = [len(s) for s in sequences]
    joined = sevo_jax.sequence_graph(flat, N, lengths=lengths, **options)
    np.testing.assert_array_equal(joined.to_scipy().toarray(), graph.to_scipy().toarray())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, N - 1)] * 2, st.floats(0, 1e3)), max_size=12))
def test_normalisation(edges) -> None:
    senders, receivers, weights = ([e[i] for e in edges] for i in range(3))
    graph = sevo_jax.edge_graph(senders, receivers, N, np.array(weights, np.float32))
    dense = np.zeros((N, N))
    for i, j, w in zip(senders, receivers, np.array(weights, np.float32), strict=True):
        dense[i, j] += w
        dense[j, i] += w
    degrees = dense.sum(1)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    operator = graph.to_scipy().toarray()
    np.testing.assert_allclose(operator, scale[:, None] * dense * scale, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(operator, operator.T)
    assert abs(np.linalg.eigvalsh(operator.astype(float))).max() <= 1 + 1e-5


@pytest.mark.parametrize(
    "form",
    [np.asarray, jnp.asarray, sp.coo_array, sp.csc_matrix, BCOO.fromdense, BCSR.fromdense],
)
def test_operators_are_used_as_given(form) -> None:
    dense = np.array([[0.5, 0.2, 0], [0.2, 0, 0.7], [0, 0.7, 0]], np.float32)
    graph = sevo_jax.Graph.from_operator(form(dense))
    np.testing.assert_array_equal(graph.to_scipy().toarray(), dense)
    assert graph.weights is None
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(sevo_jax.spmm(graph, x), dense @ x, rtol=1e-6)


def test_a_graph_without_edges_scales() -> None:
    graph = sevo_jax.edge_graph([], [], N)
    x = jnp.ones((N, 2))
    want = (1 - 0.9) / (1 - 0.9**4)
    np.testing.assert_allclose(sevo_jax.smooth(graph, x, 0.9, 3), want, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes_are_kept(dtype) -> None:
    graph = sevo_jax.edge_graph([0], [1], 2)
    assert sevo_jax.smooth(graph, jnp.ones((2, 3), dtype)).dtype == dtype
