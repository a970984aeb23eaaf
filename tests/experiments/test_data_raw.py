"""Raw files of Amazon and MovieLens, good and bad, and the cache of what they parse to."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.data import cache, load, reviews
from experiments.data.events import from_events, k_core
from experiments.data.table1 import TABLE_1, draw_sequences
from experiments.errors import UserError
from tests.experiments.raw_files import EVENTS, FLAT, SEQUENCES, amazon, movielens

BEAUTY, CLOTHING = "reviews_Beauty_5.json.gz", "Clothing_Shoes_and_Jewelry_5.json.gz"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def notes_of(data) -> str:
    return "\n".join(data.notes)


@pytest.mark.parametrize(
    ("name", "make", "file"),
    [
        ("beauty", amazon, BEAUTY),
        ("toys", amazon, "reviews_Toys_and_Games_5.json.gz"),
        ("tools", amazon, "reviews_Tools_and_Home_Improvement_5.json.gz"),
        ("electronics", amazon, "Electronics_5.json.gz"),
        ("clothing", amazon, CLOTHING),
        ("ml-1m", movielens, "ml-1m.zip"),
    ],
)
def test_raw_files(tmp_path, name, make, file):
    """Sorted by user and time, ties as in the file, items numbered by their sorted ids."""
    make(tmp_path / file)
    data = load(name, tmp_path)
    assert np.split(data.items, data.starts[1:])[0].tolist() == SEQUENCES[0]
    assert data.items.tolist() == FLAT
    assert data.lengths.tolist() == [5] * 5
    numbers = name == "ml-1m"
    assert data.user_ids.tolist() == ([1, 2, 3, 4, 5] if numbers else list("ABCDE"))
    assert data.item_ids.tolist() == [1, 2, 3, 4, 5] if numbers else ["i1", "i2", "i3", "i4", "i5"]
    assert "differs from Table 1 of the paper: 5 users instead of" in notes_of(data)


def test_raw_amazon_equals_text(tmp_path):
    amazon(tmp_path / BEAUTY)
    raw = load("beauty", tmp_path)
    lines = [f"{u} {' '.join(map(str, items))}\n" for u, items in enumerate(SEQUENCES, 1)]
    (tmp_path / "Beauty.txt").write_text("".join(lines))
    text = load("beauty", tmp_path)
    np.testing.assert_array_equal(raw.items, text.items)
    np.testing.assert_array_equal(raw.lengths, text.lengths)


def test_users_and_items_below_5_are_removed_until_none_is_left(tmp_path):
    # Z has 5 interactions, one of them with an item of its own; without the item, Z has 4
    extra = [("Z", "i1", 1), ("Z", "i2", 2), ("Z", "i3", 3), ("Z", "i4", 4), ("Z", "z9", 5)]
    amazon(tmp_path / BEAUTY, EVENTS + extra)
    data = load("beauty", tmp_path)
    assert data.items.tolist() == FLAT
    assert "removed 1 users and 1 items of fewer than 5 interactions (5 int" in notes_of(data)


def test_repeated_interactions_count_in_2014_and_are_dropped_in_2018(tmp_path):
    again = [("A", "i1", 99), ("A", "i4", 5)]
    for file in (BEAUTY, CLOTHING):
        amazon(tmp_path / file, EVENTS + again)
    old, new = load("beauty", tmp_path), load("clothing", tmp_path)
    assert old.items[:7].tolist() == [4, 1, 3, 5, 2, 4, 1]
    assert "kept 2 repeated interactions of a user with an item" in notes_of(old)
    assert new.items[:5].tolist() == [4, 1, 3, 5, 2]
    assert new.lengths.tolist() == [5] * 5
    assert "dropped 2 repeated interactions of a user with an item; the earliest" in notes_of(new)


def test_5_core_comes_after_repeats(tmp_path):
    """A user of 5 interactions with 4 items is kept in 2014, and removed in 2018."""
    extra = [("Z", f"i{item}", item) for item in (1, 2, 3, 4)] + [("Z", "i4", 9)]
    for file in (BEAUTY, CLOTHING):
        amazon(tmp_path / file, EVENTS + extra)
    assert load("beauty", tmp_path).num_users == 6
    assert load("clothing", tmp_path).num_users == 5


def test_nothing_left(tmp_path):
    amazon(tmp_path / BEAUTY, EVENTS[:20])
    with pytest.raises(UserError, match="holds 20 interactions, and none is left when users and"):
        load("beauty", tmp_path)
    assert not list(tmp_path.rglob("*.npz"))
    assert not list(tmp_path.glob("*.sha256.json"))  # nothing that proved usable


def test_k_core_against_a_slow_one():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 60, 400), rng.geometric(0.05, 400)
    pairs = list(zip(users.tolist(), items.tolist(), strict=True))
    while True:
        left = [
            (u, i)
            for u, i in pairs
            if sum(v == u for v, _ in pairs) >= 5 and sum(j == i for _, j in pairs) >= 5
        ]
        if left == pairs:
            break
        pairs = left
    kept = k_core(users, items, 5)
    assert 0 < kept.size < 400
    assert list(zip(users[kept].tolist(), items[kept].tolist(), strict=True)) == pairs


def test_blocks_end_at_lines(tmp_path, monkeypatch):
    amazon(tmp_path / BEAUTY, EVENTS)
    monkeypatch.setattr(reviews, "BLOCK", 100)
    assert load("beauty", tmp_path).items.tolist() == FLAT
    amazon(tmp_path / BEAUTY, [*EVENTS, ("A", None, 60)])
    (tmp_path / f"{BEAUTY}.sha256.json").unlink()
    with pytest.raises(UserError, match=f"review {len(EVENTS) + 1}: found"):
        load("beauty", tmp_path)


LINE = b'{"reviewerID": "A", "asin": "i", "unixReviewTime": 1}\n'
WHOLE = gzip.compress(np.random.default_rng(0).bytes(500).hex().encode() + LINE * 999)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "is no gzipped file of JSON reviews (Not a gzipped file"),
        (b"", "is empty; expected gzipped JSON reviews, one a line"),
        (gzip.compress(b""), "is empty; expected gzipped JSON reviews, one a line"),
        (gzip.compress(LINE * 2 + b"no json\n"), "review 3: found 'no json' ("),
        (gzip.compress(LINE + b'{"asin": "a"\n'), "review 2: found '{\"asin\": \"a\"' ("),
        (gzip.compress(LINE * 999)[:-20], "is cut off; delete it to have it downloaded again"),
        (gzip.compress(LINE * 999)[:-2], "is cut off; delete it to have it downloaded again"),
        (WHOLE[:200] + b"damaged" + WHOLE[207:], "is no gzipped file of JSON reviews ("),
        (gzip.compress(LINE + b'{"asin": "a"}\n'), "review 2: found {'reviewerID': None, 'asin':"),
        (gzip.compress(LINE + b"[1, 2]\n"), "review 2: found "),
        (gzip.compress(LINE + LINE.replace(b"1}", b'"x"}')), "review 2: found '{\"reviewerID"),
    ],
    ids=[
        "plain", "empty", "empty gzip", "no json", "half a line", "cut off", "cut at the end",
        "damaged", "missing fields", "an array", "time of letters",
    ],
)  # fmt: skip
def test_bad_amazon(tmp_path, content, message):
    (tmp_path / BEAUTY).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load("beauty", tmp_path)
    assert str(tmp_path / BEAUTY) in str(caught.value)
    assert message in str(caught.value)


def test_bad_movielens(tmp_path):
    path = tmp_path / "ml-1m.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match="is no zip, or a damaged one"):
        load("ml-1m", tmp_path)
    movielens(path, member="ml-1m/movies.dat")
    with pytest.raises(UserError, match=r"found ml-1m/README, ml-1m/movies.dat; expected ratings"):
        load("ml-1m", tmp_path)
    movielens(path)
    path.write_bytes(path.read_bytes().replace(b"2::3::5::30", b"2::3::5::39"))
    with pytest.raises(UserError, match=r"damaged one \(Bad CRC-32"):
        load("ml-1m", tmp_path)
    movielens(path)
    path.write_bytes(ask_for_zip_8(path.read_bytes()))
    with pytest.raises(UserError, match=r"damaged one \(zip file version 8.7"):
        load("ml-1m", tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.dat", "")
    with pytest.raises(UserError, match=r"ml-1m\.zip"):
        load("ml-1m", tmp_path)
    for line, message in (("1::2::3", "rating 2: found"), ("1::x::3::4", "expected lines of User")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ratings.dat", f"1::1::5::9\n{line}\n")
        with pytest.raises(UserError, match=message):
            load("ml-1m", tmp_path)


def test_movielens_of_another_checksum_is_told(tmp_path):
    movielens(tmp_path / "ml-1m.zip")
    assert "is not the published file (md5 " in notes_of(load("ml-1m", tmp_path))


def test_a_raw_file_that_changed_since_its_first_use(tmp_path):
    amazon(tmp_path / BEAUTY)
    load("beauty", tmp_path)
    record = tmp_path / f"{BEAUTY}.sha256.json"
    before = record.read_text()
    amazon(tmp_path / BEAUTY, EVENTS + [("F", f"i{i}", i) for i in range(1, 6)])
    with pytest.raises(UserError, match=r"found SHA-256 [0-9a-f]{64}; expected [0-9a-f]{64}, as"):
        load("beauty", tmp_path)
    assert record.read_text() == before
    record.unlink()
    assert load("beauty", tmp_path).num_users == 6
    assert record.read_text() != before


def test_a_folder_that_cannot_hold_the_record(tmp_path, monkeypatch):
    amazon(tmp_path / BEAUTY)
    (tmp_path / f"{BEAUTY}.sha256.json.part").mkdir()  # in the way of the draft
    for _ in range(2):  # parsed, and from the cache
        assert f"the checksum of {BEAUTY} is not recorded" in notes_of(load("beauty", tmp_path))
    (tmp_path / f"{BEAUTY}.sha256.json.part").rmdir()
    assert "is not recorded" not in notes_of(load("beauty", tmp_path))
    assert (tmp_path / f"{BEAUTY}.sha256.json").exists()


@pytest.fixture
def parsed(tmp_path, cache_folder):
    """Beauty's raw file, loaded once, and its cache."""
    amazon(tmp_path / BEAUTY, [*EVENTS, ("Z", "i1", 7)])
    return load("beauty", tmp_path), next(cache_folder.rglob("*.npz"))


