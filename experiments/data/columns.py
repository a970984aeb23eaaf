"""Columns of a table file that are recognised by their names, found and checked."""

from __future__ import annotations

import contextlib
import csv
import re
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from experiments.data.events import ROW, check_complete, first_line
from experiments.data.reading import check_encoding, open_text
from experiments.errors import UserError

TEXT_TABLES: dict[str, dict[str, Any]] = {
    ".csv": {},
    ".tsv": {"separator": "\t"},
    ".inter": {"separator": "\t", "quote_char": None},
}

# If Polars parses only some columns, it does not notice rows with more or fewer fields than the
# header, and reads their fields into the wrong columns.
ALL_COLUMNS = pl.QueryOptFlags(projection_pushdown=False)
NO_LAST = "no last field"
"""Our own column: whether the last field of a row is empty. No known column is called like it."""

TEXTS = (pl.String, pl.Categorical, pl.Enum)
"""The types of columns whose values are text."""

FULL = ("No space left", "File too large", "quota exceeded")
"""Parts of the operating system's messages about a folder that takes no more."""


def kind_of(path: Path) -> str:
    """Returns the ending of a file's name; of a gzipped file, the ending before ``.gz``."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


def read_columns(
    path: Path, known: Mapping[str, tuple[str, ...]], needed: tuple[str, ...]
) -> pl.DataFrame:
    """Reads what `scan_columns` finds."""
    with scan_columns(path, known, needed) as (events, _):
        return events.collect(engine="streaming")


@contextlib.contextmanager
def scan_columns(
    path: Path, known: Mapping[str, tuple[str, ...]], needed: tuple[str, ...]
) -> Generator[tuple[pl.LazyFrame, tuple[str, ...]]]:
    """Finds and checks the columns of a file that are recognised by their names.

    Text is parsed once, into a temporary Parquet file, which is read faster and within less memory
    as often as its columns are needed. Text is not converted to numbers: Amazon has ids such as
    0000031887.

    Args:
        path: a ``.parquet`` file, or one of `TEXT_TABLES`, maybe gzipped.
        known: for each column, the names that it may have in the file, preferred ones first.
        needed: the columns that must be there.

    Yields:
        The columns, to be read in batches, in which no value is missing; and notes on the rows.

    Raises:
        UserError: the file cannot be read, lacks a column or a value, has a row of more fields than
            its first line, or changes meanwhile; or there is no space for temporary files.
    """
    before = _stamp(path)
    try:
        with contextlib.nullcontext("") if kind_of(path) == ".parquet" else _folder() as folder:
            yield _scan(path, Path(folder), known, needed)
    finally:
        if before and before != _stamp(path):
            raise UserError(f"{path}: changed while it was read; read it when nothing writes to it")


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="sevo-jax-")
    except OSError as error:
        raise UserError(f"{error.strerror or error}; set TMPDIR to a folder with space") from error


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:  # opening it explains why
        return None
    return stat.st_size, stat.st_mtime_ns


def _scan(
    path: Path, folder: Path, known: Mapping[str, tuple[str, ...]], needed: tuple[str, ...]
) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """Opens the columns of a Parquet file; copies those of text to ``folder``, and opens that."""
    kind = kind_of(path)
    is_parquet = kind == ".parquet"
    notes: tuple[str, ...] = ()
    names: list[str] = []
    try:
        path.open("rb").close()  # its error explains more than that of Polars
        if is_parquet:
            table = pl.scan_parquet(path, glob=False)
        else:
            check_encoding(path)
            table = pl.scan_csv(path, glob=False, infer_schema=False, **TEXT_TABLES[kind])
        names = table.collect_schema().names()
        if not is_parquet and "\r" in "".join(names):
            raise UserError(
                f"{path}: its lines end with a carriage return alone; write "
                f"tr '\\r' '\\n' < {path.name} > lines-{path.name}"
            )
        found = _find_columns(names, path, known, needed)
        read = pl.col(found.values())
        events, suspicious = table, pl.any_horizontal(read.is_null().any())
        if not is_parquet:
            events = _copied(table, list(found.values()), folder)
            separator = TEXT_TABLES[kind].get("separator", ",")
            suspicious |= pl.col(NO_LAST).any() | pl.any_horizontal(
                _swallowed(read, separator).any()
            )
        padded = _padded(events, [name for column, name in found.items() if column != "time"])
        checked = events.select(pl.len(), suspicious, padded.any()).collect(engine="streaming")
        count, suspect, has_padded = checked.row(0)
        if suspect and not is_parquet:
            notes = _check_rows(path, kind, names, found)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pl.exceptions.PolarsError as error:
        if "invalid utf-8" in str(error):
            raise UserError(
                f"{path}: is not UTF-8 text; save it so, or, if it is Latin-1, write "
                f"iconv -f LATIN1 -t UTF-8 {path.name} > utf8-{path.name}"
            ) from error
        if names and not is_parquet:
            _check_rows(path, kind, names, {})
        raise UserError(
            f"{path}: is no {kind[1:]} table that can be read ({first_line(error)})"
        ) from error
    if not count:
        raise UserError(f"{path}: holds no interactions; expected one a row")
    if has_padded:
        _refuse_padded(events, path, found)
    events = events.select(found.values())
    if suspect:
        check_complete(events, path, "row")
    return events.select(pl.col(name).alias(column) for column, name in found.items()), notes


def _copied(table: pl.LazyFrame, columns: list[str], folder: Path) -> pl.LazyFrame:
    """Copies columns of text, and `NO_LAST`, to a Parquet file, without blank lines; opens it."""
    copy = folder / "columns.parquet"
    names = table.collect_schema().names()
    # An empty string is a missing value, also in quotes. (`replace` would do the same, and hold the
    # whole file in memory.)
    values = [pl.when(pl.col(c) != "").then(pl.col(c)) for c in columns]
    last = pl.col(names[-1]).is_null().alias(NO_LAST)
    rows = table.filter(~pl.all_horizontal(pl.all().is_null())).select(*values, last)
    try:
        rows.sink_parquet(copy, compression="lz4", optimizations=ALL_COLUMNS)
    except pl.exceptions.PolarsError as error:
        if not any(full in str(error) for full in FULL):
            raise
        raise UserError(
            f"{folder.parent}: has no space for a copy of the columns ({first_line(error)}); set "
            "TMPDIR to a folder with more"
        ) from error
    return pl.scan_parquet(copy, glob=False)


def _swallowed(text: pl.Expr, separator: str) -> pl.Expr:
    """Marks fields that may hold the end of their row, as behind a stray quote."""
    return text.str.contains("\n") & text.str.contains(separator, literal=True)


def _padded(events: pl.LazyFrame, names: list[str]) -> pl.Expr:
    """Marks rows in which a text is empty, or begins or ends with white space."""
    schema = events.collect_schema()
    own = [name for name in names if isinstance(schema[name], TEXTS)]
    texts = [pl.col(name).cast(pl.String) for name in own]
    wrong = ((text == "") | (text != text.str.strip_chars()) for text in texts)
    return pl.any_horizontal(pl.lit(False), *wrong)


def _refuse_padded(events: pl.LazyFrame, path: Path, found: Mapping[str, str]) -> None:
    """Raises a `UserError` that names the first text with white space around it."""
    for column, name in found.items():
        if column == "time" or not (wrong := first_row(events, name, _padded(events, [name]))):
            continue
        row, text = wrong
        if not text.strip():
            raise UserError(
                f"{path}, row {row}: found an empty {column}; expected one in every row"
            )
        raise UserError(
            f"{path}, row {row}: found the {column} {text[:40]!r}, with white space around it; it "
            f"would be another than {text.strip()[:40]!r}: remove the white space"
        )


def _check_rows(
    path: Path, kind: str, names: list[str], found: Mapping[str, str]
) -> tuple[str, ...]:
    """Raises a `UserError` that names the first wrong line; returns a note if rows are short.

    It is slow, so it is only called once something seems wrong with the file.

    Args:
        path: the file.
        kind: a key of `TEXT_TABLES`.
        names: the names of all columns.
        found: the names of the columns that are read. Their fields may neither be missing nor
            hold the end of a row.

    Raises:
        UserError: a row has more fields than there are columns, or lacks one that is read, or a
            quote is open or stray.
    """
    places = {names.index(name): column for column, name in found.items()}
    separator = TEXT_TABLES[kind].get("separator", ",")
    short: list[int] = []
    for line, fields in _rows(path, kind):
        where = f"{path}, line {line}: found {', '.join(map(repr, fields))[:80]}"
        if len(fields) > len(names):
            raise UserError(
                f"{where}, which are {len(fields)} fields; expected {len(names)} as in the first "
                "line: a separator that belongs to a field needs quotes around the field"
            )
        broken = [
            column
            for place, column in places.items()
            if all(c in "".join(fields[place : place + 1]) for c in ("\n", separator))
        ]
        if broken:
            raise UserError(
                f"{where}, in which the {broken[0]} goes over several lines; expected it on one: "
                "is a quote stray, or not closed?"
            )
        missing = [column for place, column in places.items() if place >= len(fields)]
        if missing:
            raise UserError(
                f"{where}, which is {len(fields)} of the {len(names)} fields of the first line; "
                f"the column of {_plural(missing[0])} is missing"
            )
        if len(fields) < len(names):
            short.append(line)
    if not short:
        return ()
    return (
        f"{path}: rows with fewer fields than the first line: {len(short):,}, of which the first "
        f"is line {short[0]}; their last columns are taken as empty",
    )


def _rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each row's first line, and the row's fields."""
    options = TEXT_TABLES[kind]
    quote = options.get("quote_char", '"')
    csv.field_size_limit(sys.maxsize)
    with open_text(path, newline="") as file:
        rows = csv.reader(
            file,
            delimiter=options.get("separator", ","),
            quotechar=quote,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
            strict=True,
        )
        line = 1
        try:
            for fields in rows:
                if fields:
                    yield line, fields
                line = rows.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: has a quote that is stray, or not closed ({error})"
            ) from error


