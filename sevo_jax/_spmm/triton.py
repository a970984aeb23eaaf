"""The product for NVIDIA GPUs, written in Pallas and compiled by Triton.

One program sums one row, a tile of neighbours at a time, in a fixed order and without atomics. Rows
of power-law graphs are too uneven for that alone: one item of 376,378 may have 136,110 neighbours.
So entries are cut into blocks of equal size, wherever rows begin. Blocks that lie within one row
are summed first, by a program each, and the row adds their sums::

    blocks of 4     0 1 2 3 | 4 5 6 7 | 8 9 …
    row 0           0 1                          sums entries 0 and 1
    row 1               2 3   4 5 6 7   8        sums entries 2, 3 and 8, and adds the block's sum
    row 2                                 9 …

No program reads more entries than two blocks have, and nothing is prepared outside the step.

This module is imported only where there is a GPU, or where the kernel is asked for: importing
Pallas takes as long as importing the rest of the library. JAX plans to drop its Triton backend;
without it, `sevo_jax._spmm` uses another kernel.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jaxtyping import Array, Int

from sevo_jax._spmm.arrays import Columns, Pointers, Rows, Scale, Table, Values

TILE = 8
"""Neighbours that a program reads at once. With one warp, the fastest on an H200."""
PARTS = 32
"""Sums of blocks that a row's program reads at once."""
FEATURES = 64
"""Features that a program sums at most."""
SMALL, SMALL_BLOCK, BLOCK = 2**20, 64, 256
"""Entries of a block. Graphs of fewer than ``SMALL`` entries have small blocks, since the longest
program decides their time; in others the number of programs counts more."""


def product(
    data: Values,
    indices: Columns,
    indptr: Pointers,
    x: Table,
    scale: Scale | None = None,
    base: Rows | None = None,
    *,
    narrow: bool = False,
    interpret: bool = False,
) -> Rows:
    """``base + scale * (A @ x)`` in one pass, for a matrix ``A`` of compressed rows.

    Args:
        data: values of ``A``.
        indices: their columns.
        indptr: where each row's entries begin, and where the last row's end.
        x: the table.
        scale: a factor of the product; 1 if ``None``.
        base: what the product is added to; 0 if ``None``.
        narrow: whether rows of ``x`` are rounded to bfloat16 as they are gathered.
        interpret: whether to run in Pallas' interpreter, on any platform and slowly.
    """
    rows, dim = indptr.size - 1, x.shape[1]
    width = min(FEATURES, 1 << max(dim - 1, 0).bit_length())  # Triton wants powers of 2
    size = block_size(data.size)
    num_blocks = data.size // size
    operands = (indices, data, x.astype(jnp.bfloat16) if narrow else x)
    call = functools.partial(
        pallas.pallas_call,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=1),  # chooses Triton over Mosaic, too
    )

    def my_features() -> Features:
        numbers = pallas.program_id(1) * width + jnp.arange(width, dtype=jnp.int32)
        return Features(numbers, numbers < dim)

    def block_sum(inside: Any, indices: Any, data: Any, source: Any, out: Any) -> None:
        block, mine = pallas.program_id(0), my_features()

        @pallas.when(inside[block] != 0)
        def _() -> None:  # pyright: ignore[reportUnusedFunction]
            refs = Entries(indices, data, source)
            total = _sum_entries(refs, lambda place: block * size + place, size, mine, x.dtype)
            triton.store(out.at[block, mine.numbers], total, mask=mine.exist)

    def row_sum(indptr: Any, indices: Any, data: Any, source: Any, *more: Any) -> None:
        *rest, out = more
        row, mine = pallas.program_id(0), my_features()
        begin, end = indptr[row], indptr[row + 1]
        first, last = _blocks(begin, end, size)
        # Entries outside of blocks: ``before`` of them in front of the blocks, the rest behind.
        before = jnp.where(first < last, first * size - begin, end - begin)
        count = jnp.where(first < last, before + end - last * size, end - begin)

        def position(place: Array) -> Array:
            return jnp.where(place < before, begin + place, last * size + place - before)

        result = _sum_entries(Entries(indices, data, source), position, count, mine, x.dtype)
        if num_blocks:
            sums, *rest = rest
            result += _sum_rows(sums, first, last, mine)
        if scale is not None:
            factor, *rest = rest
            result = factor[0] * result
        if base is not None:
            result += triton.load(rest[0].at[row, mine.numbers], mask=mine.exist, other=0)
        triton.store(out.at[row, mine.numbers], result, mask=mine.exist)

    grid = pallas.cdiv(dim, width)
    more: list[Array] = []
    if num_blocks:
        shape = jax.ShapeDtypeStruct((num_blocks, dim), x.dtype)
        sums = call(block_sum, shape, grid=(num_blocks, grid), name="sevo_block_sums")
        more.append(sums(_within_rows(indptr, num_blocks, size), *operands))
    if scale is not None:
        more.append(jnp.reshape(scale, 1))
    if base is not None:
        more.append(base)
    shape = jax.ShapeDtypeStruct((rows, dim), x.dtype)
    product = call(row_sum, shape, grid=(rows, grid), name="sevo_row_sums")
    return product(indptr, *operands, *more)


