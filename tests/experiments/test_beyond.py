"""Tables that the paper does not have: equal tuning, the map of gains, new items and new days."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import sevo_jax
from experiments import numbers, train
from experiments.beyond import new_items, new_items_page, tuning, when_it_pays
from experiments.beyond.comparisons import QUINTILES
from experiments.data import load
from experiments.data.interactions import from_sequences
from experiments.files import read_json, write_json
from experiments.reproduce import main
from experiments.run import claim_folder
from experiments.tables.requests import Request
from experiments.training import loop
from experiments.training.graphs import neighbour_graph
from tests.runs import records_of


def call(name: str, folder: Path, *more: str) -> int:
    """The command, with all its files in ``folder``."""
    places = ["--runs", str(folder / "runs"), "--out", str(folder)]
    return main([name, *places, "--data-dir", str(folder / "data"), "--datasets", "beauty", *more])


def score_of(run) -> float:
    """A made-up score: best at a rate of 0.0015; SEvo gains 10%."""
    rate = run.settings.optimizer.learning_rate
    base = 0.05 - abs(rate - 1.5e-3) + 1e-4 * np.random.default_rng(run.seed).random()
    return base * (1.1 if "sevo" in run.optimizer and run.settings.optimizer.num_layers else 1.0)


@pytest.fixture
def trained(monkeypatch):
    """Training that takes no time: the runs in their order."""
    done = []

    def fake(runs, data, folders, **_):
        for run, folder in zip(runs, folders, strict=True):
            claim_folder(run, data, folder)
            scores = dict.fromkeys(numbers.METRICS, score_of(run))
            result = {"seed": run.seed, "epochs": run.settings.training.epochs, "best_epoch": 10}
            result |= {"test": scores, "valid": scores, "seconds_per_epoch": 1.5}
            quintiles = [None, *(score_of(run) * np.arange(2, 6)).tolist()]
            result |= {"by_popularity": {"NDCG@10": quintiles}, "num_users": data.num_users}
            write_json(folder / "result.json", result | {"device": "abacus"})
            lines = [
                {"epoch": e, "seconds": 2.0 * e, "train_loss": 1.0, "valid": {"NDCG@10": value}}
                for e, value in ((5, 0.01), (10, score_of(run)))
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
            done.append(run)

    monkeypatch.setattr(loop, "train_together", fake)
    return done


def test_all_methods_are_tuned_alike():
    """Trials are alike in what all methods have, all differ, and no two methods share one."""
    trials = {name: tuning.trial_settings(method) for name, method in tuning.METHODS.items()}
    for turn in zip(*trials.values(), strict=True):
        common = [{k: own[k] for k in tuning.COMMON if k in own} for own in turn]
        assert all(own == common[0] for own in common)
    runs = [row.optimizer + repr(row.settings) for n in trials for row in tuning.trials_of("b", n)]
    assert len(set(runs)) == len(runs) == tuning.TRIALS * len(tuning.METHODS) >= 12 * 5
    for name, method in tuning.METHODS.items():
        for field, values in {**tuning.COMMON, **method.searched}.items():
            drawn = [own[field] for own in trials[name][1:]]
            counts = [drawn.count(value) for value in values]
            assert max(counts) - min(counts) <= 1, (name, field)


def test_the_moment_correction_alone_is_no_method_where_all_rows_have_gradients(
    users_file, tmp_path
):
    """With the cross-entropy over all items; with one negative it is another optimiser."""
    found = {}
    for loss in ("softmax", "bce"):
        for kind in (["adamw"], ["sevo-adamw", "--beta", "0", "--num-layers", "0"]):
            out = tmp_path / loss / kind[0]
            options = ["--dataset", str(users_file), "--optimizer", *kind, "--loss", loss]
            options += ["--dim", "16", "--num-blocks", "1", "--max-len", "8", "--epochs", "2"]
            assert train.main([*options, "--batch-size", "64", "--out", str(out)]) == 0
            found[loss, kind[0]] = records_of(next(out.glob("*-seed0")))[-1]["train_loss"]
    # Not bit by bit: XLA may order the sums of two programs differently.
    apart = {
        loss: abs(found[loss, "sevo-adamw"] / found[loss, "adamw"] - 1)
        for loss in ("softmax", "bce")
    }
    assert apart["softmax"] < 1e-6
    assert apart["bce"] > 1e-4


def test_five_seeds_at_the_best_settings_of_the_trials(data_dir, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TRIALS", 2)
    assert call("tuned", tmp_path, "--no-train") == 0
    text = (tmp_path / "tuned.md").read_text()
    assert "No two methods are done yet" in text
    assert "best of 0 trials" not in text  # of what is not done there is no row
    assert call("tuning", tmp_path) == 0
    assert len(trained) == 2 * len(tuning.METHODS)
    for name, value in tuning.SMALLER.items():
        assert {getattr(run.settings.training, name) for run in trained} == {value}
    best = max((run for run in trained if run.optimizer == "adamw"), key=score_of)
    trained.clear()
    assert call("tuned", tmp_path, "--seeds", "0", "1") == 0
    assert len(trained) == 2 * (len(tuning.METHODS) + 1)  # one more is the recipe as it is
    plain = next(run for run in trained if run.optimizer == "adamw")
    full = {"user_share": 1.0, "batch_size": 512, "epochs": tuning.FULL_EPOCHS}
    assert plain.settings == best.settings.replace(**full)
    text = (tmp_path / "tuned.md").read_text()
    assert text.count("(best of 2 trials)") >= 2 * len(tuning.METHODS)
    assert "On Beauty, SEvo validates best of the methods that smooth. Its test" in text
    gains = read_json(tmp_path / "tuned.json")["gains"]
    against = {own["other"].partition(":")[0] for own in gains}
    assert against == {"Adam", "AdamW", tuning.BORROWED}
    assert len(gains) == len(against) * (len(tuning.METHODS) - 1)
    smoothed = [
        own["gain"]["NDCG@10"]
        for own in gains
        if own["one"].startswith("SEvo") and own["other"].startswith("AdamW: ")
    ]
    assert len(smoothed) == 3
    assert min(smoothed) > 0.05
    # Both seeds of the three reach AdamW's score at the tenth epoch, after 20 seconds.
    until = [line for line in text.splitlines() if re.search(r"2 of 2 \| +10 \| +20 ", line)]
    assert sum(": SEvo" in line and "| AdamW: " in line for line in until) == 3


def test_other_backbones_once_in_ten_epochs(data_dir, trained, tmp_path, monkeypatch):
    """They have the rows of Table 2, where those are of one pass and of the published code."""
    scores = {0: 0.05, 10: 0.06}  # at the published rate
    monkeypatch.setattr(
        f"{__name__}.score_of",
        lambda run: (
            scores[run.settings.optimizer.every_epochs]
            - 0.02 * (run.model == "mf-bpr")
            - 0.01 * (run.settings.optimizer.learning_rate > 1e-3)
        ),
    )
    assert call("every-models", tmp_path) == 0
    models = ["mf-bpr", "gru4rec", "bert4rec", "stosa"]
    assert [run.model for run in trained] == [model for model in models for _ in range(4)]
    settings = [run.settings.flat() for run in trained]
    assert [(own["one_pass"], own["batch_size"]) for own in settings[4:8]] == [(True, 89)] * 4
    assert [own["published"] for own in settings[-4:]] == [True] * 4
    assert [own["learning_rate"] for own in settings[8:12]] == [5e-4, 1e-3] * 2
    verdict = (tmp_path / "every-models.md").read_text().split("\n\n")[1]
    assert "beside every step, each at the learning rate that validates best" in verdict
    assert "MF-BPR every 10 epochs: 33.3% above (one seed, so it may be chance)" in verdict
    for name in ("GRU4Rec", "BERT4Rec", "STOSA"):
        assert f"{name} every 10 epochs: 20.0% above (one seed, so it may be chance)" in verdict
    reached = (
        "| GRU4Rec on Beauty: every 10 epochs, rate 0.001 | every step, rate 0.001 | 1 of 1 | 10 |"
    )
    assert reached in re.sub(" +", " ", (tmp_path / "every-models.md").read_text())


def test_a_plain_factor_as_strong_as_the_smoothing(data_folder):
    """The page of parts says that on noise ψ has the norm of a factor of 0.27."""
    graph = neighbour_graph(load("beauty", data_folder))
    noise = np.random.default_rng(0).standard_normal((graph.num_nodes, 8))
    smoothed = sevo_jax.smooth(graph, jnp.asarray(noise, jnp.float32))
    assert np.linalg.norm(smoothed) / np.linalg.norm(noise) == pytest.approx(0.27, abs=0.005)


def test_the_verdict_when_adam_is_better(data_dir, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TRIALS", 1)
    monkeypatch.setattr(f"{__name__}.score_of", lambda run: 0.05 - 0.01 * ("sevo" in run.optimizer))
    assert call("tuning", tmp_path) == 0
    assert call("tuned", tmp_path, "--seeds", "0", "1") == 0
    text = (tmp_path / "tuned.md").read_text()
    assert "Its test NDCG@10 is, beside Adam, 20.0% below (2 seeds" in text


def test_the_map(data_dir, trained, tmp_path, monkeypatch):
    few = {axis: own[1:2] for axis, own in when_it_pays.AXES.items()}
    few["share of the users"] = when_it_pays.AXES["share of the users"][-1:]
    monkeypatch.setattr(when_it_pays, "AXES", few)
    assert call("when-it-pays", tmp_path, "--no-train") == 0
    assert "No pair of runs is done yet." in (tmp_path / "when-it-pays.md").read_text()
    assert call("when-it-pays", tmp_path) == 0
    assert len(trained) == len(set(trained))
    content = read_json(tmp_path / "when-it-pays.json")
    assert len(content["places"]) == sum(map(len, few.values()))
    assert all(place["seeds"] == [0, 1, 2, 3, 4] for place in content["places"])
    assert all(abs(place["gain"]["NDCG@10"] - 0.1) < 1e-6 for place in content["places"])
    assert "its gain is +10.0% at best" in content["verdict"]
    graphs = {run.settings.graph.kind for run in trained if "sevo" in run.optimizer}
    assert graphs == {"item-item", "category"}
    text = (tmp_path / "when-it-pays.md").read_text()
    assert text.count("Q1, least popular") == 1
    assert (tmp_path / "when-it-pays.png").read_bytes().startswith(b"\x89PNG")
    assert QUINTILES == 5


def test_the_map_has_adamw_at_the_settings_that_validate_better(
    data_dir, trained, tmp_path, monkeypatch
):
    def best_of(dataset, name, folder):
        smooths = name == tuning.SMOOTHED
        rate, optimizer = (1.5e-3, numbers.SEVO) if smooths else (1e-3, numbers.UNSMOOTHED)
        return tuning.Best(name, optimizer, {"recipe": "strong", "learning_rate": rate})

    monkeypatch.setattr(tuning, "best_of", best_of)
    width = when_it_pays.AXES["width"]
    few = dict.fromkeys(when_it_pays.AXES, ()) | {"width": width}
    monkeypatch.setattr(when_it_pays, "AXES", few)
    assert call("when-it-pays", tmp_path) == 0
    content = read_json(tmp_path / "when-it-pays.json")
    assert {place["plain"]["settings"]["learning_rate"] for place in content["places"]} == {1.5e-3}
    text = (tmp_path / "when-it-pays.md").read_text()
    assert text.count("SEvo's |") == len(width)
    assert all(abs(place["gain"]["NDCG@10"] - 0.1) < 1e-6 for place in content["places"])


def test_interactions_are_written_by_their_own_ids(tmp_path):
    """Ids may be any text; those that are left out are missing."""
    names = np.array(["", "a", "b", "c"])
    given = from_sequences("small", np.array([3, 1, 2, 2, 1, 3, 1]), np.array([4, 3]), names)
    given = dataclasses.replace(given, user_ids=np.array(["ann", "bob"]))
    kept = np.array([True, False, True, True, True, True, True])
    new_items.write_part(given, kept, tmp_path / "part.parquet")
    rows = pl.read_parquet(tmp_path / "part.parquet").rows()
    assert rows == [*(("ann", i) for i in "cbb"), *(("bob", i) for i in "aca")]
    assert load(str(tmp_path / "part.parquet")).num_interactions == 6


def test_cold_items_have_no_training_interactions(data_dir, tmp_path):
    given = load("beauty", data_dir)
    cold = new_items.prepare_cold(given, tmp_path)
    assert cold.size == round(0.1 * given.num_items)
    part = load(str(tmp_path / "cold.parquet"))
    training = part.item_ids[part.items[part.training_part()] - 1]
    assert not np.isin(training, cold).any()
    tests = part.item_ids[part.items[part.ends[2] - 1] - 1]
    assert np.isin(tests, cold).any()
    # All other interactions of the users who are left are there.
    warm = ~np.isin(given.item_ids[given.items - 1], cold) | ~given.training_part()
    left = np.isin(given.user_ids[given.owners], part.user_ids)
    np.testing.assert_array_equal(
        part.item_ids[part.items - 1], given.item_ids[given.items - 1][warm & left]
    )


def test_the_first_days(data_dir, tmp_path):
    given = load("beauty", data_dir)
    new = new_items.prepare_days(given, tmp_path)
    first, whole = (load(str(tmp_path / f"{name}.parquet")) for name in ("first", "whole"))
    assert whole.fingerprint == given.fingerprint
    assert set(new) == set(given.item_ids) - set(first.item_ids)
    ceil = np.ceil(0.8 * given.lengths)[np.isin(given.user_ids, first.user_ids)]
    np.testing.assert_array_equal(first.lengths, ceil)


def test_adamw_with_sevos_settings_smooths_nothing(tmp_path, monkeypatch):
    common = {"recipe": "strong", "learning_rate": 3e-3, "dropout_rate": 0.3}
    best = {
        "AdamW": tuning.Best("AdamW", numbers.UNSMOOTHED, {"recipe": "strong"}),
        "SEvo": tuning.Best("SEvo", numbers.SEVO, {**common, "beta": 0.8}),
    }
    monkeypatch.setattr(tuning, "best_of", lambda dataset, name, folder: best[name])
    asked = Request("incremental", runs=tmp_path)
    steps = new_items.steps_of(new_items.DAYS, "beauty", 0, asked)
    made = {step.variant.label: step for step in steps}
    assert len({step.folder for step in steps}) == len(steps)
    for name, first in ((tuning.BORROWED, "AdamW"), ("SEvo, then AdamW", "SEvo")):
        own, smoothed = (made[f"{label}, 3 more epochs"].run for label in (name, "SEvo"))
        assert own.optimizer == numbers.UNSMOOTHED
        assert own.settings.training.start == str(made[f"{first}, first part"].folder)
        for key in ("epochs", *common):
            assert own.settings.flat()[key] == smoothed.settings.flat()[key], key


def test_the_page_of_new_days_begins_with_the_longest_runs():
    measured = {
        ("beauty", variant.label): [{"test": {"all": {"NDCG@10": 0.01 * i}}}]
        for i, variant in enumerate(new_items.DAYS.variants)
    }
    del measured["beauty", "SEvo, retrained"]
    labels = [variant.label for variant in new_items.DAYS.variants]
    text = new_items_page.verdict_of_days(measured)
    last = [label for label in labels if label.endswith((" 5 more epochs", "AdamW, retrained"))]
    expected = "; ".join(f"{label}: {0.01 * labels.index(label):.4f}" for label in last)
    assert text == f"NDCG@10 on Beauty: {expected}."
    assert len(last) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cold", "incremental"])
def test_new_items(data_dir, tmp_path, name, monkeypatch):
    """Really trained, for two epochs; a second call trains nothing."""
    monkeypatch.setattr(new_items, "EPOCHS", 2)
    assert call(name, tmp_path) == 0
    content = read_json(tmp_path / f"{name}.json")
    experiment = {"cold": new_items.COLD, "incremental": new_items.DAYS}[name]
    assert [own["variant"] for own in content["variants"]] == [
        variant.label for variant in experiment.variants if variant.part != "first"
    ]
    for own in content["variants"]:
        (one,) = own["seeds"]
        users = one["users"]
        assert users["new"] + users["old"] == users["all"]
        parts = [one["test"][g]["HR@10"] * users[g] for g in ("new", "old") if g in one["test"]]
        np.testing.assert_allclose(sum(parts), one["test"]["all"]["HR@10"] * users["all"])
    text = (tmp_path / f"{name}.md").read_text()
    assert "## Missing" not in text
    monkeypatch.setattr(loop, "train_together", None)
    assert call(name, tmp_path) == 0
    assert (tmp_path / f"{name}.md").read_text() == text
    # Measurements of other settings are not taken for these.
    assert call(name, tmp_path, "--epochs", "3", "--no-train") == 0
    assert "not done" in (tmp_path / f"{name}.md").read_text()
