"""Reads the named columns of files, data frames and expressions, and guesses nothing.

CSV files are read as text. Names of folders make no columns. Files of a pattern must agree.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import re
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sevo_jax._frames import arrow_columns, check_columns, is_frame

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_LONGEST_HEADER, _BLOCK = 2**20, 2**24  # bytes


class Source(NamedTuple):
    """A table of ibis whose columns are named by their roles: ``user``, ``item``, …."""

    table: Any
    rows: tuple[str, ...]
    """Further columns, which number the rows in order; none if the rows have no order."""
    text: bool
    """Whether all columns are the text of a CSV file."""


def source_of(ibis: Any, table: Any, named: Mapping[str, str], connection: Any) -> Source:
    """Reads the columns ``named`` of a path, a data frame or an expression of ibis.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: anything else than a path, a data frame or an expression.
        ValueError: missing columns, or a file that cannot be read.
    """
    if isinstance(table, str | Path):
        return _of_path(ibis, str(table), named, connection)
    if isinstance(table, ibis.Table):
        check_columns(named, table.columns)
        data = table.op().data.obj if hasattr(table.op(), "data") else None
        if data is not None and is_frame(data) and ibis.memtable(data).schema() == table.schema():
            return Source(ibis.memtable(arrow_columns(data, named)), (), text=False)
        return Source(table.select(**{k: table[v] for k, v in named.items()}), (), text=False)
    if is_frame(table):
        columns = arrow_columns(table, named)
        columns = columns.append_column("row", [np.arange(columns.num_rows)])
        return Source(ibis.memtable(columns), ("row",), text=False)
    raise TypeError(
        "table must be a path, a data frame or a table expression of ibis, got "
        f"{type(table).__name__}"
    )


def _of_path(ibis: Any, name: str, named: Mapping[str, str], connection: Any) -> Source:
    lower = name.lower()
    if not lower.endswith(PARQUET + CSV):
        raise ValueError(
            f"table must be a file that ends in one of {', '.join(PARQUET + CSV)}, got {name}"
        )
    known = "://" in name or Path(name).exists()
    if not known and not any(character in name for character in "*?["):
        raise FileNotFoundError(f"{name}: there is no such file")
    if connection is None:
        try:
            connection = ibis.duckdb.connect()
        except ImportError as error:
            raise ImportError('files are read by DuckDB: pip install "sevo-jax[tables]"') from error
    engine = getattr(connection, "name", None)
    readers = {
        ("duckdb", True): _duckdb_parquet,
        ("duckdb", False): _duckdb_csv,
        ("pyspark", True): _spark_parquet,
        ("pyspark", False): _spark_csv,
    }
    reader = readers.get((str(engine), lower.endswith(PARQUET)))
    if reader is None:
        raise ValueError(
            "connection must be of ibis.duckdb.connect or ibis.pyspark.connect, got "
            f"{engine or type(connection).__name__}; of other engines pass a table expression"
        )
    return reader(connection, name, named)


def _duckdb_files(connection: Any, name: str) -> list[str]:
    """Lists the files of a path or a pattern, escaped so that DuckDB sees no pattern in them."""
    if Path(name).is_dir():
        raise ValueError(f"{name}: is a folder; write a pattern of its files, such as {name}/*")
    if "://" in name or Path(name).exists():
        return [name if "://" in name else glob.escape(name)]
    found = connection.con.execute("SELECT file FROM glob(?) ORDER BY file", [name]).fetchall()
    if not found:
        raise ValueError(f"{name}: No files found that match this pattern")
    return [glob.escape(file) for (file,) in found]


def _duckdb_parquet(connection: Any, name: str, named: Mapping[str, str]) -> Source:
    files = _duckdb_files(connection, name)

    def types(file: str) -> dict[str, str]:
        relation = connection.con.read_parquet(file, hive_partitioning=False)
        return dict(zip(relation.columns, map(str, relation.types), strict=True))

    columns = types(files[0])
    check_columns(named, list(columns), _hint(named, columns))
    _check_alike(files, types, named.values())
    # DuckDB has no type for nanoseconds with a time zone. It would cut off their last digits.
    zoned = connection.con.execute(
        "SELECT name FROM parquet_schema(?) WHERE logical_type LIKE '%isAdjustedToUTC=1%NANOS=%'",
        [files[0]],
    ).fetchall()
    if {column for (column,) in zoned} & set(named.values()):
        view = _arrow_view(connection, [_unescaped(file) for file in files], named)
        return _selected(connection, view, named, {"row": "row_number() OVER ()"})
    taken = {column.lower() for column in columns}
    rows, options = {}, dict[str, Any]()
    if len(files) > 1:
        options["filename"] = "filename" + "_" * sum(len(column) for column in taken)
        rows["file"] = _quoted(options["filename"])
    if "file_row_number" in taken:
        # DuckDB keeps the order of rows unless a query asks for another.
        rows = {"row": "row_number() OVER ()"}
    else:
        options["file_row_number"] = True
        rows["row"] = "file_row_number"
    view = connection.read_parquet(files, hive_partitioning=False, **options).get_name()
    return _selected(connection, view, named, rows)


def _arrow_view(connection: Any, files: list[str], named: Mapping[str, str]) -> str:
    """Makes a view of DuckDB on Parquet files that Arrow reads, without time zones."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    schema = pq.read_schema(files[0])
    fields = {column: schema.field(column).type for column in named.values()}
    for column, kind in fields.items():
        if pa.types.is_timestamp(kind):
            fields[column] = pa.timestamp(kind.unit)
    view = f"instants_{uuid.uuid4().hex}"
    connection.con.register(view, ds.dataset(files, schema=pa.schema(fields), format="parquet"))
    return view


