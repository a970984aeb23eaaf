"""Graphs from data: item sequences and edge lists.

Every builder runs on the host, without a Python loop over interactions, and returns a `Graph` whose
weights were summed and normalised in float64.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from sevo_jax.graph import Graph
from sevo_jax.validation import check_choice

Keep = Literal["first", "last"]
Weighting = Literal["distance", "frequency"]


def edge_graph(
    senders: ArrayLike, receivers: ArrayLike, num_nodes: int, weights: ArrayLike | None = None
) -> Graph:
    """A graph from a list of undirected edges.

    Each edge ``(i, j, w)`` adds ``w`` to both ``w_ij`` and ``w_ji``; a self-edge therefore adds
    ``2w`` to its diagonal entry, and duplicates add up. No edges at all is legal.

    Args:
        senders: ``int[edges]``, node ids in ``[0, num_nodes)``.
        receivers: ``int[edges]``, node ids in ``[0, num_nodes)``.
        num_nodes: the number of nodes, isolated ones included.
        weights: ``float[edges]``, finite and non-negative; 1 for every edge if ``None``. The graph
            keeps their floating dtype.

    Returns:
        The `Graph`, with ``Ã = D^-1/2 W D^-1/2`` (Section 2.1).

    Raises:
        TypeError: ids that are not integers.
        ValueError: unequal lengths, ids out of range, or weights that are negative or not finite.

    Example:
        >>> import sevo_jax
        >>> graph = sevo_jax.edge_graph([0, 0], [1, 2], num_nodes=3, weights=[1.0, 3.0])
        >>> graph.to_scipy(normalized=False).toarray().tolist()
        [[0.0, 1.0, 3.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]
    """
    num_nodes = _check_num_nodes(num_nodes)
    senders = _check_ids(senders, num_nodes, "senders")
    receivers = _check_ids(receivers, num_nodes, "receivers")
    if senders.shape != receivers.shape:
        raise ValueError(
            "senders and receivers must have the same length, got "
            f"{senders.shape[0]} and {receivers.shape[0]}"
        )
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(float))
    if weights is None:
        values = np.ones(senders.shape[0])
    else:
        given = np.asarray(weights)
        if given.shape != senders.shape:
            raise ValueError(
                f"weights must have one entry an edge, shape {senders.shape}, got {given.shape}"
            )
        dtype = given.dtype if jnp.issubdtype(given.dtype, jnp.floating) else dtype
        values = given.astype(np.float64)
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if bad.size:
            raise ValueError(
                "weights must be finite and non-negative, got "
                f"{values[bad[0]]} at position {bad[0]}"
            )
    directed = sp.coo_array((values, (senders, receivers)), shape=(num_nodes, num_nodes)).tocsr()
    # Duplicates are summed before the transpose is added: w_ij and w_ji then round alike.
    return Graph.from_weights((directed + directed.T).tocsr(), dtype=dtype)


def sequence_graph(
    sequences: Sequence[ArrayLike] | ArrayLike,
    num_nodes: int,
    *,
    lengths: ArrayLike | None = None,
    max_len: int | None = 50,
    keep: Keep = "last",
    walk_length: int = 1,
    weighting: Weighting = "distance",
) -> Graph:
    """A graph of the items that follow each other in sequences (Algorithm 4).

    For every pair of items at a distance ``h <= walk_length`` in a sequence, ``1/h`` (or 1 with
    ``weighting="frequency"``) is added to ``w_ij`` and ``w_ji``. An item followed by itself adds
    twice that to its own diagonal.

    Args:
        sequences: one sequence of node ids a user; or, with ``lengths``, all of them joined into
            one flat ``int[interactions]`` array.
        num_nodes: the number of nodes, the padding item and unseen items included.
        lengths: ``int[users]``, the length of each sequence in a flat array.
        max_len: how many items of each sequence count; ``None`` for all.
        keep: which ones: the ``"last"`` or the ``"first"``.
        walk_length: ``H``, at least 1.
        weighting: ``"distance"`` for ``1/h``, ``"frequency"`` for 1.

    Returns:
        The `Graph`. Items without neighbours are isolated nodes.

    Raises:
        TypeError: ids that are not integers.
        ValueError: ids out of range, lengths that do not add up, or an option out of its range.

    Example:
        >>> import sevo_jax
        >>> graph = sevo_jax.sequence_graph([[1, 2, 3], [2, 1]], num_nodes=4)
        >>> graph.to_scipy(normalized=False).toarray()[1].tolist()
        [0.0, 0.0, 2.0, 0.0]
    """
    num_nodes = _check_num_nodes(num_nodes)
    check_choice("keep", keep, ("first", "last"))
    check_choice("weighting", weighting, ("distance", "frequency"))
    walk_length = _check_positive(walk_length, "walk_length")
    if lengths is None:
        arrays = [np.asarray(s) for s in cast(Sequence[ArrayLike], sequences)]
        lengths = np.array([a.size for a in arrays], np.int64)
        arrays = [a for a in arrays if a.size]
        values = np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
    else:
        values = np.asarray(sequences)
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
            raise TypeError(f"lengths must be int[users], got {lengths.dtype}{list(lengths.shape)}")
        if lengths.size and lengths.min() < 0:
            raise ValueError(f"lengths must not be negative, got {lengths.min()}")
        if lengths.sum() != values.size:
            raise ValueError(
                f"lengths must add up to the {values.size} items given, got {lengths.sum()}"
            )
    values = _check_ids(values, num_nodes, "sequences")

    user = np.repeat(np.arange(lengths.size), lengths)
    if max_len is not None:
        max_len = _check_positive(max_len, "max_len")
        position = np.arange(values.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        if keep == "last":
            position = np.repeat(lengths, lengths) - 1 - position
        values, user = values[position < max_len], user[position < max_len]

    senders, receivers, weights = [], [], []
    for h in range(1, walk_length + 1):
        together = user[:-h] == user[h:]
        senders.append(values[:-h][together])
        receivers.append(values[h:][together])
        weights.append(np.full(senders[-1].size, 1.0 / h if weighting == "distance" else 1.0))
    weights = np.concatenate(weights).astype(jax.dtypes.canonicalize_dtype(float))
    return edge_graph(np.concatenate(senders), np.concatenate(receivers), num_nodes, weights)


def _check_num_nodes(num_nodes: int) -> int:
    return _check_positive(num_nodes, "num_nodes")


def _check_positive(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _check_ids(ids: ArrayLike, num_nodes: int, name: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {ids.shape}")
    if ids.size == 0:
        return ids.astype(np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name} must hold integer node ids, got dtype {ids.dtype}")
    for extreme in (ids.min(), ids.max()):
        if not 0 <= extreme < num_nodes:
            raise ValueError(f"{name} must lie in [0, num_nodes) = [0, {num_nodes}), got {extreme}")
    return ids
