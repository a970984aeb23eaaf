"""Conversion of events (a user, an item, maybe a time) in any order to `Interactions`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from experiments.data.interactions import MIN_INTERACTIONS, Interactions, from_sequences
from experiments.errors import UserError


def check_complete(events: pl.DataFrame, path: Path, what: str, first: int = 1) -> None:
    """Raises a `UserError` that names the first event with a missing value, if there is one.

    Args:
        events: the events, in which every column must be filled.
        path: the file they come from.
        what: the word for an event in the message, such as ``"row"``.
        first: the number of the first event.

    Raises:
        UserError: a value is missing.
    """
    missing = events.select(pl.any_horizontal(pl.all().is_null())).to_series().arg_true()
    if missing.len():
        raise UserError(
            f"{path}, {what} {first + missing[0]}: found {events.row(missing[0], named=True)}; "
            f"expected {', '.join(events.columns)} in every {what}"
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
    events: pl.DataFrame,
    source: Path,
    *,
    repeats: bool = True,
    core: int = 1,
    least: int = MIN_INTERACTIONS,
) -> Interactions:
    """Orders the events of each user by time, and numbers users and items by their sorted ids.

    Args:
        name: the name of the data set.
        events: columns ``user`` and ``item`` (integers or strings) and ``time``. Without ``time``,
            each user's events are in order already. Events of equal times keep their order.
        source: the file, for messages.
        repeats: whether to keep all of a user's interactions with the same item, or the first only.
        core: the least interactions of a user and of an item; see `k_core`.
        least: the least interactions of a user who is kept.

    Raises:
        UserError: there are no events, or none is left.

    Examples:
        >>> events = pl.DataFrame({"user": list("bbbaaa"), "item": list("xyzxyz"),
        ...                        "time": [3, 1, 2, 1, 2, 3]})
        >>> data = from_events("small", events, Path("small.csv"))
        >>> data.items.tolist(), data.item_ids.tolist(), data.user_ids.tolist()
        ([1, 2, 3, 2, 3, 1], ['x', 'y', 'z'], ['a', 'b'])
    """
    if events.is_empty():
        raise UserError(f"{source}: holds no interactions")
    user_ids, item_ids = (events[column].unique().sort() for column in ("user", "item"))
    events = events.with_columns(_codes(events["user"], user_ids), _codes(events["item"], item_ids))
    order = ["user", "time"] if "time" in events.columns else ["user"]
    events = events.sort(order, maintain_order=True)
    notes: list[str] = []
    once = events.unique(["user", "item"], keep="first", maintain_order=True)
    repeated = events.height - once.height
    if repeated:
        which = f"{repeated:,} repeated interactions of a user with an item"
        notes.append(f"kept {which}" if repeats else f"dropped {which}; the earliest are kept")
    if not repeats:
        events = once
    users, items = (events[column].to_numpy() for column in ("user", "item"))
    kept = k_core(users, items, core)
    if kept.size < users.size:
        removed = [
            ids.len() - np.unique(codes[kept]).size
            for ids, codes in ((user_ids, users), (item_ids, items))
        ]
        notes.append(
            f"removed {removed[0]:,} users and {removed[1]:,} items of fewer than {core} "
            f"interactions ({users.size - kept.size:,} interactions)"
        )
    if not kept.size:
        raise UserError(
            f"{source}: holds {users.size:,} interactions, and none is left when users and items "
            f"of fewer than {core} are removed; expected the whole data set"
        )
    # Events are sorted by user, so lengths follow the order of the items.
    codes, lengths = np.unique(users[kept], return_counts=True)
    data = from_sequences(
        name,
        items[kept],
        lengths,
        item_ids.to_numpy(),
        source=source,
        user_ids=user_ids.to_numpy()[codes],
        least=least,
    )
    return dataclasses.replace(data, notes=(*notes, *data.notes))


def _codes(values: pl.Series, ids: pl.Series) -> pl.Series:
    """Finds the position of each value in ``ids``."""
    # Polars' Enum is several times as fast as ranks.
    return values.cast(pl.String).cast(pl.Enum(ids.cast(pl.String))).to_physical()
