"""Sums of gathered rows, for every platform. There is no scatter, so no order that could change.

Rows are cut into chunks of at most `CHUNK` entries. The chunks are summed, then the sums of the
chunks in the same way, until one is left of each row. With `CHUNK` = 8::

    a row of 20 entries    0 … 7    8 … 15    16 … 19
    first pass               a         b          c
    second pass              a    +    b    +     c
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sevo_jax._spmm.arrays import Columns, Pointers, Rows, Table, Values

CHUNK = 8
"""Terms that are summed at once."""

Positions = Int[Array, " chunks"]
Valid = Bool[Array, " chunks"]


@functools.partial(jax.jit, static_argnames="narrow", inline=True)  # layers share one trace
def product(
    data: Values, indices: Columns, indptr: Pointers, x: Table, narrow: bool = False
) -> Rows:
    """``A @ x`` for a matrix ``A`` of compressed rows; ``narrow`` gathers rows in bfloat16.

    Shapes depend on the numbers of rows and entries alone: ``n`` rows of ``m`` entries make at most
    ``(m + (CHUNK - 1) n) / CHUNK`` chunks.
    """
    source = x.astype(jnp.bfloat16) if narrow else x
    begin, end, entries, most = indptr[:-1], indptr[1:], data.size, x.shape[0]

    def entry(position: Positions, valid: Valid) -> Array:
        row = take(source, take(indices, position)).astype(x.dtype)
        return jnp.where(valid[:, None], take(data, position)[:, None] * row, 0)

    def chunk_sum(sums: Array, position: Positions, valid: Valid) -> Array:
        return jnp.where(valid[:, None], take(sums, position), 0)

    term = entry
    while most > CHUNK:
        counts = -(-(end - begin) // CHUNK)
        chunk_end = jnp.cumsum(counts, dtype=jnp.int32)
        chunk_begin = chunk_end - counts
        chunk = jnp.arange((entries + (CHUNK - 1) * begin.size) // CHUNK, dtype=jnp.int32)
        row = jnp.searchsorted(chunk_end, chunk, side="right").astype(jnp.int32)
        row = jnp.minimum(row, begin.size - 1)  # for spare chunks, which nothing reads
        first = take(begin, row) + CHUNK * (chunk - take(chunk_begin, row))
        term = functools.partial(chunk_sum, _sum_terms(term, first, take(end, row)))
        begin, end, entries, most = chunk_begin, chunk_end, chunk.size, -(-most // CHUNK)
    return jnp.where((end > begin)[:, None], _sum_terms(term, begin, end), 0)


def take(array: Array, positions: Int[Array, " positions"]) -> Array:
    """``array[positions]``; that would trace many times slower, and a product takes some sixty."""
    dimensions = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(1, array.ndim)), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    row = (1, *array.shape[1:])
    return jax.lax.gather(array, positions[:, None], dimensions, row, mode="clip")


def _sum_terms(
    term: Callable[[Positions, Valid], Array], begin: Positions, end: Positions
) -> Array:
    """``sum(term(p) for p in range(begin, end))`` for each pair, of at most `CHUNK` terms.

    A pair with fewer terms repeats its last position, marked invalid.
    """
    last = jnp.maximum(end - 1, 0)
    positions = [begin + offset for offset in range(CHUNK)]
    first, *others = [term(jnp.minimum(p, last), p < end) for p in positions]
    return sum(others, first)
