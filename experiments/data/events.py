"""Conversion of events (a user, an item, maybe a time) in any order to `Interactions`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from experiments.data.interactions import (
    AT_ONCE,
    MIN_INTERACTIONS,
    Interactions,
    from_sequences,
    pieces,
)
from experiments.errors import UserError

ROW = "number of the row"
"""Our own column. No column that is read is called so."""


def check_complete(
    events: pl.DataFrame | pl.LazyFrame, path: Path, what: str, first: int = 1
) -> None:
    """Raises a `UserError` that names the first event with a missing value, if there is one.

    Args:
        events: the events, in which every column must be filled.
        path: the file they come from.
        what: the word for an event in the message, such as ``"row"``.
        first: the number of the first event.

    Raises:
        UserError: a value is missing.
    """
    rows = events.lazy().with_row_index(ROW, first)
    missing = rows.filter(pl.any_horizontal(pl.all().is_null())).head(1)
    found = missing.collect(engine="streaming").rows(named=True)
    if found:
        row = found[0].pop(ROW)
        raise UserError(
            f"{path}, {what} {row}: found {found[0]}; "
            f"expected {', '.join(found[0])} in every {what}"
        )


def without_blank_lines(events: pl.DataFrame) -> pl.DataFrame:
    """Drops the events without any value."""
    return events.filter(pl.any_horizontal(pl.all().is_not_null()))


def first_line(error: Exception) -> str:
    """Returns the first line of an error: Polars adds advice to programmers below it."""
    return (str(error).splitlines() or [""])[0]


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Finds the largest part in which every user and every item has ``k`` or more interactions.

    Args:
        users: ``int[interactions]``, non-negative.
        items: ``int[interactions]``, non-negative.
        k: the least number of interactions, repeated ones included.

    Returns:
        ``int[kept]``, the positions of the interactions that are kept, in order.

    Examples:
        >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([5, 6, 5, 6, 6]), 2)
        array([0, 1, 2, 3])
    """
    kept = np.arange(users.size)
    while True:  # removing a user may leave an item with too few interactions, and so on
        u, i = users[kept], items[kept]
        enough = (np.bincount(u)[u] >= k) & (np.bincount(i)[i] >= k)
        if enough.all():
            return kept
        kept = kept[enough]


def from_events(
    name: str,
    events: pl.DataFrame | pl.LazyFrame,
    source: Path,
    *,
    repeats: bool = True,
    core: int = 1,
    least: int = MIN_INTERACTIONS,
    times: bool = False,
) -> Interactions:
    """Orders the events of each user by time, and numbers users and items by their sorted ids.

    The events are read a few times, in batches. Beside the result, there is only one number for
    each of them, its time.

    Args:
        name: the name of the data set.
        events: columns ``user`` and ``item`` (integers or strings) and ``time``. Without ``time``,
            each user's events are in order already. Events of equal times keep their order.
        source: the file, for messages.
        repeats: whether to keep all of a user's interactions with the same item, or the first only.
        core: the least interactions of a user and of an item; see `k_core`.
        least: the least interactions of a user who is kept.
        times: whether to keep the times, if there are any.

    Raises:
        UserError: there are no events, or none is left; or a time to keep is no date.

    Examples:
        >>> events = pl.DataFrame({"user": list("bbbaaa"), "item": list("xyzxyz"),
        ...                        "time": [3, 1, 2, 1, 2, 3]})
        >>> data = from_events("small", events, Path("small.csv"))
        >>> data.items.tolist(), data.item_ids.tolist(), data.user_ids.tolist()
        ([1, 2, 3, 2, 3, 1], ['x', 'y', 'z'], ['a', 'b'])
    """
    events = events.lazy()
    users = _counts(events, "user")
    if users.is_empty():
        raise UserError(f"{source}: holds no interactions")
    lengths = users["len"].to_numpy().astype(np.int64)
    ids = {"user": users["user"], "item": _counts(events, "item")["item"]}
    del users
    clock = _clock(events) if "time" in events.collect_schema() else None
    items, when = _by_user(events, ids, clock, lengths)
    repeated, lengths = _order(items, when, lengths, repeats)
    if not times:
        when = None
    notes: list[str] = []
    if repeated:
        which = f"{repeated:,} repeated interactions of a user with an item"
        notes.append(f"kept {which}" if repeats else f"dropped {which}; the earliest are kept")
    items = items[: lengths.sum()]
    when = None if when is None else when[: items.size]
    user_ids, item_ids = ids["user"].to_numpy(), ids["item"].to_numpy()
    if core > 1:
        owners = np.repeat(np.arange(lengths.size), lengths)
        kept = k_core(owners, items, core)
        if kept.size < items.size:
            removed = [
                numbered.size - np.unique(codes[kept]).size
                for numbered, codes in ((user_ids, owners), (item_ids, items))
            ]
            notes.append(
                f"removed {removed[0]:,} users and {removed[1]:,} items of fewer than {core} "
                f"interactions ({items.size - kept.size:,} interactions)"
            )
        if not kept.size:
            raise UserError(
                f"{source}: holds {items.size:,} interactions, and none is left when users and "
                f"items of fewer than {core} are removed; expected the whole data set"
            )
        items = items[kept]
        when = None if when is None else when[kept]
        some, lengths = np.unique(owners[kept], return_counts=True)
        user_ids = user_ids[some]
    data = from_sequences(
        name,
        items,
        lengths,
        item_ids,
        source=source,
        user_ids=user_ids,
        least=least,
        times=None if when is None or clock is None else _values(clock.read(when), source),
    )
    return dataclasses.replace(data, notes=(*notes, *data.notes))


