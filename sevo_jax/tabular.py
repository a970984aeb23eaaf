"""Graphs from data of any size: an engine counts pairs, and the host holds the graph alone.

`sequence_graph` needs all interactions in memory. Here an engine that works out of core (DuckDB) or
on many machines (Spark) does the work, in one expression of ibis. It numbers each user's
interactions in the order of time, pairs those that are close, and counts the pairs.

The two graphs are equal to the last bit. The engine's counts are whole numbers, and the host makes
weights of them by the additions of `sequence_graph`, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import jax
import numpy as np

from sevo_jax import _text_columns as text_columns
from sevo_jax._builders import Keep, Weighting
from sevo_jax._checks import check_choice, check_count, check_nodes
from sevo_jax._frames import check_complete
from sevo_jax._graph import Graph, SelfLoops, graph_of
from sevo_jax._matrices import symmetrized
from sevo_jax._sources import Source, source_of

Ids = Literal["integers", "any"]
Progress = Callable[[str, int], None]
"""A function of the present stage, and of the number of edges fetched so far."""

ROWS = "rows"
"""The value of ``time`` for the order of rows, if there is no column of times."""

_LARGEST = 2**31


class _Options(NamedTuple):
    """The options of `sequence_graph` that the engine must know."""

    max_len: int | None
    keep: Keep
    walk_length: int
    weighting: Weighting

    @property
    def hops(self) -> int:
        """The number of distances of different weights, which are counted apart."""
        return self.walk_length if self.weighting == "distance" else 1


@overload
def sequence_graph_from_table(
    table: Any,
    *,
    user: str = ...,
    item: str = ...,
    time: str | None = ...,
    order: str | None = ...,
    num_nodes: int | None = ...,
    ids: Literal["integers"] = ...,
    max_len: int | None = ...,
    keep: Keep = ...,
    walk_length: int = ...,
    weighting: Weighting = ...,
    self_loops: SelfLoops = ...,
    capacity: int | None = ...,
    connection: Any = ...,
    progress: Progress | None = ...,
) -> Graph: ...
@overload
def sequence_graph_from_table(
    table: Any,
    *,
    user: str = ...,
    item: str = ...,
    time: str | None = ...,
    order: str | None = ...,
    num_nodes: int | None = ...,
    ids: Literal["any"],
    max_len: int | None = ...,
    keep: Keep = ...,
    walk_length: int = ...,
    weighting: Weighting = ...,
    self_loops: SelfLoops = ...,
    capacity: int | None = ...,
    connection: Any = ...,
    progress: Progress | None = ...,
) -> tuple[Graph, np.ndarray]: ...
def sequence_graph_from_table(
    table: Any,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    order: str | None = None,
    num_nodes: int | None = None,
    ids: Ids = "integers",
    max_len: int | None = 50,
    keep: Keep = "last",
    walk_length: int = 1,
    weighting: Weighting = "distance",
    self_loops: SelfLoops = "none",
    capacity: int | None = None,
    connection: Any = None,
    progress: Progress | None = None,
) -> Graph | tuple[Graph, np.ndarray]:
    """`sequence_graph` of interactions that need not fit into memory (Algorithm 4).

    Each user's interactions, in the order of ``time``, are a sequence. Let ``n_h(i, j)`` count how
    often ``i`` and ``j`` are at a distance ``h`` in a sequence. Then
    ``w_ij = sum over h <= H of n_h(i, j) / h``. The engine sorts and counts within its limit of
    memory. The host needs a few times the memory of the graph.

    Rows of equal times come in the order of the column ``order``. Without it they keep their order
    in a file or a data frame; in a table expression, which has no order of rows, they come by the
    items' ids. Several files come in the order of their paths as text: ``part-10`` before
    ``part-2``.

    Nothing in a CSV file is guessed. Users are text: 7 and 007 are two users. Integers may be
    written as 3.0 or 007, but not as 1e1. Times are numbers, compared exactly, or ISO dates such as
    ``2014-01-09``, ``2014-01-09 10:00:00.5`` or ``2014-01-09T10:00Z``, with an offset in all rows
    or in none. ``05/01/2024`` is an error.

    Args:
        table: a path, a data frame (Polars, pandas, a pyarrow table), or a table expression of
            ibis, of any engine. A path is of a Parquet or CSV file (``.parquet``, ``.csv``,
            ``.tsv``, ``.csv.gz``, ``.tsv.gz``; in UTF-8, with a header), or a pattern of files that
            have the same columns, such as ``"part-*.parquet"``. A path that exists is no pattern.
        user: the column of users, of any type.
        item: the column of items.
        time: the column of times: numbers, dates or timestamps; or ``"rows"`` for the order of rows
            of a file or a data frame.
        order: a column that orders a user's equal times, such as a running number; not with
            ``time="rows"``.
        num_nodes: the number of nodes, the padding item and unseen items included; if ``None``, one
            more than the largest id.
        ids: ``"integers"``: items are nodes in ``[0, num_nodes)``. ``"any"``: items are integers or
            strings, which are sorted, numbered, and returned.
        max_len: how many items of each sequence count; ``None`` for all.
        keep: whether these are the ``"last"`` or the ``"first"`` ones.
        walk_length: ``H``, at least 1.
        weighting: ``"distance"`` for ``1/h``, ``"frequency"`` for 1.
        self_loops: the nodes that get a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.
        connection: the engine that reads a path: ``ibis.duckdb.connect(memory_limit="4GB",
            temp_directory=...)`` or ``ibis.pyspark.connect(session)``; DuckDB with its own limits
            if ``None``.
        progress: a function that is called with the present stage and the number of edges fetched.

    Returns:
        The `Graph`; with ``ids="any"`` also the ids of the nodes, an array of ``[num_items]``.

    Raises:
        ImportError: ibis is not installed.
        FileNotFoundError: there is no such file.
        TypeError: columns of other types than asked for.
        ValueError: missing columns or values, no interactions at all, ids out of range, no order
            given, an option out of its range, text that is no integer or no time, a row of more or
            fewer fields than the header, files of a pattern that differ, or a file that the engine
            cannot read.
        MemoryError: the engine's memory is not enough, even with its temporary files.

    Examples:
        >>> import ibis, sevo_jax
        >>> columns = {"user": [7, 8, 7, 8, 7], "item": [1, 2, 2, 1, 3], "time": [1, 1, 2, 2, 3]}
        >>> graph = sevo_jax.sequence_graph_from_table(ibis.memtable(columns), num_nodes=4)
        >>> graph.to_scipy(normalized=False).toarray()[1].tolist()
        [0.0, 0.0, 2.0, 0.0]
    """
    check_choice("ids", ids, Ids)
    check_choice("keep", keep, Keep)
    check_choice("weighting", weighting, Weighting)
    check_choice("self_loops", self_loops, SelfLoops)
    max_len = None if max_len is None else check_count("max_len", max_len)
    num_nodes = None if num_nodes is None else check_nodes("num_nodes", num_nodes)
    options = _Options(max_len, keep, check_count("walk_length", walk_length), weighting)
    tell = progress or (lambda stage, edges: None)
    ibis = _import_ibis()

    tell("checking the table", 0)
    with _explained(table):
        named = {"user": user, "item": item}
        named |= {} if time is None or time == ROWS else {"time": time}
        named |= {} if order is None else {"order": order}
        source = source_of(ibis, table, named, connection)
        if time is None or (time == ROWS and not source.rows):
            raise ValueError(
                "time must name the column of times, or be 'rows' for the order of a file's or a "
                f"data frame's rows (a table expression has none), got {time!r}"
            )
        if time == ROWS and order is not None:
            raise ValueError(
                f"order={order!r} is for equal times, and time='rows' has none: leave it out, or "
                f"write time={order!r} if that column has the order"
            )
        columns = (
            _read_text(source, named, ids, table) if source.text else _typed(source, named, ids)
        )
        events, names = _events(source, columns, named)
        smallest, largest = _check_values(events, names)
        numbered_ids = None
        if ids == "any":
            numbered = events.select("item").distinct()
            numbered = numbered.mutate(
                node=ibis.row_number().over(ibis.window(order_by="item")).cast("int32")
            )
            numbered_ids = numbered.order_by("node").to_pyarrow()["item"].to_numpy()
            events = events.join(numbered, "item").drop("item").rename(item="node")
            smallest, largest = 0, numbered_ids.size - 1
            if num_nodes is not None and num_nodes < numbered_ids.size:
                raise ValueError(
                    f"num_nodes must be at least the number of items, {numbered_ids.size}, got "
                    f"{num_nodes}"
                )
        num_nodes = _check_range(item, smallest, largest, num_nodes)
        edges = _fetch(_pairs(ibis, events, options), options, tell)
    tell("normalising", edges[0].size)
    matrix = symmetrized(*edges, num_nodes)
    del edges
    graph = graph_of(matrix, jax.dtypes.canonicalize_dtype(float), self_loops, capacity)
    return graph if numbered_ids is None else (graph, numbered_ids)


def _import_ibis() -> Any:
    try:
        import ibis
    except ImportError as error:
        raise ImportError(
            'graphs from tables need ibis: pip install "sevo-jax[tables]" with DuckDB, or '
            'pip install "sevo-jax[spark]" with Spark'
        ) from error
    return ibis


@contextmanager
def _explained(table: Any) -> Generator[None]:
    """Turns errors of the engines into Python's own, with the engine's words."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in ("_duckdb", "duckdb", "pyspark", "py4j", "ibis", "pyarrow"):
            raise
        where = table if isinstance(table, str | Path) else "table"
        lines = [line.strip() for line in str(error).partition("LINE 1:")[0].splitlines()]
        if "OutOfMemory" in type(error).__name__:
            raise MemoryError(f"{where}: the engine is short of memory: {lines[0]}") from error
        # The last of Java's long chain of errors is the cause.
        lines = [line for line in lines if line.startswith("Caused by:")][-1:] or lines
        told = [line for i, line in enumerate(lines) if i < 3 or line.startswith("file =")]
        words = "; ".join(line for line in told if line)
        raise ValueError(f"{where}: the engine cannot read it: {words}") from error


