"""Numbers about smoothing: what it does to tables, and what devices hold and exchange for it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sevo_jax._checks import (
    check_beta,
    check_choice,
    check_count,
    check_floating,
    check_num_layers,
)
from sevo_jax._graph import Graph, as_graph
from sevo_jax._matrices import Operator
from sevo_jax._memory import Memory, memory
from sevo_jax._sharding import Way, best_way, halos, part_size, received, shifts_of
from sevo_jax._smoothing import Method, smooth
from sevo_jax._spmm import check_rows, compute_dtype, floating, spmm
from sevo_jax._tables import Tables, table_groups, tree_entries
from sevo_jax._transforms import zero_rows

__all__ = [
    "Communication",
    "Memory",
    "communication",
    "convergence_factor",
    "corrected_rows",
    "direction",
    "memory",
    "optimum_share",
    "smoothness",
    "spectral_bounds",
    "structure",
]

Scaling = Literal["neumann", "neumann_unscaled"]


def smoothness(
    graph: Graph | Operator, x: Float[Array | np.ndarray, "nodes ..."]
) -> Float[Array, ""]:
    """``Tr(X' L~ X)`` with ``L~ = I - Ã`` (Eq. 2): lower where related rows are more alike.

    It is half of Eq. 2's sum over ordered pairs. An isolated node adds its squared norm.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        x: ``float[nodes, ...]``; trailing axes are features.

    Returns:
        A scalar in the dtype of ``x``, float32 for the half precisions.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: a wrong number of rows.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> float(sevo_jax.diagnostics.smoothness(graph, jnp.array([[3.0], [1.0]])))
        4.0
    """
    graph = as_graph(graph)
    x = check_rows(graph, x)
    x = x.astype(compute_dtype(x))
    return (x * (x - spmm(graph, x))).sum()


def direction(
    update: Float[Array | np.ndarray, "nodes ..."], smoothed: Float[Array | np.ndarray, "nodes ..."]
) -> Float[Array, ""]:
    """``<psi(U), U>`` (Eq. 5): above 0 if the transformation is direction-aware.

    Args:
        update: ``float[nodes, ...]``, before smoothing.
        smoothed: the same shape, after smoothing.

    Raises:
        TypeError: arrays that are not floating.
        ValueError: unequal shapes.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> update = jnp.array([[1.0], [-1.0]])
        >>> smoothed = sevo_jax.smooth(graph, update, beta=0.75, num_layers=1, method="iterative")
        >>> float(sevo_jax.diagnostics.direction(update, smoothed))
        -1.0
    """
    update, smoothed = floating("update", update), floating("smoothed", smoothed)
    if update.shape != smoothed.shape:
        raise ValueError(
            f"update and smoothed must have the same shape, got {update.shape} and {smoothed.shape}"
        )
    dtype = compute_dtype(update)
    return (update.astype(dtype) * smoothed.astype(dtype)).sum()


def structure(
    graph: Graph | Operator,
    update: Float[Array | np.ndarray, "nodes ..."],
    smoothed: Float[Array | np.ndarray, "nodes ..."],
) -> Float[Array, ""]:
    """``J(U) - J(psi(U))`` (Eq. 4), J being `smoothness`: at least 0 if it is structure-aware.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        update: ``float[nodes, ...]``, before smoothing.
        smoothed: the same shape, after smoothing.

    Raises:
        TypeError: arrays that are not floating.
        ValueError: a wrong number of rows.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> update = jnp.array([[3.0], [0.0]])
        >>> smoothed = sevo_jax.smooth(graph, update, beta=0.5, num_layers=1)
        >>> float(sevo_jax.diagnostics.structure(graph, update, smoothed))
        8.0
    """
    return smoothness(graph, update) - smoothness(graph, smoothed)


def spectral_bounds(
    beta: ArrayLike, num_layers: int, method: Scaling = "neumann_unscaled"
) -> tuple[ArrayLike, ArrayLike]:
    """Bounds on the eigenvalues of the smoothing operator over all graphs (Lemma 1).

    For ``P = (1 - beta) * sum_{l<=L} beta^l Ã^l``,
    ``(1 - beta) / (1 + beta) * (1 - beta^L) <= lambda <= 1 - beta^(L+1)``. The upper bound is
    reached by every graph that has an edge; a graph without any stays below it.

    Args:
        beta: the degree of smoothness in [0, 1), a scalar.
        num_layers: ``L``, at least 0.
        method: ``"neumann"`` for the rescaled operator, whose bounds are these divided by
            ``1 - beta^(L+1)``.

    Returns:
        The lower and the upper bound.

    Raises:
        TypeError: ``num_layers`` is not an integer.
        ValueError: an argument out of its range.

    Examples:
        >>> import sevo_jax
        >>> sevo_jax.diagnostics.spectral_bounds(0.5, 1)
        (0.16666666666666666, 0.75)
    """
    check_choice("method", method, Scaling)
    layers = check_num_layers(num_layers)
    check_beta(beta)
    upper = 1 - beta ** (layers + 1)
    lower = (1 - beta) / (1 + beta) * (1 - beta**layers)
    return (lower, upper) if method == "neumann_unscaled" else (lower / upper, upper / upper)


def convergence_factor(beta: ArrayLike, num_layers: int, method: Scaling = "neumann") -> ArrayLike:
    """``gamma`` of Theorem 4: after ``T`` steps, ``min |grad|^2 <= 2 C eps / (gamma (T + 1))``.

    With rescaling, ``(1 - beta) / (1 + beta) * (1 - beta^L) / (1 - beta^(L+1))``; without it,
    ``(1 - beta) / (1 + beta) * (1 - beta^L) (1 + beta^(L+1))``, which is smaller by an order of
    ``1 - beta``. Gradient descent has 1.

    Args:
        beta: the degree of smoothness in [0, 1), a scalar.
        num_layers: ``L``, at least 1.
        method: ``"neumann"`` or ``"neumann_unscaled"``.

    Raises:
        TypeError: ``num_layers`` is not an integer.
        ValueError: an argument out of its range.

    Examples:
        >>> import sevo_jax
        >>> round(sevo_jax.diagnostics.convergence_factor(0.5, 1), 4)
        0.2222
    """
    check_choice("method", method, Scaling)
    layers = check_num_layers(num_layers)
    if layers < 1:
        raise ValueError(f"num_layers must be at least 1 in Theorem 4, got {layers}")
    check_beta(beta)
    common = (1 - beta) / (1 + beta) * (1 - beta**layers)
    last = beta ** (layers + 1)
    return common / (1 - last) if method == "neumann" else common * (1 + last)


def optimum_share(
    graph: Graph | Operator,
    x: Float[Array | np.ndarray, "nodes ..."],
    beta: ArrayLike = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    *,
    tol: ArrayLike = 1e-6,
) -> Float[Array, ""]:
    """The share of Eq. 6's possible gain that ``L`` layers reach: 1 at the optimum, 0 at ``x``.

    With ``F(Y) = (1 - beta) |Y - X|^2 + beta Tr(Y' L~ Y)``, it is
    ``(F(X) - F(psi(X))) / (F(X) - F(psi*(X)))``; NaN where there is nothing to gain.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        x: ``float[nodes, ...]``; trailing axes are features.
        beta: the degree of smoothness in [0, 1), a scalar.
        num_layers: ``L``, at least 0.
        method: as in `smooth`.
        tol: the relative residual of the exact optimum, as in `smooth_exact`.

    Raises:
        TypeError: as `smooth`.
        ValueError: as `smooth`.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> x = jnp.array([[3.0], [0.0]])
        >>> round(float(sevo_jax.diagnostics.optimum_share(graph, x, 0.5, 1)), 4)
        1.0
    """

    def objective(y: Array) -> Any:
        return (1 - beta) * ((y - x) ** 2).sum() + beta * smoothness(graph, y)

    graph = as_graph(graph)
    x = check_rows(graph, x)
    x = x.astype(compute_dtype(x))  # so that no sum of squares overflows
    start = objective(x)
    reached = start - objective(smooth(graph, x, beta, num_layers, method, tol=tol))
    return reached / (start - objective(smooth(graph, x, beta, method="exact", tol=tol)))


def corrected_rows(grads: Any, tables: Tables = None) -> dict[str, Float[Array, ""]]:
    """The share of rows whose whole gradient is zero; the moment correction lets them rest.

    If the share is 0 on a sparse problem, something makes idle rows non-zero, such as an L2 term in
    the loss, decay before Adam, or gradient noise. The correction then does nothing.

    Args:
        grads: a tree of gradients.
        tables: the leaves that are tables, as `sevo_smooth` takes it; their number of rows is not
            checked. ``None``: every leaf of two or more dimensions.

    Returns:
        For each table, under its path, a share in [0, 1].

    Raises:
        ValueError: tables that cannot be found.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> grads = {"items": jnp.array([[1.0, 0.0], [0.0, 0.0]]), "bias": jnp.zeros(3)}
        >>> shares = sevo_jax.diagnostics.corrected_rows(grads)
        >>> {path: float(share) for path, share in shares.items()}
        {'items': 0.5}
    """
    entries = tree_entries(grads)
    if tables is None:
        chosen = [i for i, (_, leaf) in enumerate(entries) if jnp.ndim(leaf) >= 2]
    else:
        chosen = [i for group in table_groups(tables, grads, None) for i in group]

    return {
        "/".join(entries[i][0]): jnp.mean(zero_rows(entries[i][1]), dtype=jnp.float32)
        for i in chosen
    }


class Communication(NamedTuple):
    """The bytes that each device receives in a step, by the split of the table; ``print`` explains.

    Attributes:
        num_nodes: rows of the table.
        dim: its features.
        num_parts: parts that it is split into.
        num_layers: sparse products of a step.
        halo_rows: rows that a part receives for a product by a halo exchange: the rows that its
            entries refer to, and some more, since all parts' shifts are equally wide.
        shifts: the number of transfers in a halo exchange.
        features: bytes if features are split: a flag a row, for the moment correction.
        all_gather: bytes if rows are split and each device receives all others.
        halo: bytes if rows are split and each device receives its halo.
        exchange: the way that `Graph.shard` chooses for rows, ``"all_gather"`` or ``"halo"``.
    """

    num_nodes: int
    dim: int
    num_parts: int
    num_layers: int
    halo_rows: int
    shifts: int
    features: int
    all_gather: int
    halo: int
    exchange: Way

    def __str__(self) -> str:
        own = part_size(self.num_nodes, self.num_parts)
        others, spare = own * (self.num_parts - 1), own * self.num_parts - self.num_nodes
        less = "which moves less" if self.all_gather != self.halo else "in one transfer of no more"
        lines = [
            f"{self.num_nodes:,} x {self.dim:,} over {self.num_parts} devices, {self.num_layers} "
            "products a step; bytes that each receives:",
            f"  features split     {self.features:>18,}  a flag a row, to correct moments",
            f"  rows, all-gather   {self.all_gather:>18,}  {others:,} rows a product",
            f"  rows, halo         {self.halo:>18,}  {self.halo_rows:,} rows a product, "
            f"in {self.shifts} shifts",
            f"Graph.shard exchanges rows by {self.exchange!r}, {less}.",
        ]
        if spare:
            lines.append(f"For equal parts of rows, {spare} isolated nodes must be added.")
        return "\n".join(lines)


def communication(
    graph: Graph | Operator,
    dim: int,
    num_parts: int,
    num_layers: int = 3,
    *,
    dtype: Any = jnp.float32,
) -> Communication:
    """Counts the bytes that devices exchange in a step of `sevo_adamw`, by the split of the table.

    It counts on the host, for any number of devices.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        dim: features of the table, all trailing axes together.
        num_parts: devices along the split axis of the mesh. If other axes split features, too,
            give the features of one device as ``dim``.
        num_layers: ``L``, sparse products of a step; for ``"exact"``, its iterations.
        dtype: the table's dtype; narrower ones than float32 are smoothed in float32.

    Raises:
        TypeError: a count that is no integer, or a dtype that is not floating.
        ValueError: a count below 1, or a graph that is already split among devices.

    Examples:
        >>> import numpy as np, sevo_jax
        >>> ring = np.arange(1_000)
        >>> graph = sevo_jax.edge_graph(ring, (ring + 1) % 1_000, num_nodes=1_000)
        >>> moved = sevo_jax.diagnostics.communication(graph, dim=64, num_parts=4)
        >>> moved.exchange, moved.halo_rows
        ('halo', 2)
        >>> print(moved)
        1,000 x 64 over 4 devices, 3 products a step; bytes that each receives:
          features split                  1,500  a flag a row, to correct moments
          rows, all-gather              576,000  750 rows a product
          rows, halo                      1,536  2 rows a product, in 2 shifts
        Graph.shard exchanges rows by 'halo', which moves less.
    """
    matrix = as_graph(graph).to_scipy()
    dim, num_parts = check_count("dim", dim), check_count("num_parts", num_parts)
    layers, num_nodes = check_num_layers(num_layers), matrix.shape[0]
    check_floating("dtype", dtype)
    shifts = shifts_of(halos(matrix, num_parts), num_nodes)
    row = layers * dim * jnp.promote_types(dtype, jnp.float32).itemsize
    return Communication(
        num_nodes,
        dim,
        num_parts,
        layers,
        halo_rows=received(shifts, num_nodes, num_parts),
        shifts=len(shifts),
        # A ring's all-reduce: every flag passes each device twice, but for its own part.
        features=2 * (num_parts - 1) * part_size(num_nodes, num_parts),
        all_gather=row * received(None, num_nodes, num_parts),
        halo=row * received(shifts, num_nodes, num_parts),
        exchange=best_way(shifts, num_nodes, num_parts),
    )
