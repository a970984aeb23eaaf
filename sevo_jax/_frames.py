"""Data frames of any library (Polars, pandas, pyarrow, …) as Arrow columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def is_frame(table: Any) -> bool:
    """Whether ``table`` is a data frame, and not a column, an array or a list."""
    columns = hasattr(type(table), "columns")  # a lazy frame would compute an instance's
    return columns and (hasattr(table, "__arrow_c_stream__") or hasattr(table, "collect"))


def check_columns(named: Mapping[str, Any], columns: Sequence[Any], hint: str = "") -> None:
    """Raises an error unless each named column is there once.

    Raises:
        TypeError: a name that is no string, such as pandas' numbers of columns.
        ValueError: a column that is missing, or there twice; the message lists the columns.
    """
    for role, name in named.items():
        if not isinstance(name, str):
            raise TypeError(
                f"{role} must be the name of a column, a string, got {name!r}; if pandas has "
                "numbered the columns, write frame.columns = frame.columns.map(str) first"
            )
    missing = [f"{role}={name!r}" for role, name in named.items() if name not in columns]
    if missing:
        given = ", ".join(map(str, columns))
        raise ValueError(f"{', '.join(missing)}: no such column; there are {given}{hint}")
    for role, name in named.items():
        if list(columns).count(name) > 1:
            raise ValueError(f"{role}={name!r}: several columns have this name; rename them")
    if named.get("user", 0) == named.get("item", 1):
        raise ValueError(f"user and item must be two columns, got {named['user']!r} for both")


def check_complete(name: str, lacking: int, total: int) -> None:
    """Raises a `ValueError` if a column lacks values."""
    if lacking:
        raise ValueError(
            f"column {name!r} must have a value in every row, but {lacking} of {total} rows have "
            "none"
        )


def arrow_columns(frame: Any, named: Mapping[str, str]) -> Any:
    """Reads the named columns of ``frame`` into a `pyarrow.Table`, under the keys of ``named``.

    Categories become their values. Instants lose their time zone and keep all of their digits.

    Raises:
        ImportError: pyarrow is not installed.
        TypeError: a lazy frame, or a column that mixes types.
        ValueError: missing columns.
    """
    if hasattr(frame, "collect"):
        raise TypeError(
            f"a data frame must hold its rows, got a {type(frame).__name__}; pass its collect()"
        )
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError("data frames are read by pyarrow: pip install pyarrow") from error
    by_name = hasattr(frame, "column_names")  # pyarrow, where `columns` holds the data
    check_columns(named, list(frame.column_names if by_name else frame.columns))
    taken = list(dict.fromkeys(named.values()))
    chosen = frame[taken] if hasattr(frame, "iloc") or hasattr(frame, "lazy") else frame
    try:
        table = chosen.to_arrow() if hasattr(chosen, "to_arrow") else pa.table(chosen)
        columns = {role: _plain(pa, table[name]) for role, name in named.items()}
    except pa.ArrowException as error:
        words = "; ".join(map(str, error.args))
        raise TypeError(f"table holds a column that Arrow cannot represent: {words}") from error
    return pa.table(columns)


def _plain(pa: Any, column: Any) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(pa, column.cast(kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit))
    return column


def sequences_of(
    frame: Any, user: str, item: str, time: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Joins the items of all users in the order of their times, and counts each user's.

    Equal times keep the order of rows, as does everything if ``time`` is None.
    """
    named = {"user": user, "item": item} | ({} if time is None else {"time": time})
    table = arrow_columns(frame, named)
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made at run time

    types = {role: table[role].type for role in named}
    for role, name in named.items():
        column = table[role]
        lacking = column.null_count
        if pa.types.is_floating(types[role]):
            lacking += pc.sum(pc.is_nan(column)).as_py() or 0
        check_complete(name, lacking, table.num_rows)
    if not pa.types.is_integer(types["item"]) and table.num_rows:
        advice = "cast it to integers"
        if pa.types.is_floating(types["item"]):
            advice += " (pandas makes floats of them where values are missing)"
        if pa.types.is_string(types["item"]) or pa.types.is_large_string(types["item"]):
            advice = 'sequence_graph_from_table(frame, ids="any") numbers strings'
        raise TypeError(f"item={item!r} must hold integers, got {types['item']}; {advice}")
    if time is not None and not _orders(pa, types["time"]):
        raise TypeError(
            f"time={time!r} must hold numbers, dates or timestamps, got {types['time']}"
        )
    if pa.types.is_nested(types["user"]):
        raise TypeError(f"user={user!r} must hold integers or strings, got {types['user']}")
    if not table.num_rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    users = table["user"].combine_chunks().dictionary_encode().indices
    keys = pa.table({"user": users} | ({} if time is None else {"time": table["time"]}))
    # Arrow's sort is stable, so rows of equal times keep their order.
    order = pc.sort_indices(keys, [(key, "ascending") for key in keys.column_names])
    items = table["item"].combine_chunks().to_numpy(zero_copy_only=False)
    return items[order.to_numpy()], np.bincount(users.to_numpy())


def _orders(pa: Any, kind: Any) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return numbers or pa.types.is_temporal(kind)


def is_list_column(runs: Any) -> bool:
    """Whether ``runs`` is a column of Arrow's lists, in pyarrow or in pandas."""
    kind = getattr(getattr(runs, "dtype", None), "pyarrow_dtype", getattr(runs, "type", None))
    return hasattr(kind, "value_type") and hasattr(kind, "value_field")


def runs_of(name: str, column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Flattens a column of Arrow's lists, and counts each list; a null list is empty.

    Raises:
        ValueError: a list that holds nulls.
    """
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made at run time

    column = pa.array(column) if hasattr(column, "dtype") else column  # a pandas column
    lists = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    values = pc.list_flatten(lists)
    if values.null_count:
        raise ValueError(f"{name} must not hold nulls, got {values.null_count}")
    counts = pc.fill_null(pc.list_value_length(lists), 0)
    return values.to_numpy(), counts.to_numpy().astype(np.int64)
