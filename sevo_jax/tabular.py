"""Graphs from tables of any size: the engine counts pairs, the host holds no more than the graph.

`sequence_graph` needs all interactions in memory. Here an engine that works out of core (DuckDB) or
on many machines (Spark) numbers each user's interactions in the order of time, pairs those that are
close and counts the pairs, all in one expression of ibis. What it counts are whole numbers; the
weights are formed of them on the host, with the same additions in the same order as in
`sequence_graph`, and normalised by the same code, so that the two graphs are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import jax
import numpy as np

from sevo_jax.builders import Keep, Weighting
from sevo_jax.graph import Graph, SelfLoops, graph_of
from sevo_jax.matrices import symmetrized
from sevo_jax.validation import check_choice, check_count

Ids = Literal["integers", "any"]
Progress = Callable[[str, int], None]
"""Called with what is being done, and the edges that have been fetched so far."""

ROWS = "rows"
"""The name for the order of a file's rows, where there is no column of times."""

_FILE_ORDER = ("sevo_file", "sevo_row")
_PARQUET, _CSV = (".parquet", ".pq"), (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_LARGEST = 2**31


class _Options(NamedTuple):
    """What of `sequence_graph`'s options the engine must know."""

    max_len: int | None
    keep: Keep
    walk_length: int
    weighting: Weighting

    @property
    def hops(self) -> int:
        """Distances that are counted apart, since they do not weigh the same."""
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
    """`sequence_graph` of a table of interactions that need not fit into memory (Algorithm 4).

    Each user's interactions, in the order of ``time``, are a sequence, and ``w_ij = sum over h <= H
    of n_h(i, j) / h``, where ``n_h(i, j)`` counts how often ``i`` and ``j`` are at a distance ``h``
    in a sequence. The engine sorts and counts, and needs as much memory as it is given; the host
    needs some times the memory of the graph.

    Equal times are told apart by the column ``order``; without one by the order of rows, if
    ``table`` is a path, and else, since the rows of an expression have no order, by the items' ids.

    Args:
        table: a table expression of ibis, of any of its engines; or the path of a Parquet or CSV
            file (``.parquet``, ``.csv``, ``.tsv``), or a pattern such as ``"part-*.parquet"``.
        user: the column of users, of any type.
        item: the column of items.
        time: the column of times: numbers, dates or timestamps. ``"rows"`` for the order of a
            file's rows instead.
        order: a column that tells a user's equal times apart, such as a running number.
        num_nodes: the number of nodes, the padding item and unseen items included; if ``None``, one
            more than the largest id.
        ids: ``"integers"`` in ``[0, num_nodes)`` are the nodes as they are; ``"any"`` integers or
            strings are numbered in their own order, and returned in it.
        max_len: how many items of each sequence count; ``None`` for all.
        keep: which ones: the ``"last"`` or the ``"first"``.
        walk_length: ``H``, at least 1.
        weighting: ``"distance"`` for ``1/h``, ``"frequency"`` for 1.
        self_loops: who gets a self-edge of weight 1; see `Graph.from_weights`.
        capacity: stored entries, zero-padded; see `Graph.capacity`.
        connection: what reads a path: of ``ibis.duckdb.connect(memory_limit="4GB",
            temp_directory=...)`` or ``ibis.pyspark.connect(session)``; DuckDB with its own limits
            if ``None``.
        progress: called with what is being done, and the number of edges fetched so far.

    Returns:
        The `Graph`; with ``ids="any"`` also ``[num_items]``, the id of each node that has one.

    Raises:
        ImportError: ibis is not installed.
        FileNotFoundError: there is no such file.
        TypeError: columns of other types than asked for.
        ValueError: missing columns or values, no interactions at all, ids out of range, no order
            given, an option out of its range, or a file that the engine cannot read.
        MemoryError: the engine's memory is not enough, even with its temporary files.

    Examples:
        >>> import ibis, sevo_jax
        >>> columns = {"user": [7, 8, 7, 8, 7], "item": [1, 2, 2, 1, 3], "time": [1, 1, 2, 2, 3]}
        >>> graph = sevo_jax.sequence_graph_from_table(ibis.memtable(columns), num_nodes=4)
        >>> graph.to_scipy(normalized=False).toarray()[1].tolist()
        [0.0, 0.0, 2.0, 0.0]
    """
    check_choice("ids", ids, ("integers", "any"))
    check_choice("keep", keep, ("first", "last"))
    check_choice("weighting", weighting, ("distance", "frequency"))
    check_choice("self_loops", self_loops, ("none", "isolated", "all"))
    max_len = None if max_len is None else check_count("max_len", max_len)
    num_nodes = None if num_nodes is None else check_count("num_nodes", num_nodes)
    options = _Options(max_len, keep, check_count("walk_length", walk_length), weighting)
    tell = progress or (lambda stage, edges: None)
    ibis = _import_ibis()

    tell("checking the table", 0)
    with _explained(table):
        if isinstance(table, str | Path):
            table = _read(ibis, table, connection, item if ids == "any" else None)
        elif not isinstance(table, ibis.Table):
            raise TypeError(
                "table must be a path or a table expression of ibis (of a data frame, "
                f"ibis.memtable(frame)), got {type(table).__name__}"
            )
        events, names = _events(table, user, item, time, order, ids)
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
    """Errors of the engines as the ones that NumPy's users know, with the engine's own words."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("_duckdb", "duckdb", "pyspark", "ibis"):
            raise
        where = table if isinstance(table, str | Path) else "table"
        lines = [line.strip() for line in str(error).partition("LINE 1:")[0].splitlines()]
        if "OutOfMemory" in type(error).__name__:
            raise MemoryError(f"{where}: the engine is short of memory: {lines[0]}") from error
        words = "; ".join(line for line in lines[:3] if line)
        raise ValueError(f"{where}: the engine cannot read it: {words}") from error


def _read(ibis: Any, path: str | Path, connection: Any, text: str | None) -> Any:
    """The table that a file holds, and columns of the order of its rows, `_FILE_ORDER`.

    Of a CSV file, the column ``text`` holds strings whatever they look like: 0007 is not 7.
    """
    name = str(path)
    parquet = name.endswith(_PARQUET)
    if not parquet and not name.endswith(_CSV):
        raise ValueError(
            f"table must be a file that ends in one of {', '.join(_PARQUET + _CSV)}, got {name}"
        )
    pattern = any(character in name for character in "*?[")
    if "://" not in name and not pattern and not Path(name).exists():
        raise FileNotFoundError(f"{name}: there is no such file")
    if connection is None:
        connection = _duckdb(ibis)
    engine = getattr(connection, "name", None)
    if engine == "duckdb":
        if parquet:
            files = {"filename": "sevo_file"} if pattern else {}
            table = connection.read_parquet(name, **files)
            if "file_row_number" not in map(str.lower, table.columns):
                table = connection.read_parquet(name, file_row_number=True, **files)
                return table.rename(sevo_row="file_row_number")
        else:
            types = {"types": {text: "VARCHAR"}} if text else {}
            table = connection.read_csv(name, **types)
        # DuckDB keeps the order of a file's rows where no other is asked for.
        rows = "row_number() OVER () AS sevo_row"
        return connection.sql(f'SELECT *, {rows} FROM "{table.get_name()}"')
    if engine == "pyspark" and parquet:
        quoted = name.replace("`", "``")
        rows = "_metadata.file_path AS sevo_file, _metadata.row_index AS sevo_row"
        return connection.sql(f"SELECT *, {rows} FROM parquet.`{quoted}`")
    if engine == "pyspark":
        form = {"header": True, "sep": "\t" if ".tsv" in name else ","}
        typed = connection.read_csv(name, inferSchema=True, **form)
        read = connection.read_csv(name, inferSchema=False, **form) if text else typed
        # They increase along a file, and from one partition of it to the next.
        table = connection.sql(
            f"SELECT *, monotonically_increasing_id() AS sevo_row FROM `{read.get_name()}`"
        )
        return table.cast({c: t for c, t in typed.schema().items() if text and c != text})
    raise ValueError(
        "connection must be of ibis.duckdb.connect or ibis.pyspark.connect, got "
        f"{engine or type(connection).__name__}; of other engines pass a table expression"
    )


def _duckdb(ibis: Any) -> Any:
    try:
        return ibis.duckdb.connect()
    except ImportError as error:
        raise ImportError('files are read by DuckDB: pip install "sevo-jax[tables]"') from error


def _events(
    table: Any, user: str, item: str, time: str | None, order: str | None, ids: Ids
) -> tuple[Any, dict[str, str]]:
    """Columns ``user``, ``item``, and those that order a user's rows, ``key0`` and so on.

    And, for messages, the names that they have in the table.
    """
    rows = [column for column in _FILE_ORDER if column in table.columns]
    if time is None or (time == ROWS and not rows):
        raise ValueError(
            "time must name the column of times, or be 'rows' for the order of a file's rows (a "
            f"table expression has none), got {time!r}"
        )
    named = {"user": user, "item": item} | ({} if time == ROWS else {"time": time})
    named |= {} if order is None else {"order": order}
    missing = [
        f"{name}={column!r}" for name, column in named.items() if column not in table.columns
    ]
    if missing:
        given = [column for column in table.columns if column not in rows]
        hint = '; time="rows" takes the order of rows' if rows and time not in given else ""
        raise ValueError(
            f"{', '.join(missing)}: no such column; there are {', '.join(given)}{hint}"
        )
    types = {name: table[column].type() for name, column in named.items()}
    if not (types["item"].is_integer() or (ids == "any" and types["item"].is_string())):
        wanted = "integers" if ids == "integers" else "integers or strings"
        hint = '; ids="any" numbers them' if types["item"].is_string() else ""
        raise TypeError(f"item={item!r} must hold {wanted}, got {types['item']}{hint}")
    for name in types.keys() - {"user", "item"}:
        kind = types[name]
        if kind.is_boolean() or not (kind.is_numeric() or kind.is_temporal()):
            raise TypeError(
                f"{name}={named[name]!r} must hold numbers, dates or timestamps, got {kind}"
            )
    # Last the item: rows that are equal in it too may change places.
    keys = [*([] if time == ROWS else [time]), *([order, item] if order else rows or [item])]
    names = {"user": user, "item": item} | {f"key{i}": key for i, key in enumerate(keys)}
    return table.select(**{column: table[name] for column, name in names.items()}), names


def _check_values(events: Any, names: dict[str, str]) -> tuple[Any, Any]:
    """The smallest and the largest item, if there are interactions and no value is missing."""
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
        if found[column]:
            raise ValueError(
                f"column {name!r} must have a value in every row, but {found[column]} of "
                f"{found['total']} rows have none"
            )
    return found["smallest"], found["largest"]


def _check_range(item: str, smallest: int, largest: int, num_nodes: int | None) -> int:
    """The number of nodes, if it is more than the largest id."""
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
    """Every pair of items and its counts: ``low <= high``, ``forward1``, ``backward1`` and so on.

    From the last interaction backwards if the last ones are kept: then the position alone says what
    counts. Backward is then forward, which makes no difference to the sum of the two.
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
    """``low``, ``high`` and the weight of all pairs, fetched some at a time."""
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
        # Half the memory, where it is exact.
        weights = single if (single == weights).all() else weights
        parts.append((columns["low"], columns["high"], weights))
        fetched += weights.size
        tell("fetching edges", fetched)
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    low, high, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    return low, high, weights


def _repeated_sums(counts: np.ndarray) -> np.ndarray:
    """``1/h`` added ``counts[:, h - 1]`` times, ``h = 1, 2, …``, with the roundings of doing so."""
    # Ones and halves do not round, however many; of what does, each is added on its own.
    total = counts[:, :2] @ (1 / np.arange(1, counts.shape[1] + 1))[:2]
    for h in range(3, counts.shape[1] + 1):
        left = counts[:, h - 1].copy()
        where = np.flatnonzero(left)
        while where.size:
            total[where] += 1 / h
            left[where] -= 1
            where = where[left[where] > 0]
    return total