def _duckdb_csv(connection: Any, name: str, named: Mapping[str, str]) -> Source:
    files = _duckdb_files(connection, name)

    def header(file: str) -> tuple[list[str], str]:
        if "://" in file:
            columns = connection.con.read_csv(file, header=True, all_varchar=True).columns
            return columns, _separators(name)[0]
        return _header(_unescaped(file), named)

    headers = {file: header(file) for file in files}
    columns, separator = headers[files[0]]
    check_columns(named, columns, _hint(named, columns))
    _check_alike(files, lambda file: _places(headers[file][0]), columns)
    # By position, since DuckDB takes "Item" and "item" for the same name.
    numbered = {f"c{i}": "VARCHAR" for i in range(len(columns))}
    table = connection.read_csv(
        files,
        columns=numbered,
        header=True,
        auto_detect=False,  # which would guess from the first rows
        delim=separator,
        quote='"',
        escape='"',
        compression="gzip" if name.lower().endswith(".gz") else "none",
        hive_partitioning=False,
    )
    places = {role: f"c{columns.index(column)}" for role, column in named.items()}
    rows = {"row": "row_number() OVER ()"}
    return _selected(connection, table.get_name(), places, rows, text=True)


def _spark_parquet(connection: Any, name: str, named: Mapping[str, str]) -> Source:
    table = f"parquet.{_quoted(_spark_path(name), '`')}"
    columns = connection.sql(f"SELECT * FROM {table}").columns
    check_columns(named, columns, _hint(named, columns))
    files = connection.sql(f"SELECT DISTINCT _metadata.file_path AS file FROM {table}")

    def types(file: str) -> dict[str, str]:
        schema = connection.sql(f"SELECT * FROM parquet.{_quoted(file, '`')}").schema()
        return {column: str(kind) for column, kind in schema.items()}

    _check_alike(sorted(files.to_pyarrow()["file"].to_pylist()), types, named.values())
    rows = {"file": "_metadata.file_path", "row": "_metadata.row_index"}
    return _selected(connection, table, named, rows, mark="`")


def _spark_csv(connection: Any, name: str, named: Mapping[str, str]) -> Source:
    separator = _separators(name)[0]
    if "://" not in name:
        files = [name] if Path(name).exists() else sorted(glob.glob(name))
        if not files:
            raise ValueError(f"{name}: No files found that match this pattern")
        separator = _header(files[0], named)[1]
    options = {
        "path": _spark_path(name),
        "header": "true",
        "sep": separator,
        "escape": '"',
        "mode": "FAILFAST",
        "enforceSchema": "false",  # so that the headers of all files are compared
        "columnPruning": "false",  # so that ragged rows are noticed
    }
    listed = ", ".join(f"{key} {_spark_text(value)}" for key, value in options.items())
    view = f"csv_{uuid.uuid4().hex}"
    connection.raw_sql(f"CREATE TEMPORARY VIEW {view} USING csv OPTIONS ({listed})")
    columns = connection.table(view).columns
    check_columns(named, columns, _hint(named, columns))
    # The numbers increase along a file, and from one partition of it to the next.
    rows = {"file": "input_file_name()", "row": "monotonically_increasing_id()"}
    return _selected(connection, view, named, rows, text=True, mark="`")


