"""Table 4 and Figure 6: made-up runs of a small SASRec on 200 users with made-up categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import numbers
from experiments.data import load, load_categories, registry
from experiments.files import read_json, write_json
from experiments.paper import accuracy_tables, figure6
from experiments.reproduce import main
from experiments.run import Run, claim_folder
from experiments.settings import Settings
from experiments.settings.published import MODELS
from experiments.tables.requests import QUICK_EPOCHS
from experiments.training import loop, prepare
from experiments.training.graphs import category_graph

SASREC = MODELS["sasrec"]
FILE = "Beauty_item2attributes.json"


def small_sasrec(dataset: str, optimizer: str, variant: str = "") -> Settings:
    return SASREC.published(dataset, optimizer, variant).replace(
        epochs=2, dim=8, num_blocks=1, max_len=10,
        batch_size=256, eval_every=2, attend_padding=False, packed=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_models(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(registry, "download", no_network)
    monkeypatch.setattr(registry, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setitem(MODELS, "sasrec", SASREC._replace(published=small_sasrec))


def call(name: str, folder: Path, data_dir: Path, *more: str) -> int:
    places = ["--runs", str(folder / "runs"), "--out", str(folder), "--data-dir", str(data_dir)]
    return main([name, *places, *more])


@pytest.fixture
def trained(monkeypatch) -> list[Run]:
    """Training that takes no time: scores that rise with β, and the runs that were asked for."""
    runs_made: list[Run] = []

    def fake(runs, data, folders, *, resume, stop, report, **_):
        for run, folder in zip(runs, folders, strict=True):
            claim_folder(run, data, folder)
            noise = np.random.default_rng(
                [run.seed, int(100 * run.settings.optimizer.beta)]
            ).random()
            score = 0.04 + 0.01 * run.settings.optimizer.beta + 0.001 * noise
            result = {"seed": run.seed, "epochs": run.settings.training.epochs, "best_epoch": 1}
            result |= {"test": dict.fromkeys(numbers.METRICS, score), "seconds_per_epoch": 1.5}
            write_json(folder / "result.json", result | {"device": "abacus"})
            runs_made.append(run)

    monkeypatch.setattr(loop, "train_together", fake)
    return runs_made


def test_table4_has_one_run_without_smoothing(data_dir, tmp_path, trained):
    assert call("table4", tmp_path, data_dir, "--datasets", "beauty", "--seeds", "0", "1") == 0
    found = [(r.settings.graph.kind, r.settings.optimizer.beta) for r in trained if r.seed == 0]
    assert found == list(accuracy_tables.CONDITIONS)
    assert [beta for _, beta in found].count(0) == 1
    assert {r.optimizer for r in trained} == {"sevo-adamw"}
    content = read_json(tmp_path / "table4.json")
    assert len(content["rows"]) == 5
    assert not content["missing"]
    scores = {(r["settings"]["graph"], r["settings"]["beta"]): r["test"] for r in content["rows"]}
    base = scores["item-item", 0.0]["NDCG@10"]["mean"]
    assert len(content["gains"]) == 4
    for gain in content["gains"]:
        own = scores[gain["graph"], gain["beta"]]["NDCG@10"]["mean"]
        assert gain["gain"]["NDCG@10"] == pytest.approx(own / base - 1)
        assert gain["paper_gain"] == dict.fromkeys(numbers.METRICS)
    text = (tmp_path / "table4.md").read_text()
    assert "Those of more than 500 items make no edges" in text
    assert "quick look" not in text


def test_table4_tells_of_movielens_that_is_not_there(data_dir, tmp_path, trained):
    """And quotes the paper's values of it."""
    assert call("table4", tmp_path, data_dir, "--seeds", "0") == 0
    text = (tmp_path / "table4.md").read_text()
    assert "ml-1m, sasrec-sevo-adamw-beta=0.0, seed 0: " in text
    assert "holds neither ml-1m.txt nor ml-1m.zip" in text
    assert "MovieLens-1M: every category makes edges." in text
    rows = read_json(tmp_path / "table4.json")["rows"]
    (row,) = (r for r in rows if r["dataset"] == "ml-1m" and r["settings"]["beta"] == 0)
    assert row["test"]["HR@10"]["paper"] == 0.2482
    assert row["test"]["HR@5"]["paper"] is None
    gains = read_json(tmp_path / "table4.json")["gains"]
    assert gains[3]["paper_gain"]["NDCG@10"] == pytest.approx(0.1371 / 0.1315 - 1)


def test_table4_without_categories(data_dir, tmp_path, trained, monkeypatch):
    """Runs over interactions are none the worse for it."""
    (data_dir / FILE).unlink()
    fake = loop.train_together

    def building(runs, data, folders, **more):
        if runs[0].settings.graph.kind == "category":
            prepare.make_setup(runs[0], data)
        fake(runs, data, folders, **more)

    monkeypatch.setattr(loop, "train_together", building)
    assert call("table4", tmp_path, data_dir, "--datasets", "beauty", "--seeds", "0") == 1
    assert len(trained) == 3
    missing = read_json(tmp_path / "table4.json")["missing"]
    assert len(missing) == 2
    assert all("graph=category" in line and f"{FILE}: is missing" in line for line in missing)


