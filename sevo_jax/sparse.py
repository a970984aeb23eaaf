"""Sparse times dense: one function, and behind it a kernel for each platform.

- ``"bcsr"``, the default on CPUs: JAX's own product of a `BCSR` matrix. There it is an order of
  magnitude faster than the gather and scatter that `BCOO` lowers to (and that `BCSR` itself lowers
  to elsewhere), but it takes two axes and equal dtypes alone. Everything else that users do
  (trailing axes, half precision, gradients, ``vmap``) is turned into such a call here.
- ``"gather"``, the default elsewhere: sums of gathered rows, eight at a time. Without a scatter
  there are no atomic additions, whose order would change the last bits from run to run.
- ``"pallas"``: a Triton kernel for NVIDIA GPUs, one program a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.sparse import BCSR
from jaxtyping import Array, Float, Int

from sevo_jax.graph import Graph, Kernel, Precision, as_graph
from sevo_jax.matrices import Operator


def spmm(graph: Graph | Operator, x: Float[Array, "nodes ..."]) -> Float[Array, "nodes ..."]:
    """``Ã x``: each node's weighted sum over its neighbours.

    It can be differentiated in reverse mode, any number of times, in ``x`` (``Ã`` being symmetric,
    that is one more product) and in the operator's values; not in forward mode. Under ``vmap`` over
    ``x``, the mapped axis joins the features: one product for all.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call; its values
            are cast to the compute dtype. `Graph.with_kernel` overrides the choice of the kernel.
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
    rows, restore = operator_rows(graph, x)
    return restore(product(graph, rows))


def operator_rows(
    graph: Graph, x: Float[Array, "nodes ..."]
) -> tuple[Table, Callable[[Table], Float[Array, "nodes ..."]]]:
    """``x`` with two axes and in the compute dtype, and the way back.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: the leading axis of ``x`` is not the number of nodes.
    """
    check_rows(graph, x)
    rows = x.reshape(x.shape[0], -1).astype(compute_dtype(x))
    return rows, lambda y: y.reshape(x.shape).astype(x.dtype)


def product(graph: Graph, rows: Table) -> Table:
    """``graph.operator @ rows``."""
    matrix = graph.operator
    values = matrix.data.astype(rows.dtype)
    choice = (graph.kernel, graph.precision)
    return _product(choice, values, matrix.indices, matrix.indptr, rows)


