"""Interactions and graphs of the sizes of the paper's Table 1, drawn from a seed."""

from __future__ import annotations

import numpy as np

import sevo_jax
from experiments.data.table1 import ZIPF_EXPONENT, Size
from experiments.data.table1 import draw_sequences as interactions

__all__ = ["graph", "interactions", "random_graph"]


def graph(size: Size, seed: int = 0) -> sevo_jax.Graph:
    """Builds the graph of `interactions`."""
    items, lengths = interactions(size, seed)
    return sevo_jax.sequence_graph(items, size.items, lengths=lengths)


def random_graph(nodes: int, edges: int, seed: int = 0) -> sevo_jax.Graph:
    """Draws a graph of exactly ``edges`` different edges, whose ends follow the power law."""
    rng = np.random.default_rng(seed)
    popularity = (1.0 + rng.permutation(nodes)) ** -ZIPF_EXPONENT
    popularity /= popularity.sum()
    pairs = np.empty(0, np.int64)
    while pairs.size < edges:
        a, b = rng.choice(nodes, size=(2, edges), p=popularity)
        drawn = np.minimum(a, b).astype(np.int64) * nodes + np.maximum(a, b)
        pairs = np.unique(np.concatenate([pairs, drawn[a != b]]))
    kept = rng.choice(pairs, size=edges, replace=False)
    return sevo_jax.edge_graph(kept // nodes, kept % nodes, nodes)
