"""Files of a user's own: tables of users, items and times, or lines of ``user item item …``."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import polars as pl

from experiments.data.events import (
    check_complete,
    first_line,
    from_events,
    without_blank_lines,
)
from experiments.data.interactions import Interactions
from experiments.errors import UserError

COLUMNS = {
    "user": ("user", "userid", "uid", "reviewerid", "reviewer", "customerid"),
    "item": ("item", "itemid", "iid", "asin", "movieid", "productid"),
    "time": ("timestamp", "unixreviewtime", "time", "ts", "datetime", "date"),
}
"""The names that are understood, preferred ones first; case, ``_`` and the like do not matter."""

TEXT_TABLES: dict[str, dict[str, Any]] = {
    ".csv": {},
    ".tsv": {"separator": "\t"},
    ".inter": {"separator": "\t", "quote_char": None},
}

ISO_DATE = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"( ([01]\d|2[0-3]):[0-5]\d(:([0-5]\d|60)(\.\d+)?)?)?$"
)


def is_text(path: Path) -> bool:
    """Whether a file is none of these, but lines of ``user item item …``."""
    return path.suffix.lower() not in (*TEXT_TABLES, ".parquet")


def read_file(path: Path) -> Interactions:
    """Reads ``.csv``, ``.tsv``, ``.parquet`` and RecBole's ``.inter`` by columns.

    The columns of users, items and times are recognised by their names (`COLUMNS`). Ids are
    integers or strings; times are numbers or ISO dates. Without times, the order is the file's.

    Raises:
        UserError: the file cannot be read, lacks a column or a value, or no user has 3 events.
    """
    suffix = path.suffix.lower()
    try:
        path.open("rb").close()  # says why it cannot be read better than Polars does
        if suffix == ".parquet":
            table = pl.scan_parquet(path, glob=False)
        else:
            # as strings, since 0000031887 is an id of Amazon's
            table = pl.scan_csv(path, glob=False, infer_schema=False, **TEXT_TABLES[suffix])
        found = _find_columns(table.collect_schema().names(), path)
        events = table.select(found.values()).collect()
        if suffix != ".parquet":  # where an empty string in quotes is no value, either
            events = without_blank_lines(events.with_columns(pl.all().replace("", None)))
        if events.is_empty():
            raise UserError(f"{path}: holds no interactions; expected one a row")
        check_complete(events, path, "row")
        events = events.select(
            (_times if column == "time" else _ids)(events[name].alias(column), path)
            for column, name in found.items()
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{path}: is no {suffix[1:]} table that can be read ({first_line(error)})"
        ) from error
    data = from_events(path.stem, events, path)
    if "time" in found:
        return data
    note = f"{path}: has no column of times; each user's items are in the file's order"
    return dataclasses.replace(data, notes=(note, *data.notes))


def _find_columns(names: list[str], path: Path) -> dict[str, str]:
    """The file's name of each of `COLUMNS`."""
    plain = {re.sub(r"[\W_]", "", name.split(":")[0]).lower(): name for name in reversed(names)}
    found = {
        column: next((plain[name] for name in known if name in plain), None)
        for column, known in COLUMNS.items()
    }
    for column in ("user", "item"):
        if found[column] is None:
            raise UserError(
                f"{path}: found columns {', '.join(names)[:200]}; expected one of {column}s, "
                f"called {' or '.join(COLUMNS[column])}"
            )
    return {column: name for column, name in found.items() if name is not None}


def _ids(ids: pl.Series, path: Path) -> pl.Series:
    """Integers where all are written as such (so that 10 comes after 2), else strings."""
    if ids.dtype.is_nested():
        raise UserError(f"{path}: found ids of type {ids.dtype}; expected integers or strings")
    if ids.dtype.is_integer() and not str(ids.dtype).endswith("128"):  # NumPy has none such
        return ids
    ids = ids.cast(pl.String)
    numbers = ids.cast(pl.Int64, strict=False)
    return numbers if numbers.cast(pl.String).eq_missing(ids).all() else ids


def _times(times: pl.Series, path: Path) -> pl.Series:
    """Numbers, moments, or ISO dates as strings, which sort as they are."""
    if times.dtype == pl.String:
        dates = pl.lit(times.str.replace("T", " ").str.strip_suffix("Z"))
        readings = [
            times.cast(pl.Int64, strict=False),
            times.cast(pl.Float64, strict=False),
            pl.select(pl.when(dates.str.contains(ISO_DATE)).then(dates)).to_series(),
        ]
        times_read = min(readings, key=pl.Series.null_count)
    elif times.dtype.is_numeric() or isinstance(times.dtype, pl.Date | pl.Datetime):
        times_read = times
    else:
        raise UserError(f"{path}: found times of type {times.dtype}; expected numbers or dates")
    wrong = times_read.is_null()
    if times_read.dtype.is_float():
        wrong |= times_read.is_nan()
    if wrong.any():
        row = wrong.arg_true()[0]
        raise UserError(
            f"{path}, row {row + 1}: found the time {str(times[row])[:40]!r}; expected a number or "
            "an ISO date such as 2014-05-12 10:00:00, and the same in every row"
        )
    return times_read
