"""The graphs of a data set, from training interactions alone; and those of a trained table."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float

import sevo_jax
from experiments.data import Interactions, load_categories
from experiments.errors import UserError


def item_graph(
    data: Interactions,
    max_len: int | None,
    num_nodes: int | None = None,
    *,
    walk_length: int = 1,
    keep: Literal["last", "first"] = "last",
    weighting: Literal["distance", "frequency"] = "distance",
) -> sevo_jax.Graph:
    """Items at a distance of at most ``walk_length`` in the training sequences.

    Node 0 is padding, and there may be more after the items: isolated nodes. For the rest see
    `sevo_jax.sequence_graph`.
    """
    return sevo_jax.sequence_graph(
        data.items[data.training_part()],
        data.num_items + 1 if num_nodes is None else num_nodes,
        lengths=data.lengths - 2,
        max_len=max_len,
        walk_length=walk_length,
        keep=keep,
        weighting=weighting,
    )


def neighbour_graph(data: Interactions) -> sevo_jax.Graph:
    """Items at a distance of at most 3 in the whole training sequences; node 0 is padding."""
    return item_graph(data, max_len=None, walk_length=3)


def user_item_graph(data: Interactions) -> sevo_jax.Graph:
    """Users and their training items, the padding item among the items."""
    training = data.training_part()
    return sevo_jax.bipartite_graph(
        data.owners[training], data.items[training], data.num_users, data.num_items + 1
    )


def category_graph(data: Interactions, num_nodes: int | None = None) -> sevo_jax.Graph:
    """Items that share a category which is not too large (Section C.2); node 0 is padding.

    Raises:
        UserError: as `load_categories`.
    """
    categories = load_categories(data)
    return sevo_jax.category_graph(
        categories.members,
        data.num_items + 1 if num_nodes is None else num_nodes,
        max_category_size=categories.max_size,
    )


def teacher_graph(
    table: Float[Array, "rows dim"], num_neighbours: int, tau: float
) -> sevo_jax.Graph:
    """Items and their nearest neighbours in a teacher's table; node 0 is padding.

    Args:
        table: a row for padding, then the items'.
        num_neighbours: of each item, fewer than there are others.
        tau: the bandwidth of `sevo_jax.knn_graph`, above 0.

    Raises:
        UserError: as many neighbours as items, or more.
    """
    items = np.asarray(table)[1:]
    check_neighbours(num_neighbours, len(items))
    graph = sevo_jax.knn_graph(items, num_neighbours, tau)
    weights = graph.to_scipy(normalized=False)
    return sevo_jax.Graph.from_weights(sp.block_diag([np.zeros((1, 1)), weights], "csr"))


def check_neighbours(num_neighbours: int, num_items: int) -> None:
    """A `UserError` that names the option, unless an item has so many neighbours."""
    if num_neighbours >= num_items:
        raise UserError(
            f"--num-neighbours: must be less than the {num_items} items, got {num_neighbours}"
        )
