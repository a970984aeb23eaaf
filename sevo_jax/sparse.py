"""Sparse times dense: one function, and behind it the fastest kernel that JAX has.

`Graph` stores its operator in CSR form because JAX's CPU kernel for `BCSR` is an order of magnitude
faster than the gather and scatter that `BCOO` lowers to.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.experimental.sparse import BCSR
from jaxtyping import Array, Float

from sevo_jax.graph import Graph


def spmm(graph: Graph, x: Float[Array, "nodes ..."]) -> Float[Array, "nodes ..."]:
    """``Ã x``: each node's weighted sum over its neighbours.

    Args:
        graph: the `Graph`; its operator's values are cast to the compute dtype.
        x: ``float[nodes, ...]``. Trailing axes, none or several, are features.

    Returns:
        The product, in the shape and dtype of ``x``. It is computed in the dtype of ``x``, or in
        float32 where that is narrower.

    Raises:
        ValueError: the leading axis of ``x`` is not the number of nodes.

    Example:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> sevo_jax.spmm(graph, jnp.array([[1.0], [5.0]])).tolist()
        [[5.0], [1.0]]
    """
    check_rows(graph, x)
    dtype = compute_dtype(x)
    operator = graph.operator
    # The CPU kernel takes only equal dtypes and two axes; anything else falls back to a slow path.
    values = operator.data.astype(dtype)
    matrix = BCSR(
        (values, operator.indices, operator.indptr),
        shape=operator.shape,
        indices_sorted=True,
        unique_indices=True,
    )
    flat = x.reshape(x.shape[0], -1).astype(dtype)
    return (matrix @ flat).reshape(x.shape).astype(x.dtype)


def compute_dtype(x: Array) -> jnp.dtype:
    """The dtype in which ``x`` is smoothed: its own, float32 for the half precisions."""
    return jnp.promote_types(x.dtype, jnp.float32)


def check_rows(graph: Graph, x: Array) -> None:
    """Errors unless ``x`` is a floating array with one row a node."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be a floating-point array, got dtype {x.dtype}")
    if x.ndim == 0 or x.shape[0] != graph.num_nodes:
        raise ValueError(
            f"x must have one row for each of the graph's {graph.num_nodes} nodes, "
            f"got shape {x.shape}"
        )
