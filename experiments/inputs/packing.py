"""Rows of tokens: the place of each interaction in the cells of a batch.

Sequences are short (Amazon Beauty: 6 tokens of 50 on average), so most cells of a padded batch are
empty. In a packed batch several sequences share a row, and the model keeps them apart by segment.
For a model that cannot do this, rows come in groups, each as wide as its sequences need.

A layout is two arrays: the position of each cell in the flat array of interactions, -1 for an empty
cell, and the position at which the cell's sequence ends. Everything else (items, targets, segments,
positions) is looked up on the device. The sequences at 10, 11, 12 and at 40, 41, in a row of six:

    cells  10 11 12 40 41 -1
    ends   12 12 12 41 41 -1
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
"""The chance, for each width of a group, that a random batch has more sequences longer than this
width than the wider groups have rows."""


class Rows(NamedTuple):
    """A layout, or one batch of it: ``int32[(batches,) rows, width]`` each.

    Attributes:
        cells: the position of each token in the flat array of interactions, or `EMPTY`.
        ends: the position of the newest token of the cell's sequence, or `EMPTY`.
    """

    cells: np.ndarray | jax.Array
    ends: np.ndarray | jax.Array


Layout = Rows | list[Rows]
"""Rows of one width, or groups of rows, each group of a width of its own."""


def pack_rows(counts: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Places sequences in rows: the longest first, each in the open row that it fills best.

    Args:
        counts: ``int[sequences]``, the tokens of each sequence, from 1 to ``width``.
        width: cells of a row.

    Returns:
        ``row`` and ``offset``, ``int64[sequences]``: where each sequence begins; and the number of
        rows used.

    Examples:
        >>> row, offset, used = pack_rows(np.array([2, 3, 4, 1]), 5)
        >>> row.tolist(), offset.tolist(), used
        ([1, 1, 0, 0], [3, 0, 0, 4], 2)
    """
    row = np.zeros(counts.size, np.int64)
    offset = np.zeros(counts.size, np.int64)
    open_rows: list[list[int]] = [[] for _ in range(width + 1)]  # by free cells
    # Bit f is set if an open row has f free cells. The lowest bit from `count` on is the best fit.
    nonempty = 0
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
    """Places each sequence at the end of a row of its own; see `pack_rows`."""
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
        counts: ``int[sequences]``, the tokens of each sequence, from 1 to ``width``.
        batch_size: sequences of a batch; the last batch may have fewer.
        width: cells of a row.
        packed: whether sequences share rows.
        rows: the fewest rows of a batch.

    Returns:
        The `Rows`, with a leading axis of batches; and ``last``, ``int32[batches, batch_size]``,
        the cell of each sequence's last token in its batch's flattened rows, 0 beyond the last
        sequence.

    Examples:
        >>> begins, tokens = np.array([10, 40]), np.array([3, 2])
        >>> rows, last = layout(begins, tokens, batch_size=2, width=6, packed=True)
        >>> rows.cells[0, 0].tolist(), rows.ends[0, 0].tolist(), last.tolist()
        ([10, 11, 12, 40, 41, -1], [12, 12, 12, 41, 41, -1], [[2, 4]])
    """
    place = pack_rows if packed else pad_rows
    batches = [slice(b, b + batch_size) for b in range(0, first.size, batch_size)]
    placed = [place(counts[batch], width) for batch in batches]
    rows = max(rows, *(used for _, _, used in placed))
    rows = -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE if packed else batch_size

    cells, ends = np.full((2, len(batches), rows * width), EMPTY, np.int32)
    last = np.zeros((len(batches), batch_size), np.int32)
    # One batch at a time: the temporary arrays of a large epoch would take gigabytes.
    for i, (batch, (row, offset, _)) in enumerate(zip(batches, placed, strict=True)):
        start, count = first[batch], counts[batch]
        begin = row * width + offset
        # The place of each token in its own sequence, from 0, for all sequences of the batch.
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        where = np.repeat(begin, count) + within
        cells[i, where] = np.repeat(start, count) + within
        ends[i, where] = np.repeat(start + count - 1, count)
        last[i, : count.size] = begin + count - 1
    shape = len(batches), rows, width
    return Rows(cells.reshape(shape), ends.reshape(shape)), last


class Group(NamedTuple):
    """A group of rows of one width, in a batch whose sequences are sorted, the longest first.

    Attributes:
        first: the first row of the group; the group ends where the next one begins.
        width: cells of a row.
    """

    first: int
    width: int


def longer_of_random(counts: np.ndarray, batch_size: int) -> np.ndarray:
    """Bounds the number of sequences longer than 0, 1, … in a batch that is drawn at random.

    A batch exceeds the bound of a length with a chance of at most `RARELY`. A bound that no batch
    can exceed would be far higher, and nearly all batches would leave its room empty.

    Args:
        counts: ``int[sequences]``, the tokens of each sequence of the data.
        batch_size: sequences of a batch.

    Returns:
        ``int[max(counts) + 1]``, the bound for each length.
    """
    # Of all sequences, `longer` exceed a length. A batch is a draw without replacement, and has a
    # hypergeometric number of them.
    longer = counts.size - np.cumsum(np.bincount(counts))
    drawn = min(batch_size, counts.size)
    return stats.hypergeom.isf(RARELY, counts.size, longer, drawn).astype(int)


def longer_of_blocks(counts: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the largest number of sequences longer than 0, 1, … in batches that are known.

    Args:
        counts: ``int[sequences]``, the tokens of each sequence, in the order of batches.
        batch_size: sequences of a batch.

    Returns:
        ``int[max(counts) + 1]``, the number for each length.
    """
    blocks = np.pad(counts, (0, -counts.size % batch_size)).reshape(-1, batch_size)
    return np.array([(blocks > n).sum(axis=1).max() for n in range(counts.max() + 1)])


