"""Data sets: text files good and bad, names, drawn sets, samples of users."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.data import load, registry
from experiments.data.interactions import read_text
from experiments.data.table1 import Size
from experiments.errors import UserError
from experiments.run import Run
from experiments.settings.published import published
from experiments.training import loop


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_read_text(tmp_path):
    data = read_text(write(tmp_path / "a.txt", "1 1 2 3\n\n2 3 1 4 2\n"), "a")
    assert data.name == "a"
    assert data.items.tolist() == [1, 2, 3, 3, 1, 4, 2]
    assert data.items.dtype == np.int32
    assert data.lengths.tolist() == [3, 4]
    assert data.starts.tolist() == [0, 3]
    assert data.owners.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert data.training_part().tolist() == [True, False, False, True, True, False, False]
    assert (data.num_users, data.num_items, data.notes) == (2, 4, ())
    assert not data.renumbered


def test_short_users_are_dropped_and_counted(tmp_path):
    data = read_text(write(tmp_path / "a.txt", "1 1 2\n2 1 2 3\n3\n"), "a")
    assert data.lengths.tolist() == [3]
    assert data.notes == ("dropped 2 users of fewer than 3 interactions",)


def test_gaps_in_item_ids_are_closed(tmp_path):
    data = read_text(write(tmp_path / "a.txt", "7 900 20 30 900\n8 5 6\n"), "a")
    assert data.items.tolist() == [3, 1, 2, 3]
    assert data.item_ids.tolist() == [20, 30, 900]
    assert data.renumbered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected lines of 'user item item …'"),
        ("\n \n", "is empty; expected lines of 'user item item …'"),
        ("1 1 2 3\n2 1 x 3\n", "line 2: found 'x'; expected positive integer ids"),
        ("1 1 2.5 3\n", "line 1: found '2.5'; expected positive integer ids"),
        ("1 1 -2 3\n", "line 1: found '-2'; expected positive integer ids"),
        ("1 1 2 3\n\n2 1 0 3\n", "line 3: found '0'; expected positive integer ids"),
        ("0 1 2 3\n", "line 1: found '0'; expected positive integer ids"),
        ("1 1_0 2 3\n", "line 1: found '1_0'; expected positive integer ids"),
        ("1 1 ² 3\n", "line 1: found '²'; expected positive integer ids"),
        (f"1 1 {2**63} 3\n", f"line 1: found '{2**63}'; expected positive integer ids"),
        (f"1 1 {'9' * 5000} 3\n", f"line 1: found '{'9' * 40}'; expected positive integer ids"),
        ("1,1,2,3\n", "line 1: found '1,1,2,3'; expected positive integer ids"),
        (
            "4 1 2 3\n5 1 2 3\n4 2 3\n",
            "line 3: user 4 already has line 1; expected one line a user",
        ),
        ("1 1 2\n2 3\n", "no user has 3 or more interactions"),
    ],
)
def test_bad_text(tmp_path, text, message):
    path = write(tmp_path / "bad.txt", text)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 70\n3 71\n4 70\n", "line 2: user 3 already has line 1"),
        ("1 20 1999\n1 30 2001\n2 20 2000\n", "line 2: user 1 already has line 1"),
        ("3 70\n4 70\n5 8\n", "has one item a line; expected a user and all items"),
    ],
)
def test_pairs_get_a_hint(tmp_path, text, message):
    path = write(tmp_path / "pairs.txt", text)
    with pytest.raises(UserError, match=rf"{message}.*a first line such as 'user,item'.*\.csv"):
        load(str(path))


def test_gzipped_lines(tmp_path):
    text = b"1 1 2 3\n2 3 2 1 1\n"
    (tmp_path / "log.txt.gz").write_bytes(gzip.compress(text))
    data = load(str(tmp_path / "log.txt.gz"))
    assert (data.name, data.items.tolist()) == ("log", [1, 2, 3, 3, 2, 1, 1])
    (tmp_path / "log.txt.gz").write_bytes(gzip.compress(text)[:-4])
    with pytest.raises(UserError, match=r"log\.txt\.gz: is cut off; expected a whole gzipped file"):
        load(str(tmp_path / "log.txt.gz"))


def test_a_file_that_moved_is_found_in_data_dir(tmp_path, monkeypatch):
    for folder in ("here", "there", "there/logs"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "there" / "a.txt", "1 1 2 3\n")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(No such file"):
        load("logs/a.txt")
    assert load("logs/a.txt", tmp_path / "there").num_items == 3
    write(tmp_path / "there" / "logs" / "a.txt", "1 1 2 3 4\n")
    monkeypatch.setenv("SEVO_DATA", str(tmp_path / "there"))
    assert load("logs/a.txt").num_items == 4
    (tmp_path / "here" / "logs").mkdir()
    write(tmp_path / "here" / "logs" / "a.txt", "1 1 2 3 4 5\n")  # where the path leads counts
    assert load("logs/a.txt").num_items == 5


def test_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf1 1 2 3\n")
    assert load(str(tmp_path / "a.txt")).items.tolist() == [1, 2, 3]


def test_binary_file(tmp_path):
    (tmp_path / "bad.txt").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UserError, match=r"bad\.txt, line 1: found .*expected positive integer"):
        load(str(tmp_path / "bad.txt"))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        load(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "close"), [("beuty", "'beauty'"), ("toy", "'toys'"), ("sinthetic", "'synthetic'")]
)
def test_unknown_names_suggest_close_ones(name, close):
    with pytest.raises(UserError, match=f"unknown data set '{name}' .did you mean {close}"):
        load(name)


def test_names_are_found_in_data_dir_then_sevo_data(tmp_path, monkeypatch):
    for folder, text in (("one", "1 1 2 3\n"), ("two", "1 1 2 3 4\n")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "Beauty.txt", text)
    monkeypatch.setenv("SEVO_DATA", str(tmp_path / "two"))
    assert load("beauty").num_items == 4
    assert load("beauty", tmp_path / "one").num_items == 3


def test_synthetic_is_seeded_and_valid():
    one, other = load("synthetic"), load("synthetic")
    np.testing.assert_array_equal(one.items, other.items)
    assert one.items.min() == 1
    assert one.items.max() == one.num_items
    assert one.lengths.sum() == one.items.size


def test_synthetic_sets_have_the_sizes_of_table_1(monkeypatch):
    monkeypatch.setitem(registry.TABLE_1, "clothing", Size(300, 50, 2000))
    data = load("synthetic-clothing")
    assert (data.name, data.num_users, data.num_items) == ("synthetic-clothing", 300, 50)
    assert data.items.size == data.lengths.sum() == 2000
    assert data.lengths.min() >= 5
    assert (data.items.dtype, data.items.min(), data.notes) == (np.int32, 1, ())
    np.testing.assert_array_equal(data.items, load("synthetic-clothing").items)


def test_a_slice_differs_from_table_1(tmp_path):
    write(tmp_path / "ml-1m.txt", "1 1 2 3\n2 3 2 1\n")
    assert load("ml-1m", tmp_path).notes == (
        "differs from Table 1 of the paper: 2 users instead of 6,040, 3 items instead of 3,416, "
        "6 interactions instead of 999,611",
    )


def test_sample_users(tmp_path):
    lines = [f"{100 + u} {u % 7 + 1} {u % 5 + 8} {u % 3 + 20}\n" for u in range(50)]
    data = read_text(write(tmp_path / "a.txt", "".join(lines)), "a")
    part = data.sample_users(0.2, seed=3)
    assert part.num_users == part.user_ids.size == 10
    np.testing.assert_array_equal(part.item_ids, data.item_ids)
    of_user = dict(zip(data.user_ids, np.split(data.items, data.starts[1:]), strict=True))
    for user, items in zip(part.user_ids, np.split(part.items, part.starts[1:]), strict=True):
        np.testing.assert_array_equal(items, of_user[user])
    assert part.notes == ("drew 10 of 50 users, by seed 3",)
    np.testing.assert_array_equal(part.items, data.sample_users(0.2, seed=3).items)
    assert part.user_ids.tolist() != data.sample_users(0.2, seed=4).user_ids.tolist()
    assert data.sample_users(1e-9).num_users == 1
    np.testing.assert_array_equal(data.sample_users(1.0).items, data.items)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_sample_users_of_a_wrong_share(small, share):
    with pytest.raises(UserError, match=r"share of users: must be in \(0, 1\], got"):
        small.sample_users(share)


def test_user_ids_are_kept(tmp_path, small):
    data = read_text(write(tmp_path / "a.txt", "70 1 2 3\n9 1\n80 3 2 1\n"), "a")
    assert data.user_ids.tolist() == [70, 80]
    assert data.notes == ("dropped 1 users of fewer than 3 interactions",)
    assert small.user_ids.tolist() == list(range(1, 71))


@pytest.mark.slow
def test_smoothing_gains_on_the_synthetic_data(tmp_path):
    data = load("synthetic")
    scores = {}
    for optimizer in ("adamw", "sevo-adamw"):
        settings = published("sasrec", "synthetic", optimizer)
        runs = [Run("sasrec", "synthetic", optimizer, seed, settings) for seed in range(3)]
        results = [loop.train(run, data, tmp_path / run.name) for run in runs]
        scores[optimizer] = np.mean([result["test"]["NDCG@10"] for result in results])
    assert scores["sevo-adamw"] > 1.05 * scores["adamw"]