def _typed(source: Source, named: Mapping[str, str], ids: Ids) -> dict[str, Any]:
    """Checks the types of the columns ``user``, ``item``, and ``time`` and ``order`` if named.

    Raises:
        TypeError: a column of another type.
    """
    columns = {role: source.table[role] for role in named}
    for role, column in columns.items():
        kind = column.type()
        if role == "item":
            whole = kind.is_integer() or (kind.is_decimal() and kind.scale == 0)
            if not (whole or kind.is_null() or (ids == "any" and kind.is_string())):
                wanted = "integers" if ids == "integers" else "integers or strings"
                hint = 'ids="any" numbers them' if kind.is_string() else f"cast it to {wanted}"
                raise TypeError(f"item={named[role]!r} must hold {wanted}, got {kind}; {hint}")
        elif role != "user" and (
            kind.is_boolean() or not (kind.is_numeric() or kind.is_temporal() or kind.is_null())
        ):
            raise TypeError(
                f"{role}={named[role]!r} must hold numbers, dates or timestamps, got {kind}"
            )
    kind = columns["item"].type()
    if kind.is_decimal() or kind.is_null():
        columns["item"] = columns["item"].cast("int64")
    return columns


def _read_text(source: Source, named: Mapping[str, str], ids: Ids, file: Any) -> dict[str, Any]:
    """Parses the text columns of a CSV file; a time may become ``time`` and ``time_rest``.

    Raises:
        ValueError: text that is no integer or no time, or times written in several ways.
    """
    table = source.table
    ways = {role: text_columns.ways(table[role]) for role in ("time", "order") if role in named}
    if ids == "integers":
        ways["item"] = {"integers": text_columns.integer(table["item"]).notnull()}
    columns = {"user": table["user"], "item": table["item"]}
    if not ways:
        return columns
    counts = {f"{role}_given": table[role].count() for role in ways}
    for role, conditions in ways.items():
        counts |= {f"{role}_{way}": condition.sum() for way, condition in conditions.items()}
    (found,) = table.aggregate(**counts).to_pyarrow().to_pylist()
    for role, conditions in ways.items():
        counted = {way: found[f"{role}_{way}"] or 0 for way in conditions}
        # Takes the first way in which all values are written.
        way = next((w for w, n in counted.items() if n == found[f"{role}_given"]), None)
        if way is None:
            raise ValueError(f"{file}{_misread(source, role, named[role], conditions, counted)}")
        if role == "item":
            columns["item"] = text_columns.integer(table["item"])
        else:
            columns |= dict(
                zip((role, f"{role}_rest"), text_columns.keys(table[role], way), strict=False)
            )
    return columns


