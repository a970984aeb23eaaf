"""Splits other than leave-one-out: the last items of each user, or all interactions from a time on.

Whatever the split, the items that a user trains on come first and those that test come last.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Any

import numpy as np

from experiments.data.interactions import Interactions
from experiments.errors import ArgumentError, UserError


def split_last(data: Interactions, n: int) -> Interactions:
    """Holds out each user's last ``n`` items as test items, and the ``n`` before them to validate.

    Users of fewer than ``2 n + 1`` items train alone.

    Raises:
        ArgumentError: all users have too few items.

    Examples:
        >>> from experiments.data.interactions import from_sequences
        >>> data = split_last(from_sequences("small", np.arange(8), np.array([5, 3])), 2)
        >>> data.held_out.tolist(), data.training_part().tolist()
        ([[2, 0], [2, 0]], [True, False, False, False, False, True, True, True])
    """
    enough = data.lengths >= 2 * n + 1
    if not enough.any():
        longest = int(data.lengths.max())
        raise ArgumentError(
            "last_n",
            f"{n} needs users of {2 * n + 1} interactions or more, and no user of {data.name} has "
            f"more than {longest}; take at most {(longest - 1) // 2} (1 is leave-one-out)",
        )
    note = (
        f"split last-n: the last {n} items of {enough.sum():,} users test, the {n} before them "
        f"validate; {(~enough).sum():,} users of fewer than {2 * n + 1} interactions train alone"
    )
    held_out = np.where(enough, n, 0)
    return dataclasses.replace(
        data, held_out=np.stack([held_out, held_out]), notes=(*data.notes, note)
    )


def split_time(data: Interactions, valid_from: str, test_from: str) -> Interactions:
    """Holds out what is later: from ``valid_from`` on it validates, from ``test_from`` on it tests.

    Args:
        data: data with times.
        valid_from: a number, or a date if the times are dates.
        test_from: a later one.

    Raises:
        UserError: there are no times, ``valid_from`` or ``test_from`` is no time, nothing is left
            to train on or to rank, or an interaction that trains is later than one held out.
    """
    if data.times is None:
        raise ArgumentError(
            "split",
            f"time needs the time of each interaction, and {data.name} has none; expected a table "
            "with a column of times, or the raw file of a named data set",
        )
    first, second = (
        _read(name, text, data)
        for name, text in (("valid_from", valid_from), ("test_from", test_from))
    )
    if not first < second:
        raise ArgumentError("test_from", f"must be after {valid_from}, got {test_from}")
    late, latest = (
        np.bincount(data.owners[data.times >= cut], minlength=data.num_users)
        for cut in (first, second)
    )
    held_out = np.stack([late - latest, latest])
    train, valid = data.lengths - late, data.lengths - latest
    tested = int(((valid > 0) & (latest > 0)).sum())
    validated = int(((train > 0) & (late > latest)).sum())
    for name, users in (("valid_from", validated), ("test_from", tested)):
        if not users:
            raise ArgumentError(
                name,
                f"no user has an interaction there and another before it; the times of {data.name} "
                f"go {_range(data)}",
            )
    zone = " (in UTC, where no offset is written)" if data.times.dtype.kind == "M" else ""
    note = (
        f"split time: {train.sum():,} interactions before {valid_from} train, "
        f"{(late - latest).sum():,} before {test_from} validate, {latest.sum():,} test{zone}; "
        "verified: none that trains is later than one held out; "
        f"{int((latest > 0).sum()) - tested:,} users are not ranked, as all their interactions test"
    )
    divided = dataclasses.replace(data, held_out=held_out, notes=(*data.notes, note))
    _check_leakage(divided, data.times)
    return divided


def _check_leakage(data: Interactions, times: np.ndarray) -> None:
    """Raises a `UserError` if what is read for a rank is later than anything that is sought."""
    place = np.arange(times.size)
    ends = [np.repeat(end, data.lengths) for end in data.ends]
    for known in (place < end for end in ends[:2]):
        if known.any() and times[known].max() >= times[~known].min():
            raise UserError(
                f"{data.name}: an interaction at {times[known].max()} comes before one at "
                f"{times[~known].min()} that is held out; expected each user's items in order of "
                "time"
            )


def _read(name: str, text: str, data: Interactions) -> Any:
    times: Any = data.times
    try:
        if times.dtype.kind == "M":
            if not re.match(r"\d{4}-\d\d-\d\d", text.strip()):
                raise ValueError(text)  # else 14080101 would be a day of the year 1408
            read = datetime.datetime.fromisoformat(text.strip())
            if read.tzinfo is not None:
                read = read.astimezone(datetime.UTC).replace(tzinfo=None)
            value, wrong = np.datetime64(read, "us"), False
        else:
            value = int(text) if text.strip().lstrip("-").isdigit() else float(text)
            wrong = not np.isfinite(value)
    except (ValueError, OverflowError):
        value, wrong = None, True
    if wrong:
        raise ArgumentError(
            name,
            f"got {text!r}; expected a time as {data.name} has them, {_range(data)}"
            + ("; a date such as 2014-08-01 is one of UTC" if times.dtype.kind == "M" else ""),
        )
    return value


def _range(data: Interactions) -> str:
    times: Any = data.times
    return f"from {times.min()} to {times.max()}"
