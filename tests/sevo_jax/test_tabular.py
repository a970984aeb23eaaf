"""Graphs of tables against `sequence_graph` of the same sequences, to the last bit."""

from __future__ import annotations

import gzip
import sys

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sevo_jax
from sevo_jax import sequence_graph, sequence_graph_from_table

ibis = pytest.importorskip("ibis")

# ibis 12 calls DuckDB by a name that the next major version drops, and pandas likewise.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

N = 6
EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, N - 1), st.integers(0, 2)), min_size=1, max_size=30
)


def sequences_of(frame: pl.DataFrame, *keys: str) -> list[list[int]]:
    return frame.sort("user", *keys).group_by("user").agg("item")["item"].to_list()


def assert_same(ours: sevo_jax.Graph, wanted: sevo_jax.Graph) -> None:
    assert (ours.num_nodes, ours.capacity) == (wanted.num_nodes, wanted.capacity)
    for normalized in (False, True):
        a, b = (graph.to_scipy(normalized) for graph in (ours, wanted))
        np.testing.assert_array_equal(a.indptr, b.indptr)
        np.testing.assert_array_equal(a.indices, b.indices)
        assert a.data.tobytes() == b.data.tobytes()


@settings(max_examples=30, deadline=None)
@given(
    EVENTS,
    st.randoms(use_true_random=False),
    st.sampled_from([None, 1, 2, 5]),
    st.sampled_from(["first", "last"]),
    st.integers(1, 3),
    st.sampled_from(["distance", "frequency"]),
    st.sampled_from(["none", "isolated", "all"]),
    st.sampled_from([None, 100]),
)
def test_the_same_graph(
    events, random, max_len, keep, walk_length, weighting, self_loops, capacity
):
    ordered = pl.DataFrame(events, ["user", "item", "time"], orient="row").with_row_index("number")
    options = {"max_len": max_len, "keep": keep, "walk_length": walk_length}
    options |= {"weighting": weighting, "self_loops": self_loops, "capacity": capacity}
    shuffled = ordered[random.sample(range(len(events)), len(events))]
    with jax.enable_x64(True):  # where no rounding to float32 hides another in float64
        ours = sequence_graph_from_table(
            ibis.memtable(shuffled), order="number", num_nodes=N, **options
        )
        assert_same(ours, sequence_graph(sequences_of(ordered, "time", "number"), N, **options))