def _misread(
    source: Source,
    role: str,
    name: str,
    conditions: Mapping[str, Any],
    counts: Mapping[str, int],
) -> str:
    """Describes the first value that is not written as most are, and where it stands."""
    usual = max(counts, key=lambda way: counts[way])
    odd = source.table.filter(source.table[role].notnull() & ~conditions[usual])
    (first,) = odd.order_by(list(source.rows)).limit(1).to_pyarrow().to_pylist()
    row = f", row {first['row']}" if source.rows == ("row",) else ""
    value = first[role] if len(first[role]) < 80 else first[role][:80] + "…"
    if role == "item":
        return f'{row}: item={name!r} must hold integers, got {value!r}; ids="any" takes any text'
    others = f"; others are {usual}" if counts[usual] else ""
    return (
        f"{row}: {role}={name!r} must hold {text_columns.TIMES}, all written alike, got "
        f"{value!r}{others}{text_columns.advice(value)}"
    )


def _events(
    source: Source, columns: Mapping[str, Any], named: Mapping[str, str]
) -> tuple[Any, dict[str, str]]:
    """Selects ``user``, ``item``, and the columns that order a user's rows, ``key0`` and so on.

    It also returns the names that these columns have in the table, for messages.
    """
    keys = [role for role in columns if role.startswith("time")]
    ordered = [role for role in columns if role.startswith("order")]
    # The item comes last: rows that are equal in everything may change places.
    keys += [*ordered, "item"] if ordered else source.rows or ["item"]
    chosen = {"user": "user", "item": "item"} | {f"key{i}": key for i, key in enumerate(keys)}
    given = {**columns, **{row: source.table[row] for row in source.rows}}
    names = {column: named.get(role.removesuffix("_rest"), role) for column, role in chosen.items()}
    events = source.table.select(**{column: given[role] for column, role in chosen.items()})
    return events, names


