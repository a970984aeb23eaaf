"""Rows of tokens: which interaction stands in which cell of a batch.

Sequences are short (Amazon Beauty: 6 tokens of 50 on average), so most cells of a padded batch are
empty. Packed, several sequences share a row and the model keeps them apart by segment. Where a
model cannot, rows come in groups, each as wide as its sequences need. All layouts are the same
thing here, an array of positions in the flat array of interactions, -1 where a cell is
empty, and beside it where the cell's sequence ends; everything else (items, targets, segments,
positions) is looked up on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

EMPTY = -1
ROWS_MULTIPLE = 4
MOST_GROUPS = 6
RARELY = 1e-6
"""The chance that the groups of random batches leave, at each of their widths, to one that has more
sequences beyond it than there are rows."""


class Rows(NamedTuple):
    """A layout, or one batch of it: ``int32[(batches,) rows, width]`` each.

    Attributes:
        cells: the position of each token in the flat array of interactions, or `EMPTY`.
        ends: the position of the newest token of its sequence.
    """

    cells: np.ndarray | jax.Array
    ends: np.ndarray | jax.Array


Layout = Rows | list[Rows]
"""Rows of one width, or groups of rows, each of its own."""


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


class Group(NamedTuple):
    """Rows of a width, in a batch whose sequences are sorted, the longest first.

    Attributes:
        first: the row that the group begins with; it ends where the next one begins.
        width: cells of a row.
    """

    first: int
    width: int


def longer_of_random(counts: np.ndarray, batch_size: int) -> np.ndarray:
    """How many sequences of a batch drawn at random are longer than 0, 1, … at most.

    At most but for a chance of `RARELY`, for each length; more than that would be room that nearly
    all batches leave empty.

    Args:
        counts: ``int[sequences]``, the tokens of each of those that are drawn from.
        batch_size: sequences of a batch.

    Returns:
        ``int[max(counts) + 1]``.
    """
    longer = counts.size - np.cumsum(np.bincount(counts))
    drawn = min(batch_size, counts.size)
    return stats.hypergeom.isf(RARELY, counts.size, longer, drawn).astype(int)


def longer_of_blocks(counts: np.ndarray, batch_size: int) -> np.ndarray:
    """How many sequences of a batch are longer than 0, 1, … at most, where batches are known.

    Args:
        counts: ``int[sequences]``, the tokens of each, in the order of batches.
        batch_size: sequences of a batch.

    Returns:
        ``int[max(counts) + 1]``.
    """
    blocks = np.pad(counts, (0, -counts.size % batch_size)).reshape(-1, batch_size)
    return np.array([(blocks > n).sum(axis=1).max() for n in range(counts.max() + 1)])


def choose_groups(longer: np.ndarray) -> tuple[Group, ...]:
    """The groups that a batch fits into, at the least cost: of a row, its width squared.

    Args:
        longer: ``int[max_len + 1]``, how many sequences of a batch are longer than 0, 1, …

    Examples:
        >>> import numpy as np
        >>> from experiments.training.packing import choose_groups
        >>> [tuple(group) for group in choose_groups(np.array([9, 2, 2, 0]))]
        [(0, 3), (2, 1)]
    """

    @cache
    def cheapest(width: int, groups: int) -> tuple[int, tuple[Group, ...]]:
        """Of the sequences no longer than ``width``, in so many groups at most."""
        first = int(longer[width])
        best = (int(longer[0]) - first) * width**2, (Group(first, width),)
        for narrower in range(1, width if groups > 1 else 1):
            total, others = cheapest(narrower, groups - 1)
            total += (int(longer[narrower]) - first) * width**2
            best = min(best, (total, (Group(first, width), *others)))
        return best

    return cheapest(longer.size - 1, MOST_GROUPS)[1]


def group_rows(
    first: np.ndarray, counts: np.ndarray, batch_size: int, groups: Sequence[Group]
) -> tuple[list[Rows], np.ndarray]:
    """Lays sequences out in batches of ``batch_size``, in groups; one a row, padded on the left.

    Where a batch has more long sequences than the groups have room for, the wider group grows, in
    all batches, and the narrower one shrinks.

    Args:
        first: ``int[sequences]``, where each sequence begins in the flat array of interactions.
        counts: ``int[sequences]``, its tokens, at most the first group's width.
        batch_size: sequences of a batch, and its rows; the last batch may have fewer.
        groups: the widest first.

    Returns:
        The `Rows` of each group, with a leading axis of batches; and ``row``, ``int32[batches,
        batch_size]``, the row of each sequence among those of all groups, any beyond the last
        sequence.
    """
    spare = -first.size % batch_size
    starts, sizes = (np.pad(a, (0, spare)).reshape(-1, batch_size) for a in (first, counts))
    order = np.argsort(-sizes, axis=1, kind="stable")
    starts, sizes = (np.take_along_axis(a, order, 1)[..., None] for a in (starts, sizes))
    begins = [max(g.first, int((sizes > g.width).sum(1).max())) for g in groups]
    rows: list[Rows] = []
    for group, begin, end in zip(groups, begins, [*begins[1:], batch_size], strict=True):
        start, size = starts[:, begin:end], sizes[:, begin:end]
        place = np.arange(group.width) - (group.width - size)
        cells = np.where(place >= 0, start + place, EMPTY).astype(np.int32)
        ends = np.where(place >= 0, start + size - 1, EMPTY).astype(np.int32)
        rows.append(Rows(cells, ends))
    return rows, np.argsort(order, axis=1).astype(np.int32)
