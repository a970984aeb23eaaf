"""The operator itself: pure functions of a graph and an array.

Eq. 7 is ``psi(X) = s * sum_{l<=L} beta^l Ã^l X`` with ``s = 1 / sum_{l<=L} beta^l``. The paper
writes ``s = (1 - beta) / (1 - beta^(L+1))``: the same number, but it loses digits as beta nears 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sevo_jax._checks import (
    ROUNDED,
    check_beta,
    check_choice,
    check_num_layers,
    check_positive,
    check_unmasked,
    nan_outside,
)
from sevo_jax._graph import Graph, as_graph
from sevo_jax._matrices import Operator
from sevo_jax._spmm import operator_rows, product

Method = Literal["neumann", "neumann_unscaled", "iterative", "exact"]
"""The ways to smooth; see `smooth`."""


def smooth(
    graph: Graph | Operator,
    x: Float[Array | np.ndarray, "nodes ..."],
    beta: ArrayLike = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    *,
    tol: ArrayLike = 1e-6,
) -> Float[Array, "nodes ..."]:
    """Smooths the rows of ``x`` over the graph.

    - ``"neumann"``: ``(1 - beta) / (1 - beta^(L+1)) * sum_{l<=L} beta^l Ã^l x`` (Eq. 7);
    - ``"neumann_unscaled"``: ``(1 - beta) * sum_{l<=L} beta^l Ã^l x`` (Theorem 1);
    - ``"iterative"``: ``psi_0 = x``, ``psi_l = beta Ã psi_{l-1} + (1 - beta) x`` (Section 2.2).
      With an odd ``L`` and a beta of 1/2 or more it may point away from ``x`` (Theorem 1);
    - ``"exact"``: the minimum of Eq. 6, ``(1 - beta) (I - beta Ã)^-1 x``, by conjugate gradients;
      see `smooth_exact`.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        x: ``float[nodes, ...]``; trailing axes are features.
        beta: the degree of smoothness in [0, 1), a scalar; 0 returns ``x``. A value outside gives
            NaN where it is traced, as within ``jit``.
        num_layers: ``L``, the number of sparse products, static and at least 0; ``"exact"`` ignores
            it.
        method: one of the above.
        tol: for ``"exact"`` alone, as in `smooth_exact`.

    Returns:
        The smoothed array, in the shape and dtype of ``x``.

    Raises:
        TypeError: ``num_layers`` is not a static integer, or ``x`` is not floating.
        ValueError: ``beta`` outside [0, 1) (where it is concrete), a negative ``num_layers``, an
            unknown method, a ``tol`` that is not positive, a wrong number of rows, or ``"exact"``
            over a graph in half precision.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> sevo_jax.smooth(graph, jnp.array([[3.0], [0.0]]), beta=0.5, num_layers=1).tolist()
        [[2.0], [1.0]]
    """
    graph = as_graph(graph)
    check_choice("method", method, Method)
    layers = check_num_layers(num_layers)
    if method == "exact":
        return smooth_exact(graph, x, beta, tol=tol)[0]
    check_beta(beta)
    start, restore = operator_rows(graph, x)
    beta = _weak(beta, start)
    if layers == 0 and method != "neumann_unscaled":
        return restore((1 + 0 * beta) * start)  # so that a beta of NaN makes the result NaN
    smoothed = start
    if method == "iterative":
        for _ in range(layers):
            smoothed = product(graph, smoothed, beta, (1 - beta) * start)
        return restore(smoothed)
    scale = (
        1 - beta
        if method == "neumann_unscaled"
        else 1 / sum(beta**power for power in range(layers + 1))
    )
    for _ in range(layers):  # Horner's rule
        smoothed = product(graph, smoothed, beta, start)
    return restore(scale * smoothed)


def smooth_exact(
    graph: Graph | Operator,
    x: Float[Array | np.ndarray, "nodes ..."],
    beta: ArrayLike = 0.99,
    *,
    tol: ArrayLike = 1e-6,
) -> tuple[Float[Array, "nodes ..."], Int[Array, ""]]:
    """The minimum of Eq. 6, ``(1 - beta) (I - beta Ã)^-1 x``, by conjugate gradients.

    Every column is solved on its own, all of them at once, until each residual is at most ``tol``
    times its right-hand side. The condition number is at most ``(1 + beta) / (1 - beta)``, which
    bounds the iterations: some 100 at beta = 0.99 and the default ``tol``.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        x: ``float[nodes, ...]``; trailing axes are features.
        beta: the degree of smoothness in [0, 1), a scalar, as in `smooth`.
        tol: the relative residual to reach, above 0.

    Returns:
        The smoothed array, in the shape and dtype of ``x``, and the number of iterations,
        ``int32[]``. Each makes one sparse product.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: ``beta`` or ``tol`` out of range, a wrong number of rows, or a graph in half
            precision, whose rounded operator may have a spectral radius above 1.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> smoothed, iterations = sevo_jax.smooth_exact(graph, jnp.array([[3.0], [0.0]]), 0.5)
        >>> smoothed.round(4).tolist(), int(iterations)
        ([[2.0], [1.0]], 2)
    """
    graph = as_graph(graph)
    check_exact(graph)
    check_beta(beta)
    check_positive("tol", tol)
    b, restore = operator_rows(graph, x)
    beta = _weak(beta, b)
    if not isinstance(beta, Tracer) and np.asarray(beta, b.dtype) == 1:
        raise ValueError(f"beta must lie in [0, 1), and {beta} rounds to 1 in {b.dtype}")
    # One rounding of beta: 1 - beta in another precision would not fit the system that is solved.
    beta = jnp.asarray(beta, b.dtype)
    # Columns are scaled to about 1, so that squares neither overflow nor vanish. The scales are
    # powers of 2, which round nothing.
    largest = jax.lax.stop_gradient(jnp.abs(b).max(axis=0, initial=0, keepdims=True))
    size = jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1), 1)

    # The bound of conjugate gradients in exact arithmetic, and 10 iterations for roundings.
    condition = jnp.asarray((1 + beta) / (1 - beta), jnp.float32)
    limit = jnp.ceil(0.5 * jnp.sqrt(condition) * jnp.log(2 * jnp.sqrt(condition) / tol)) + 10

    def matrix(v: Array) -> Array:
        return v - beta * product(graph, v)

    def solve(matrix: Callable[[Array], Array], b: Array) -> tuple[Array, Array]:
        start = _column_sums(b * b)
        target = jnp.asarray(tol, b.dtype) ** 2 * start

        def unfinished(state: tuple[Array, ...]) -> Array:
            _, _, _, norms, count = state
            return (norms > target).any() & (count < limit)

        def iterate(state: tuple[Array, ...]) -> tuple[Array, ...]:
            y, residual, search, norms, count = state
            image = matrix(search)
            step = _ratio(norms, _column_sums(search * image))
            y, residual = y + step * search, residual - step * image
            after = _column_sums(residual * residual)
            return y, residual, residual + _ratio(after, norms) * search, after, count + 1

        first = (jnp.zeros_like(b), b, b, start, jnp.zeros([], jnp.int32))
        y, _, _, norms, count = jax.lax.while_loop(unfinished, iterate, first)
        return jnp.where(jnp.isfinite(norms), y, jnp.nan), count  # as a NaN ends the loop, too

    y, iterations = jax.lax.custom_linear_solve(
        matrix, b / size, solve, symmetric=True, has_aux=True
    )
    return restore((1 - beta) * size * y), iterations


def check_exact(graph: Graph) -> None:
    """Raises a `ValueError` if a graph is too coarse to solve over."""
    if graph.dtype.itemsize < 4:
        raise ValueError(
            f'"exact" needs a graph in float32 or wider, got {graph.dtype}: rounded so, the '
            "operator may have a spectral radius above 1; make the graph with float32 weights"
        )


def smooth_tables(
    graph: Graph,
    tables: Sequence[Array | np.ndarray],
    groups: Sequence[Sequence[int]],
    beta: ArrayLike,
    num_layers: int,
    method: Method,
    *,
    tol: ArrayLike,
) -> tuple[list[Array], Int[Array, ""]]:
    """Smooths groups of tables, each stacked to one of as many rows as the graph has nodes.

    Args:
        graph: the graph.
        tables: the tables.
        groups: the tables of each group, by position, in the order of their nodes.
        beta: as in `smooth`.
        num_layers: as in `smooth`.
        method: as in `smooth`.
        tol: as in `smooth`.

    Returns:
        The smoothed tables, each in its own dtype, and the most iterations of any group.
    """
    smoothed: list[Any] = list(tables)
    most = jnp.zeros([], jnp.int32)
    for group in groups:
        joint = jnp.concatenate([tables[i] for i in group])
        if method == "exact":
            joint, iterations = smooth_exact(graph, joint, beta, tol=tol)
            most = jnp.maximum(most, iterations)
        else:
            joint = smooth(graph, joint, beta, num_layers, method)
        first = 0
        for i in group:
            rows = tables[i].shape[0]
            smoothed[i] = joint[first : first + rows].astype(tables[i].dtype)
            first += rows
    return smoothed, most


def evolve(
    graph: Graph | Operator,
    before: Float[Array | np.ndarray, "nodes ..."],
    after: Float[Array | np.ndarray, "nodes ..."],
    beta: ArrayLike = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    *,
    tol: ArrayLike = 1e-6,
) -> Float[Array | np.ndarray, "nodes ..."]:
    """Smooths the way that a table has gone: ``before + psi(after - before)``.

    One call every few epochs adds SEvo to any training loop, in any framework. It equals
    `sevo_smooth` with ``every`` as many steps, for an optimiser without decoupled decay.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call.
        before: the table at the last call, ``float[nodes, ...]``; trailing axes are features.
        after: the table now, of the same shape and dtype.
        beta: as in `smooth`.
        num_layers: as in `smooth`.
        method: as in `smooth`.
        tol: as in `smooth`.

    Returns:
        The evolved table, in the shape and dtype of ``after``. If both tables are NumPy arrays, so
        is the result, and those of float64 are computed in float64 whatever JAX's flags say.

    Raises:
        TypeError: as `smooth`, or tables of two dtypes.
        ValueError: as `smooth`, or tables of two shapes.

    Examples:
        >>> import numpy as np, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> before, after = np.array([[1.0], [1.0]]), np.array([[4.0], [1.0]])
        >>> sevo_jax.evolve(graph, before, after, beta=0.5, num_layers=1).round(4).tolist()
        [[3.0], [2.0]]
    """
    tables: dict[str, Any] = {"before": before, "after": after}
    for name, table in tables.items():
        if not isinstance(table, jax.Array | np.ndarray):
            raise TypeError(
                f"{name} must be an array of NumPy or JAX, got {type(table).__name__}; of a tensor "
                "of PyTorch give weight.detach().cpu().numpy()"
            )
        if not jnp.issubdtype(table.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating, got {table.dtype}")
        check_unmasked(name, table)
    if before.shape != after.shape:
        raise ValueError(
            f"before and after must have one shape, got {before.shape} and {after.shape}"
        )
    if before.dtype != after.dtype:
        raise TypeError(
            f"before and after must have one dtype, got {before.dtype} and {after.dtype}"
        )
    in_numpy = isinstance(before, np.ndarray) and isinstance(after, np.ndarray)
    with jax.enable_x64(
        bool(jax.config.read("jax_enable_x64")) or (in_numpy and after.dtype == np.float64)
    ):
        graph = as_graph(graph)
        if before.shape[:1] != (graph.num_nodes,):
            raise ValueError(
                f"before and after must have one row for each of the graph's {graph.num_nodes} "
                f"nodes, got shape {before.shape}"
            )
        step = smooth(graph, after - before, beta, num_layers, method, tol=tol)
    return before + (np.asarray(step) if in_numpy else step)


def _weak(beta: ArrayLike, x: Array) -> float | Array:
    """Casts ``beta`` to the dtype of ``x``; a Python float keeps its 53 bits in sums of powers.

    `check_beta` cannot see traced values, so they become NaN outside [0, 1). What rounding left
    just below 0 becomes 0.
    """
    if isinstance(beta, int | float):
        return max(float(beta), 0.0)
    beta = jnp.asarray(beta, x.dtype)
    beta = jnp.where((beta > ROUNDED) & (beta < 0), 0, beta)
    return nan_outside(beta) if isinstance(beta, Tracer) else beta


def _column_sums(x: Array) -> Array:
    """Sums columns to ``float[1, dim]``, of two axes so that no rank is promoted."""
    return x.sum(axis=0, keepdims=True)


def _ratio(a: Array, b: Array) -> Array:
    """Divides ``a`` by ``b``, and gives 0 for solved columns, where both are 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