def _spark_path(name: str) -> str:
    """Escapes a path that exists, so that Spark sees no pattern in it."""
    if "://" in name or not Path(name).exists():
        return name
    return re.sub(r"([\\*?[\]{}])", r"\\\1", name)


def _spark_text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _selected(
    connection: Any,
    table: str,
    named: Mapping[str, str],
    rows: Mapping[str, str],
    *,
    text: bool = False,
    mark: str = '"',
) -> Source:
    """Selects the named columns of a table of the engine, and those that number its rows."""
    columns = [f"{_quoted(column, mark)} AS {role}" for role, column in named.items()]
    columns += [f"{expression} AS {_quoted(role, mark)}" for role, expression in rows.items()]
    source = table if table.startswith("parquet.") else _quoted(table, mark)
    query = f"SELECT {', '.join(columns)} FROM {source}"
    return Source(connection.sql(query), tuple(rows), text)


def _quoted(name: str, mark: str = '"') -> str:
    return mark + name.replace(mark, mark + mark) + mark


def _unescaped(file: str) -> str:
    return re.sub(r"\[([*?[])\]", r"\1", file)


def _hint(named: Mapping[str, str], columns: Iterable[str]) -> str:
    lacking = "time" in named and named["time"] not in columns
    return '; time="rows" takes the order of rows' if lacking else ""


def _check_alike(
    files: Sequence[str], columns_of: Callable[[str], Mapping[str, str]], names: Iterable[str]
) -> None:
    """Raises a `ValueError` unless all files of a pattern agree in the columns ``names``.

    ``columns_of`` gives the type, or the place, of each column of a file.
    """
    if len(files) < 2:
        return
    first = columns_of(files[0])
    for file in files[1:]:
        other = columns_of(file)
        for name in names:
            if first[name] != other.get(name):
                raise ValueError(
                    f"column {name!r} is {first[name]} in {_unescaped(files[0])}, but "
                    f"{other.get(name, 'not there')} in {_unescaped(file)}; the files of a "
                    "pattern must have the same columns"
                )


def _places(columns: Sequence[str]) -> dict[str, str]:
    """Describes the place of each column."""
    return {c: f"number {i} of {len(columns)}" for i, c in enumerate(columns, 1)}


def _header(file: str, named: Mapping[str, str]) -> tuple[list[str], str]:
    """Reads the columns of a CSV file, and finds the separator that splits the named ones."""
    compressed = file.lower().endswith(".gz")
    try:
        with gzip.open(file) if compressed else open(file, "rb") as stream:
            line = stream.readline(_LONGEST_HEADER)
            while compressed and stream.read(
                _BLOCK
            ):  # DuckDB does not notice a file that is cut short
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: is no gzip file that can be read ({error})") from error
    if line.startswith(b"\x1f\x8b"):
        raise ValueError(f"{file}: is compressed by gzip; name it {file}.gz")
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line:
        raise ValueError(f"{file}: is UTF-16 or no text; save it as UTF-8")
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 ({error}); save it as UTF-8") from error
    if not text.strip():
        raise ValueError(f"{file}: the first line must name the columns, but it is empty")
    text = text.splitlines()[0]  # lines may end with a carriage return alone
    separators = _separators(file)
    headers = [next(csv.reader([text], delimiter=separator), []) for separator in separators]
    fitting = (i for i, header in enumerate(headers) if set(named.values()) <= set(header))
    chosen = next(fitting, 0)
    return headers[chosen], separators[chosen]


def _separators(name: str) -> str:
    """Returns the possible separators of columns, the likeliest first."""
    return "\t,;|" if ".tsv" in name.lower() else ",;\t|"
