"""``python -m experiments.reproduce`` of the ablations: what they run, their pages, quick looks."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from experiments import numbers
from experiments.data import registry
from experiments.files import read_json, write_json
from experiments.paper.ablations import ABLATIONS, RATES, papers_value
from experiments.reproduce import main
from experiments.run import claim_folder
from experiments.settings.published import published
from experiments.tables.panels import Drawn, draw_bars, draw_curves, draw_lines
from experiments.tables.requests import Request, quick_look
from experiments.targets import TARGETS
from experiments.training import loop

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """New folders are made in one of the test's own, and nothing is downloaded or cached."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(registry, "cache_folder", lambda: folder / "empty")
    monkeypatch.delenv("SEVO_DATA", raising=False)
    return folder


@pytest.fixture(scope="module")
def data_dir(users_file, tmp_path_factory) -> Path:
    """A folder in which 200 users pass for Beauty."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(users_file, folder / "Beauty.txt")
    return folder


def score_of(run) -> float:
    """A made-up score, that of validation: the higher the rate, the better."""
    return 0.01 + run.settings.optimizer.learning_rate / 1000 + 0.001 * run.seed


@pytest.fixture
def trained(monkeypatch) -> list:
    """Training that takes no time; the runs that were made up."""
    done = []

    def fake(runs, data, folders, *, resume, stop, report, **_):
        for run, folder in zip(runs, folders, strict=True):
            claim_folder(run, data, folder)
            valid = dict.fromkeys(numbers.METRICS, score_of(run))
            test = dict.fromkeys(numbers.METRICS, 0.05 - score_of(run))
            epochs = range(2, run.settings.training.epochs + 1, 2)
            lines = [{"epoch": e, "train_loss": 1 / e, "valid": valid} for e in epochs]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
            result = {"seed": run.seed, "epochs": run.settings.training.epochs, "best_epoch": 2}
            result |= {"valid": valid, "test": test, "seconds_per_epoch": 1.5}
            result["num_users"] = data.num_users
            write_json(folder / "result.json", result | {"device": "abacus"})
            done.append(run)

    monkeypatch.setattr(loop, "train_together", fake)
    return done


@pytest.fixture
def no_pictures(monkeypatch):
    """They are drawn after every run, and take longer than all else here."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).touch())


def call(name: str, folder: Path, data_dir: Path, *more: str) -> int:
    places = ["--runs", str(folder / "runs"), "--out", str(folder), "--data-dir", str(data_dir)]
    return main([name, *places, *more])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ABLATIONS)
def test_a_quick_look(name, data_dir, own_folders, trained, monkeypatch, tmp_path):
    """All in a folder of its own: not a file is made where the command is called."""
    monkeypatch.chdir(tmp_path)
    assert main([name, "--quick", "--data-dir", str(data_dir)]) == 0
    assert not list(tmp_path.iterdir())
    (folder,) = own_folders.glob("sevo-*")
    assert {p.name for p in folder.glob(f"{name}.*")} == {
        f"{name}.{suffix}" for suffix in ("md", "json", "tex", "png")
    }
    assert len(trained) == len(set(trained)) == len(list(folder.glob("runs/*/*/result.json")))
    assert {(r.dataset, r.seed, r.settings.training.user_share) for r in trained} == {
        ("beauty", 0, 0.1)
    }

    text = (folder / f"{name}.md").read_text()
    assert text.startswith(f"# {ABLATIONS[name].title} (a quick look)\n\n**A quick look**")
    assert "| paper " not in text
    assert "## Missing" not in text
    content = read_json(folder / f"{name}.json")
    assert content["quick"]
    series = {point["series"] for point in content["points"]}
    assert series == {point.series for point in ABLATIONS[name].points}
    assert all(point["seeds_done"] == 1 for point in content["points"])


@pytest.mark.usefixtures("no_pictures")
def test_a_quick_look_without_beauty_and_with_places(own_folders, trained, tmp_path):
    """Options that are given go before those of a quick look."""
    argv = ["--epochs", "4", "--seeds", "1", "2", "--datasets", "synthetic"]
    assert call("table7", tmp_path, tmp_path, "--quick", *argv[:-2]) == 0
    assert not list(own_folders.glob("sevo-*"))
    assert {(r.dataset, r.seed, r.settings.training.epochs) for r in trained} == {
        ("synthetic", 1, 4),
        ("synthetic", 2, 4),
    }
    assert "| 2 of 2 | 4 of 60 |" in (tmp_path / "table7.md").read_text()
    count = len(trained)
    assert call("table7", tmp_path, tmp_path, "--quick", *argv) == 0
    assert len(trained) == count


