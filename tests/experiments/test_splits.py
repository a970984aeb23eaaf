"""Splits by the last items and by time: what is held out, and that nothing else reads it."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import polars as pl
import pytest

from experiments import train
from experiments.data import load
from experiments.data.interactions import from_sequences
from experiments.data.splits import split_last, split_time
from experiments.errors import UserError
from experiments.files import write_json
from experiments.inputs.batches import make_batch
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts, training_sequences
from experiments.run import make_run
from experiments.serving.recommender import Recommender
from experiments.settings import ProtocolSettings
from experiments.training.continued import check_held_out, check_start, match
from experiments.training.graphs import item_graph, neighbour_graph, user_item_graph
from experiments.training.prepare import make_setup, used_users
from experiments.training.teachers import load_teacher
from tests.experiments.raw_files import SEQUENCES, amazon
from tests.runs import TINY, error_of, runs_of

NAME = "mf-bpr-sevo-adamw-seed0"


@pytest.fixture(scope="module")
def timed(small):
    """The small data with times: all users begin within the first half of them."""
    rng = np.random.default_rng(1)
    times = [np.sort(rng.integers(rng.integers(500), 1000, n)) for n in small.lengths]
    return dataclasses.replace(small, times=np.concatenate(times))


@pytest.fixture(params=["last-n", "time"])
def divided(request, timed):
    return split_last(timed, 3) if request.param == "last-n" else split_time(timed, "700", "850")


def test_last_items_by_hand():
    data = split_last(from_sequences("made", np.arange(13), np.array([6, 4, 3])), 2)
    assert data.held_out.tolist() == [[2, 0, 0], [2, 0, 0]]
    assert data.items[data.training_part()].tolist() == [1, 2, 7, 8, 9, 10, 11, 12, 13]
    assert "4 test" not in data.notes[-1]
    assert "2 users of fewer than 5 interactions train alone" in data.notes[-1]


def test_time_by_hand():
    data = from_sequences("made", np.arange(9), np.array([3, 3, 3]))
    data = dataclasses.replace(data, times=np.array([1, 5, 9, 1, 2, 3, 6, 7, 9]))
    found = split_time(data, "5", "7")
    assert found.held_out.tolist() == [[1, 0, 1], [1, 0, 2]]
    assert found.items[found.training_part()].tolist() == [1, 4, 5, 6]
    assert (
        "4 interactions before 5 train, 2 before 7 validate, 3 test; verified: " in found.notes[0]
    )


@pytest.mark.parametrize("share", [1, 0.5])
def test_splits_go_with_a_share_of_the_users(timed, share):
    settings = {"split": "time", "valid_from": "700", "test_from": "850.5", "user_share": share}
    data = used_users(make_run("sasrec", "made", "adamw", **settings), timed)
    assert data.num_users == 70 * share
    assert data.times.size == data.items.size
    assert data.times[data.training_part()].max() < 700 <= data.times[~data.training_part()].min()
    tested = np.arange(data.items.size) >= np.repeat(data.ends[1], data.lengths)
    np.testing.assert_array_equal(tested, data.times > 850)


def test_only_training_items_are_read_in_training(divided):
    """All that training reads stays the same, whatever the held-out items are."""
    training = divided.training_part()
    other = dataclasses.replace(divided, items=np.where(training, divided.items, 7).astype("i4"))
    one, two = (
        [
            data.training_counts(),
            item_graph(data, 5).to_scipy().toarray(),
            neighbour_graph(data).to_scipy().toarray(),
            user_item_graph(data).to_scipy().toarray(),
            *jax.tree.leaves(make_corpus(data, draws_popular=True)._replace(items=0)),
        ]
        for data in (divided, other)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    counts = np.bincount(divided.items[training], minlength=divided.num_items + 1)
    np.testing.assert_array_equal(divided.training_counts(), counts)


@pytest.mark.parametrize("task", ["next", "prefix", "masked", "pair"])
def test_training_rows_hold_training_items_alone(divided, task):
    training = divided.training_part()
    ends, counts = training_sequences(divided, 6, task)
    ahead = task in ("next", "prefix")
    assert training[ends].all()
    assert training[ends + ahead].all()
    assert (counts >= 1).all()
    settings = make_run("sasrec", "made", "adamw", batch_size=512, max_len=6).settings.training
    rows = EpochLayouts(divided, settings, 0, task)(0)
    batch = make_batch(
        task, settings, make_corpus(divided), jax.tree.map(lambda a: a[0], rows), jax.random.key(0)
    )
    cells = np.asarray(rows.cells[0])
    positives = np.asarray(batch.positives)
    cell, found = cells[positives > 0] + ahead, positives[positives > 0]
    assert training[cell].all()
    np.testing.assert_array_equal(divided.items[cell], found)


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        (("2014-05-01", "850"), "valid_from: got '2014-05-01'; expected a time as small has them"),
        (("nan", "850"), "valid_from: got 'nan'; expected a time"),
        (("850", "850"), "test_from: must be after 850, got 850"),
        (("-1", "850"), "valid_from: no user has an interaction there and another before it"),
        (("700", "1000"), "test_from: no user has an interaction there and another before it"),
    ],
)
def test_times_that_do_not_split(timed, cuts, message):
    with pytest.raises(UserError, match=message):
        split_time(timed, *cuts)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2014-08-01", "2014-08-01T00:00"),
        ("2014-08-01T09:00:00+09:00", "2014-08-01T00:00"),
        ("2014-07-31 20:00:00-04:00", "2014-08-01T00:00"),
        ("2014-08-01T00:00:00.000001Z", "2014-08-01T00:00:00.000001"),
    ],
)
def test_dates_are_of_utc_unless_they_have_an_offset(timed, text, date):
    start = np.datetime64("2014-08-01", "us")
    dated = dataclasses.replace(timed, times=start + (timed.times - 700).astype("m8[us]"))
    divided = split_time(dated, text, "2014-08-01T00:00:00.000150")
    trains = dated.times < np.datetime64(date, "us")
    np.testing.assert_array_equal(divided.training_part(), trains)
    assert "(in UTC, where no offset is written)" in divided.notes[-1]


@pytest.mark.parametrize(
    "text", ["1408000000", "14080101", "0001-01-01T00:00+09:00", "soon", "2014-13-01", ""]
)
def test_dates_that_are_none(timed, text):
    dated = dataclasses.replace(timed, times=timed.times.astype("datetime64[us]"))
    with pytest.raises(UserError, match=r"valid_from: got .*; a date such as 2014-08-01 is one of"):
        split_time(dated, text, "2014-08-01")


def test_users_out_of_order_would_leak(timed):
    mixed = dataclasses.replace(timed, times=np.random.default_rng(0).permutation(timed.times))
    with pytest.raises(UserError, match="expected each user's items in order of time"):
        split_time(mixed, "700", "850")


def test_too_many_last_items(small):
    with pytest.raises(
        UserError, match=r"last_n: 15 needs users of 31 .* more than 30; take at mos"
    ):
        split_last(small, 15)


def test_times_are_read_when_they_are_asked_for(tmp_path):
    dates = ["2014-05-12", "2014-05-12 10:00", "2014-05-13T00:00:01Z"]
    table = pl.DataFrame({"user": ["u"] * 3, "item": ["a", "b", "c"], "date": dates})
    table.reverse().write_csv(tmp_path / "a.csv")
    file = str(tmp_path / "a.csv")
    data = load(file, times=True)
    want = np.array(["2014-05-12", "2014-05-12T10:00", "2014-05-13T00:00:01"], "datetime64[us]")
    np.testing.assert_array_equal(data.times, want)
    assert load(file).times is None
    assert load(file).fingerprint != data.fingerprint  # other times are another split
    table.with_columns(date=pl.lit("2014-02-30")).write_csv(tmp_path / "a.csv")
    with pytest.raises(UserError, match="found the time '2014-02-30', which is on no calendar"):
        load(file, times=True)


def test_times_of_a_named_data_set(tmp_path, monkeypatch):
    """The raw file has them, the ready one does not; what is cached without times stays."""
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path / "cache"))
    amazon(tmp_path / "reviews_Beauty_5.json.gz")
    (tmp_path / "Beauty.txt").write_text("1 2 3 4\n")
    for _ in range(2):  # read, and from the cache
        data = load("beauty", tmp_path, times=True)
        assert data.items[:5].tolist() == SEQUENCES[0]
        assert data.times[:10].tolist() == [10, 15, 20, 20, 40, 10, 20, 30, 40, 50]
    assert load("beauty", tmp_path).num_items == 3
    (tmp_path / "Beauty.txt").unlink()
    assert load("beauty", tmp_path).times is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "last-n"}, "last_n: say how many of a user's items test, 2 or more"),
        ({"last_n": 2}, "last_n: must be left out: it goes with last-n, the split is leave-one"),
        ({"split": "time", "valid_from": "3"}, "test_from: say where it begins"),
        ({"split": "last-n", "last_n": 2, "test_from": "9"}, "test_from: must be left out"),
        ({"cutoffs": (0,)}, r"cutoffs: must be different numbers from 1 on, got \[0\]"),
        ({"cutoffs": (5, 20, 5)}, r"cutoffs: must be different numbers from 1 on, got \[5, 20, 5"),
    ],
)
def test_settings_that_do_not_go_together(values, message):
    with pytest.raises(UserError, match=message):
        make_run("sasrec", "beauty", "adamw", **values).settings.check()


def test_text_has_no_times(users_file, tmp_path, capsys):
    cuts = ["--split", "time", "--valid-from", "1", "--test-from", "2"]
    out = ["--dataset", str(users_file), "--out", str(tmp_path / "out")]
    error = error_of(capsys, [*out, *TINY, *cuts])
    assert error.startswith(
        f"error: --split: time needs the time of each interaction, and {users_file.stem}"
    )
    assert not (tmp_path / "out").exists()


def test_cutoffs_beyond_the_items(small):
    run = make_run("mf-bpr", "made", "adamw", cutoffs=(7, 41))
    with pytest.raises(UserError, match="cutoffs: must be at most the 40 items of small: 41"):
        make_setup(run, small)


@pytest.mark.parametrize("split", [{"split": "last-n", "last_n": 2}, {"split": "time"}])
def test_no_run_goes_on_where_it_would_know_what_is_held_out(tmp_path, small, split):
    own = make_run("sasrec", "made", "adamw", teacher=str(tmp_path), teacher_epochs=1)
    write_json(tmp_path / "config.json", own.to_json())
    write_json(tmp_path / "result.json", {"epochs": 1, "test": {}, "num_items": small.num_items})
    if small.renumbered:
        write_json(tmp_path / "item_ids.json", small.item_ids.tolist())
    other = make_run("sasrec", "made", "adamw", teacher=str(tmp_path), teacher_epochs=1, **split)
    with pytest.raises(UserError, match=r"has trained on those before|has leave-one-out and may"):
        check_start(other, tmp_path)
    with pytest.raises(UserError, match=r"split: .* leave-one-out, its student has (last-n|time)"):
        load_teacher(other.settings, small)


def test_users_who_trained_on_all_of_their_items(small, tmp_path):
    """Users too short for last-n had nothing held out; a run that goes on would rank what they
    trained on. The same data, and data that go on, are fine."""
    former = split_last(small, 3)

    def check(data, former):
        pairs = (data.item_ids, former.item_ids), (data.user_ids, former.user_ids)
        check_held_out(data, former, *(match(*pair) for pair in pairs), tmp_path)

    with pytest.raises(UserError, match=r"from: .* may have trained on interactions that are held"):
        check(small, former)
    check(small, small)
    check(former, former)
    ends = np.cumsum(small.lengths)
    longer = dataclasses.replace(
        small, items=np.insert(small.items, ends, 1), lengths=small.lengths + 1
    )
    check(longer, small)


def window(first: int, last: int, repeats: bool):
    """The interactions of 30 users between two times."""
    rng = np.random.default_rng(0)
    draws = rng.integers(8, size=(30, 14)) if repeats else rng.permuted([range(40)] * 30, axis=1)
    values = draws[:, first:last]
    return from_sequences("made", values.ravel(), np.full(30, last - first))


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "known"),
    [
        ((0, 9), (0, 9), False),
        ((0, 9), (0, 14), False),  # it grows
        ((0, 9), (4, 12), False),  # it moves on
        ((0, 9), (4, 10), False),  # by less than it drops
        ((4, 12), (0, 10), True),  # it moves back, and is longer
        ((4, 12), (2, 10), True),
        ((0, 12), (0, 10), True),
        ((0, 12), (4, 10), True),
    ],
)
def test_windows_of_one_history(old, new, known, repeats, tmp_path):
    """Items held out now may have been trained on before, whichever end of a window moves."""
    former, data = window(*old, repeats), window(*new, repeats)
    pairs = (data.item_ids, former.item_ids), (data.user_ids, former.user_ids)

    def check() -> None:
        check_held_out(data, former, *(match(*pair) for pair in pairs), tmp_path)

    if known:
        with pytest.raises(
            UserError, match="may have trained on interactions that are held out now"
        ):
            check()
    else:
        check()


def test_a_share_without_anybody_to_rank(small):
    """Refused before anything is laid out, whichever users are drawn."""
    long = int((small.lengths > 2 * 14).sum())
    assert 0 < long < 10
    run = make_run("sasrec", "made", "adamw", split="last-n", last_n=14, user_share=0.02)
    with pytest.raises(UserError, match=r"user_share: 0.02 leaves no user who has something"):
        used_users(run, small)


def test_a_share_of_too_few_users(small):
    run = make_run("sasrec", "made", "adamw", user_share=9 / small.num_users)
    expected = rf"user_share: .* leaves 9 of {small.num_users} users; expected 10 or more"
    with pytest.raises(UserError, match=expected):
        used_users(run, small)
    enough = make_run("sasrec", "made", "adamw", user_share=10 / small.num_users)
    assert used_users(enough, small).num_users == 10


@pytest.fixture(scope="module")
def events(timed, tmp_path_factory):
    """A table of the data with times, in no order."""
    table = pl.DataFrame({"user": timed.owners, "item": timed.items, "time": timed.times})
    file = tmp_path_factory.mktemp("events") / "events.csv"
    table.sort("item", maintain_order=True).write_csv(file)
    return file


def test_a_run_split_by_time(events, tmp_path, capsys):
    """Its folder, its protocol, recommendations; a file of other times; a run that goes on."""
    options = ["--dataset", str(events), "--optimizer", "sevo-adamw", "--epochs", "2", *TINY]
    times = ["--split", "time", "--valid-from", "700", "--test-from", "850"]
    out = ["--out", str(tmp_path / "out")]
    assert train.main([*options, *times, *out, "--cutoffs", "3"]) == 0
    printed = capsys.readouterr()
    assert "verified: none that trains is later than one held out" in " ".join(printed.err.split())
    result = json.loads((tmp_path / "out" / NAME / "result.json").read_text())
    data = used_users(runs_of([*options, *times])[0], load(str(events), times=True))
    ranked = ((data.ends[2] > data.ends[1]) & (data.ends[1] > data.starts)).sum()
    assert result["ranked_users"] == ranked < result["num_users"] == 70
    assert result["by_history"]["users"] == result["by_history"]["users"]
    assert sum(result["by_history"]["users"]) == sum(result["by_popularity"]["users"]) == ranked
    for split in ("valid", "test"):
        assert {"HR@3", "NDCG@3", "MRR@3", "NDCG@10"} < set(result[split])
    assert {"coverage@10", "Gini@3", "popularity@3", "rare@3"} < set(result["recommended"])
    said = "what is from 850 on tests, what is from 700 on before it validates."
    assert said in (tmp_path / "out" / "summary.md").read_text()
    assert said in " ".join(printed.out.split())
    assert "MRR@3" in printed.out

    found = Recommender.load(tmp_path / "out" / NAME).recommend(users=["3"], top_k=2)
    assert found.height == 2

    earlier = ["--split", "time", "--valid-from", "600", "--test-from", "850"]
    error = error_of(
        capsys,
        [*options, *earlier, "--out", str(tmp_path / "b"), "--from", str(tmp_path / "out" / NAME)],
    )
    assert "--valid-from:" in error
    assert "has trained on interactions up to 69" in error

    moved = tmp_path / "moved.csv"
    pl.read_csv(events).with_columns(pl.col("time") + 1).write_csv(moved)
    again = [*options, *times, *out, "--cutoffs", "3", "--resume"]
    error = error_of(capsys, [*again[:1], str(moved), *again[2:]])
    assert "the interactions are others" in error


def test_a_run_of_the_last_items(users_file, tmp_path):
    options = ["--dataset", str(users_file), "--optimizer", "sevo-adamw", "--epochs", "1", *TINY]
    (run,) = runs_of([*options, "--split", "last-n", "--last-n", "2"])
    assert run.settings.protocol == ProtocolSettings("last-n", 2)
    assert train.main([*options, "--split=last-n", "--last-n=2", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / NAME / "result.json").read_text())
    assert result["ranked_users"] == (load(str(users_file)).lengths >= 5).sum()
