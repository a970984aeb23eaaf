"""Sparse times dense: one function, and behind it the fastest kernel that JAX has.

`Graph` stores its operator in CSR form because JAX's CPU kernel for `BCSR` is an order of magnitude
faster than the gather and scatter that `BCOO` lowers to. That kernel takes two axes and equal
dtypes alone; everything else that users do (trailing axes, half precision, gradients, ``vmap``) is
turned into such a call here, and never falls back to a slow one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.sparse import BCSR
from jaxtyping import Array, Float, Int

from sevo_jax.graph import Graph, Operator, as_graph


def spmm(graph: Graph | Operator, x: Float[Array, "nodes ..."]) -> Float[Array, "nodes ..."]:
    """``Ã x``: each node's weighted sum over its neighbours.

    It can be differentiated in reverse mode, any number of times, in ``x`` (``Ã`` being symmetric,
    that is one more product) and in the operator's values; not in forward mode. Under ``vmap`` over
    ``x``, the mapped axis joins the features: one product for all.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call; its values
            are cast to the compute dtype.
        x: ``float[nodes, ...]``. Trailing axes, none or several, are features.

    Returns:
        The product, in the shape and dtype of ``x``. It is computed in the dtype of ``x``, or in
        float32 where that is narrower.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: the leading axis of ``x`` is not the number of nodes.

    Example:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> sevo_jax.spmm(graph, jnp.array([[1.0], [5.0]])).tolist()
        [[5.0], [1.0]]
    """
    graph = as_graph(graph)
    check_rows(graph, x)
    dtype = compute_dtype(x)
    matrix = graph.operator
    flat = x.reshape(x.shape[0], -1).astype(dtype)
    product = _product(matrix.data.astype(dtype), matrix.indices, matrix.indptr, flat)
    return product.reshape(x.shape).astype(x.dtype)


Values = Float[Array, " entries"]
Indices = Int[Array, " entries"]
Pointers = Int[Array, " nodes_and_one"]
Table = Float[Array, "nodes dim"]


@jax.custom_vjp
def _product(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    return _kernel(data, indices, indptr, x)


def _product_forward(data: Values, indices: Indices, indptr: Pointers, x: Table) -> tuple[Any, Any]:
    # Not the kernel: the gradient of a gradient differentiates what stands here.
    return _product(data, indices, indptr, x), (data, indices, indptr, x)


def _product_backward(residuals: Any, g: Table) -> tuple[Any, ...]:
    data, indices, indptr, x = residuals
    rows = jnp.searchsorted(indptr, jnp.arange(data.size), side="right") - 1
    neighbours = x.at[indices].get(mode="fill", fill_value=0)  # columns past the end are padding
    of_values = (g.at[rows].get(mode="fill", fill_value=0) * neighbours).sum(-1)
    return of_values, None, None, _product(data, indices, indptr, g)


_product.defvjp(_product_forward, _product_backward)


@custom_vmap
def _kernel(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    shape = (x.shape[0], x.shape[0])
    return BCSR((data, indices, indptr), shape=shape, indices_sorted=True, unique_indices=True) @ x


@_kernel.def_vmap
def _kernel_mapped(
    axis_size: int, in_batched: list[bool], data: Any, indices: Any, indptr: Any, x: Any
) -> tuple[Any, bool]:
    *graph_batched, x_batched = in_batched
    if any(graph_batched):  # a graph for each x: one product after the other
        arguments = [
            a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
            for a, batched in zip((data, indices, indptr, x), in_batched, strict=True)
        ]
        return jax.lax.map(lambda a: _kernel(*a), tuple(arguments)), True
    nodes, dim = x.shape[1:]
    joined = x.swapaxes(0, 1).reshape(nodes, axis_size * dim)
    product = _kernel(data, indices, indptr, joined)
    return product.reshape(nodes, axis_size, dim).swapaxes(0, 1), x_batched


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
