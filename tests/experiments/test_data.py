"""Data sets: text files good and bad, the registry, Amazon's raw files, downloads."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments import trainer
from experiments.configs import MODELS
from experiments.data import load, registry
from experiments.data.interactions import read_text
from experiments.errors import UserError


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
    assert (data.num_users, data.num_items, data.dropped_users) == (2, 4, 0)
    assert not data.renumbered


def test_short_users_are_dropped_and_counted(tmp_path):
    data = read_text(write(tmp_path / "a.txt", "1 1 2\n2 1 2 3\n3\n"), "a")
    assert data.lengths.tolist() == [3]
    assert data.dropped_users == 2


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


REVIEWS = [  # reviewer, item, time; out of order, and one tie kept in the file's order
    ("B", "i3", 30), ("A", "i2", 20), ("A", "i1", 10), ("B", "i1", 5), ("A", "i3", 40),
    ("B", "i2", 30), ("C", "i9", 1), ("A", "i3", 50),
]  # fmt: skip


def gzipped(path: Path, reviews: list[tuple]) -> Path:
    lines = [
        json.dumps({"reviewerID": u, "helpful": [0, 1], "asin": i, "unixReviewTime": t})
        for u, i, t in reviews
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_raw_amazon_equals_text(tmp_path):
    gzipped(tmp_path / "reviews_Beauty_5.json.gz", REVIEWS)
    raw = load("beauty", tmp_path)
    write(tmp_path / "Beauty.txt", "1 1 2 3 3\n2 1 3 2\n3 9\n")
    text = load("beauty", tmp_path)
    np.testing.assert_array_equal(raw.items, text.items)
    np.testing.assert_array_equal(raw.lengths, text.lengths)
    assert raw.item_ids.tolist() == ["i1", "i2", "i3"]
    assert raw.dropped_users == text.dropped_users == 1


@pytest.mark.parametrize(
    "content",
    [b"no gzip", b"", gzip.compress(b"no json\n"), gzip.compress(b'{"asin": "a"}\n' * 999)[:-20]],
    ids=["plain", "empty", "no json", "cut off"],
)
def test_bad_raw_amazon(tmp_path, content):
    (tmp_path / "reviews_Beauty_5.json.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"reviews_Beauty_5\.json\.gz"):
        load("beauty", tmp_path)


def test_review_without_item(tmp_path):
    gzipped(tmp_path / "reviews_Beauty_5.json.gz", [*REVIEWS, ("A", None, 60)])
    with pytest.raises(UserError, match=r"_5\.json\.gz, review 9: found .*'asin': None.*expected"):
        load("beauty", tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that logs nothing."""

    def log_message(self, *args) -> None:
        """Says nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder on the web, as the source of beauty."""
    folder = tmp_path / "web"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        source = registry.Source("Beauty.txt", "reviews_Beauty_5.json.gz", url)
        monkeypatch.setitem(registry.SOURCES, "beauty", source)
        yield folder
        web.shutdown()


def test_download(server, tmp_path):
    gzipped(server / "reviews_Beauty_5.json.gz", REVIEWS)
    data = load("beauty", tmp_path / "cache")
    assert data.lengths.tolist() == [4, 3]
    (server / "reviews_Beauty_5.json.gz").unlink()
    assert load("beauty", tmp_path / "cache").lengths.tolist() == [4, 3]  # not fetched again


def test_failed_download_says_what_to_do(server, tmp_path):
    with pytest.raises(UserError) as caught:
        load("beauty", tmp_path / "cache")
    message = str(caught.value)
    assert str(tmp_path / "cache") in message
    assert "404" in message
    assert "/reviews_Beauty_5.json.gz failed" in message
    assert "put either file there by hand" in message
    assert not (tmp_path / "cache" / "reviews_Beauty_5.json.gz").exists()


@pytest.mark.slow
def test_smoothing_gains_on_the_synthetic_data(tmp_path):
    data = load("synthetic")
    scores = {}
    for optimizer in ("adamw", "sevo-adamw"):
        settings = MODELS["sasrec"]("synthetic", optimizer)
        runs = [trainer.Run("sasrec", "synthetic", optimizer, seed, settings) for seed in range(3)]
        results = [trainer.train(run, data, tmp_path / run.name) for run in runs]
        scores[optimizer] = np.mean([result["test"]["NDCG@10"] for result in results])
    assert scores["sevo-adamw"] > 1.05 * scores["adamw"]
