"""Reads runs of ids, such as users' sequences of items, in all the forms that builders accept.

The result is always one flat array of ids and the length of each run. Padding and masked values are
gone from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from sevo_jax._checks import check_choice, check_count
from sevo_jax._frames import is_frame, is_list_column, runs_of, sequences_of

Padding = int | Literal["refuse"] | None
Ragged = Any
"""Runs of ids: lists, arrays, a column of lists, or, beside lengths, one flat array."""


def interactions(
    frame: Any,
    user: str | None,
    item: str | None,
    time: str | None,
    lengths: ArrayLike | None,
    padding: Padding,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the sequences of a data frame as one flat array and the length of each."""
    if user is None or item is None:
        raise TypeError(
            f"user and item must both name a column, got user={user!r} and item={item!r}"
        )
    if not is_frame(frame):
        raise TypeError(
            "user, item and time name the columns of a data frame, got "
            f"{type(frame).__name__}; without them sequences are lists or arrays"
        )
    if lengths is not None or padding != "refuse":
        raise TypeError("lengths and padding are not for a data frame; leave them out")
    return sequences_of(frame, user, item, time)


def ragged(
    name: str, runs: Any, lengths: ArrayLike | None, padding: Padding
) -> tuple[np.ndarray, np.ndarray]:
    """Reads runs of ids in any accepted form as one flat array and the length of each run."""
    if is_frame(runs):
        advice = (
            'name its columns, as in sequence_graph(frame, num_nodes, user="user", item="item", '
            'time="time"), or pass one column of lists'
            if name == "sequences"
            else "pass its column of lists, the nodes of each category"
        )
        raise TypeError(f"{name} must not be a bare {type(runs).__name__}; {advice}")
    values, counts = _joined(name, runs, lengths)
    absent = np.ma.getmaskarray(values) if np.ma.is_masked(values) else None
    values = np.asarray(values)
    if isinstance(padding, str):
        check_choice("padding", padding, Literal["refuse"])
        if getattr(runs, "ndim", 1) == 2 and absent is None and values.size:
            edges = values.reshape(counts.size, -1)[:, [0, -1]]
            rows = np.flatnonzero((edges == 0).any(axis=1))
            if rows.size:
                raise ValueError(
                    f"{name}: row {rows[0]} of the array begins or ends with 0, which may be "
                    "padding or an item; write padding=0 if it is padding, padding=None if 0 is "
                    "an item"
                )
    elif padding is not None:
        padded = values == check_count("padding", padding, least=-(2**63))
        absent = padded if absent is None else absent | padded
    return (values, counts) if absent is None else _unpadded(name, values, counts, absent)


def _unpadded(
    name: str, values: np.ndarray, counts: np.ndarray, absent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Takes absent values off the beginnings and ends of runs; elsewhere they are an error."""
    ends = np.cumsum(counts)
    where = np.flatnonzero(absent)
    run = np.searchsorted(ends, where, side="right")
    present = np.concatenate([[0], np.cumsum(~absent)])
    before = present[where] - present[ends[run] - counts[run]]
    after = present[ends[run]] - present[where]
    between = np.flatnonzero((before > 0) & (after > 0))
    if between.size:
        raise ValueError(
            f"{name}: padding or a masked value stands between two ids at position "
            f"{run[between[0]]}; only the beginning and the end of a run can be padded"
        )
    return values[~absent], counts - np.bincount(run, minlength=counts.size)


def _joined(name: str, runs: Any, lengths: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Joins runs into one array, a masked one if a run is, and counts their lengths."""
    if lengths is not None:
        counts = np.asarray(lengths)
        if counts.ndim != 1 or (counts.size and not np.issubdtype(counts.dtype, np.integer)):
            raise TypeError(f"lengths must be int[users], got {counts.dtype}{list(counts.shape)}")
        values, counts = np.asanyarray(runs), counts.astype(np.int64)
        if counts.size and counts.min() < 0:
            raise ValueError(f"lengths must not be negative, got {counts.min()}")
        if counts.sum() != values.size:
            raise ValueError(
                f"lengths must add up to the {values.size} items given, got {counts.sum()}"
            )
        return values, counts
    if is_list_column(runs):
        return runs_of(name, runs)
    if hasattr(runs, "explode") and hasattr(runs, "list"):  # a column of Polars
        if hasattr(runs.dtype, "size"):  # fixed-size lists
            runs = runs.arr.to_list()
        counts = runs.list.len().fill_null(0).to_numpy().astype(np.int64)
        flat = runs.explode().drop_nulls().to_numpy()
        if flat.size != counts.sum():
            raise ValueError(f"{name} must not hold nulls, got {counts.sum() - flat.size}")
        return flat, counts
    if getattr(runs, "ndim", 0) == 2 and hasattr(runs, "__array__"):
        array = np.asanyarray(runs)
        return array.reshape(-1), np.full(array.shape[0], array.shape[1], np.int64)
    if not isinstance(runs, Iterable):
        raise TypeError(f"{name} must be a sequence of arrays of ids, got {type(runs).__name__}")
    if isinstance(runs, Mapping):
        runs = list(runs.values())
    arrays = [_array(name, i, run) for i, run in enumerate(runs)]
    flat = [i for i, array in enumerate(arrays) if array.ndim != 1]
    if flat:
        raise TypeError(
            f"{name} must be a sequence of arrays of ids, got {arrays[flat[0]]!r} at position "
            f"{flat[0]}; a flat array of ids needs the length of each run"
        )
    counts = np.array([array.size for array in arrays], np.int64)
    arrays = [array for array in arrays if array.size]
    if not arrays:
        return np.zeros(0, np.int64), counts
    masked = any(isinstance(array, np.ma.MaskedArray) for array in arrays)
    return (np.ma.concatenate if masked else np.concatenate)(arrays), counts


def _array(name: str, position: int, run: Any) -> np.ndarray:
    """One run of ids; none at all for None."""
    if isinstance(run, Set):
        raise TypeError(
            f"{name} must be a sequence of arrays of ids, got a set at position {position}; write "
            "sorted(...)"
        )
    try:
        return np.asanyarray(() if run is None else run)
    except ValueError as error:  # lists of different lengths
        raise TypeError(
            f"{name} must be a sequence of arrays of ids, got {str(run)[:60]!r} at position "
            f"{position}, which is not flat; of pandas' groups pass groups.apply(list)"
        ) from error