def test_thirds_are_added_one_by_one(x64):
    # A pair both ways at a distance of 3, so often that products round otherwise than sums.
    items = np.random.default_rng(0).permutation(np.repeat([0, 1], [3_000, 2_000]))
    frame = pl.DataFrame({"user": 1, "item": items, "time": np.arange(items.size)})
    options = {"max_len": None, "walk_length": 5}
    wanted = sequence_graph([items], 2, **options)
    assert_same(sequence_graph_from_table(ibis.memtable(frame), num_nodes=2, **options), wanted)
    between = wanted.to_scipy(normalized=False)[0, 1]
    pairs = [int(np.sum(items[h:] != items[:-h])) for h in range(1, 6)]
    assert between != sum(n / h for h, n in enumerate(pairs, 1))  # it does make a difference


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Users in turns, most times equal."""
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, 60, 900), rng.integers(0, 40, 900)
    return pl.DataFrame({"user": user, "item": item, "time": np.arange(900) // 100})


def written(frame: pl.DataFrame, folder, name: str) -> str:
    path = folder / name
    if ".parquet" in name:
        frame.write_parquet(path, row_group_size=100)
    else:
        frame.write_csv(path, separator="\t" if ".tsv" in name else ",")
    return str(path)


@pytest.mark.parametrize("name", ["events.parquet", "events.csv", "events.tsv"])
@pytest.mark.parametrize("keep", ["first", "last"])
def test_a_file_tells_equal_times_apart_by_its_rows(frame, tmp_path, name, keep):
    path = written(frame, tmp_path, name)
    options = {"max_len": 5, "keep": keep}
    numbered = frame.with_row_index("number")
    wanted = sequence_graph(sequences_of(numbered, "time", "number"), 40, **options)
    assert_same(sequence_graph_from_table(path, **options), wanted)
    backwards = numbered.with_columns(time=-pl.col("time"))
    by_rows = sequence_graph_from_table(
        written(backwards, tmp_path, "backwards" + name), time="rows", **options
    )
    assert_same(by_rows, sequence_graph(sequences_of(numbered, "number"), 40, **options))


def test_several_files_and_an_order_of_their_own(frame, tmp_path):
    numbered = frame.with_row_index("number")
    wanted = sequence_graph(sequences_of(numbered, "time", "number"), 40)
    for part in range(3):
        written(numbered[300 * part : 300 * (part + 1)], tmp_path, f"part-{part}.parquet")
        written(numbered[300 * part :: -1][:300], tmp_path, f"other-{part}.parquet")
    assert_same(sequence_graph_from_table(str(tmp_path / "part-*.parquet")), wanted)
    shuffled = written(numbered.sample(fraction=1, shuffle=True, seed=0), tmp_path, "s.parquet")
    assert_same(sequence_graph_from_table(shuffled, order="number"), wanted)


def test_columns_named_like_those_that_duckdb_makes(frame, tmp_path):
    wanted = sequence_graph_from_table(written(frame, tmp_path, "events.parquet"))
    named = frame.with_columns(filename=pl.lit("z"), file_row_number=-pl.col("item"))
    for pattern in ("named.parquet", "nam*.parquet"):
        written(named, tmp_path, "named.parquet")
        assert_same(sequence_graph_from_table(str(tmp_path / pattern)), wanted)
    users = named.rename({"user": "filename", "filename": "user"})
    path = written(users, tmp_path, "named.parquet")
    assert_same(sequence_graph_from_table(path, user="filename"), wanted)


def test_names_and_types_of_columns(frame, tmp_path):
    wanted = sequence_graph_from_table(written(frame, tmp_path, "events.parquet"))
    day = pl.date(2020, 1, 1) + pl.duration(days="time")
    other = frame.select(
        who="u" + pl.col("user").cast(str), what=pl.col("item").cast(pl.UInt8), on=day
    )
    path = written(other, tmp_path, "other.parquet")
    assert_same(sequence_graph_from_table(path, user="who", item="what", time="on"), wanted)


def test_rows_of_equal_times_and_order_come_in_the_order_of_their_items(frame):
    table = frame.with_columns(half=pl.int_range(pl.len()) % 2)
    wanted = sequence_graph(sequences_of(table, "time", "half", "item"), 40)
    for same in (table, table.reverse()):
        assert_same(sequence_graph_from_table(ibis.memtable(same), order="half"), wanted)


def test_an_expression_tells_equal_times_apart_by_the_items(frame):
    wanted = sequence_graph(sequences_of(frame, "time", "item"), 40)
    assert_same(sequence_graph_from_table(ibis.memtable(frame.reverse())), wanted)


def test_what_does_not_fit_into_the_memory_limit_is_spilt(tmp_path):
    rng = np.random.default_rng(2)
    size = 600_000
    columns = {"user": rng.integers(0, 60_000, size), "item": rng.zipf(1.3, size) % 20_000}
    path = tmp_path / "events.parquet"
    pl.DataFrame(columns | {"time": np.arange(size)}).write_parquet(path)
    limit = {"memory_limit": "20MB", "threads": 1}
    unable = ibis.duckdb.connect(**limit, temp_directory="")
    with pytest.raises(MemoryError, match="the engine is short of memory"):
        sequence_graph_from_table(path, connection=unable)
    stages: list[tuple[str, int]] = []
    able = ibis.duckdb.connect(**limit, temp_directory=str(tmp_path / "spilt"))
    ours = sequence_graph_from_table(
        path, connection=able, progress=lambda *stage: stages.append(stage)
    )
    assert_same(ours, sequence_graph_from_table(path))
    off_diagonal = ours.capacity - np.count_nonzero(ours.to_scipy().diagonal())
    assert stages[0] == ("checking the table", 0)
    assert stages[-1] == ("normalising", ours.capacity - off_diagonal // 2)


@pytest.mark.parametrize("name", ["events.parquet", "events.csv"])
@pytest.mark.parametrize(
    "item",
    [
        pl.format("{}", "item"),  # 10 before 9
        pl.format("i{}ü", "item"),
        pl.format("000{}", "item"),
        2**40 + pl.col("item"),
        -pl.col("item"),
    ],
)
def test_any_ids_are_numbered_in_their_own_order(frame, tmp_path, name, item):
    other = frame.with_columns(item)
    column = other.columns[-1] if other.width > 3 else "item"
    if name.endswith("csv"):
        other = other.with_columns(pl.col(column).cast(str))
    path = written(other, tmp_path, name)
    graph, ids = sequence_graph_from_table(path, item=column, ids="any")
    assert ids.tolist() == sorted(other[column].unique().to_list())
    nodes = {name: node for node, name in enumerate(ids.tolist())}
    renumbered = frame.with_columns(item=pl.Series([nodes[name] for name in other[column]]))
    assert_same(graph, sequence_graph_from_table(written(renumbered, tmp_path, "n.parquet")))


def test_users_of_one_interaction_make_a_graph_without_edges():
    frame = pl.DataFrame({"user": [1, 2], "item": [3, 3], "time": [0, 0]})
    graph = sequence_graph_from_table(ibis.memtable(frame), num_nodes=5)
    assert (graph.num_nodes, graph.capacity) == (5, 0)


GOOD = {"user": [1, 1, 2], "item": [0, 1, 2], "time": [0, 1, 2]}


@pytest.mark.parametrize(
    ("changed", "options", "kind", "says"),
    [
        (
            {},
            {"item": "asin"},
            ValueError,
            "item='asin': no such column; there are user, item, time",
        ),
        (
            {},
            {"user": "u", "time": "t"},
            ValueError,
            "user='u', time='t': no such column; .*, time; time=\"rows\" takes the order of rows",
        ),
        (
            {"user": [1, None, 2]},
            {},
            ValueError,
            "'user' must have a value in every row, but 1 of 3",
        ),
        (
            {"item": [1, None, 2]},
            {},
            ValueError,
            "'item' must have a value in every row, but 1 of 3",
        ),
        (
            {"time": [1, None, 2]},
            {},
            ValueError,
            "'time' must have a value in every row, but 1 of 3",
        ),
        ({"time": [1.0, np.nan, 2]}, {}, ValueError, "'time' must have a value"),
        ({"time": ["9", "10", "11"]}, {}, TypeError, "time='time' must hold numbers, dates or"),
        (
            {"item": ["a", "1", "2"]},
            {},
            TypeError,
            'must hold integers, got string; ids="any" numb',
        ),
        ({"item": [0.5, 1, 2]}, {}, TypeError, "item='item' must hold integers, got float64"),
        ({"item": [0.5, 1, 2]}, {"ids": "any"}, TypeError, "integers or strings, got float64"),
        (
            {"item": [0, 1, 2**31]},
            {},
            ValueError,
            r"must be below 2\^31, got 2147483648; ids=\"any\"",
        ),
        ({"item": [0, 1, -1]}, {}, ValueError, "item='item' must not be negative, got -1"),
        ({}, {"num_nodes": 2}, ValueError, r"must lie in \[0, num_nodes\) = \[0, 2\), got 2"),
        (
            {"user": [], "item": [], "time": []},
            {},
            (ValueError, TypeError),
            "at least one|must hold",
        ),
        ({}, {"num_nodes": 2, "ids": "any"}, ValueError, "at least the number of items, 3, got 2"),
        ({}, {"time": None}, ValueError, "time must name the column of times, or be 'rows'"),
        ({}, {"keep": "newest"}, ValueError, "keep must be one of"),
        ({}, {"ids": "strings"}, ValueError, "ids must be one of 'integers', 'any'"),
        ({}, {"max_len": 0}, ValueError, "max_len must be at least 1"),
        ({}, {"walk_length": 1.5}, TypeError, "walk_length must be an integer"),
        ({}, {"order": "n"}, ValueError, "order='n': no such column"),
        ({}, {"time": "rows", "order": "time"}, ValueError, "order='time' is for equal times"),
        ({}, {"user": 0}, TypeError, "user must be the name of a column, a string, got 0"),
        ({}, {"connection": 3}, ValueError, "connection must be of ibis.duckdb.connect or"),
    ],
)
def test_bad_tables(changed, options, kind, says, tmp_path):
    path = written(pl.DataFrame(GOOD | changed, strict=False), tmp_path, "events.parquet")
    with pytest.raises(kind, match=says):
        sequence_graph_from_table(path, **options)


def test_an_empty_table(tmp_path):
    path = written(pl.DataFrame(GOOD).clear(), tmp_path, "events.parquet")
    with pytest.raises(ValueError, match="at least one interaction"):
        sequence_graph_from_table(path)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.parquet: there is no such file"):
        sequence_graph_from_table(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"ends in one of \.parquet"):
        sequence_graph_from_table(tmp_path / "events.json")
    with pytest.raises(TypeError, match="a path, a data frame or a table expression of ibis"):
        sequence_graph_from_table(GOOD)
    with pytest.raises(ValueError, match=r"there are user, item, time$"):
        sequence_graph_from_table(ibis.memtable(GOOD), time="at")
    with pytest.raises(ValueError, match="a table expression has none"):
        sequence_graph_from_table(ibis.memtable(GOOD), time="rows")
    broken = tmp_path / "broken.parquet"
    broken.write_text("user,item,time\n1,2,3\n")
    with pytest.raises(ValueError, match=r"broken\.parquet: .* cannot read it: .*No magic bytes"):
        sequence_graph_from_table(broken)
    with pytest.raises(ValueError, match=r"no\*\.parquet: .*No files found"):
        sequence_graph_from_table(str(tmp_path / "no*.parquet"))


@pytest.mark.parametrize("first", [True, False])
def test_a_column_that_is_half_integers_half_strings(tmp_path, first):
    path = tmp_path / "mixed.csv"
    rows = [f"{i % 9},{i % 7},{i}" for i in range(30_000)]
    rows = ["1,B0007,0", *rows] if first else [*rows, "1,B0007,30000"]
    path.write_text("\n".join(["user,item,time", *rows]))
    says = rf"mixed\.csv, row {1 if first else 30001}: item='item' must hold integers, got 'B0007'"
    with pytest.raises(ValueError, match=says):
        sequence_graph_from_table(path)
    graph, ids = sequence_graph_from_table(path, ids="any")
    assert ids.tolist() == [*map(str, range(7)), "B0007"]
    assert graph.num_nodes == 8


def test_memory_that_is_not_enough(frame, tmp_path):
    connection = ibis.duckdb.connect(memory_limit="1MB")
    path = written(frame, tmp_path, "events.parquet")
    with pytest.raises(MemoryError, match=r"events\.parquet: the engine is short of memory"):
        sequence_graph_from_table(path, connection=connection)


def test_without_ibis(monkeypatch):
    monkeypatch.setitem(sys.modules, "ibis", None)
    with pytest.raises(ImportError, match=r'pip install "sevo-jax\[tables\]"'):
        sequence_graph_from_table("events.parquet")


def csv(tmp_path, rows: list[str], name: str = "log.csv") -> str:
    path = tmp_path / name
    path.write_text("\n".join(["user,item,time", *rows]))
    return str(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0", "00"),
        ("36893488147419103233", "36893488147419103234"),
        ("9007199254740993", "9007199254740993.0"),
        ("2e3", "2000"),
        ("2023-5-1", "2023-05-01"),
        ("F", "false"),
        ("b", "b "),
        ("9:30", "09:30:00"),
        ("#1", "#2"),
        ("None", "NULL"),
    ],
)
def test_users_are_the_text_that_they_are(tmp_path, one, other):
    late = 25_000 if one == "0" else 0
    rows = [f"{10**6 + i},0,{i}" for i in range(late)]
    rows += [f"{user},{item},{item}" for item in (1, 2, 3) for user in (one, other)]
    wanted = sequence_graph([[1, 2, 3], [1, 2, 3]], 4)
    assert_same(sequence_graph_from_table(csv(tmp_path, rows)), wanted)


@pytest.mark.parametrize(
    "times",
    [
        ["-3", "7", "+40"],
        ["  8", "9 ", "10"],
        ["99.5", "100", "100.25"],
        ["-2.25", "-2", "-.5"],
        ["7.000000000000000001", "7.000000000000000002", "7.00000000000000001"],
        ["-0.5", "0.123456789012345678", ".2"],
        ["1600000000000000001", "1600000000000000002.0", "1600000000000000002.5"],
        ["9.5e8", "1e9", "1.000000001e9"],
        ["2021-12-31", "2022-01-01", "2022-01-01 00:00:01"],
        ["2022-03-04T05:06", "2022-03-04 05:06:00.000000001", "2022-03-04 05:06:00,1"],
        ["2022-03-04 23:30+05:30", "2022-03-04T18:30:00Z", "2022-03-04T14:00:00.5-0500"],
        ["2022-03-04 05:00 UTC", "2022-03-04 05:00:01+00", "2022-03-04T00:00:02-05:00"],
        ["2022-03-27 01:59", "2022-03-27 02:30", "2022-03-27 03:10"],  # no such hour in Rome
    ],
)
def test_times_as_text_are_compared_exactly(tmp_path, times):
    rows = [f"a,{item},{time}" for item, time in ((2, times[1]), (3, times[2]), (1, times[0]))]
    wanted = sequence_graph([[1, 2, 3]], 4)
    rows[1] = f'a,3,"{times[2]}"'  # which may hold a comma
    assert_same(sequence_graph_from_table(csv(tmp_path, rows)), wanted)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (
            ["06/02/2023"],
            r"got '06/02/2023'; write 2023-02-06 \(day first\) or 2023-06-02 \(month f",
        ),
        (["6.2.23 10:00"], r"write 2023-02-06 \(day first\) or 2023-06-02 \(month first\)"),
        (["2023-02-01", "13-12-2023"], "row 2: .*got '13-12-2023'; others are dates.*2023-12-13$"),
        (["2023-02-01", "2023-02-29"], "row 2: .*got '2023-02-29'"),
        (["2023-02-01 10:00", "2023-02-01 10:00Z", "2023-02-02"], "row 2: .*others are dates or"),
        (["20230201", "2023-02-01", "2023-02-02"], "row 1: .*got '20230201'; others are dates"),
        (["5", "nan"], "row 2: .*got 'nan'"),
        (["2023-02-01 7:30 PM"], "ISO dates, such as 2014-01-09 10:00:00, all written alike"),
        (["1.00000000000000000001"], "got '1.0000"),
        (["1e3", "1e-3"], "row 2: .*got '1e-3'"),
        (["5", "9" * 19], "row 2: .*got '999"),
        (["5", ""], "'time' must have a value in every row, but 1 of 2"),
    ],
)
def test_times_that_cannot_be_read_exactly_are_refused(tmp_path, times, says):
    path = csv(tmp_path, [f"a,{item},{time}" for item, time in enumerate(times)])
    with pytest.raises(ValueError, match=says):
        sequence_graph_from_table(path)


@pytest.mark.parametrize("item", ["2.5", "2e0", "0x2", "two", "9" * 19, "2_0", "NaN"])
def test_items_that_are_no_integers_are_refused(tmp_path, item):
    path = csv(tmp_path, ["a,1,1", "b,2,1", "b,3,2", f"a,{item},1"])
    with pytest.raises(ValueError, match=f"row 4: item='item' must hold integers, .*{item}"):
        sequence_graph_from_table(path)


def test_integers_may_be_written_with_zeros(tmp_path):
    path = csv(tmp_path, ["a,5.0,1", "a,003, 2", "a, 1,3"])
    assert_same(sequence_graph_from_table(path), sequence_graph([[5, 3, 1]], 6))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_path_is_a_file_and_its_folders_are_no_columns(frame, tmp_path, ending):
    folder = tmp_path / "item=3" / "time=1"
    folder.mkdir(parents=True)
    wanted = sequence_graph_from_table(written(frame, folder, f"x.{ending}"))
    assert_same(wanted, sequence_graph_from_table(frame))
    assert_same(sequence_graph_from_table(f"{tmp_path}/item=*/time=1/x.{ending}"), wanted)
    for name, likewise in (("y[ab]", "ya"), ("z*", "zz"), ("w?", "ww"), ("v{a,b}", "va")):
        written(frame.head(3), tmp_path, f"{likewise}.{ending}")
        path = written(frame, tmp_path, f"{name}.{ending}")
        assert_same(sequence_graph_from_table(path), wanted)
    (tmp_path / f"folder.{ending}").mkdir()
    with pytest.raises(ValueError, match="is a folder; write a pattern of its files"):
        sequence_graph_from_table(tmp_path / f"folder.{ending}")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_files_come_in_the_order_of_their_paths_as_text(frame, tmp_path, ending):
    for part, number in ((0, 1), (1, 11), (2, 3)):
        written(frame[300 * part : 300 * (part + 1)], tmp_path, f"part-{number}.{ending}")
    numbered = frame.with_row_index("number")
    wanted = sequence_graph(sequences_of(numbered, "number"), 40)
    pattern = str(tmp_path / f"part-*.{ending}")
    assert_same(sequence_graph_from_table(pattern, time="rows"), wanted)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_files_of_a_pattern_must_be_alike(frame, tmp_path, ending):
    written(frame, tmp_path, f"a1.{ending}")
    others = [frame.rename({"time": "at"}), frame.with_columns(pl.col("item").cast(str))]
    others = [others[0], frame.select("time", "item", "user")] if ending == "csv" else others
    for other in others:
        written(other, tmp_path, f"a2.{ending}")
        with pytest.raises(ValueError, match=r"column '\w+' is .* in .*a1.*, but .* in .*a2"):
            sequence_graph_from_table(str(tmp_path / f"a*.{ending}"))


@pytest.mark.parametrize("form", ["file.csv", "file.parquet", "fil*.parquet", "frame", "memtable"])
def test_columns_of_any_name(frame, tmp_path, form):
    names = ["sevo_row", "sevo_file", "row", "file", "key0", "file_row_number", "position"]
    other = frame.with_columns(**{name: -pl.col("item") for name in names})
    table = {"frame": other, "memtable": ibis.memtable(other)}.get(form)
    if table is None:
        written(other, tmp_path, form.replace("*", "e"))
        table = str(tmp_path / form)
    wanted = sequence_graph_from_table(ibis.memtable(frame) if form == "memtable" else frame)
    assert_same(sequence_graph_from_table(table), wanted)
    renamed = other.rename({"user": "key0", "key0": "user", "item": "row", "row": "item"})
    ours = sequence_graph_from_table(renamed, user="key0", item="row")
    assert_same(ours, sequence_graph_from_table(frame))


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_nanoseconds_keep_all_digits(tmp_path, zone):
    stamps = pl.Series([1_500_000_000_123_456_000 + i for i in (7, 5, 6)])
    frame = pl.DataFrame(
        {"user": 1, "item": [3, 1, 2], "time": stamps.cast(pl.Datetime("ns", zone))}
    )
    wanted = sequence_graph([[1, 2, 3]], 4)
    frame.write_parquet(tmp_path / "ns.parquet")
    frame.head(1).write_parquet(tmp_path / "part1.parquet")
    frame.tail(2).write_parquet(tmp_path / "part2.parquet")
    tables = [tmp_path / "ns.parquet", str(tmp_path / "part*"), frame, frame.to_pandas()]
    tables[1] += ".parquet"
    for table in [*tables, frame.to_arrow(), ibis.memtable(frame.to_pandas())]:
        assert_same(sequence_graph_from_table(table), wanted)


@pytest.mark.parametrize("form", ["polars", "pandas", "pyarrow"])
def test_frames_as_they_are(frame, form):
    table = {"polars": frame, "pandas": frame.to_pandas(), "pyarrow": frame.to_arrow()}[form]
    numbered = frame.with_row_index("number")
    wanted = sequence_graph(sequences_of(numbered, "time", "number"), 40)
    assert_same(sequence_graph_from_table(table), wanted)
    wanted = sequence_graph(sequences_of(numbered, "number"), 40)
    assert_same(sequence_graph_from_table(table, time="rows"), wanted)


def test_frames_that_cannot_be_read(frame):
    with pytest.raises(TypeError, match=r"got a LazyFrame; pass its collect\(\)"):
        sequence_graph_from_table(frame.lazy())
    with pytest.raises(ValueError, match=r"time='at': no such column; there are user, item, time$"):
        sequence_graph_from_table(frame, time="at")
    mixed = frame.to_pandas()
    mixed["user"] = [1, "1"] * (len(mixed) // 2)
    with pytest.raises(TypeError, match=r"a column that Arrow cannot represent: .*user"):
        sequence_graph_from_table(mixed)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (pl.Series([1.0, np.nan, 2.0]), "float64"),
        (pl.Series([b"x", b"y", b"z"]), "binary"),
        (pl.Series([True, False, True]), "boolean"),
        (pl.Series([[1], [2], [3]]), "array"),
    ],
)
def test_items_of_other_types_are_refused(tmp_path, item, kind):
    frame = pl.DataFrame(GOOD | {"item": item})
    for table in (frame, written(frame, tmp_path, "events.parquet")):
        with pytest.raises(TypeError, match=f"integers or strings, got {kind}.*; cast it to int"):
            sequence_graph_from_table(table, ids="any")


def test_decimals_without_a_fraction_are_integers():
    frame = pl.DataFrame(GOOD).with_columns(pl.col("item").cast(pl.Decimal(20, 0)))
    wanted = sequence_graph([[0, 1], [2]], 3)
    assert_same(sequence_graph_from_table(frame), wanted)
    assert_same(sequence_graph_from_table(frame, ids="any")[0], wanted)


@pytest.mark.parametrize("name", ["events.csv.gz", "events.tsv.gz", "EVENTS.CSV.GZ"])
def test_compressed_files(frame, tmp_path, name):
    data = frame.write_csv(separator="\t" if "tsv" in name else ",").encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data))
    assert_same(sequence_graph_from_table(path), sequence_graph_from_table(frame))
    path.write_bytes(gzip.compress(data)[:-200])
    with pytest.raises(ValueError, match="is no gzip file that can be read"):
        sequence_graph_from_table(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("user,item,time\n1,2,3\n".encode("utf-16"), r"log\.csv: is UTF-16"),
        ("user,item,time\n1,2,3\n".encode("utf-16-be"), r"log\.csv: is UTF-16"),
        (
            gzip.compress(b"user,item,time\n1,2,3\n", mtime=0),
            r"is compressed by gzip; name it .*csv\.gz",
        ),
        ("user,item,time\nà,2,3\n".encode("latin-1"), r"log\.csv: .*Line: 2;.*not utf-8"),
        ("user,item,time,é\n1,2,3,4\n".encode("latin-1"), r"log\.csv: is not UTF-8 .*save it"),
        (b"user,item,time\n1,2,31/31/2020\n", r"'31/31/2020'"),
        (b"", "the first line must name the columns"),
        (b"user,item,time,a,b\n1,2,3,4,5\n1,2,3,4,5,6\n", r"Line: 3;.*Columns: 5 Found: 6"),
        (b"user,a,item,b,time\n1,2,3,4\n", r"Line: 2;.*Columns: 5 Found: 4"),
        (b"user,item,item,time\n1,2,3,4\n", "item='item': several columns have this name"),
        (b"1 2\n1 3\n", "user='user', item='item', time='time': no such column; there are 1 2"),
    ],
)
def test_text_that_is_no_table(tmp_path, data, says):
    (tmp_path / "log.csv").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        sequence_graph_from_table(tmp_path / "log.csv")


def test_how_files_of_text_may_be_written(tmp_path):
    path = tmp_path / "log.csv"
    wanted = sequence_graph([[1, 2], [2, 1]], 3)
    for text in (
        "user;item;time\na;1;1\nb;2;1\na;2;2\nb;1;2\n",
        '\ufeffuser,"item",time\r\na,1,1\r\nb,2,1\r\na,2,2\r\nb,1,2\r\n',
        "user,item,time\ra,1,1\rb,2,1\ra,2,2\rb,1,2\r",
        'User,user,item,time\n0,"a\nb",1,1\n0,"a""b",2,1\n0,"a\nb",2,2\n0,"a""b",1,2\n',
    ):
        path.write_bytes(text.encode())
        assert_same(sequence_graph_from_table(path), wanted)