def ask_for_zip_8(content: bytes) -> bytes:
    """An archive that zipfile has not learned to read."""
    at = content.index(b"PK\x01\x02") + 6
    return content[:at] + b"\x57\x00" + content[at + 2 :]


def same(one, other) -> bool:
    arrays = ("items", "lengths", "item_ids", "user_ids")
    equal = all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)
    return equal and one.fingerprint == other.fingerprint


def test_cache_is_used(tmp_path, parsed, monkeypatch):
    monkeypatch.setattr(reviews.gzip, "open", None)
    again = load("beauty", tmp_path)
    assert same(again, parsed[0])
    assert again.notes == parsed[0].notes
    assert "removed 1 users" in notes_of(again)
    assert again.item_ids.dtype == parsed[0].item_ids.dtype
    assert again.user_ids.dtype == parsed[0].user_ids.dtype


def test_cache_of_another_file_is_not_used(tmp_path, parsed):
    stat = (tmp_path / BEAUTY).stat()
    (tmp_path / f"{BEAUTY}.sha256.json").unlink()
    amazon(tmp_path / BEAUTY, EVENTS + [("F", f"i{i}", i) for i in range(1, 6)])
    os.utime(tmp_path / BEAUTY, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load("beauty", tmp_path).num_users == 6


@pytest.mark.parametrize("damage", ["version", "cut", "text", "empty", "lacking", "zip", "array"])
def test_unusable_cache_is_made_anew(tmp_path, parsed, damage, monkeypatch):
    data, path = parsed
    content = path.read_bytes()
    if damage == "version":
        monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    elif damage == "lacking":
        np.savez(path, version=cache.VERSION)
    elif damage == "zip":  # the version that it takes to extract the first file, in the directory
        path.write_bytes(ask_for_zip_8(content))
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        path.write_bytes({"cut": content[:-100], "text": b"text", "empty": b""}[damage])
    again = load("beauty", tmp_path)
    assert same(again, data)
    assert f"{path}: is no cache of this version" in notes_of(again)
    assert f"{BEAUTY} is read anew" in notes_of(again)
    assert "is read anew" not in notes_of(load("beauty", tmp_path))


def test_interrupted_write_of_the_cache(tmp_path, cache_folder, monkeypatch):
    amazon(tmp_path / BEAUTY)

    def interrupted(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache.np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("beauty", tmp_path)
    assert not [path for path in cache_folder.rglob("*") if path.is_file()]
    assert load("beauty", tmp_path).num_users == 5


def test_a_killed_write_of_the_cache_is_cleared_away(tmp_path, cache_folder, parsed):
    _, path = parsed
    old, new = path.with_name(path.name + "old"), path.with_name(path.name + "new")
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    path.unlink()
    load("beauty", tmp_path)
    assert not old.exists()
    assert new.exists(), "another process may be writing it"
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o666


def test_no_space_for_the_cache(tmp_path, cache_folder, monkeypatch):
    amazon(tmp_path / BEAUTY)

    def full(file, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.np, "savez", full)
    data = load("beauty", tmp_path)
    assert data.num_users == 5
    assert "cannot be written (No space left on device)" in notes_of(data)
    assert not [path for path in cache_folder.rglob("*") if path.is_file()]


def test_cache_that_cannot_be_a_folder(tmp_path, cache_folder):
    cache_folder.write_text("a file")
    amazon(tmp_path / BEAUTY)
    data = load("beauty", tmp_path)
    assert data.num_users == 5
    assert "read anew each time" in notes_of(data)


def test_ids_of_numbers_sort_as_numbers(tmp_path):
    events = pl.DataFrame({"user": [2, 2, 2, 10, 10, 10], "item": [10, 9, 8, 8, 9, 10]})
    data = from_events("numbers", events, tmp_path)
    assert data.item_ids.tolist() == [8, 9, 10]
    assert data.items.tolist() == [3, 2, 1, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss is in other units")
def test_reading_the_largest_set_takes_less_than_4_gib(tmp_path):
    size = TABLE_1["clothing"]
    items, lengths = draw_sequences(size)
    rng = np.random.default_rng(0)
    order = rng.permutation(size.interactions)
    reviews = pl.DataFrame(
        {
            "reviewerID": np.repeat(np.arange(size.users), lengths)[order],
            "asin": items[order],
            "unixReviewTime": rng.integers(10**9, 2 * 10**9, size.interactions),
        }
    )
    with gzip.open(tmp_path / CLOTHING, "wb", compresslevel=1) as file:
        for part in reviews.iter_slices(500_000):
            part.with_columns(
                ("A" + pl.col("reviewerID").cast(pl.String).str.zfill(13)).alias("reviewerID"),
                ("B" + pl.col("asin").cast(pl.String).str.zfill(9)).alias("asin"),
                pl.lit("Fits well, and has the colour of the picture. " * 5).alias("reviewText"),
            ).write_ndjson(file)
    program = (
        "import pathlib, resource, sys; from experiments.data import load; "
        "data = load('clothing', pathlib.Path(sys.argv[1])); "
        "print(data.items.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    interactions, peak = printed.split()
    assert int(interactions) > 0.98 * size.interactions
    assert float(peak) < 4
