"""Rows of tokens: which interaction stands in which cell of a batch.

Sequences are short (Amazon Beauty: 6 tokens of 50 on average), so most cells of a padded batch are
empty. Packed, several sequences share a row and the model keeps them apart by segment. Both layouts
are the same thing here, an array of positions in the flat array of interactions, -1 where a cell is
empty, and beside it where the cell's sequence ends; everything else (items, targets, segments,
positions) is looked up on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

EMPTY = -1
ROWS_MULTIPLE = 4


class Rows(NamedTuple):
    """A layout, or one batch of it: ``int32[(batches,) rows, width]`` each.

    Attributes:
        cells: the position of each token in the flat array of interactions, or `EMPTY`.
        ends: the position of the newest token of its sequence.
    """

    cells: np.ndarray | jax.Array
    ends: np.ndarray | jax.Array


def pack_rows(counts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Places sequences in rows: best fit, longest first.

    Args:
        counts: ``int[sequences]``, each from 1 to ``width``.
        width: cells of a row.

    Returns:
        ``row`` and ``offset``, ``int64[sequences]``: where each sequence begins; and the number of
        rows used.
    """
    row = np.zeros(counts.size, np.int64)
    offset = np.zeros(counts.size, np.int64)
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by free cells
    nonempty = 0  # bit f: there is an open row of f free cells
    used = 0
    for sequence in np.argsort(-counts, kind="stable").tolist():
        count = int(counts[sequence])
        fitting = nonempty >> count
        if fitting:
            free = count + (fitting & -fitting).bit_length() - 1  # the lowest bit
            chosen = open_rows[free].pop()
            if not open_rows[free]:
                nonempty ^= 1 << free
        else:
            free, chosen, used = width, used, used + 1
        row[sequence], offset[sequence] = chosen, width - free
        if free > count:
            open_rows[free - count].append(chosen)
            nonempty |= 1 << (free - count)
    return row, offset, used


def pad_rows(counts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """One sequence a row, padded on the left; otherwise as `pack_rows`."""
    return np.arange(counts.size), width - counts, counts.size


def layout(
    first: np.ndarray,
    counts: np.ndarray,
    batch_size: int,
    width: int,
    *,
    packed: bool,
    rows: int = 0,
) -> tuple[Rows, np.ndarray]:
    """Lays sequences out in batches of ``batch_size``, in the order given.

    Args:
        first: ``int[sequences]``, where each sequence begins in the flat array of interactions.
        counts: ``int[sequences]``, its tokens, from 1 to ``width``.
        batch_size: sequences of a batch; the last batch may have fewer.
        width: cells of a row.
        packed: whether sequences share rows.
        rows: the fewest rows of a batch.

    Returns:
        The `Rows`, with a leading axis of batches; and ``last``, ``int32[batches, batch_size]``,
        the cell of each sequence's last token in its batch's flattened rows, 0 beyond the last
        sequence.
    """
    place = pack_rows if packed else pad_rows
    batches = [slice(b, b + batch_size) for b in range(0, first.size, batch_size)]
    placed = [place(counts[batch], width) for batch in batches]
    rows = max(rows, *(used for _, _, used in placed))
    rows = -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE if packed else batch_size

    cells, ends = np.full((2, len(batches), rows * width), EMPTY, np.int32)
    last = np.zeros((len(batches), batch_size), np.int32)
    # Batch by batch, since the temporary arrays of a large epoch would take gigabytes.
    for i, (batch, (row, offset, _)) in enumerate(zip(batches, placed, strict=True)):
        start, count = first[batch], counts[batch]
        begin = row * width + offset
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        where = np.repeat(begin, count) + within
        cells[i, where] = np.repeat(start, count) + within
        ends[i, where] = np.repeat(start + count - 1, count)
        last[i, : count.size] = begin + count - 1
    shape = len(batches), rows, width
    return Rows(cells.reshape(shape), ends.reshape(shape)), last