@pytest.mark.slow
def test_a_quick_look_is_really_trained(own_folders, tmp_path):
    """By the model that is the quickest to compile; those of SASRec are slow tests."""
    argv = ["--quick", "--models", "mf-bpr", "--epochs", "4"]
    assert call("figure2a", tmp_path, tmp_path, *argv) == 0
    points = read_json(tmp_path / "figure2a.json")["points"]
    assert [point["epochs"] for point in points] == [4, 4, 4]
    assert [len(curve) for point in points for curve in point["curves"]] == [2, 2, 2]
    losses = {curve[-1]["train_loss"] for point in points for curve in point["curves"]}
    assert len(losses) == 3
    assert 0 < max(losses) < 0.7  # less than where all items are alike
    assert (tmp_path / "figure2a.png").read_bytes().startswith(PNG)


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_quick_looks_are_trained(name, own_folders, request):
    """On Beauty, or on the built-in data where it is not at hand."""
    try:
        data = ["--data-dir", str(request.getfixturevalue("data_folder"))]
    except pytest.skip.Exception:
        data = []
    assert main([name, "--quick", *data]) == 0
    (folder,) = own_folders.glob("sevo-*")
    content = read_json(folder / f"{name}.json")
    assert all(point["seeds_done"] == 1 for point in content["points"])
    assert not content["missing"]
    assert (folder / f"{name}.png").stat().st_size > 10_000


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("name", "count"),
    {
        "figure2a": 3, "figure3a": 18, "figure3b": 13, "figure3c": 5, "figure5a": 9,
        "figure5b": 10, "figure7": 7, "table7": 6,
    }.items(),
)  # fmt: skip
def test_the_runs_and_those_that_come_with_the_project(name, count, tmp_path):
    """Each has the run of the published settings, which is there already."""
    assert main([name, "--models", "sasrec", "--no-train", "--out", str(tmp_path)]) == 0
    points = read_json(tmp_path / f"{name}.json")["points"]
    folders = {(p["optimizer"], json.dumps(changed_by(p))) for p in points}
    assert len(folders) == count
    (default,) = {
        json.dumps(p["test"])
        for p in points
        if p["optimizer"] == "sevo-adamw" and not changed_by(p)
    }
    ndcg = json.loads(default)["NDCG@10"]
    assert ndcg["seeds"].keys() == {"0"}
    assert 0.035 < ndcg["mean"] < 0.045
    assert ndcg["paper"] == 0.0411
    text = (tmp_path / f"{name}.md").read_text()
    assert "| 1 of 1 | 200 of 200 |" in text
    assert "0.0411" in text


def changed_by(point: dict) -> dict:
    """The settings of a point that are not the published ones."""
    usual = published("sasrec", "beauty", point["optimizer"]).flat()
    return {k: v for k, v in point["settings"].items() if usual[k] != v}


@pytest.mark.usefixtures("no_pictures")
def test_more_seeds_and_fewer_epochs(data_dir, trained, tmp_path):
    argv = ["--epochs", "60", "--seeds", "0", "1"]
    assert call("figure3b", tmp_path, data_dir, *argv) == 0
    text = (tmp_path / "figure3b.md").read_text()
    assert text.count("| 2 of 2 | 60 of 200 |") == 13
    assert text.count("±") > 13
    assert [run.seed for run in trained] == [0] * 13 + [1] * 13
    assert "%" not in text  # nothing is held against the paper's 200 epochs


@pytest.mark.usefixtures("no_pictures")
def test_the_best_rate_on_validation_is_shown(data_dir, trained, tmp_path):
    assert call("figure3a", tmp_path, data_dir) == 0
    points = read_json(tmp_path / "figure3a.json")["points"]
    shown = {p["optimizer"]: p["settings"]["learning_rate"] for p in points if p["shown"]}
    assert len(points) == 18
    for plain, rates in RATES.items():  # the highest, although it is the worst in the test
        assert shown[plain] == shown[f"sevo-{plain}"] == max(rates)
    text = (tmp_path / "figure3a.md").read_text()
    assert "what was tuned on validation" in text
    assert text.count("| shown |") == 6
    assert all(f"learning rate {rate:g}" in text for rates in RATES.values() for rate in rates)


