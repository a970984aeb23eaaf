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
    used = 0
    for sequence in np.argsort(-counts, kind="stable").tolist():
        count = int(counts[sequence])
        free = next((f for f in range(count, width) if open_rows[f]), width)
        if open_rows[free]:
            chosen = open_rows[free].pop()
        else:
            chosen, used = used, used + 1
        row[sequence], offset[sequence] = chosen, width - free
        open_rows[free - count].append(chosen)
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
    batches = range(0, first.size, batch_size)
    placed = [place(counts[b : b + batch_size], width) for b in batches]
    rows = max(rows, *(used for _, _, used in placed))
    rows = -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE if packed else batch_size

    row, offset = (np.concatenate([p[i] for p in placed]) for i in range(2))
    sequence = np.arange(first.size)
    begin = (sequence // batch_size * rows + row) * width + offset
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    where = np.repeat(begin, counts) + within
    cells, ends = np.full((2, len(placed) * rows * width), EMPTY, np.int32)
    cells[where] = np.repeat(first, counts) + within
    ends[where] = np.repeat(first + counts - 1, counts)
    last = np.zeros(len(placed) * batch_size, np.int32)
    last[sequence] = (row * width + offset + counts - 1).astype(np.int32)
    shape = len(placed), rows, width
    return Rows(cells.reshape(shape), ends.reshape(shape)), last.reshape(len(placed), batch_size)