def choose_groups(longer: np.ndarray) -> tuple[Group, ...]:
    """Chooses the cheapest groups of rows that a batch fits into, at most `MOST_GROUPS`.

    A row costs the square of its width, since layers compare all pairs of its tokens. In the
    example, two of nine sequences are longer than 2. They get rows of width 3; the other seven have
    one token each, and get rows of width 1.

    Args:
        longer: ``int[max_len + 1]``, the number of sequences of a batch longer than 0, 1, …

    Returns:
        The groups, the widest first.

    Examples:
        >>> import numpy as np
        >>> from experiments.inputs.packing import choose_groups
        >>> [tuple(group) for group in choose_groups(np.array([9, 2, 2, 0]))]
        [(0, 3), (2, 1)]
    """

    @cache
    def cheapest(width: int, groups: int) -> tuple[int, tuple[Group, ...]]:
        """Returns cost and groups for sequences up to ``width``, in ``groups`` groups or fewer."""
        # The widest group has this width. It starts after all longer sequences, and ends where a
        # narrower width takes over.
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
    """Lays sequences out in batches of rows in groups: one sequence a row, padded on the left.

    If a batch has more long sequences than a group has rows, that group grows and the next narrower
    one shrinks, in all batches.

    Args:
        first: ``int[sequences]``, where each sequence begins in the flat array of interactions.
        counts: ``int[sequences]``, the tokens of each sequence, at most the first group's width.
        batch_size: sequences of a batch, and its rows; the last batch may have fewer sequences.
        groups: the groups, the widest first.

    Returns:
        The `Rows` of each group, with a leading axis of batches; and ``row``, ``int32[batches,
        batch_size]``, the row of each sequence, counted over all groups. Entries beyond the last
        sequence mean nothing.

    Examples:
        >>> begins, tokens = np.array([40, 10]), np.array([1, 2])
        >>> (wide, narrow), row = group_rows(begins, tokens, 2, [Group(0, 3), Group(1, 1)])
        >>> wide.cells.tolist(), narrow.cells.tolist(), row.tolist()
        ([[[-1, 10, 11]]], [[[40]]], [[1, 0]])
    """
    # The last batch is filled up with sequences of no tokens: they make empty rows.
    spare = -first.size % batch_size
    starts, sizes = (np.pad(a, (0, spare)).reshape(-1, batch_size) for a in (first, counts))
    order = np.argsort(-sizes, axis=1, kind="stable")
    starts, sizes = (np.take_along_axis(a, order, 1)[..., None] for a in (starts, sizes))
    # A group may only begin where the sequences of every batch are short enough for its width.
    begins = [max(g.first, int((sizes > g.width).sum(1).max())) for g in groups]
    rows: list[Rows] = []
    for group, begin, end in zip(groups, begins, [*begins[1:], batch_size], strict=True):
        start, size = starts[:, begin:end], sizes[:, begin:end]
        place = np.arange(group.width) - (group.width - size)
        cells = np.where(place >= 0, start + place, EMPTY).astype(np.int32)
        ends = np.where(place >= 0, start + size - 1, EMPTY).astype(np.int32)
        rows.append(Rows(cells, ends))
    return rows, np.argsort(order, axis=1).astype(np.int32)