@pytest.mark.usefixtures("no_pictures")
def test_no_layers_is_no_smoothing_with_the_correction(data_dir, trained, tmp_path):
    assert call("table7", tmp_path, data_dir) == 0
    run = next(run for run in trained if run.settings.optimizer.num_layers == 0)
    assert (run.optimizer, run.settings.optimizer.moment_correction) == ("sevo-adamw", True)
    row = next(p for p in read_json(tmp_path / "table7.json")["points"] if p["x"] == 0)
    values = [row["test"][metric]["paper"] for metric in numbers.METRICS]
    assert values == [0.0124, None, 0.0664, None, 0.0353]
    assert papers_value("sasrec", "ml-1m", "sevo-adamw", {"num_layers": 2})[-1] == 0.1389
    assert papers_value("gru4rec", "beauty", "sevo-adamw", {"num_layers": 2}) is None
    assert papers_value("sasrec", "beauty", "sevo-adamw", {"beta": 0.5}) is None


@pytest.mark.usefixtures("no_pictures")
def test_gains_over_the_baseline(data_dir, trained, tmp_path):
    assert call("figure3c", tmp_path, data_dir, "--models", "sasrec", "gru4rec") == 0
    text = (tmp_path / "figure3c.md").read_text()
    for model in ("SASRec", "GRU4Rec"):
        assert f"## {model} on Beauty: gain over Adam, as published, over common seeds" in text
    assert text.count("+0.0%") >= 6  # made-up results are equal


@pytest.mark.usefixtures("no_pictures")
def test_the_moment_correction_of_all_backbones(tmp_path):
    """GRU4Rec and STOSA have the rows of Table 2 that can be compared with the paper."""
    assert main(["figure3c", "--no-train", "--out", str(tmp_path)]) == 0
    points = read_json(tmp_path / "figure3c.json")["points"]
    assert {p["model"] for p in points} == set(numbers.BACKBONES)
    of = {model: [p for p in points if p["model"] == model] for model in numbers.BACKBONES}
    assert {len(own) for own in of.values()} == {5}
    assert all(p["settings"]["one_pass"] for p in of["gru4rec"])
    assert all(p["settings"]["published"] for p in of["stosa"])
    text = (tmp_path / "figure3c.md").read_text()
    assert "As Table 2 has them in full: GRU4Rec, one pass; STOSA, as published." in text


QUICK = ("table4", "table5", "figure2b", "figure6")
"""Targets beside the ablations that have a quick look."""


def test_a_quick_look_at_categories_is_of_data_that_have_them(tmp_path):
    """The built-in data have none."""
    asked = {
        name: quick_look(Request(name, quick=True, data_dir=tmp_path)).datasets
        for name in ("figure3b", "table4", "figure6")
    }
    assert asked == {"figure3b": ("synthetic",), "table4": (), "figure6": ()}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["figure3a", "--optimizers", "sgd"], "--optimizers: figure3a does not have it"),
        (["figure3b", "--models", "sasrek"], "unknown model 'sasrek'"),
        *(
            ([name, "--quick"], f"--quick: {name} does not have it; leave it out")
            for name in TARGETS
            if name not in (*ABLATIONS, *QUICK)
        ),
    ],
)
def test_bad_options(argv, message, tmp_path, capsys):
    assert main([*argv, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


CURVE = [{"epoch": e, "train_loss": 1 / e, "valid": {"NDCG@10": e / 10}} for e in (1, 2)]
LINES = [Drawn("ours", x, [0.1, 0.1 + x], [], 0.2) for x in (0.1, 10.0)]
BARS = [Drawn(s, kind, [0.1, 0.2], []) for s in ("ours", "theirs") for kind in ("x", "y")]
ACROSS = [Drawn(s, None, [0.3, 0.4], [CURVE, CURVE[:1]]) for s in ("plain", "SEvo")]


@pytest.mark.parametrize(
    ("draw", "points", "labels"),
    [
        (draw_lines, LINES, {"ours", "paper", "plain", "SEvo"}),
        (draw_bars, BARS, {"ours", "theirs", "plain", "SEvo"}),
        (draw_curves, [], {"plain", "SEvo"}),
    ],
)
def test_pictures_of_several_seeds_and_of_none(draw, points, labels, tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(plt, "close", drawn.append)
    points = [*points, *ACROSS]
    nothing = [p._replace(values=[], curves=[], paper=None) for p in points]
    for found in (points, nothing, ACROSS):
        draw({"one": found, "two": found}, "a setting", tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(PNG)
    full, empty, _ = drawn
    (legend,) = full.legends
    assert {text.get_text() for text in legend.get_texts()} == labels
    assert not empty.legends
    for axes in full.axes:
        assert axes.get_xlabel() == "a setting"
        assert "NDCG@10" in axes.get_ylabel() or "loss" in axes.get_ylabel()
        assert axes.get_title() in ("one", "two")
    if points[0].x is not None:
        (bars, *_) = (c for c in full.axes[0].containers if isinstance(c, ErrorbarContainer))
        assert bars.has_yerr