DENSE = 4
"""Integer ids that reach over at most so many times their number are looked up in a table."""


PARTS = 4
"""Ids are counted in so many parts. Counting needs some 100 bytes for each different integer, and
350 for each text, which is more than all that is kept of the events."""


def _counts(events: pl.LazyFrame, column: str) -> pl.DataFrame:
    """Counts the different values of a column: columns of its name and ``len``, sorted by value."""
    counts = [
        events.filter(pl.col(column).hash() % PARTS == part)
        .group_by(column)
        .len()
        .collect(engine="streaming")
        for part in range(PARTS)
    ]
    return pl.concat(counts).sort(column)


class _Clock(NamedTuple):
    """Numbers for times, that sort as they do.

    Attributes:
        tell: returns the numbers of times.
        read: returns the times of numbers.
        kind: of the numbers.
    """

    tell: Callable[[pl.Series], np.ndarray]
    read: Callable[[np.ndarray], pl.Series]
    kind: np.dtype


def _by_user(
    events: pl.LazyFrame,
    ids: Mapping[str, pl.Series],
    clock: _Clock | None,
    lengths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Gathers the events of each user, in the order in which they come.

    Args:
        events: columns ``user`` and ``item``, and maybe ``time``.
        ids: the different users and items, sorted.
        clock: that of the times, if there are any.
        lengths: ``int64[users]``, the events of each user.

    Returns:
        ``int32[events]``, the positions of items in ``ids``, one user after the other; and the
        times, or numbers that sort as they do. ``None`` without times.
    """
    code = {column: _coder(values) for column, values in ids.items()}
    items = np.empty(lengths.sum(), np.int32)
    times = None if clock is None else np.empty(items.size, clock.kind)
    places = np.cumsum(lengths) - lengths  # of each user's next event
    for batch in events.collect_batches(chunk_size=AT_ONCE, maintain_order=True):
        users = code["user"](batch["user"])
        order = np.argsort(users, kind="stable")
        users = users[order]
        firsts = np.flatnonzero(np.diff(users, prepend=-1))
        counts = np.diff(firsts, append=users.size)
        who = users[firsts]
        place = np.repeat(places[who] - firsts, counts) + np.arange(users.size)
        items[place] = code["item"](batch["item"])[order]
        if times is not None and clock is not None:
            times[place] = clock.tell(batch["time"])[order]
        places[who] += counts
    if not np.array_equal(places, np.cumsum(lengths)):
        raise ValueError("the events changed while they were read")
    return items, times


def _clock(events: pl.LazyFrame) -> _Clock:
    """Makes the clock of the column ``time``."""
    times = pl.col("time")
    kind = events.collect_schema()["time"]
    if isinstance(kind, pl.Decimal | pl.String) or str(kind).endswith("128"):
        different = _counts(events, "time")["time"]
        return _Clock(_coder(different), different.gather, np.dtype(np.int32))
    if kind.is_float():
        numbers = pl.Series([], dtype=kind).to_numpy().dtype
        return _Clock(pl.Series.to_numpy, pl.Series, numbers)
    ends = events.select(times.to_physical().min(), times.to_physical().max().alias("last"))
    first, last = ends.collect(engine="streaming").row(0)
    # Seconds since the first event have half the bytes. Differences of 64-bit integers are right in
    # unsigned ones, even past their ends.
    start = np.uint64(first % 2**64)
    since = np.dtype(np.uint32 if last - first < 2**32 else np.uint64)
    physical = pl.Series([], dtype=kind).to_physical().dtype

    def tell(values: pl.Series) -> np.ndarray:
        numbers = values.to_physical().to_numpy().astype(np.int64)
        return (numbers.view(np.uint64) - start).astype(since)

    def read(numbers: np.ndarray) -> pl.Series:
        whole = numbers.astype(np.uint64) + start
        own = whole if physical == pl.UInt64 else whole.view(np.int64)
        return pl.Series(own).cast(physical).cast(kind)

    return _Clock(tell, read, since)


def _coder(ids: pl.Series) -> Callable[[pl.Series], np.ndarray]:
    """Makes the function that finds the positions of values among sorted ``ids``, as ``int32``."""
    if not ids.dtype.is_integer() or str(ids.dtype).endswith("128"):  # NumPy has no such type
        return _coder_of_text(ids.cast(pl.String))
    numbers = ids.to_numpy()
    low, high = int(numbers[0]), int(numbers[-1])
    if high - low > DENSE * ids.len() or max(-low, high) >= 2**62:
        return lambda values: _search(numbers, values.to_numpy())
    table = np.zeros(high - low + 1, np.int32)
    table[numbers.astype(np.int64) - low] = np.arange(ids.len())
    return lambda values: table[values.to_numpy().astype(np.int64) - low]


def _coder_of_text(ids: pl.Series) -> Callable[[pl.Series], np.ndarray]:
    # By hashes, since a dictionary of long texts would need more memory than the events.
    seed, hashes = 0, ids.hash(0).to_numpy()
    while np.unique(hashes).size < ids.len():
        seed += 1
        hashes = ids.hash(seed).to_numpy()
    order = np.argsort(hashes).astype(np.int32)
    hashes = hashes[order]
    return lambda values: order[_search(hashes, values.cast(pl.String).hash(seed).to_numpy())]


def _search(numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Finds the positions of numbers among sorted ones, as ``int32``."""
    # In order, since a search next to the one before finds its numbers in the processor's cache.
    order = np.argsort(wanted)
    positions = np.empty(wanted.size, np.int32)
    positions[order] = np.searchsorted(numbers, wanted[order])
    return positions


def _order(
    items: np.ndarray, times: np.ndarray | None, lengths: np.ndarray, repeats: bool
) -> tuple[int, np.ndarray]:
    """Orders each user's items, and their times, by time, in place.

    Args:
        items: ``int32[events]``, one user after the other.
        times: ``[events]``; ``None`` if the items are in order.
        lengths: ``int64[users]``, the events of each user.
        repeats: whether a user's later events with the same item stay, or are left out.

    Returns:
        The number of such events, and the lengths of what is left, which begins ``items``.
    """
    left, end, repeated = lengths.copy(), 0, 0
    for users, part in pieces(lengths):
        own, owners = items[part], np.repeat(np.arange(users.stop - users.start), lengths[users])
        time = None if times is None else times[part]
        if time is not None and ((time[1:] < time[:-1]) & (owners[1:] == owners[:-1])).any():
            order = np.lexsort((time, owners))
            own, time = own[order], time[order]
        pairs = owners << 32 | own
        if repeats:
            pairs.sort()
            repeated += int((pairs[1:] == pairs[:-1]).sum())
        else:
            first = np.sort(np.unique(pairs, return_index=True)[1])
            repeated += own.size - first.size
            own, time = own[first], None if time is None else time[first]
            left[users] = np.bincount(owners[first], minlength=left[users].size)
        items[end : end + own.size] = own
        if times is not None:
            times[end : end + own.size] = time
        end += own.size
    return repeated, left


def _values(times: pl.Series, source: Path) -> np.ndarray:
    """Returns times as numbers or, from dates, as ``datetime64`` in UTC."""
    if times.dtype == pl.String:
        texts = pl.lit(times).str
        formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
        read = [texts.to_datetime(own, time_unit="us", strict=False) for own in formats]
        dates = pl.select(pl.coalesce(read)).to_series()
        if dates.null_count():
            wrong = times.filter(dates.is_null())[0]
            raise UserError(f"{source}: found the time {wrong!r}, which is on no calendar")
        times = dates
    if times.dtype.is_temporal():
        return times.dt.epoch("us").to_numpy().astype("datetime64[us]")
    exact = times.dtype.is_integer() and times.dtype != pl.Int128
    return (times if exact else times.cast(pl.Float64)).to_numpy()
