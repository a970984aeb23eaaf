"""The graphs of a data set, from training interactions alone."""

from __future__ import annotations

import sevo_jax
from experiments.data import Interactions


def item_graph(data: Interactions, max_len: int, num_nodes: int | None = None) -> sevo_jax.Graph:
    """Consecutive items of the training sequences.

    Node 0 is padding, and there may be more after the items: isolated nodes.
    """
    return sevo_jax.sequence_graph(
        data.items[data.training_part()],
        data.num_items + 1 if num_nodes is None else num_nodes,
        lengths=data.lengths - 2,
        max_len=max_len,
    )


def neighbour_graph(data: Interactions) -> sevo_jax.Graph:
    """Items at a distance of at most 3 in the whole training sequences; node 0 is padding."""
    return sevo_jax.sequence_graph(
        data.items[data.training_part()],
        data.num_items + 1,
        lengths=data.lengths - 2,
        max_len=None,
        walk_length=3,
    )


def user_item_graph(data: Interactions) -> sevo_jax.Graph:
    """Users and their training items, the padding item among the items."""
    training = data.training_part()
    return sevo_jax.bipartite_graph(
        data.owners[training], data.items[training], data.num_users, data.num_items + 1
    )