Values = Float[Array, " entries"]
Indices = Int[Array, " entries"]
Pointers = Int[Array, " nodes_and_one"]
Table = Float[Array, "nodes dim"]
Choice = tuple[Kernel | None, Precision | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(choice: Choice, data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    return _batched_kernel(choice)(data, indices, indptr, x)


def _product_forward(
    choice: Choice, data: Values, indices: Indices, indptr: Pointers, x: Table
) -> tuple[Any, Any]:
    # Not the kernel: the gradient of a gradient differentiates what stands here.
    return _product(choice, data, indices, indptr, x), (data, indices, indptr, x)


def _product_backward(choice: Choice, residuals: Any, g: Table) -> tuple[Any, ...]:
    data, indices, indptr, x = residuals
    rows = jnp.searchsorted(indptr, jnp.arange(data.size), side="right") - 1
    neighbours = x.at[indices].get(mode="fill", fill_value=0)  # columns past the end are padding
    of_values = (g.at[rows].get(mode="fill", fill_value=0) * neighbours).sum(-1)
    return of_values, None, None, _product(choice, data, indices, indptr, g)


_product.defvjp(_product_forward, _product_backward)


@functools.cache  # a new function at every call would compile anew outside jit
def _batched_kernel(choice: Choice) -> Callable[..., Table]:
    """The kernel with its rule for ``vmap``."""

    @custom_vmap
    def kernel(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
        if data.size == 0:
            return jnp.zeros_like(x)
        return jax.lax.platform_dependent(data, indices, indptr, x, **_KERNELS[choice])

    @kernel.def_vmap
    def _(  # pyright: ignore[reportUnusedFunction]
        axis_size: int, in_batched: list[bool], data: Any, indices: Any, indptr: Any, x: Any
    ) -> tuple[Any, bool]:
        *graph_batched, x_batched = in_batched
        if any(graph_batched):  # a graph for each x: one product after the other
            arguments = [
                a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
                for a, batched in zip((data, indices, indptr, x), in_batched, strict=True)
            ]
            return jax.lax.map(lambda a: kernel(*a), tuple(arguments)), True
        nodes, dim = x.shape[1:]
        joined = x.swapaxes(0, 1).reshape(nodes, axis_size * dim)
        mapped = kernel(data, indices, indptr, joined)
        return mapped.reshape(nodes, axis_size, dim).swapaxes(0, 1), x_batched

    return kernel


def _bcsr_kernel(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    shape = (x.shape[0], x.shape[0])
    return BCSR((data, indices, indptr), shape=shape, indices_sorted=True, unique_indices=True) @ x


def _bcsr_kernel_cpu(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    # Below 8 columns the CPU kernel takes another path, four times slower than 8 columns are.
    spare = max(0, 8 - x.shape[1])
    padded = jnp.pad(x, ((0, 0), (0, spare))) if spare else x
    return _bcsr_kernel(data, indices, indptr, padded)[:, : x.shape[1]]


CHUNK = 8
"""Entries that ``"gather"`` sums at once."""


@functools.partial(
    jax.jit, static_argnames="narrow", inline=True
)  # the layers of a smoothing trace it once
def _gather_kernel(
    data: Values, indices: Indices, indptr: Pointers, x: Table, narrow: bool = False
) -> Table:
    """Cuts rows into chunks of at most `CHUNK` entries, sums each, then sums the chunks likewise.

    Shapes depend on the numbers of rows and entries alone: ``n`` rows of ``m`` entries make at most
    ``(m + (CHUNK - 1) n) / CHUNK`` chunks.
    """
    source = x.astype(jnp.bfloat16) if narrow else x
    begin, end, entries, most = indptr[:-1], indptr[1:], data.size, x.shape[0]

    def entry(position: Indices, valid: Array) -> Table:
        row = _take(source, _take(indices, position)).astype(x.dtype)
        return jnp.where(valid[:, None], _take(data, position)[:, None] * row, 0)

    def chunk_sum(sums: Table, position: Indices, valid: Array) -> Table:
        return jnp.where(valid[:, None], _take(sums, position), 0)

    term = entry
    while most > CHUNK:
        counts = -(-(end - begin) // CHUNK)
        chunk_end = jnp.cumsum(counts, dtype=jnp.int32)
        chunk_begin = chunk_end - counts
        chunk = jnp.arange((entries + (CHUNK - 1) * begin.size) // CHUNK, dtype=jnp.int32)
        row = jnp.searchsorted(chunk_end, chunk, side="right").astype(jnp.int32)
        row = jnp.minimum(row, begin.size - 1)  # of spare chunks, which nothing reads
        first = _take(begin, row) + CHUNK * (chunk - _take(chunk_begin, row))
        term = functools.partial(chunk_sum, _sum_terms(term, first, _take(end, row)))
        begin, end, entries, most = chunk_begin, chunk_end, chunk.size, -(-most // CHUNK)
    return jnp.where((end > begin)[:, None], _sum_terms(term, begin, end), 0)


def _take(array: Array, positions: Indices) -> Array:
    """``array[positions]``, which traces many times slower; a kernel takes some sixty of them."""
    dimensions = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(1, array.ndim)), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    row = (1, *array.shape[1:])
    return jax.lax.gather(array, positions[:, None], dimensions, row, mode="clip")


def _sum_terms(term: Callable[[Indices, Array], Table], begin: Indices, end: Indices) -> Table:
    """``sum(term(p) for p in range(begin, end))``, at most `CHUNK` terms for each pair.

    Past the end the last position stands in, and is marked invalid.
    """
    last = jnp.maximum(end - 1, 0)
    positions = [begin + offset for offset in range(CHUNK)]
    first, *others = [term(jnp.minimum(p, last), p < end) for p in positions]
    return sum(others, first)


PALLAS_BLOCK = 16


def _pallas_kernel(
    data: Values, indices: Indices, indptr: Pointers, x: Table, *, interpret: bool = False
) -> Table:
    """One program a row, which loads `PALLAS_BLOCK` neighbours at a time."""
    # Few need it, and importing it takes as long as importing the rest.
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    nodes, dim = x.shape
    width = 1 << max(dim - 1, 0).bit_length()  # Triton wants powers of 2

    def row_sum(indptr: Any, indices: Any, data: Any, x: Any, out: Any) -> None:
        row = pallas.program_id(0)
        begin, end = indptr[row], indptr[row + 1]
        columns = jnp.arange(width)

        def add(block: Array, total: Array) -> Array:
            position = begin + block * PALLAS_BLOCK + jnp.arange(PALLAS_BLOCK)
            valid = position < end
            neighbour = triton.load(indices.at[position], mask=valid, other=0)
            value = triton.load(data.at[position], mask=valid, other=0)
            loaded = triton.load(
                x.at[neighbour[:, None], columns[None, :]],
                mask=valid[:, None] & (columns < dim)[None, :],
                other=0,
            )
            return total + (value[:, None] * loaded).sum(0)

        blocks = pallas.cdiv(end - begin, PALLAS_BLOCK)
        total = jax.lax.fori_loop(0, blocks, add, jnp.zeros(width, x.dtype))
        triton.store(out.at[row, columns], total, mask=columns < dim)

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    call = pallas.pallas_call(
        row_sum,
        out_shape=shape,
        grid=(nodes,),
        interpret=interpret,
        compiler_params=triton.CompilerParams(),  # which chooses Triton over Mosaic
    )
    return call(indptr, indices, data, x)


def _pallas_kernel_interpreted(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    return _pallas_kernel(data, indices, indptr, x, interpret=True)


def _gather_kernel_narrow(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    return _gather_kernel(data, indices, indptr, x, narrow=True)


_KERNELS: dict[Choice, dict[str, Callable[..., Table]]] = {
    (None, None): {"cpu": _bcsr_kernel_cpu, "default": _gather_kernel},
    (None, "bfloat16"): {"default": _gather_kernel_narrow},
    ("bcsr", None): {"cpu": _bcsr_kernel_cpu, "default": _bcsr_kernel},
    ("gather", None): {"default": _gather_kernel},
    ("gather", "bfloat16"): {"default": _gather_kernel_narrow},
    ("pallas", None): {"cpu": _pallas_kernel_interpreted, "default": _pallas_kernel},
}
"""The kernel of each choice on each platform."""


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