def _check_values(events: Any, names: dict[str, str]) -> tuple[Any, Any]:
    """Checks that no value is missing, and finds the smallest and the largest item."""
    lacking: dict[str, Any] = {}
    for column in names:
        values = events[column]
        null = values.isnull()
        lacking[column] = (null | values.isnan() if values.type().is_floating() else null).sum()
    (found,) = (
        events.aggregate(
            total=events.count(),
            smallest=events["item"].min(),
            largest=events["item"].max(),
            **lacking,
        )
        .to_pyarrow()
        .to_pylist()
    )
    if not found["total"]:
        raise ValueError("table must hold at least one interaction, got none")
    for column, name in names.items():
        check_complete(name, found[column], found["total"])
    return found["smallest"], found["largest"]


def _check_range(item: str, smallest: int, largest: int, num_nodes: int | None) -> int:
    """Checks the range of the ids, and returns the number of nodes."""
    if smallest < 0:
        raise ValueError(f"item={item!r} must not be negative, got {smallest}")
    if largest >= _LARGEST:
        raise ValueError(
            f'item={item!r} must be below 2^31, got {largest}; ids="any" numbers such ids'
        )
    if num_nodes is None:
        return int(largest) + 1
    if largest >= num_nodes:
        raise ValueError(
            f"item={item!r} must lie in [0, num_nodes) = [0, {num_nodes}), got {largest}"
        )
    return num_nodes


