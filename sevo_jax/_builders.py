"""Graphs from data: sequences, user-item pairs, categories, nearest neighbours, edge lists.

Every builder runs on the host, without a Python loop over interactions. It returns a `Graph` whose
weights were summed and normalised in float64. All builders have two options:

- ``self_loops``: the nodes that get a self-edge of weight 1: ``"none"``, the ``"isolated"`` ones or
  ``"all"``; see `Graph.from_weights`.
- ``capacity``: stored entries of the result, zero-padded. Graphs of equal capacity share a compiled
  step. ``None`` stores as many entries as there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from sevo_jax._checks import (
    check_choice,
    check_count,
    check_ids,
    check_nodes,
    check_positive,
    check_shares,
    check_unmasked,
    check_weights,
    rounds_to_0,
)
from sevo_jax._graph import Graph, SelfLoops, as_graph, graph_of
from sevo_jax._matrices import Operator, adjacency, from_scipy, symmetrized
from sevo_jax._runs import Padding, Ragged, interactions, ragged

Keep = Literal["first", "last"]
Weighting = Literal["distance", "frequency"]

_CELLS_PER_BLOCK = 2**25  # of float32 similarities, 128 MB
_CHUNK = 64


def edge_graph(
    senders: ArrayLike,
    receivers: ArrayLike,
    num_nodes: int,
    weights: ArrayLike | None = None,
    *,
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
) -> Graph:
    """A graph from a list of undirected edges.

    Each edge ``(i, j, w)`` adds ``w`` to both ``w_ij`` and ``w_ji``; a self-edge therefore adds
    ``2w`` to its diagonal entry, and duplicates add up. No edges at all is legal.

    Args:
        senders: ``int[edges]``, node ids in ``[0, num_nodes)``: a list, an array, or a column of a
            data frame.
        receivers: ``int[edges]``, node ids in ``[0, num_nodes)``.
        num_nodes: the number of nodes, isolated ones included.
        weights: ``float[edges]``, finite and non-negative; 1 for every edge if ``None``. The graph
            keeps their floating dtype.
        self_loops: the nodes that get a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.

    Returns:
        The `Graph`, with ``Ã = D^-1/2 W D^-1/2`` (Section 2.1).

    Raises:
        TypeError: ids that are not integers.
        ValueError: unequal lengths, ids out of range, or weights that are negative or not finite.

    Examples:
        >>> import sevo_jax
        >>> graph = sevo_jax.edge_graph([0, 0], [1, 2], num_nodes=3, weights=[1.0, 3.0])
        >>> graph.to_scipy(normalized=False).toarray().tolist()
        [[0.0, 1.0, 3.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]
    """
    num_nodes = check_nodes("num_nodes", num_nodes)
    matrix, dtype = adjacency(senders, receivers, num_nodes, weights)
    return graph_of(matrix, dtype, self_loops, capacity)


def sequence_graph(
    sequences: Ragged,
    num_nodes: int,
    *,
    lengths: ArrayLike | None = None,
    padding: Padding = "refuse",
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    max_len: int | None = 50,
    keep: Keep = "last",
    walk_length: int = 1,
    weighting: Weighting = "distance",
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
) -> Graph:
    """A graph of the items that follow each other in sequences (Algorithm 4).

    For every pair of items at a distance ``h <= walk_length`` in a sequence, ``1/h`` (or 1 with
    ``weighting="frequency"``) is added to ``w_ij`` and ``w_ji``. An item followed by itself adds
    twice that to its own diagonal.

    Args:
        sequences: one sequence of node ids a user, as lists, arrays, a mapping from users to
            either, or a Polars, pandas or Arrow column of lists; or, with ``lengths``, all of them
            joined into one flat ``int[interactions]``; or, with ``user`` and ``item``, a data frame
            of interactions (Polars, pandas, or a pyarrow table). Masked values are padding.
        num_nodes: the number of nodes, the padding item and unseen items included.
        lengths: ``int[users]``, the length of each sequence in a flat array.
        padding: the value that pads. It is taken off the beginnings and the ends of sequences, and
            is an error between two items. ``None``: every value is an item. By default, lists are
            not padded, and a row that begins or ends with 0 in an array of two dimensions is an
            error, since that 0 may be an item or padding.
        user: the column of users, if ``sequences`` is a data frame.
        item: its column of items, integers.
        time: its column of times: numbers, dates or timestamps. Rows of equal times keep their
            order. With ``None``, rows are in the order of time already.
        max_len: how many items of each sequence count; ``None`` for all.
        keep: whether these are the ``"last"`` or the ``"first"`` ones.
        walk_length: ``H``, at least 1.
        weighting: ``"distance"`` for ``1/h``, ``"frequency"`` for 1.
        self_loops: the nodes that get a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.

    Returns:
        The `Graph`. Items without neighbours are isolated nodes.

    Raises:
        TypeError: ids that are not integers, or a data frame whose columns are not named.
        ValueError: ids out of range, lengths that do not add up, missing columns or values, an
            array that may or may not be padded, or an option out of its range.

    Examples:
        >>> import numpy as np, sevo_jax
        >>> graph = sevo_jax.sequence_graph([[1, 2, 3], [2, 1]], num_nodes=4)
        >>> graph.to_scipy(normalized=False).toarray()[1].tolist()
        [0.0, 0.0, 2.0, 0.0]
        >>> padded = np.array([[1, 2, 3], [0, 2, 1]])
        >>> same = sevo_jax.sequence_graph(padded, num_nodes=4, padding=0)
        >>> same.to_scipy(normalized=False).toarray()[1].tolist()
        [0.0, 0.0, 2.0, 0.0]
    """
    num_nodes = check_nodes("num_nodes", num_nodes)
    check_choice("keep", keep, Keep)
    check_choice("weighting", weighting, Weighting)
    walk_length = check_count("walk_length", walk_length)
    if user is not None or item is not None or time is not None:
        values, counts = interactions(sequences, user, item, time, lengths, padding)
    else:
        values, counts = ragged("sequences", sequences, lengths, padding)
    values = check_ids("sequences", values, num_nodes)

    # The arrays are large, so items that do not count are marked instead of taken out.
    kept = counts if max_len is None else np.minimum(counts, check_count("max_len", max_len))
    begins = np.cumsum(counts) - counts
    ends = begins + (counts if keep == "last" else kept)
    together = np.ones(values.size, bool)
    together[_ranges(begins if keep == "last" else ends, counts - kept)] = False
    # float32 is exact for whole numbers to 2^24, and for even ones, as on the diagonal, to 2^25.
    exact = walk_length == 1 or weighting == "frequency"
    dtype = np.float32 if exact and values.size * walk_length < 2**24 else np.float64
    senders, receivers, weights = [], [], []
    for h in range(1, walk_length + 1):
        # The item h before a sequence's end has no partner at distance h or more.
        together[ends[kept >= h] - h] = False
        senders.append(values[:-h][together[:-h]])
        receivers.append(values[h:][together[:-h]])
        weights.append(np.full(senders[-1].size, 1 / h if weighting == "distance" else 1, dtype))
    edges = [p[0] if walk_length == 1 else np.concatenate(p) for p in (senders, receivers, weights)]
    matrix = symmetrized(edges[0], edges[1], edges[2], num_nodes)
    return graph_of(matrix, jax.dtypes.canonicalize_dtype(float), self_loops, capacity)


def bipartite_graph(
    rows: ArrayLike,
    cols: ArrayLike,
    num_rows: int,
    num_cols: int,
    *,
    weights: ArrayLike | None = None,
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
) -> Graph:
    """A graph of pairs between two kinds of nodes, such as users and items.

    Nodes ``0 … num_rows - 1`` are the rows, and ``num_rows … num_rows + num_cols - 1`` the columns.

    Args:
        rows: ``int[pairs]``, in ``[0, num_rows)``: a list, an array, a column of a data frame, or
            the ``row`` of a SciPy COO matrix.
        cols: ``int[pairs]``, in ``[0, num_cols)``.
        num_rows: the number of nodes of the first kind.
        num_cols: the number of nodes of the second kind.
        weights: ``float[pairs]``, finite and non-negative; duplicates add up. With ``None`` the
            graph is binary: a pair has weight 1 however often it is given.
        self_loops: the nodes that get a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.

    Raises:
        TypeError: ids that are not integers.
        ValueError: unequal lengths, ids out of range, or weights that are negative or not finite.

    Examples:
        >>> import sevo_jax
        >>> graph = sevo_jax.bipartite_graph([0, 0, 1], [0, 0, 1], num_rows=2, num_cols=2)
        >>> graph.to_scipy(normalized=False).toarray()[0].tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    num_rows, num_cols = check_count("num_rows", num_rows), check_count("num_cols", num_cols)
    check_nodes("num_rows + num_cols", num_rows + num_cols)
    rows = check_ids("rows", rows, num_rows, "num_rows")
    cols = check_ids("cols", cols, num_cols, "num_cols")
    if rows.shape != cols.shape:
        raise ValueError(
            f"rows and cols must have the same length, got {rows.shape[0]} and {cols.shape[0]}"
        )
    values, dtype = check_weights(weights, rows.shape)
    block = sp.coo_array((values, (rows, cols)), shape=(num_rows, num_cols)).tocsr()
    if weights is None:
        block.data[:] = 1
    matrix = sp.block_array([[None, block], [block.T, None]], format="csr")
    return graph_of(matrix, dtype, self_loops, capacity)


def category_graph(
    members: Ragged | Mapping[Any, ArrayLike],
    num_nodes: int,
    *,
    lengths: ArrayLike | None = None,
    padding: Padding = "refuse",
    max_category_size: int | None = None,
    max_entries: int = 20_000_000,
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
) -> Graph:
    """A graph that joins nodes which share a category: ``w_ij`` is 1, and 0 on the diagonal.

    A category of ``s`` nodes makes ``s (s - 1)`` entries, so a few broad categories make a graph
    nearly dense. The sum is known before anything is built; above ``max_entries`` it is an error.

    Args:
        members: the nodes of each category, ``int`` ids: lists or arrays, a column of lists, a
            mapping from category to nodes, or a SciPy sparse incidence matrix of shape
            ``(num_nodes, categories)``; or, with ``lengths``, all of them in one flat array.
        num_nodes: the number of nodes, those without a category included.
        lengths: ``int[categories]``, the number of nodes of each in a flat array.
        padding: a value that is no node; see `sequence_graph`.
        max_category_size: the most nodes that a category may have; others are left out.
        max_entries: the most entries that may be predicted.
        self_loops: the nodes that get a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.

    Raises:
        TypeError: ids that are not integers, or options that are not for a sparse matrix.
        ValueError: ids out of range, too many entries, or a matrix whose indices are damaged.

    Examples:
        >>> import sevo_jax
        >>> graph = sevo_jax.category_graph([[0, 1, 2], [2, 3]], num_nodes=4)
        >>> graph.to_scipy(normalized=False).toarray()[2].tolist()
        [1.0, 1.0, 0.0, 1.0]
    """
    num_nodes = check_nodes("num_nodes", num_nodes)
    if sp.issparse(members):
        if lengths is not None or padding != "refuse":
            raise TypeError("lengths and padding are not for a sparse matrix; leave them out")
        incidence: Any = from_scipy(members).tocsc()
        if incidence.shape[0] != num_nodes:
            raise ValueError(
                f"members must have one row a node, {num_nodes}, got shape {incidence.shape}"
            )
        incidence.sum_duplicates()
        incidence.eliminate_zeros()
    else:
        values, lengths = ragged("members", members, lengths, padding)
        values = check_ids("members", values, num_nodes)
        category = np.repeat(np.arange(lengths.size), lengths)
        shape = (num_nodes, lengths.size)
        incidence = sp.coo_array((np.ones(values.size), (values, category)), shape=shape).tocsc()
    incidence = incidence.astype(np.int32)
    incidence.data[:] = 1
    sizes = np.diff(incidence.indptr).astype(np.int64)
    if max_category_size is not None:
        kept = sizes <= check_count("max_category_size", max_category_size)
        incidence, sizes = incidence[:, np.flatnonzero(kept)], sizes[kept]
    predicted = int((sizes * (sizes - 1)).sum())
    if predicted > check_count("max_entries", max_entries, least=0):
        raise ValueError(
            f"{sizes.size} categories, the largest of {sizes.max()} nodes, make up to "
            f"{predicted:,} entries, more than max_entries={max_entries:,}: leave out the broad "
            "ones with max_category_size=..., or raise max_entries"
        )
    shared = (incidence @ incidence.T).tocoo()
    rows, cols = shared.coords
    off = rows != cols
    matrix = sp.coo_array((np.ones(off.sum()), (rows[off], cols[off])), shape=shared.shape)
    dtype = jax.dtypes.canonicalize_dtype(float)
    return graph_of(matrix.tocsr(), dtype, self_loops, capacity)


def knn_graph(
    features: ArrayLike,
    k: int = 10,
    temperature: float = 1.0,
    *,
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
) -> Graph:
    """A graph of the ``k`` nearest neighbours by cosine distance (Eq. 41 and 42, Appendix C.3).

    With ``d_ij = 2 - 2 cos(x_i, x_j)``, every node ``i`` adds ``exp(-d_ij / temperature)`` to
    ``w_ij`` and ``w_ji`` for the ``k`` other nodes of the smallest ``(d_ij, j)``: among equals, the
    lower id. Candidates are found in float32, in blocks of rows of some 128 MB, and compared in
    float64. Distances are equal if they agree to 12 decimals.

    Args:
        features: ``float[nodes, dim]``, finite and without zero rows.
        k: neighbours of each node, in ``[1, nodes)``.
        temperature: ``τ``, the kernel's bandwidth, above 0.
        self_loops: the nodes that get a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.

    Raises:
        TypeError: features that are not numbers, or a ``k`` that is not an integer.
        ValueError: features that are not a finite matrix without zero rows, ``k`` out of range, or
            a temperature that is not positive, or so small that a weight rounds to 0.

    Examples:
        >>> import numpy as np, sevo_jax
        >>> features = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> graph = sevo_jax.knn_graph(features, k=1)
        >>> (graph.to_scipy(normalized=False).toarray() > 0).astype(int).tolist()
        [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    if sp.issparse(features):
        raise TypeError("features must be dense, got a sparse matrix; pass its toarray()")
    check_unmasked("features", features)
    x = np.asarray(features)
    if not any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        hint = "; write features.astype(float)" if x.dtype == object else ""
        raise TypeError(f"features must be real numbers, got dtype {x.dtype}{hint}")
    if x.ndim != 2:
        raise ValueError(f"features must be float[nodes, dim], got shape {x.shape}")
    x = x.astype(np.float64)
    nodes = x.shape[0]
    if check_count("k", k) >= nodes:
        raise ValueError(f"k must be less than the {nodes} nodes, got {k}")
    check_positive("temperature", temperature)
    norms = np.sqrt((x * x).sum(axis=1))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(
            f"features must be finite and not zero, got row {bad[0]} of norm {norms[bad[0]]}"
        )
    x /= norms[:, None]
    step = max(1, _CELLS_PER_BLOCK // nodes)
    single = x.astype(np.float32)
    blocks = [
        _nearest(x, single, start, min(start + step, nodes), k) for start in range(0, nodes, step)
    ]
    neighbours, distances = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    dtype = features.dtype if isinstance(features, np.ndarray | jax.Array) else np.float64
    dtype = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)
    weights = np.exp(-distances / temperature)
    kept = jax.dtypes.canonicalize_dtype(dtype)
    if rounds_to_0(weights, kept):
        raise ValueError(
            f"temperature is too small, {temperature}: the weight of neighbours at a distance of "
            f"{distances.max():.3g} rounds to 0 in {kept}"
        )
    return edge_graph(
        np.repeat(np.arange(nodes), k),
        neighbours,
        nodes,
        weights.astype(dtype),
        self_loops=self_loops,
        capacity=capacity,
    )


def combine_graphs(
    graphs: Sequence[Graph | Operator],
    weights: ArrayLike,
    *,
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
) -> Graph:
    """A graph of several relations at once: the operator ``sum of w_k Ã_k``.

    A convex combination of operators is symmetric and has a spectral radius of at most 1. The
    result has no edge weights. A node is isolated in it if it is isolated in all graphs of a weight
    above 0.

    Args:
        graphs: at least one graph or normalised operator, all over the same nodes.
        weights: ``float[graphs]``, non-negative, of sum 1.
        self_loops: ``"none"``, or ``"isolated"`` for a diagonal entry of 1 at isolated nodes.
            For ``"all"``, build each graph with it.
        capacity: stored entries, zero-padded; see `Graph.capacity`.

    Raises:
        ValueError: no graphs, graphs of different sizes, weights that are no convex combination, or
            another choice of ``self_loops``.

    Examples:
        >>> import sevo_jax
        >>> bought = sevo_jax.edge_graph([0], [1], num_nodes=3)
        >>> viewed = sevo_jax.edge_graph([1], [2], num_nodes=3)
        >>> graph = sevo_jax.combine_graphs([bought, viewed], [0.75, 0.25])
        >>> graph.to_scipy().toarray()[1].tolist()
        [0.75, 0.0, 0.25]
    """
    if not graphs:
        raise ValueError("graphs must hold at least one graph, got none")
    check_choice("self_loops", self_loops, Literal["none", "isolated"])
    checked = [as_graph(graph) for graph in graphs]
    sizes = [graph.num_nodes for graph in checked]
    if len(set(sizes)) > 1:
        raise ValueError(f"graphs must have the same number of nodes, got {sizes}")
    shares, _ = check_shares(weights, (len(graphs),), "a graph")
    if abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"weights must add up to 1, got {shares.sum():.9g}")
    parts = [w * g.to_scipy().astype(np.float64) for w, g in zip(shares, checked, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    if self_loops == "isolated":
        alone = np.equal(abs(total).sum(axis=1), 0)
        total = (total + sp.diags_array(alone.astype(np.float64))).tocsr()
        total.eliminate_zeros()
    dtype = jnp.result_type(*(graph.dtype for graph in checked))
    return Graph.from_operator(total, check=False, dtype=dtype, capacity=capacity)


def _ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Joins the ranges ``begin, begin + 1, …`` of the given lengths."""
    before = np.cumsum(counts) - counts
    return np.repeat(begins - before, counts) + np.arange(counts.sum())


def _nearest(
    x: np.ndarray, single: np.ndarray, start: int, stop: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the ``k`` nearest others of the nodes ``start … stop - 1``: ids and distances, flat.

    Rows of ``x`` have norm 1; ``single`` is ``x`` in float32.
    """
    nodes, dim = x.shape
    similarity = single[start:stop] @ single.T
    similarity[np.arange(stop - start), np.arange(start, stop)] = -np.inf
    # At least k nodes reach the k-th best of the chunks' best values. Finding that bar is a
    # fraction of the work of selecting among all nodes. The margin covers float32's roundings.
    chunk = min(_CHUNK, max(1, nodes // (4 * k)))
    best = np.maximum.reduceat(similarity, np.arange(0, nodes, chunk), axis=1)
    bar = np.partition(best, best.shape[1] - k, axis=1)[:, best.shape[1] - k]
    margin = 4 * dim * np.finfo(np.float32).eps
    row, node = np.nonzero(similarity >= (bar - margin)[:, None])
    if row.size * dim > _CELLS_PER_BLOCK and stop - start > 1:  # very many ties
        middle = (start + stop) // 2
        halves = (_nearest(x, single, *span, k) for span in ((start, middle), (middle, stop)))
        ids, distances = zip(*halves, strict=True)
        return np.concatenate(ids), np.concatenate(distances)
    exact = np.einsum("ij,ij->i", x[start + row], x[node])
    distance = np.maximum(np.round(2 - 2 * exact, 12), 0)
    order = np.lexsort((node, distance, row))
    first = np.searchsorted(row, np.arange(stop - start))
    chosen = order[(first[:, None] + np.arange(k)).ravel()]
    return node[chosen], distance[chosen]
