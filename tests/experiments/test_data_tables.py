"""A user's own tables: CSV, TSV, Parquet and RecBole files, good and bad."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.data import cache, events, interactions, load, tables
from experiments.data.interactions import from_sequences
from experiments.errors import UserError

# in no order of users; user b has a tie, x before y
USERS = ["b", "a", "b", "a", "b", "a", "c"]
ITEMS = ["x", "z", "y", "x", "z", "y", "x"]
TIMES = [20, 30, 20, 10, 10, 20, 1]


def table(path: Path, columns: dict[str, list]) -> Path:
    frame = pl.DataFrame(columns)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="," if path.suffix.lower() == ".csv" else "\t")
    return path


@pytest.mark.parametrize("file", ["a.csv", "a.tsv", "a.parquet", "a.inter", "A.CSV"])
@pytest.mark.parametrize(
    ("user", "item", "time"),
    [
        ("user", "item", "timestamp"),
        ("user_id:token", "item_id:token", "timestamp:float"),
        ("userId", "movieId", "ts"),
        ("reviewerID", "asin", "unixReviewTime"),
        ("UID", "iid", "Date"),
    ],
)
def test_columns_are_recognised(tmp_path, file, user, item, time):
    columns = {"rating": [5.0] * 7, time: TIMES, item: ITEMS, user: USERS}
    data = load(str(table(tmp_path / file, columns)))
    assert data.name == Path(file).stem
    assert data.items.tolist() == [1, 2, 3, 3, 1, 2]
    assert data.user_ids.tolist() == ["a", "b"]
    assert data.item_ids.tolist() == ["x", "y", "z"]
    assert data.notes == ("dropped 1 users of fewer than 3 interactions",)


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_without_times_the_order_is_the_files(tmp_path, file):
    path = table(tmp_path / file, {"user": USERS, "item": ITEMS})
    data = load(str(path))
    assert data.items.tolist() == [3, 1, 2, 1, 2, 3]
    note = f"{path}: has no column of times; each user's items are in the file's order"
    assert data.notes[0] == note


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_numbers_sort_as_numbers_and_leading_zeros_stay(tmp_path, file):
    columns = {"user": [10, 10, 10, 9, 9, 9], "item": ["007", "7", "10"] * 2}
    data = load(str(table(tmp_path / file, columns)))
    assert data.user_ids.tolist() == [9, 10]
    assert data.item_ids.tolist() == ["007", "10", "7"]
    columns["item"] = ["7", "70", "8"] * 2
    data = load(str(table(tmp_path / file, columns)))
    assert [str(item) for item in data.item_ids] == ["7", "8", "70"] or file == "a.parquet"


@pytest.mark.parametrize(
    "times",
    [
        [0.5, 1.5, 0.25],
        [2**60 + 1, 2**60 + 2, 2**60],
        ["2014-05-02", "2014-11-01", "2013-12-31"],
        ["2014-05-02 10:00:00", "2014-05-02 11:00:00", "2014-05-02 09:59:59"],
        ["2014-05-02T10:00:00Z", "2014-05-02T10:00:00.5Z", "2014-05-02T09:59:59Z"],
        [datetime.date(2014, 5, 2), datetime.date(2014, 11, 1), datetime.date(2013, 12, 31)],
    ],
)
@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_times_are_numbers_or_dates(tmp_path, file, times):
    columns = {"user": [1, 1, 1], "item": ["x", "y", "z"], "time": times}
    data = load(str(table(tmp_path / file, columns)))
    assert data.item_ids[data.items - 1].tolist() == ["z", "x", "y"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"who": [1], "item": [1]},
            "found columns who, item; expected one of users, called user or userid or uid",
        ),
        ({"user": [1], "what": [1]}, "found columns user, what; expected one of items, called it"),
        ({"user": [1, 1, 1], "item": [1, None, 3]}, "row 2: found {"),
        ({"user": [1, 1, None], "item": [1, 2, 3]}, "row 3: found {"),
        ({"user": [1, 1, 1], "item": [1, 2, 3], "time": [1, 2, None]}, "row 3: found {"),
        (
            {"user": [1, 1, 1], "item": [1, 2, 3], "time": ["1", "2", "soon"]},
            "row 3: found the time 'soon'; expected a number or an ISO date",
        ),
        (
            {"user": [1, 1, 1], "item": [1, 2, 3], "time": ["2014-05-12", "2014-06-12", "5/1/14"]},
            "row 3: found the time '5/1/14'; expected a number or an ISO date",
        ),
        (
            {"user": [1, 1, 1], "item": [1, 2, 3], "time": ["05/12/2014"] * 3},
            "row 1: found the time '05/12/2014'; expected a number or an ISO date",
        ),
        (
            {"user": [1, 1, 1], "item": [1, 2, 3], "time": [1.0, float("nan"), 2.0]},
            "expected a number or an ISO date such as",
        ),
        ({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2]}, "no user has 3 or more interactions"),
        (
            {
                "user": [1, 1, 1],
                "item": [1, 2, 3],
                "time": ["2014-05-12", "2014-06-12", "2020-13-4"],
            },
            "row 3: found the time '2020-13-4'; expected a number or an ISO date",
        ),
        ({"user": [], "item": []}, "holds no interactions"),
        (
            {"user": ["a", "a", "a"], "item": ["7", "8", "7 "]},
            "row 3: found the item '7 ', with white space around it; it would be another than '7'",
        ),
        ({"user": ["a", "a", "a"], "item": ["7", "8", "  "]}, "row 3: found an empty item"),
        (
            {"user": ["a", " a", "b"], "item": ["7", "8", "9"]},
            "row 2: found the user ' a', with white space around it",
        ),
        (
            {"user": [1, 1, 1], "item": [1, 2, 3], "date": ["2014-05-30"] * 3, "time": [9, 8, 7]},
            "found columns date and time, which may be two halves of a time",
        ),
    ],
)
@pytest.mark.parametrize("file", ["a.csv", "a.inter", "a.parquet"])
def test_bad_tables(tmp_path, file, columns, message):
    path = table(tmp_path / file, columns)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["7", "8", "7 ", ""])])
@pytest.mark.parametrize(("item", "message"), [("7 ", "with white space around"), ("", "an empty")])
def test_padded_and_empty_ids_of_all_types_of_text(tmp_path, kind, item, message):
    rows = pl.DataFrame({"user": [1, 1, 1], "item": ["7", "8", item]})
    rows.with_columns(pl.col("item").cast(kind)).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=f"row 3: found .*{message}"):
        load(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("file", ["a.csv", "a.tsv", "a.inter", "a.parquet"])
@pytest.mark.parametrize("content", [b"", bytes(range(128, 256)) * 9, b"user,item\n1,2,3,4\n"])
def test_files_that_are_no_tables(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path / file)):
        load(str(tmp_path / file))


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_missing_table_and_folder(tmp_path, file):
    with pytest.raises(UserError, match=rf"{file}: cannot be read \(No such file"):
        load(str(tmp_path / file))
    (tmp_path / file).mkdir()
    with pytest.raises(UserError, match=rf"{file}: cannot be read \(Is a directory"):
        load(str(tmp_path / file))


@pytest.mark.parametrize("file", ["a[1]*.csv", "a[1]*.parquet"])
def test_names_of_files_are_no_patterns(tmp_path, file):
    path = table(tmp_path / file, {"user": USERS, "item": ITEMS, "time": TIMES})
    assert load(str(path)).num_users == 2


@pytest.mark.parametrize("items", [[["x"], ["y"], ["z"]], [b"\xff", b"x", b"y"]])
def test_ids_that_are_no_numbers_or_strings(tmp_path, items):
    path = table(tmp_path / "a.parquet", {"user": [1, 1, 1], "item": items})
    with pytest.raises(
        UserError, match=r"a\.parquet: found items that are no text|ids of type List"
    ):
        load(str(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": [{"a": 1}, {"a": 2}, {"a": 3}]}, "found ids of type Struct"),
        ({"item": [1, 2, 3], "time": [datetime.time(i) for i in range(3)]}, "times of type Time"),
    ],
)
def test_types_that_parquet_has(tmp_path, columns, message):
    path = table(tmp_path / "a.parquet", {"user": [1, 1, 1], **columns})
    with pytest.raises(UserError, match=message):
        load(str(path))


def test_integers_that_numpy_has_not(tmp_path):
    frame = pl.DataFrame({"user": [1, 1, 1], "item": [30, 2, 1]}).cast(pl.Int128)
    frame.write_parquet(tmp_path / "a.parquet")
    assert load(str(tmp_path / "a.parquet")).item_ids.tolist() == [1, 2, 30]


def test_blank_lines_and_empty_ids(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("user,item\n1,x\n\n1,y\n1,z\n\n")
    assert load(str(file)).items.tolist() == [1, 2, 3]
    file.write_text("user,item,rating\n1,x,5\n,,\n1,y,5\n1,z,5\n")
    assert load(str(file)).items.tolist() == [1, 2, 3]
    for lacking in ('user,item\n1,x\n1,""\n1,z\n', "user,item,rating\n1,x,5\n,,5\n1,y,5\n"):
        file.write_text(lacking)
        with pytest.raises(UserError, match="row 2: found"):
            load(str(file))


@pytest.mark.parametrize("name", ["a.json.gz", "a.xlsx", "a.jsonl"])
def test_other_tables_are_told_which_can_be_read(tmp_path, name):
    (tmp_path / name).write_text("user,item\n")
    with pytest.raises(UserError, match=r"told by their names, \.csv, \.tsv, \.inter or \.parq"):
        load(str(tmp_path / name))


def test_byte_order_marks_and_quotes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfuser, item\n1,"x, y"\n1,"a ""b"""\n1,c\n')
    assert load(str(tmp_path / "a.csv")).item_ids.tolist() == ['a "b"', "c", "x, y"]
    (tmp_path / "a.inter").write_text('user_id:token\titem_id:token\n1\t"x\n1\ty\n1\tz\n')
    assert load(str(tmp_path / "a.inter")).item_ids.tolist() == ['"x', "y", "z"]