def test_a_quick_look(data_dir, tmp_path, trained):
    assert call("table4", tmp_path, data_dir, "--quick") == 0
    assert len(trained) == 5
    assert {(r.dataset, r.seed) for r in trained} == {("beauty", 0)}
    assert {r.settings.training.epochs for r in trained} == {QUICK_EPOCHS}
    assert {r.settings.training.user_share for r in trained} == {0.1}
    title = (tmp_path / "table4.md").read_text().splitlines()[0]
    assert title.endswith(" (a quick look)")


@pytest.fixture
def tables(monkeypatch) -> None:
    """Checkpoints that are clusters by category where β is high; and a map without UMAP."""

    def load_table(run, data, folder):
        rng = np.random.default_rng(0)
        table = rng.normal(size=(data.num_items + 1, 8))
        for i, members in enumerate(load_categories(data).members):
            table[members, i % 8] += 20 * run.settings.optimizer.beta
        return table.astype(np.float32)

    monkeypatch.setattr(figure6, "load_table", load_table)
    monkeypatch.setattr(figure6, "project", lambda items: items[:, :2])


@pytest.mark.slow
def test_figure6(data_dir, tmp_path, trained, tables):
    assert call("figure6", tmp_path, data_dir) == 0
    content = read_json(tmp_path / "figure6.json")
    assert not content["missing"]
    unsmoothed, *_, smoothed = content["maps"]
    assert (unsmoothed["beta"], smoothed["beta"]) == (0, 0.99)
    assert smoothed["share_of_neighbours"] > unsmoothed["share_of_neighbours"]
    assert smoothed["smoothness_over_categories"] < unsmoothed["smoothness_over_categories"]
    chance = content["share_of_all_pairs"]
    assert unsmoothed["share_of_neighbours"] == pytest.approx(chance, abs=0.03)
    assert len(content["coloured"]) == 6
    page = (tmp_path / "figure6.md").read_text()
    assert page.count(" 2 of 2 ") == len(content["maps"])
    assert (tmp_path / "figure6.png").stat().st_size > 10_000
    assert {r.seed for r in trained} == {0}


@pytest.mark.slow
def test_figure6_tells_of_runs_that_were_stopped_early(data_dir, tmp_path, trained, tables):
    assert call("figure6", tmp_path, data_dir, "--epochs", "1") == 0
    content = read_json(tmp_path / "figure6.json")
    assert content["missing"] == ["5 maps stopped early: 1 of 2 epochs"]
    assert call("figure6", tmp_path, data_dir) == 0
    assert not read_json(tmp_path / "figure6.json")["missing"]


def test_figure6_tells_of_a_lost_checkpoint(data_dir, tmp_path, trained):
    """Made-up runs have none, and the committed ones have none."""
    assert call("figure6", tmp_path, data_dir) == 0
    missing = read_json(tmp_path / "figure6.json")["missing"]
    assert len(missing) == 5
    assert all("holds no checkpoint" in line for line in missing)
    command = "`python -m experiments.reproduce figure6 --datasets beauty --seeds 0 --runs NEW"
    assert all(command in line for line in missing)
    assert not (tmp_path / "figure6.png").exists()


@pytest.mark.slow
def test_figure6_of_a_run_that_was_really_trained(data_dir, tmp_path, monkeypatch):
    """Its table is the one of the best epoch."""
    monkeypatch.setattr(figure6, "project", lambda items: items[:, :2])
    monkeypatch.setattr(accuracy_tables, "CONDITIONS", (("category", 0.99),))
    kept: dict[int, np.ndarray] = {}
    validate = loop._Lane.validate

    def keeping(lane, state, setup, epoch, loss, began):
        kept[epoch] = np.array(state.params["item_embedding"]["embedding"][...])
        return validate(lane, state, setup, epoch, loss, began)

    monkeypatch.setattr(loop._Lane, "validate", keeping)
    assert call("figure6", tmp_path, data_dir) == 0
    (own,) = read_json(tmp_path / "figure6.json")["maps"]
    table = kept[own["best_epoch"]].astype(np.float64)
    table[0] = 0
    operator = category_graph(load("beauty", data_dir)).to_scipy().toarray()
    smooth = np.trace(table.T @ (table - operator @ table)) / (table**2).sum()
    assert own["smoothness_over_categories"] == pytest.approx(smooth, rel=1e-4)


def test_neighbours_equal_a_loop(monkeypatch):
    monkeypatch.setattr(figure6, "_ROWS_PER_BLOCK", 16)  # blocks, the last one not full
    items = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    similar = unit @ unit.T - 10 * np.eye(50)
    expected = np.argsort(-similar, axis=1)[:, :5]
    assert np.array_equal(figure6.nearest_neighbours(items, 5), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["table4", "--models", "sasrec"], "--models: table4 does not have it"),
        (["figure6", "--optimizers", "adam"], "--optimizers: figure6 does not have it"),
        (["figure6", "--seeds", "0", "1"], "--seeds: figure6 takes one, got 2"),
        (["figure6", "--datasets", "synthetic"], "--graph: category needs a data set"),
    ],
)
def test_bad_options(tmp_path, capsys, options, message):
    assert main([*options, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_umap_is_the_same_again():
    items = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    first = figure6.project(items)
    assert first.shape == (200, 2)
    assert np.array_equal(first, figure6.project(items))
