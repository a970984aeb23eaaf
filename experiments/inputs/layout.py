"""The layout of every epoch: the cell and the batch of each interaction that training reads."""

from __future__ import annotations

import numpy as np

from experiments.data import Interactions
from experiments.errors import UserError
from experiments.inputs.packing import (
    EMPTY,
    ROWS_MULTIPLE,
    Layout,
    Rows,
    choose_groups,
    group_rows,
    layout,
    longer_of_random,
)
from experiments.settings import TrainingSettings
from models.backbone import Task


def training_sequences(
    data: Interactions, max_len: int, task: Task
) -> tuple[np.ndarray, np.ndarray]:
    """Lists the sequences that training reads.

    A user with the items ``a b c d e`` trains on ``a b c`` where ``d`` validates, and ``e`` tests.
    The sequences of that user are, for each task,

    - ``next``: ``a b``, since ``c`` is only predicted;
    - ``prefix``: ``a`` and ``a b``;
    - ``masked``: ``a b c``;
    - ``pair``: ``a``, ``b`` and ``c``.

    Returns:
        ``int64[sequences]`` each: the position in the flat array at which a sequence ends, and its
        length.
    """
    stops = data.ends[0] - (task in ("next", "prefix"))
    if task in ("next", "masked"):
        starts, ends = data.starts, stops - 1
    else:
        # A sequence ends at each item before `stops`: the last term counts within a user from 0.
        each = np.maximum(stops - data.starts, 0)
        starts = np.repeat(data.starts, each)
        ends = starts + np.arange(starts.size) - np.repeat(np.cumsum(each) - each, each)
    # Only the newest `max_len` items are read. A user without any has a count of 0 or less.
    counts = np.minimum(ends - starts + 1, 1 if task == "pair" else max_len)
    return ends[counts > 0], counts[counts > 0]


def steps_per_epoch(training: TrainingSettings, data: Interactions, task: Task) -> int:
    """Returns the number of batches of an epoch."""
    sequences, _ = training_sequences(data, training.max_len, task)
    return -(-sequences.size // training.batch_size)


class EpochLayouts:
    """The layout of every epoch. It depends on data, settings, seed and epoch alone.

    Attributes:
        groups: the groups of rows of a batch; ``None`` for rows of one width.
        rows: the least rows of a batch, the same for every epoch.
        few_rows: the rows that many batches need at most; see `_few_rows`.
    """

    def __init__(
        self,
        data: Interactions,
        training: TrainingSettings,
        seed: int,
        task: Task = "next",
        *,
        grouped: bool = False,
    ) -> None:
        self._ends, self._counts = training_sequences(data, training.max_len, task)
        if not self._ends.size:
            raise UserError(f"{data.name}: no user has two training items; nothing to learn from")
        # A user's sequences follow each other. Pairs are drawn from them, by start and length.
        users = np.searchsorted(data.starts, self._ends, side="right")
        _, self._starts, self._lengths = np.unique(users, return_index=True, return_counts=True)
        self.training, self.seed = training, seed
        self.task: Task = task
        self.groups = None
        if grouped:
            self.groups = choose_groups(longer_of_random(self._counts, training.batch_size))
        # All epochs pack into about the same number of rows. Epoch 0 sets the least for all, since
        # an epoch of another shape is compiled anew.
        self.rows = self.few_rows = 0
        first = self(0)
        if isinstance(first, Rows):
            used = (np.asarray(first.cells) != EMPTY).any(axis=-1)
            self.rows = used.shape[1]
            self.few_rows = _few_rows(used.sum(axis=-1), self.rows)

    def __call__(self, epoch: int) -> Layout:
        """Shuffles the sequences, or draws pairs anew, and lays them out in batches."""
        # A function of seed and epoch, so that a resumed run has the same layouts.
        rng = np.random.default_rng([self.seed, epoch])
        pairs = self.task == "pair"
        order = self._draw_pairs(rng) if pairs else rng.permutation(self._ends.size)
        s, counts = self.training, self._counts[order]
        first = self._ends[order] - counts + 1
        if self.groups is not None:
            return group_rows(first, counts, s.batch_size, self.groups)[0]
        rows, _ = layout(
            first,
            counts,
            s.batch_size,
            1 if pairs else s.max_len,
            packed=s.packed and not pairs,
            rows=self.rows,
        )
        return rows

    def _draw_pairs(self, rng: np.random.Generator) -> np.ndarray:
        """Draws users uniformly, and an item of each; as many pairs as there are training items."""
        user = rng.integers(self._starts.size, size=self._ends.size)
        return self._starts[user] + rng.integers(self._lengths[user])

    @property
    def sequences_per_step(self) -> np.ndarray:
        """``int64[steps]``: the sequences of each step, by which an epoch's loss is averaged."""
        steps = np.arange(0, self._ends.size, self.training.batch_size)
        return np.minimum(self._ends.size - steps, self.training.batch_size)


def round_up(rows: float) -> int:
    """Rounds up to a multiple of `ROWS_MULTIPLE`, so that few epochs differ in shape."""
    return -(-int(np.ceil(rows)) // ROWS_MULTIPLE) * ROWS_MULTIPLE


def _few_rows(needed: np.ndarray, rows: int) -> int:
    """Chooses the number of rows for the smaller of the two programs of `steps.make_step`.

    A step that needs no more rows computes no more; all other steps compute all ``rows``. The
    choice saves the most rows in an epoch.

    Args:
        needed: ``int[steps]``, the rows that each step needs.
        rows: the rows of the largest step.

    Examples:
        >>> _few_rows(np.array([4, 4, 8, 12]), 12)  # saves 8 + 8 rows; 8 would save 4 + 4 + 4
        4
    """
    choices = np.append(np.arange(ROWS_MULTIPLE, rows, ROWS_MULTIPLE), rows)
    # Rows saved in a step that needs few, times the share of these steps.
    saved = (rows - choices) * (needed[:, None] <= choices).mean(axis=0)
    return int(choices[saved.argmax()]) if saved.any() else rows