WIDE = {
    ".csv": ("shop,user,item,price,time\n", ","),
    ".tsv": ("user\tshop\titem\ttime\tprice\n", "\t"),
    ".inter": ("time:float\tuser_id:token\titem_id:token\tshop:token\tx:token\n", "\t"),
}


@pytest.mark.parametrize(
    ("ending", "at"), [(".csv", 0), (".csv", 59_999), (".tsv", 7), (".inter", 7), (".csv.gz", 59)]
)
def test_a_row_of_more_fields_is_an_error_that_names_its_line(tmp_path, ending, at):
    """Wherever it stands, though columns are left unread."""
    header, separator = WIDE[ending.removesuffix(".gz")]
    rows = [separator.join("12345")] * (at + 1)
    rows[at] = separator.join(["4", "Tea", " green", "2", "3", "1"])
    content = (header + "\n".join(rows)).encode()
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(content, 1) if ending.endswith(".gz") else content)
    with pytest.raises(
        UserError, match=rf"line {at + 2}: found '4', 'Tea'.*are 6 fields; expected 5"
    ):
        load(str(file))


def test_lines_are_counted_as_editors_do(tmp_path):
    """Blank ones and line breaks in quotes count."""
    file = tmp_path / "a.csv"
    file.write_bytes(b'text,user,item\r\n"two\r\nlines",u,a\r\n\r\nx,u,b\r\nx,y,u,c\r\n')
    with pytest.raises(UserError, match=r"line 6: found 'x', 'y', 'u', 'c', which are 4 fields"):
        load(str(file))


