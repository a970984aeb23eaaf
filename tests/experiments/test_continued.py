"""``--from``: a run that goes on from a finished one, with the same data or with other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from experiments import train
from experiments.files import read_json, read_lines
from experiments.serving.recommender import Recommender
from experiments.training.finished import load_run
from experiments.training.optimizers import smoothed_tables
from tests.runs import users_of_built_in_data


@pytest.fixture(scope="module")
def users_file(tmp_path_factory) -> Path:
    return users_of_built_in_data(tmp_path_factory.mktemp("users"))


OPTIONS = ["--num-blocks", "1", "--max-len", "20", "--dim", "16", "--batch-size", "64"]


def lines_of(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()]


def write(file: Path, lines: list[list[str]]) -> Path:
    file.write_text("\n".join(" ".join(line) for line in lines) + "\n")
    return file


def run_on(file: Path, out: Path, *options: str, optimizer: str = "sevo-adamw") -> Path:
    given = ["--dataset", str(file), "--optimizer", optimizer, *OPTIONS, "--epochs", "2"]
    given += ["--learning-rate", "0.01"]
    assert train.main([*given, "--eval-every", "1", "--out", str(out), *options]) == 0
    return out / f"sasrec-{optimizer}-seed0"


@pytest.fixture(scope="module")
def finished(users_file, tmp_path_factory) -> Path:
    """A run on the first 150 of 200 users of the built-in data, whose scores are above 0."""
    folder = tmp_path_factory.mktemp("finished")
    return run_on(write(folder / "old.txt", lines_of(users_file)[:150]), folder / "runs")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_data_start_with_the_scores_of_the_run(finished, tmp_path, capsys):
    before, file = contents(finished), finished.parents[1] / "old.txt"
    run = run_on(file, tmp_path, "--from", str(finished))
    said = " ".join(capsys.readouterr().err.split())
    items = read_json(finished / "result.json")["num_items"]
    assert f"{items:,} items matched, 0 new, 0 gone; 150 users matched, 0 new, 0 gone" in said
    first, *later = read_lines(run / "metrics.jsonl")
    assert (first["epoch"], first["step"], first["train_loss"]) == (0, 0, None)
    assert first["valid"] == read_json(finished / "result.json")["valid"]
    assert first["valid"]["NDCG@10"] > 0
    assert [record["epoch"] for record in later] == [1, 2]
    old, new = load_run(finished), load_run(run)
    counts = [f.checkpoint.state.opt_state[0].count for f in (old, new)]
    assert counts[1] == 2 * counts[0]  # the optimiser's state goes on
    assert later[0]["train_loss"] < read_lines(finished / "metrics.jsonl")[0]["train_loss"]
    assert contents(finished) == before


def test_other_data_in_a_chain_of_three(finished, users_file, tmp_path, capsys):
    """Users and items come and go, and their numbers change. No rate, so that rows stay."""
    folder = finished
    for users in (slice(30, 180), slice(60, 200)):
        own = lines_of(users_file)[users][::-1]
        file = write(tmp_path / f"{users.start}.txt", own)
        options = ("--from", str(folder), "--learning-rate", "1e-30", "--weight-decay", "0")
        before, folder = load_run(folder), run_on(file, tmp_path / str(users.start), *options)
        after = load_run(folder)
        old, new = (
            dict(
                zip(
                    f.data.item_ids.tolist(),
                    np.asarray(f.checkpoint.state.params["item_embedding"]["embedding"][...])[1:],
                    strict=True,
                )
            )
            for f in (before, after)
        )
        common = old.keys() & new.keys()
        best = dict(
            zip(
                before.data.item_ids.tolist(),
                np.asarray(before.checkpoint.best_params["item_embedding"]["embedding"][...])[1:],
                strict=True,
            )
        )
        assert 0 < len(common) < min(len(old), len(new))
        for item in common:
            np.testing.assert_array_equal(new[item], best[item])
        said = " ".join(capsys.readouterr().err.split())
        added, gone = len(new) - len(common), len(old) - len(common)
        assert f"{len(common):,} items matched, {added:,} new, {gone:,} gone" in said
        check_new_rows(after, new, common)
    assert Recommender.load(folder).recommend(top_k=3).height == 3 * 140


def test_runs_before_the_one_it_begins_from_are_checked_too(finished, users_file, tmp_path, capsys):
    """The second run knows no user of the third, but the first has trained on its test items."""
    lines = lines_of(users_file)
    second = run_on(
        write(tmp_path / "few.txt", lines[:20]), tmp_path / "b", "--from", str(finished)
    )
    shorter = write(tmp_path / "rest.txt", [line[:-2] for line in lines[20:150] if len(line) > 6])
    options = ["--dataset", str(shorter), "--optimizer", "sevo-adamw", *OPTIONS, "--epochs", "2"]
    third = [*options, "--from", str(second), "--out"]
    capsys.readouterr()
    assert train.main([*third, str(tmp_path / "c")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{finished} may have trained on interactions that are held out now" in said
    again = write(
        tmp_path / "bought.txt",
        [[own[0], *own[-3:], "9999", own[1]] for own in lines[20:150] if len(own) > 6],
    )
    third[1] = str(again)  # they go on, and buy again what the first run has trained on
    assert train.main([*third, str(tmp_path / "e")]) == 0
    third[1] = str(shorter)
    (tmp_path / "moved").mkdir()
    moved = finished.rename(tmp_path / "moved" / finished.name)
    try:
        assert train.main([*third, str(tmp_path / "d")]) == 0
    finally:
        moved.rename(finished)
    said = " ".join(capsys.readouterr().err.split())
    assert f"it began from {finished}, and it cannot be told whether that run has trained" in said


def check_new_rows(after, new: dict, common: set) -> None:
    """They are the means of their known neighbours, as the graph weighs them."""
    graph, _ = smoothed_tables(after.run.settings, after.data, SASREC)
    weights = graph.to_scipy().toarray()[1:, 1:]
    ids = after.data.item_ids.tolist()
    known = np.array([item in common for item in ids])
    table = np.array([new[item] for item in ids])
    total = weights @ known
    joined = ~known & (total > 0)
    assert joined.sum() > 3
    want = (weights * known) @ table / np.where(total > 0, total, 1)[:, None]
    np.testing.assert_allclose(table[joined], want[joined], rtol=1e-4, atol=1e-7)


class SASREC:
    """The part of a model that `smoothed_tables` reads."""

    tables = ("item_embedding",)
    task = "next"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_another_optimiser_begins_anew(finished, tmp_path, capsys, optimizer):
    """The moments of Adam serve all kinds of Adam."""
    file = finished.parents[1] / "old.txt"
    run = run_on(file, tmp_path, "--from", str(finished), optimizer=optimizer)
    said = "the optimiser is another, and begins anew" in capsys.readouterr().err
    assert said == (optimizer == "sgd")
    first, *_ = read_lines(run / "metrics.jsonl")
    assert first["valid"] == read_json(finished / "result.json")["valid"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "model",
    [
        "mf-bpr --graph user-item",
        *(
            pytest.param(m, marks=SLOW)
            for m in ("bert4rec", "stosa", "lightgcn", "maerec", "lessr")
        ),
    ],
)
def test_models_with_other_tables(users_file, tmp_path, model):
    """Tables of users, of a mask, two tables, and running means; the one new user comes first."""
    model, *options = model.split()
    optimizer = "adam" if model == "lightgcn" else "sevo-adamw"
    lines = lines_of(users_file)[:60]
    old, new = write(tmp_path / "old.txt", lines), tmp_path / "new.txt"
    lines.insert(0, ["999", *lines[3][1:4], "77777", *lines[5][1:4]])
    write(new, lines)
    given = ["--model", model, "--dim", "16", "--batch-size", "64", "--epochs", "1", *options]
    given += ["--optimizer", optimizer, "--learning-rate", "0.01"]
    runs = []
    for name, file, start in (("a", old, ()), ("b", old, "a"), ("c", new, "b")):
        own = ["--from", str(runs[-1])] if start else []
        own += ["--learning-rate", "1e-30", "--weight-decay", "0"] if start else []
        where = ["--dataset", str(file), "--out", str(tmp_path / name)]
        assert train.main([*given, *own, *where]) == 0
        runs.append(tmp_path / name / f"{model}-{optimizer}-seed0")
    first, second = (read_json(run / "result.json") for run in runs[:2])
    assert read_lines(runs[1] / "metrics.jsonl")[0]["valid"] == first["valid"]
    if model != "lessr":  # whose running means move, whatever the rate
        assert second["test"] == first["test"]
    # With one item more, nobody's best items are quite others.
    best = [Recommender.load(run).recommend(top_k=5) for run in runs[1:]]
    pairs = [set(found.select("user", "item").iter_rows()) for found in best]
    assert len(pairs[0] & pairs[1]) > 0.8 * len(pairs[0])


def test_it_resumes_without_the_run_it_began_from(finished, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    file = write(copied / "old.txt", lines_of(finished.parents[1] / "old.txt"))
    former = run_on(file, copied / "runs")
    run = run_on(file, tmp_path / "new", "--from", str(former))
    (former / "result.json").unlink()
    run_on(file, tmp_path / "new", "--from", str(former), "--resume", "--epochs", "3")
    assert [r["epoch"] for r in read_lines(run / "metrics.jsonl")] == [0, 1, 2, 3]
    assert Recommender.load(run).recommend(top_k=1).height == 150


def test_a_slip_leaves_nothing_behind(finished, tmp_path, capsys):
    """Nor does a later run that does not fit cost what was trained before it."""
    file = finished.parents[1] / "old.txt"
    given = ["--dataset", str(file), "--optimizer", "adamw", *OPTIONS, "--epochs", "1"]
    given += ["--out", str(tmp_path / "out")]
    assert train.main([*given, "--from", str(finished) + "x"]) == 1
    assert not (tmp_path / "out/sasrec-adamw-seed0").exists()
    assert train.main([*given, "--from", str(finished), "--mesh", "data=1"]) == 1
    assert "--from: begin on one device" in capsys.readouterr().err
    others = write(
        tmp_path / "others.txt", [[str(u), *map(str, range(90001, 90005))] for u in (1, 2)]
    )
    refused = ["--dataset", str(others), *given[2:], "--from", str(finished)]
    assert train.main(refused) == 1  # found out once the former run's data are read
    assert "knows none of the items" in capsys.readouterr().err
    assert train.main([*given, "--from", str(finished)]) == 0


def test_registered_data_of_other_items_are_refused(users_file, tmp_path, capsys, monkeypatch):
    """Both files count their items from 1."""
    monkeypatch.setenv("SEVO_DATA", str(tmp_path))
    lines = [["1", "1", "2", "3", "4"], ["2", "4", "3", "2", "1"], ["3", "2", "4", "1", "3"]]
    write(tmp_path / "Beauty.txt", lines)
    write(tmp_path / "Toys_and_Games.txt", [*lines, ["4", "5", "1", "5"]])
    given = ["--optimizer", "adamw", *OPTIONS, "--epochs", "1"]
    beauty = [*given, "--dataset", "beauty", "--out", str(tmp_path / "beauty")]
    assert train.main(beauty) == 0
    start = ["--from", str(tmp_path / "beauty/sasrec-adamw-seed0")]
    toys = [*given, "--dataset", "toys", "--out", str(tmp_path / "toys"), *start]
    assert train.main(toys) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "was trained on beauty; the items of toys are others, though both count from 1" in said
    longer = write(tmp_path / "longer.txt", [*lines, ["4", "5", "1", "5"]])
    attend = ["--attend-padding", "True"]  # as published for beauty
    options = ["--dataset", str(longer), "--out", str(tmp_path / "longer"), *start, *attend]
    assert train.main([*given, *options]) == 0
    assert "only if both number the same items alike" in " ".join(capsys.readouterr().err.split())


def test_the_data_must_be_as_they_were(finished, users_file, tmp_path, capsys):
    lines = lines_of(finished.parents[1] / "old.txt")
    file = write(tmp_path / "shop.txt", lines)
    run = run_on(file, tmp_path / "old")
    write(file, [*lines, ["99999", *lines[0][1:5]]])
    given = ["--dataset", str(file), "--optimizer", "adamw", *OPTIONS, "--epochs", "1"]
    assert train.main([*given, "--from", str(run), "--out", str(tmp_path / "new")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "--from: the run's data and files must be where and as they were" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--distill", "kd"), "--from: a student cannot go on from a run"),
        (("--model", "gru4rec"), "--from: {run} holds a run of sasrec, expected gru4rec"),
        (("--dim", "8"), "--from: {run} has dim 16, not 8"),
        (("--max-len", "10"), "--from: the run has parameters of shape (20, 16), and the new one"),
        (("--from", "nowhere"), "--from: nowhere holds no finished run"),
    ],
)
def test_a_run_that_does_not_fit(finished, tmp_path, capsys, options, message):
    file = finished.parents[1] / "old.txt"
    own = ["--num-blocks", "1"] if "--model" not in options else []
    given = [*own, "--max-len", "20", "--dim", "16", "--batch-size", "64", "--epochs", "1"]
    given += ["--dataset", str(file), "--optimizer", "sevo-adamw", "--from", str(finished)]
    assert train.main([*given, "--out", str(tmp_path), *options]) == 1
    assert message.format(run=finished) in " ".join(capsys.readouterr().err.split())


def test_data_without_a_common_item(finished, tmp_path, capsys):
    lines = [[str(user), *(str(10**6 + user + i) for i in range(4))] for user in range(1, 20)]
    file = write(tmp_path / "other.txt", lines)
    given = ["--dataset", str(file), "--optimizer", "adamw", *OPTIONS, "--epochs", "1"]
    assert train.main([*given, "--from", str(finished), "--out", str(tmp_path / "out")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "knows none of the items of other; expected ids such as" in said
