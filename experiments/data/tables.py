"""Readers of a user's own files, in which each row has a user, an item and maybe a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from experiments.data.columns import TEXT_TABLES, first_row, kind_of, scan_columns
from experiments.data.events import first_line, from_events
from experiments.data.interactions import MIN_INTERACTIONS, Interactions
from experiments.errors import UserError

COLUMNS = {
    "user": ("user", "userid", "uid", "reviewerid", "reviewer", "customerid"),
    "item": ("item", "itemid", "iid", "asin", "movieid", "productid"),
    "time": ("timestamp", "unixreviewtime", "time", "ts", "datetime", "date"),
}
"""Names of columns that are recognised, preferred ones first. Case and punctuation are ignored."""

ISO_DATE = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"( ([01]\d|2[0-3]):[0-5]\d(:([0-5]\d|60)(\.\d+)?)?)?$"
)


def name_of(path: Path) -> str:
    """Returns the name of a data set: its file's name without the ending.

    Examples:
        >>> name_of(Path("logs/shop.csv.gz")), name_of(Path("logs/shop.v2.csv"))
        ('shop', 'shop.v2')
    """
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def is_text(path: Path) -> bool:
    """Tells whether a file, by its name, has lines of ``user item item …``."""
    return kind_of(path) not in (*TEXT_TABLES, ".parquet")


def read_file(path: Path, least: int = MIN_INTERACTIONS, *, times: bool = False) -> Interactions:
    """Reads a ``.csv``, ``.tsv`` or ``.parquet`` file, or RecBole's ``.inter``.

    The columns of users, items and times are recognised by their names (`COLUMNS`). Ids are
    integers or strings; times are numbers or ISO dates. Without times, each user's items are in the
    order of the file. All but ``.parquet`` may be gzipped.

    Args:
        path: the file.
        least: the least interactions of a user who is kept.
        times: whether to keep the times, if there are any.

    Raises:
        UserError: the file cannot be read, lacks a column or a value, has a row of more fields than
            its first line, or no user has that many events.
    """
    with scan_columns(path, COLUMNS, ("user", "item")) as (events, notes):
        whole = _whole(events)
        typed = [_ids(events, column, path, whole) for column in ("user", "item")]
        if timed := "time" in events.collect_schema():
            typed.append(_times(events, path, whole))
        events = events.select(typed)
        data = from_events(name_of(path), events, path, least=least, times=times)
    if not timed:
        notes = (
            f"{path}: has no column of times; each user's items are in the file's order",
            *notes,
        )
    return dataclasses.replace(data, notes=(*notes, *data.notes))


def _whole(events: pl.LazyFrame) -> dict[str, bool]:
    """Tells of each column of text whether it has integers alone: all columns in one pass."""
    tests: dict[str, pl.Expr] = {}
    for column, dtype in events.collect_schema().items():
        text = pl.col(column)
        if dtype == pl.String and column == "time":
            tests[column] = _readings(text)[0].is_not_null().all()
        elif dtype == pl.String:
            tests[column] = _is_whole(text).all()
    return events.select(**tests).collect(engine="streaming").row(0, named=True) if tests else {}


def _is_whole(text: pl.Expr) -> pl.Expr:
    return text.cast(pl.Int64, strict=False).cast(pl.String).eq_missing(text)


def _ids(events: pl.LazyFrame, column: str, path: Path, whole: Mapping[str, bool]) -> pl.Expr:
    """Converts ids to integers if all are written as integers, else to strings."""
    # Integers, since ids are numbered in sorted order, in which 10 should come after 2.
    ids, dtype = pl.col(column), events.collect_schema()[column]
    if dtype.is_nested():
        raise UserError(f"{path}: found ids of type {dtype}; expected integers or strings")
    if dtype.is_integer() and not str(dtype).endswith("128"):  # NumPy has no such type
        return ids
    if dtype.is_float() and (wrong := first_row(events, column, ~ids.is_finite())):
        raise UserError(
            f"{path}, row {wrong[0]}: found the {column} {wrong[1]}; expected an id, an integer "
            "or a string"
        )
    text = ids.cast(pl.String)
    try:
        is_whole = whole[column] if column in whole else _all(events, _is_whole(text))
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{path}: found {column}s that are no text ({first_line(error)}); expected integers "
            "or strings"
        ) from error
    return text.cast(pl.Int64) if is_whole else text


def _times(events: pl.LazyFrame, path: Path, whole: Mapping[str, bool]) -> pl.Expr:
    """Converts times to values that sort: numbers, dates, or ISO dates as strings."""
    times, dtype = pl.col("time"), events.collect_schema()["time"]
    if dtype == pl.String:
        readings = _readings(times)
        if whole["time"]:
            return readings[0]
        nulls = events.select(
            reading.is_null().sum().alias(str(i)) for i, reading in enumerate(readings)
        )
        counts = nulls.collect(engine="streaming").row(0)
        times = readings[counts.index(min(counts))]
    elif not dtype.is_numeric() and not isinstance(dtype, pl.Date | pl.Datetime):
        raise UserError(f"{path}: found times of type {dtype}; expected numbers or dates")
    if dtype.is_integer():
        return times
    wrong = times.is_null()
    if events.select(times).collect_schema()["time"].is_float():
        wrong |= times.is_nan()
    if found := first_row(events, "time", wrong):
        raise UserError(
            f"{path}, row {found[0]}: found the time {str(found[1])[:40]!r}; expected a number or "
            "an ISO date such as 2014-05-12 10:00:00, and the same in every row"
        )
    return times


def _readings(times: pl.Expr) -> list[pl.Expr]:
    """Reads text as numbers and as dates, null where it is none; exact numbers come first."""
    times = times.str.strip_chars(" ")
    numbers = (pl.Int64, pl.Int128, pl.Decimal(38, 19), pl.Float64)
    dates = times.str.replace("T", " ").str.strip_suffix("Z")
    return [
        *(times.cast(kind, strict=False) for kind in numbers),
        pl.when(dates.str.contains(ISO_DATE)).then(dates),
    ]


def _all(events: pl.LazyFrame, condition: pl.Expr) -> bool:
    return events.select(condition.all()).collect(engine="streaming").item()
