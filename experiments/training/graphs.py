"""Graphs of a data set, from training interactions alone, and graphs of a trained table."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import scipy.sparse as sp
from jaxtyping import Array, Float

import sevo_jax
from experiments.data import Interactions, load_categories
from experiments.errors import ArgumentError
from experiments.run import IDS_APART, graph_files
from experiments.settings import GraphSettings, is_file


def item_graph(
    data: Interactions,
    max_len: int | None,
    num_nodes: int | None = None,
    *,
    walk_length: int = 1,
    keep: Literal["last", "first"] = "last",
    weighting: Literal["distance", "frequency"] = "distance",
) -> sevo_jax.Graph:
    """Joins items at a distance of at most ``walk_length`` in the training sequences.

    Node 0 is padding. Nodes after the items are isolated. The other arguments are those of
    `sevo_jax.sequence_graph`.
    """
    return sevo_jax.sequence_graph(
        data.items[data.training_part()],
        data.num_items + 1 if num_nodes is None else num_nodes,
        lengths=np.maximum(data.ends[0] - data.starts, 0),
        max_len=max_len,
        walk_length=walk_length,
        keep=keep,
        weighting=weighting,
    )


def neighbour_graph(data: Interactions) -> sevo_jax.Graph:
    """Joins items at a distance of at most 3 in whole training sequences; node 0 is padding."""
    return item_graph(data, max_len=None, walk_length=3)


def user_item_graph(data: Interactions) -> sevo_jax.Graph:
    """Joins users to their training items; padding is the first node after the users."""
    training = data.training_part()
    return sevo_jax.bipartite_graph(
        data.owners[training], data.items[training], data.num_users, data.num_items + 1
    )


def category_graph(
    data: Interactions,
    num_nodes: int | None = None,
    file: str = "",
    max_size: int | None = None,
) -> sevo_jax.Graph:
    """Joins items that share a category which is not too large (Section C.2); node 0 is padding.

    Args:
        data: the data set.
        num_nodes: one more than items if ``None``; nodes after the items are isolated.
        file: as in `load_categories`.
        max_size: as in `load_categories`.

    Raises:
        UserError: as `load_categories`.
    """
    categories = load_categories(data, file, max_size)
    return sevo_jax.category_graph(
        categories.members,
        data.num_items + 1 if num_nodes is None else num_nodes,
        max_category_size=categories.max_size,
    )


def check_graph(settings: GraphSettings, data: Interactions) -> str:
    """Checks the files of a run's graph before anything is trained; returns a note, or ``""``.

    Raises:
        UserError: as `load_categories` and `graph_from_file`; or there are too few items for the
            number of neighbours.
    """
    if settings.kind == "teacher":
        check_neighbours(settings.num_neighbours, data.num_items)
    elif is_file(settings.kind):
        return graph_from_file(Path(settings.kind), data)[1]
    elif settings.kind == "category":
        found = load_categories(data, settings.categories, settings.max_category_size)
        if settings.categories and found.max_size is not None:
            large = sum(members.size > found.max_size for members in found.members)
            without = data.num_items - np.unique(np.concatenate(found.members)).size
            return (
                f"{settings.categories}: has {len(found.members):,} categories, of which {large:,} "
                f"make no edges: they have more than {found.max_size} items; {found.unknown:,} of "
                f"its items are unknown, and {without:,} of {data.num_items:,} items have no "
                "category"
            )
    return ""


def graph_from_file(
    path: Path, data: Interactions, num_nodes: int | None = None
) -> tuple[sevo_jax.Graph, str]:
    """Loads a graph that `experiments.build_graph` wrote, and keeps the items of the data.

    Items are found by the ids that their source gave them. The ids of the graph's nodes are in the
    file ``.items.parquet`` beside it; if none was written, a node's id is its number. Items that
    the graph lacks have no neighbours. Nodes that are no items of the data are left out.

    Args:
        path: the graph's file, ``.npz``.
        data: the data set.
        num_nodes: one more than items if ``None``; node 0 is padding.

    Returns:
        The graph, and a sentence that says how many items were found.

    Raises:
        UserError: a file is missing or malformed, or the graph has none of the items.
    """
    files = graph_files(path)
    try:
        path.open("rb").close()  # a missing file fails here, with the system's own reason
        weights = sevo_jax.Graph.load(path).to_scipy(normalized=False)
        size = weights.shape[0]
        if len(files) > 1:
            items = pl.read_parquet(files[1], glob=False)
            ids = items.sort("node")["item"].cast(pl.String).to_list()
        else:
            _check_not_apart(path)
            ids = list(map(str, range(size)))
    except OSError as error:
        raise ArgumentError(
            "graph", f"{path} cannot be read ({error.strerror or error})"
        ) from error
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ArgumentError(
            "graph", f"{path} is no graph of experiments.build_graph ({error})"
        ) from error
    if len(ids) != size:
        raise ArgumentError(
            "graph",
            f"{files[1]} has {len(ids):,} items for the {size:,} nodes of {path}; build "
            "the graph again, or remove the file if the nodes are integer ids",
        )
    # From here on, `known` are items of the data (from 0) and `nodes` their nodes in the file.
    node_of = {name: node for node, name in enumerate(ids)}
    nodes = np.array([node_of.get(str(name), -1) for name in data.item_ids.tolist()])
    known = np.flatnonzero(nodes >= 0)
    if not known.size:
        hint = "" if len(files) > 1 else "; string ids need a graph built with the ids any"
        raise ArgumentError(
            "graph",
            f"{path} has none of the {data.num_items:,} items of {data.name}, such as "
            f"{', '.join(map(str, data.item_ids[:3].tolist()))}; found nodes such as "
            f"{', '.join(ids[:3])}{hint}",
        )
    total = data.num_items + 1 if num_nodes is None else num_nodes
    own = weights[nodes[known]][:, nodes[known]].tocoo()
    entries = own.data, (known[own.row] + 1, known[own.col] + 1)
    graph = sevo_jax.Graph.from_weights(sp.csr_array(entries, shape=(total, total)))
    note = f"{path}: has {known.size:,} of the {data.num_items:,} items"
    if known.size < data.num_items:
        note += "; the others have no neighbours"
    if size > known.size:
        note += f"; {size - known.size:,} nodes that are no items are left out"
    return graph, note


def _check_not_apart(path: Path) -> None:
    """Raises an `ArgumentError` if the nodes of a graph have ids in a file that is not there."""
    with zipfile.ZipFile(path) as archive:
        if IDS_APART in archive.namelist():
            raise ArgumentError(
                "graph",
                f"{path} was built with the ids any, and the file of these ids is missing: put "
                f"{path.with_suffix('.items.parquet')} beside it",
            )


def teacher_graph(
    table: Float[Array, "rows dim"], num_neighbours: int, tau: float
) -> sevo_jax.Graph:
    """Joins items to their nearest neighbours in a teacher's table; node 0 is padding.

    Args:
        table: a row for padding, then a row for each item.
        num_neighbours: the neighbours of each item; fewer than there are items.
        tau: the bandwidth of `sevo_jax.knn_graph`, above 0.

    Raises:
        UserError: as many neighbours as items, or more.
    """
    items = np.asarray(table)[1:]
    check_neighbours(num_neighbours, len(items))
    graph = sevo_jax.knn_graph(items, num_neighbours, tau)
    weights = graph.to_scipy(normalized=False)
    # An empty first row and column for padding.
    return sevo_jax.Graph.from_weights(sp.block_diag([np.zeros((1, 1)), weights], "csr"))


def check_neighbours(num_neighbours: int, num_items: int) -> None:
    """Raises an `ArgumentError` unless an item can have so many neighbours."""
    if num_neighbours >= num_items:
        raise ArgumentError(
            "num_neighbours", f"must be less than the {num_items} items, got {num_neighbours}"
        )
