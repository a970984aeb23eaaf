"""Interactions: the items of every user in order of time, as flat arrays."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from experiments.data.reading import open_text
from experiments.errors import UserError

MIN_INTERACTIONS = 3
"""The least interactions of a user: one item to train on, one to validate and one to test."""


@dataclasses.dataclass(frozen=True)
class Interactions:
    """A data set, with items numbered ``1 … num_items``; 0 is padding.

    A user's first items are training items, the next ones validate, and the last ones test. Unless
    ``held_out`` says how many, the last item tests and the one before it validates.

    Attributes:
        name: the data set's name in results.
        items: ``int32[interactions]``, the items of one user after the other, in order of time.
        lengths: ``int64[users]``, each at least 3.
        item_ids: ``[num_items]``, the id that the source gave to item ``i + 1``.
        user_ids: ``[users]``, the id that the source gave to each user.
        notes: sentences that tell the user how the data were prepared.
        source: the file from which a registered data set was read.
        whole: the data set from which these users were drawn, if they were.
        times: ``[interactions]``, numbers or ``datetime64``; ``None`` if they were not asked for,
            or the file has none.
        held_out: ``int64[2, users]``, how many of a user's items validate and test; ``None`` for
            one each. See `experiments.data.splits`.
    """

    name: str
    items: np.ndarray
    lengths: np.ndarray
    item_ids: np.ndarray
    user_ids: np.ndarray
    notes: tuple[str, ...] = ()
    source: Path | None = None
    whole: Interactions | None = None
    times: np.ndarray | None = None
    held_out: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        """The number of users."""
        return self.lengths.size

    @property
    def num_items(self) -> int:
        """The number of different items."""
        return self.item_ids.size

    @property
    def num_interactions(self) -> int:
        """The number of interactions of all users."""
        return int(self.lengths.sum())

    @property
    def starts(self) -> np.ndarray:
        """``int64[users]``: the position in ``items`` at which each user's items begin."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def owners(self) -> np.ndarray:
        """``int32[interactions]``: the user of each of ``items``."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.lengths)

    @property
    def ends(self) -> np.ndarray:
        """``int64[3, users]``: where each user's training, validation and test items end."""
        end = np.cumsum(self.lengths)
        valid, test = (1, 1) if self.held_out is None else self.held_out
        return np.stack([end - valid - test, end - test, end])

    def training_part(self) -> np.ndarray:
        """``bool[interactions]``: the part of ``items`` that trains."""
        return np.arange(self.items.size) < np.repeat(self.ends[0], self.lengths)

    def training_counts(self) -> np.ndarray:
        """``int64[num_items + 1]``: the training interactions of each item, padding's first."""
        return np.bincount(self.items[self.training_part()], minlength=self.num_items + 1)

    def numbers(self) -> dict[str, int]:
        """The number of each item by its id, as text: ids in JSON files always are."""
        return {str(item): number for number, item in enumerate(self.item_ids.tolist(), 1)}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of lengths, items and item ids, which only equal interactions share.

        Times count where they are: they were asked for since a split depends on them.
        """
        digest = hashlib.sha256(self.lengths.tobytes())
        digest.update(self.items.tobytes())
        digest.update(b"" if self.times is None else self.times.tobytes())
        for piece in _id_bytes(self.item_ids):
            digest.update(piece)
        return digest.hexdigest()[:16]

    @property
    def renumbered(self) -> bool:
        """Whether the source's item ids differ from ``1 … num_items``."""
        return not np.array_equal(self.item_ids, np.arange(1, self.num_items + 1))

    def sample_users(self, share: float, seed: int = 0) -> Interactions:
        """Draws a random share of the users, at least one; the items and their numbers stay.

        Args:
            share: in (0, 1].
            seed: the seed of the draw.

        Raises:
            UserError: ``share`` is out of range.

        Examples:
            >>> data = from_sequences("small", np.arange(12), np.full(4, 3))
            >>> half = data.sample_users(0.5)
            >>> half.num_users, half.num_items
            (2, 12)
        """
        if not 0 < share <= 1:
            raise UserError(f"share of users: must be in (0, 1], got {share}")
        count = max(1, round(share * self.num_users))
        drawn = np.random.default_rng(seed).choice(self.num_users, count, replace=False)
        kept = np.zeros(self.num_users, bool)
        kept[drawn] = True
        rows = np.repeat(kept, self.lengths)
        return dataclasses.replace(
            self,
            items=self.items[rows],
            times=None if self.times is None else self.times[rows],
            held_out=None if self.held_out is None else self.held_out[:, kept],
            lengths=self.lengths[kept],
            user_ids=self.user_ids[kept],
            whole=self,
            notes=(*self.notes, f"drew {count:,} of {self.num_users:,} users, by seed {seed}"),
        )


LONG_ID = 1000
"""The longest id, in characters, for which a fingerprint reads ids as NumPy stores them: all as
wide as the longest."""
IDS_AT_ONCE = 2**16


