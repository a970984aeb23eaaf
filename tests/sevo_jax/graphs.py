"""Random graphs for the tests: of one size and capacity, so that all share compiled programs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import sevo_jax

NODES = 7
CAPACITY = NODES * NODES


def random_graph(seed: int, *, edges: int = 10, dtype: type = np.float32) -> sevo_jax.Graph:
    """Weighted edges over ``NODES`` nodes, self-edges and isolated nodes included."""
    rng = np.random.default_rng(seed)
    senders, receivers = rng.integers(NODES, size=(2, edges))
    weights = rng.exponential(size=edges).astype(dtype)
    return sevo_jax.edge_graph(senders, receivers, NODES, weights, capacity=CAPACITY)


@st.composite
def graphs(draw: st.DrawFn, dtype: type = np.float64) -> sevo_jax.Graph:
    """Any weighted graph over ``NODES`` nodes: empty, bipartite, with loops, disconnected."""
    node = st.integers(0, NODES - 1)
    kind = draw(st.sampled_from(["any", "bipartite", "complete"]))
    edges = draw(st.lists(st.tuples(node, node, st.floats(1e-3, 1e3)), max_size=20))
    if kind == "bipartite":
        edges = [(2 * (i // 2), min(2 * (j // 2) + 1, NODES - 2), w) for i, j, w in edges]
    if kind == "complete":
        edges = [(i, j, 1.0) for i in range(NODES) for j in range(i)]
    senders, receivers, weights = ([e[k] for e in edges] for k in range(3))
    return sevo_jax.edge_graph(
        np.array(senders, int),
        np.array(receivers, int),
        NODES,
        np.array(weights, dtype),
        capacity=CAPACITY,
    )


def dense(graph: sevo_jax.Graph) -> np.ndarray:
    """``Ã`` in float64."""
    return graph.to_scipy().toarray().astype(np.float64)


def dense_psi(graph: sevo_jax.Graph, beta: float, layers: int, method: str) -> np.ndarray:
    """The smoothing operator as a matrix in float64, straight from the paper."""
    a, eye = dense(graph), np.eye(NODES)
    if method == "exact":
        return (1 - beta) * np.linalg.inv(eye - beta * a)
    powers = [beta**k * np.linalg.matrix_power(a, k) for k in range(layers + 1)]
    if method == "iterative":
        return (1 - beta) * sum(powers[:-1], np.zeros_like(a)) + powers[-1]
    if method == "neumann_unscaled":
        return (1 - beta) * sum(powers)
    return (1 - beta) / (1 - beta ** (layers + 1)) * sum(powers)