def test_rows_of_fewer_fields(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("user,item,time,shop,price\nu,a,1,s,2\nu,b,3,,\nu,c,2\nu,d,4,s\n")
    data = load(str(file))
    assert data.item_ids[data.items - 1].tolist() == ["a", "c", "b", "d"]
    assert "fewer fields than the first line: 2, of which the first is line 4;" in data.notes[0]
    file.write_text("user,shop,item,time\nu,s,a,1\nu,s,b,\nu,b,2\n")
    with pytest.raises(UserError, match=r"line 4: found 'u', 'b', '2', which is 3 of the 4 fields"):
        load(str(file))
    file.write_text("user,shop,item,time\nu,s,a,1\nu,s,b,\nu,s,b,2\n")
    with pytest.raises(UserError, match=r"row 2: found {.*'time': None"):
        load(str(file))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('u,"b,2', r"line 3: .* the item goes over several lines; .* is a quote stray, or not"),
        ('"u,b,2', r"line 3: .* the user goes over several lines"),
        ('u,"b"ee,2', r"line 3: has a quote that is stray, or not closed"),
    ],
)
def test_stray_quotes(tmp_path, row, message):
    """The closing one belongs to a later row, whose like would be swallowed."""
    file = tmp_path / "a.csv"
    file.write_text(f'user,item,time\nu,a,1\n{row}\nu,c,3\nu,d",4\nu,e,5\nu,f,6\n')
    with pytest.raises(UserError, match=message):
        load(str(file))
    file.write_text(f"user,item,time\nu,a,1\n{row}\nu,c,3\n")  # closed nowhere
    with pytest.raises(UserError, match=r"line 3: has a quote that is stray, or not closed"):
        load(str(file))