def _id_bytes(ids: np.ndarray) -> Iterator[bytes]:
    """Returns the bytes of ids for a fingerprint, some ids at a time.

    They are the bytes of ``ids.astype("U")``, as in the fingerprints of committed runs. If an id is
    very long, these would be gigabytes. Each id is then written with its length before it.
    """
    pieces = np.array_split(ids, -(-ids.size // IDS_AT_ONCE)) if ids.size else []
    if ids.dtype != object:
        yield from (piece.astype("U").tobytes() for piece in pieces)
        return
    width = max((len(str(name)) for name in ids), default=0)
    for piece in pieces:
        if width <= LONG_ID:
            yield piece.astype(f"U{width}").tobytes()
        else:
            yield "".join(f"{len(str(name))}:{name}" for name in piece).encode("utf-8", "replace")


def from_sequences(
    name: str,
    values: np.ndarray,
    lengths: np.ndarray,
    item_ids: np.ndarray | None = None,
    source: Path | None = None,
    user_ids: np.ndarray | None = None,
    least: int = MIN_INTERACTIONS,
    times: np.ndarray | None = None,
) -> Interactions:
    """Drops users of few interactions and renumbers the items that remain.

    Args:
        name: the name of the data set.
        values: ``int[interactions]``, non-negative codes of items, one user after the other.
        lengths: ``int[users]``, the interactions of each user.
        item_ids: the source's id of each code; the codes themselves if ``None``.
        source: the file, for messages.
        user_ids: the source's id of each user; ``1 … users`` if ``None``.
        least: the least interactions of a user who is kept.
        times: ``[interactions]``, if they are to be kept.

    Raises:
        UserError: no user has that many interactions.
    """
    kept = lengths >= least
    if not kept.any():
        raise UserError(
            f"{source or name}: no user has {least} or more interactions; expected one "
            "item each to train on, to validate and to test"
        )
    if user_ids is None:
        user_ids = np.arange(1, lengths.size + 1)
    if item_ids is None:
        item_ids = np.unique(values)
        values = _positions(values, item_ids)
    items = np.empty(int(lengths[kept].sum()), np.int32)
    present = np.zeros(item_ids.size, bool)
    end = 0
    for users, part in pieces(lengths):
        own = values[part][np.repeat(kept[users], lengths[users])]
        items[end : end + own.size] = own
        present[own] = True
        end += own.size
    numbers = np.cumsum(present, dtype=np.int32)
    for begin in range(0, items.size, AT_ONCE):
        items[begin : begin + AT_ONCE] = numbers[items[begin : begin + AT_ONCE]]
    dropped = int((~kept).sum())
    note = f"dropped {dropped:,} users of fewer than {least} interactions"
    return Interactions(
        name=name,
        items=items,
        lengths=lengths[kept].astype(np.int64),
        item_ids=item_ids[present],
        user_ids=user_ids[kept],
        notes=(note,) if dropped else (),
        times=None if times is None else times[np.repeat(kept, lengths)],
    )


AT_ONCE = 2**19
"""The interactions that are worked on at once: few beside those of large files, so that what is
made of them on the way needs little memory."""


def pieces(lengths: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Cuts interactions between users, into pieces of about `AT_ONCE`.

    Args:
        lengths: ``int[users]``, the interactions of each user.

    Yields:
        The users of a piece, and their interactions.

    Examples:
        >>> [users for users, _ in pieces(np.array([2, 3, AT_ONCE, 1]))]
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    begin = first = 0
    while begin < lengths.size:
        # The user of more interactions than a piece has one of its own.
        end = max(begin + 1, int(np.searchsorted(ends, first + AT_ONCE, side="right")))
        yield slice(begin, end), slice(first, int(ends[end - 1]))
        begin, first = end, int(ends[end - 1])


def _positions(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the position of each value among sorted ``ids``, as ``int32``."""
    found = np.empty(values.size, np.int32)
    for begin in range(0, values.size, AT_ONCE):
        found[begin : begin + AT_ONCE] = np.searchsorted(ids, values[begin : begin + AT_ONCE])
    return found


PAIRS = (
    "a file of one interaction a line is a table: give it a first line such as 'user,item' or "
    "'user,item,time', commas between the fields, and a name that ends in .csv"
)


def read_text(path: Path, name: str, least: int = MIN_INTERACTIONS) -> Interactions:
    """Reads lines of ``user item item …``: positive integer ids, items in order of time.

    Args:
        path: the file.
        name: the name of the data set.
        least: the least interactions of a user who is kept.

    Raises:
        UserError: the file is missing, unreadable, UTF-16 or empty, an id is no positive integer,
            or a user has two lines; the message names the file and the line.
    """
    values, lengths = array("q"), array("q")  # lists of Python's integers need five times as much
    line_of: dict[int, int] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if not fields:
                continue
            try:
                user, *items = _parse_ids(fields)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {number}: {error}; tables, of any ids, are told by their names, "
                    ".csv, .tsv, .inter or .parquet"
                ) from error
            if user in line_of:
                raise UserError(
                    f"{path}, line {number}: user {user} already has line {line_of[user]}; "
                    f"expected one line a user; {PAIRS}"
                )
            line_of[user] = number
            values.extend(items)
            lengths.append(len(items))
    if not lengths:
        raise UserError(f"{path}: is empty; expected lines of 'user item item …'")
    if max(lengths) == 1 and least > 1:
        raise UserError(f"{path}: has one item a line; expected a user and all items; {PAIRS}")
    items, counts = (np.frombuffer(numbers, np.int64) for numbers in (values, lengths))
    users = np.fromiter(line_of, np.int64, len(line_of))
    return from_sequences(name, items, counts, source=path, user_ids=users, least=least)


def _parse_ids(fields: list[str]) -> list[int]:
    text = "".join(fields)
    if text.isascii() and text.isdigit() and max(map(len, fields)) < 19:  # below 2^63
        ids = list(map(int, fields))
        if min(ids) > 0:
            return ids
    bad = next(f for f in fields if not (f.isascii() and f.isdigit() and len(f) < 19 and int(f)))
    raise ValueError(f"found {bad[:40]!r}; expected positive integer ids")