def block_size(entries: int) -> int:
    """Returns the entries of a block, for a matrix of so many entries."""
    return SMALL_BLOCK if entries < SMALL else BLOCK


class Features(NamedTuple):
    """The features of a program, and which of them the table has."""

    numbers: Array
    exist: Array


class Entries(NamedTuple):
    """References to the matrix's entries and the table."""

    indices: Any
    data: Any
    source: Any


def _sum_entries(refs: Entries, position: Any, count: Any, mine: Features, dtype: Any) -> Array:
    """The weighted sum of ``count`` rows; their entries are at ``position(0), position(1), …``."""

    def add(number: Array, total: Array) -> Array:
        place = number * TILE + jnp.arange(TILE, dtype=jnp.int32)
        where, valid = position(place), place < count
        neighbour = triton.load(refs.indices.at[where], mask=valid, other=0)
        value = triton.load(refs.data.at[where], mask=valid, other=0)
        rows = triton.load(
            refs.source.at[neighbour[:, None], mine.numbers[None, :]],
            mask=valid[:, None] & mine.exist[None, :],
            other=0,
        )
        return total + value[:, None] * rows.astype(dtype)

    start = jnp.zeros((TILE, mine.numbers.size), dtype)
    return jax.lax.fori_loop(0, (count + (TILE - 1)) // TILE, add, start).sum(0)


def _sum_rows(sums: Any, first: Array, last: Array, mine: Features) -> Array:
    """The rows from ``first`` to before ``last``."""

    def add(number: Array, total: Array) -> Array:
        row = first + number * PARTS + jnp.arange(PARTS, dtype=jnp.int32)
        return total + triton.load(
            sums.at[row[:, None], mine.numbers[None, :]],
            mask=(row < last)[:, None] & mine.exist[None, :],
            other=0,
        )

    start = jnp.zeros((PARTS, mine.numbers.size), sums.dtype)
    parts = (jnp.maximum(last - first, 0) + (PARTS - 1)) // PARTS
    return jax.lax.fori_loop(0, parts, add, start).sum(0)


def _blocks(begin: Array, end: Array, size: int) -> tuple[Array, Array]:
    """The first block that lies within entries ``begin`` to ``end``, and the one past the last.

    If there is none, the second is not past the first.
    """
    return (begin + (size - 1)) // size, end // size


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _within_rows(indptr: Pointers, num_blocks: int, size: int) -> Int[Array, " blocks"]:
    """Marks the blocks that lie within a row. XLA takes this out of loops over steps."""
    first, last = _blocks(indptr[:-1], indptr[1:], size)
    some = (first < last).astype(jnp.int32)
    change = jnp.zeros(num_blocks + 1, jnp.int32).at[first].add(some).at[last].add(-some)
    return jnp.cumsum(change)[:-1]