def test_line_breaks_in_ids(tmp_path):
    """A field in quotes may have one; what a stray quote takes in has a separator, too."""
    file = tmp_path / "a.csv"
    file.write_text('user,item\nann,"one\ntwo"\nann,"three"\nann,"four\r\nfive"\n')
    assert load(str(file)).item_ids.tolist() == ["four\r\nfive", "one\ntwo", "three"]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("user,item,item", "2 columns of items, item and item"),
        ("user,Item_ID,itemId", "2 columns of items, Item_ID and itemId"),
        ("user,item,ts,user", "2 columns of users, user and user"),
        ("user_id,item,time,TIME,time", "3 columns of times, time and TIME and time"),
    ],
)
def test_two_columns_of_one_kind(tmp_path, header, named):
    file = tmp_path / "a.csv"
    rows = [",".join(str(7 * k + i) for i in range(header.count(",") + 1)) for k in range(3)]
    file.write_text("\n".join([header, *rows]))
    with pytest.raises(UserError, match=rf"found {named}; expected one: rename the others"):
        load(str(file))


@pytest.mark.parametrize(
    "times",
    [
        ["1700000000.1234567893", "1700000000.1234567892", "1700000000.1234567891"],
        ["40000000000000000003", "40000000000000000002", "40000000000000000001"],
        [" 3.5", " 2.5 ", "1e0"],
        ["  12", "7 ", "-3"],
        [" 2021-03-01", "2021-02-28 23:00 ", " 2020-01-01"],
    ],
)
def test_times_are_read_to_the_last_digit_and_without_spaces(tmp_path, times):
    columns = {"user": ["u"] * 3, "item": list("abc"), "time": times}
    data = load(str(table(tmp_path / "a.csv", columns)))
    assert data.item_ids[data.items - 1].tolist() == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("a.csv", b"user,item\ru,a\ru,b\r", r"carriage return alone; write tr '\\r' '\\n' < a.csv"),
        ("a.tsv", b"user\titem\nu\t\xfcber\n", "not UTF-8 text; .* iconv -f LATIN1 -t UTF-8 a.tsv"),
        ("a.csv", b"user|item\nu|a\n", r"separated by ',', and the first line has '\|'"),
        ("a.tsv", b"user,item\nu,a\n", r"separated by '\\t', and the first line has ','"),
    ],
)
def test_text_of_other_programs(tmp_path, name, content, advice):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=advice):
        load(str(tmp_path / name))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".inter", ".CSV"])