def _pairs(ibis: Any, events: Any, options: _Options) -> Any:
    """Counts pairs of items ``low <= high`` in columns ``forward1``, ``backward1`` and so on.

    If the last items are kept, positions count from the last interaction backwards, so that a
    position alone says whether an item is kept. That swaps forward and backward, but not their sum.
    """
    keys = [events[column] for column in events.columns if column.startswith("key")]
    keys = [key.desc() for key in keys] if options.keep == "last" else keys
    window = ibis.window(group_by="user", order_by=keys)
    item = events["item"].cast("int32")
    steps = range(1, options.walk_length + 1)
    pairs = events.select(
        position=ibis.row_number().over(window),
        one=item,
        **{f"other{h}": item.lead(h).over(window) for h in steps},
    )
    if options.walk_length == 1:
        pairs = pairs.mutate(h=1).rename(other="other1")
    else:
        pairs = pairs.pivot_longer(
            [f"other{h}" for h in steps],
            names_to="h",
            names_pattern=r"other(\d+)",
            names_transform=int,
            values_to="other",
        )
    pairs = pairs.filter(pairs["other"].notnull())
    if options.max_len is not None:
        pairs = pairs.filter(pairs["position"] + pairs["h"] < options.max_len)
    pairs = pairs.mutate(
        low=ibis.least(pairs["one"], pairs["other"]),
        high=ibis.greatest(pairs["one"], pairs["other"]),
        forward=pairs["one"] <= pairs["other"],
    )
    if options.hops == 1:
        return pairs.group_by("low", "high").aggregate(forward1=pairs.count())
    counts = {
        name + str(h): pairs["h"].count(where=(pairs["h"] == h) & way)
        for name, way in (("forward", pairs["forward"]), ("backward", ~pairs["forward"]))
        for h in steps
    }
    return pairs.group_by("low", "high").aggregate(**counts)


def _fetch(
    pairs: Any, options: _Options, tell: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fetches ``low``, ``high`` and the weight of all pairs, in batches."""
    tell("counting pairs", 0)
    parts: list[tuple[np.ndarray, ...]] = []
    fetched = 0
    names = [f"{way}{h + 1}" for way in ("forward", "backward") for h in range(options.hops)]
    for batch in pairs.to_pyarrow_batches():
        # Copies, since a view of one column would keep all of them in memory.
        columns = {name: batch[name].to_numpy().copy() for name in batch.schema.names}
        counts = np.stack([columns[name] for name in names if name in columns], axis=1)
        ways = np.split(counts, counts.shape[1] // options.hops, axis=1)
        weights = np.sum([_repeated_sums(way) for way in ways], axis=0)
        single = weights.astype(np.float32)
        # float32 takes half the memory, if it is exact.
        weights = single if (single == weights).all() else weights
        parts.append((columns["low"], columns["high"], weights))
        fetched += weights.size
        tell("fetching edges", fetched)
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    low, high, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    return low, high, weights


def _repeated_sums(counts: np.ndarray) -> np.ndarray:
    """Adds ``1/h`` ``counts[:, h - 1]`` times, ``h = 1, 2, …``, rounding after each addition."""
    # Sums of ones and halves are exact, so they are products. The rest are added one by one.
    total = counts[:, :2] @ (1 / np.arange(1, counts.shape[1] + 1))[:2]
    for h in range(3, counts.shape[1] + 1):
        left = counts[:, h - 1].copy()
        where = np.flatnonzero(left)
        while where.size:
            total[where] += 1 / h
            left[where] -= 1
            where = where[left[where] > 0]
    return total