def _plural(column: str) -> str:
    return "categories" if column == "category" else f"{column}s"


def _find_columns(
    names: list[str], path: Path, known: Mapping[str, tuple[str, ...]], needed: tuple[str, ...]
) -> dict[str, str]:
    """Returns the file's own name for each known column that the file has."""
    named: dict[str, list[str]] = {}
    for name in names:
        # Polars renames the second of two columns that are called the same.
        first = re.sub(r"_duplicated_\d+$", "", name)
        plain = re.sub(r"[\W_]", "", first.split(":")[0]).lower()
        named.setdefault(plain, []).append(first)
    found = {
        column: next((named[name] for name in own if name in named), [])
        for column, own in known.items()
    }
    if {"date", "time"} <= named.keys() and found.get("time") == named["time"]:
        raise UserError(
            f"{path}: found columns {named['date'][0]} and {named['time'][0]}, which may be two "
            "halves of a time; expected one column of times: join them (2014-05-30 23:43), or "
            "leave one out"
        )
    for column, its in found.items():
        if not its and column in needed:
            raise UserError(
                f"{path}: found columns {', '.join(names)[:200]}; expected one of "
                f"{_plural(column)}, called {' or '.join(known[column])}{_hint(path, names)}"
            )
        if len(its) > 1:
            raise UserError(
                f"{path}: found {len(its)} columns of {_plural(column)}, {' and '.join(its)}; "
                "expected one: rename the others"
            )
    return {column: its[0] for column, its in found.items() if its}


def _hint(path: Path, names: list[str]) -> str:
    """Returns a hint if the separator is not the one that the file's name promises."""
    kind = kind_of(path)
    if len(names) > 1 or kind not in TEXT_TABLES:
        return ""
    separator = TEXT_TABLES[kind].get("separator", ",")
    other = next((c for c in ",;\t|" if c in names[0] and c != separator), None)
    if other is None:
        return ""
    return f"; fields of {kind} are separated by {separator!r}, and the first line has {other!r}"


def first_row(events: pl.LazyFrame, column: str, condition: pl.Expr) -> tuple[int, Any] | None:
    """Returns the number of the first row in which a condition holds, and its value; else None."""
    rows = events.with_row_index(ROW, 1).filter(condition).head(1).select(ROW, column)
    return next(iter(rows.collect(engine="streaming").rows()), None)