def test_gzipped_tables(tmp_path, ending):
    columns = {"user": USERS, "item": ITEMS, "shop": [""] * 7, "time": TIMES}
    plain = table(tmp_path / f"log.v1{ending}", columns)
    zipped = tmp_path / f"{plain.name}.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = load(str(plain)), load(str(zipped))
    assert one.fingerprint == other.fingerprint
    assert one.name == other.name == "log.v1"
    zipped.write_bytes(zipped.read_bytes()[:-9])
    with pytest.raises(UserError, match=str(zipped)):
        load(str(zipped))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter", "a.txt", "a.csv.gz"])
def test_utf_16(tmp_path, name, encoding):
    content = ("1 2 3 4\n" if name == "a.txt" else "user,item\n1,2\n").encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UserError, match=rf"{name}: is UTF-16 text; expected UTF-8"):
        load(str(tmp_path / name))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", ["user", "item"])
def test_ids_that_are_no_finite_numbers(tmp_path, column, value):
    columns = {"user": [1.0, 1.0, 1.0, 1.0], "item": [4.0, 3.0, 2.0, 1.0]}
    columns[column][2] = value
    path = table(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=rf"row 3: found the {column} (nan|-?inf); expected an id"):
        load(str(path))


def test_one_long_id_costs_no_more_than_itself(tmp_path, monkeypatch):
    """Not as much for each other id: as text of a fixed width, these would be half a gigabyte."""
    items = [f"i{k}" for k in range(6000)]
    items[17] = "https://example.org/" + "x" * 20_000
    path = table(tmp_path / "a.csv", {"user": ["u"] * 6000, "item": items})
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path / "cache"))
    tracemalloc.start()
    try:
        data = load(str(path))
        for _ in range(2):  # written, and read
            again = cache.cached("a", path, lambda: data)
        assert again is not data
        assert again.fingerprint == data.fingerprint
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()
    assert again.item_ids.tolist() == data.item_ids.tolist()
    items[17] += "y"
    other = load(str(table(tmp_path / "b.csv", {"user": ["u"] * 6000, "item": items})))
    assert other.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    "ids",
    [
        np.array(["b", "äö", "c" * 900], object),
        np.array([5, 2**63 + 1, 2**63 + 2], np.uint64),
        np.array([-3, 7, 8], np.int8),
    ],
)
def test_fingerprints_are_those_that_runs_were_made_with(ids):
    """Lengths, items, and the ids as NumPy stores text."""
    data = from_sequences("a", np.array([0, 1, 2, 0]), np.array([4]), ids)
    want = hashlib.sha256(np.array([4]).tobytes() + np.array([1, 2, 3, 1], np.int32).tobytes())
    want.update(ids.astype("U").tobytes())
    assert data.fingerprint == want.hexdigest()[:16]


def in_small_pieces(monkeypatch, size: int) -> None:
    for module in (events, interactions):
        monkeypatch.setattr(module, "AT_ONCE", size)


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
@pytest.mark.parametrize(
    "id_of",
    [
        lambda number: number - 3,
        lambda number: (number - 3) * 2**57,  # too far apart for a table
        lambda number: f"{'long ' * number}é{number}",
    ],
)
@pytest.mark.parametrize(
    "time_of",
    [
        lambda number: number - 4,
        lambda number: (number - 4) * 2**60,
        lambda number: number / 8 - 1,
        lambda number: f"2021-03-0{number + 1}",
    ],
)
def test_pieces_fit_together(tmp_path, monkeypatch, file, id_of, time_of):
    """Users go over several batches, and one has more interactions than a piece; times tie."""
    rng = np.random.default_rng(5)
    users, items, times = rng.integers(0, [[7], [9], [8]], (3, 97)).tolist()
    users[20:45] = [2] * 25
    rows = [(id_of(u), id_of(i), time_of(t)) for u, i, t in zip(users, items, times, strict=True)]
    in_small_pieces(monkeypatch, 6)
    columns = dict(zip(("user", "item", "time"), map(list, zip(*rows, strict=True)), strict=True))
    data = load(str(table(tmp_path / file, columns)))
    want = {user: [] for user in sorted(set(columns["user"]))}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        want[user].append(item)
    assert data.user_ids.tolist() == list(want)
    assert data.item_ids.tolist() == sorted(set(columns["item"]))
    own = np.split(data.items, data.starts[1:])
    assert [data.item_ids[row - 1].tolist() for row in own] == list(want.values())
    repeated = len(rows) - len({row[:2] for row in rows})
    assert f"kept {repeated} repeated interactions" in data.notes[0]


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = table(tmp_path / "a.csv", {"user": USERS, "item": ITEMS})

    def appended(*arguments, **more):
        with path.open("a") as file:
            file.write("d,x\n")
        return events.from_events(*arguments, **more)

    monkeypatch.setattr(tables, "from_events", appended)
    with pytest.raises(UserError, match=r"a\.csv: changed while it was read"):
        load(str(path))


def test_text_is_copied_to_a_temporary_file_that_goes_away(tmp_path, monkeypatch):
    folder = tmp_path / "[temporary]"  # no pattern
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = table(tmp_path / "a.csv", {"user": USERS, "item": ITEMS})
    with tables.scan_columns(path, tables.COLUMNS, ("user", "item")) as (events, _):
        assert [file.suffix for file in folder.glob("*/*")] == [".parquet"]
        assert events.collect()["user"].to_list() == USERS
    path.write_text("user,item\na,x\na,\n")
    with pytest.raises(UserError, match=r"a\.csv, row 2: found"):
        load(str(path))
    assert not list(folder.iterdir())


def test_without_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    columns = {"user": USERS, "item": ITEMS}
    assert load(str(table(tmp_path / "a.parquet", columns))).num_users  # needs no copy
    with pytest.raises(UserError, match="set TMPDIR to a folder with space"):
        load(str(table(tmp_path / "a.csv", columns)))


def test_a_temporary_folder_without_space(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 10**9, (2, 100_000))
    path = table(tmp_path / "a.csv", {"user": numbers[0], "item": numbers[1]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(
            UserError, match=r"no space for a copy of the columns .*; set TMPDIR to"
        ):
            load(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_arrays_on_the_way_are_few(tmp_path, monkeypatch):
    """Beside the result, 12 bytes an interaction. Polars' memory is not counted here."""
    count = 200_000
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 20_000, count), rng.integers(0, 3_000, count)
    pl.DataFrame({"user": users, "item": items, "time": rng.permutation(count)}).write_parquet(
        tmp_path / "a.parquet"
    )
    in_small_pieces(monkeypatch, 2**12)
    tracemalloc.start()
    try:
        data = load(str(tmp_path / "a.parquet"))
        result, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.items.nbytes < result
    assert peak - result < 12 * count


PEAK = """
import sys
from experiments.data import load
data = load(sys.argv[1])
arrays = (data.items, data.lengths, data.item_ids, data.user_ids)
lines = open("/proc/self/status").read().splitlines()
peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(peak - sum(array.nbytes for array in arrays))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("ending", "most"), [(".parquet", 24), (".csv", 48)])
def test_growth_of_memory(tmp_path, ending, most):
    """More than the benchmark allows, since buffers are not yet full at these sizes."""
    sizes, peaks = (4_000_000, 12_000_000), []
    for count in sizes:
        rng = np.random.default_rng(0)
        users, items = rng.integers(0, count // 10, count), rng.integers(0, 300_000, count)
        columns = {"user": users, "item": items, "time": np.arange(count)}
        path = table(tmp_path / f"a{ending}", columns)
        command = [sys.executable, "-c", PEAK, str(path)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) < most
