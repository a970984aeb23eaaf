"""``python -m experiments.reproduce accuracy-time``, from made-up results."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.files import read_json, write_json
from experiments.numbers import METRICS
from experiments.reproduce import main
from experiments.run import Run
from experiments.settings.published import published
from experiments.tables.runs import folder_of


def make_up(
    folder: Path, model: str, optimizer: str, score: float, best: int, epochs: int, seed: int = 0
) -> None:
    run = Run(model, "beauty", optimizer, seed, published(model, "beauty", optimizer))
    place = folder_of(run, folder / "runs")
    place.mkdir(parents=True)
    write_json(place / "config.json", run.to_json() | {"epochs": epochs})
    result = {"seed": seed, "epochs": epochs, "best_epoch": best, "seconds_per_epoch": 10.0}
    result |= {"test": dict.fromkeys(METRICS, score), "device": "abacus"}
    write_json(place / "result.json", result)


@pytest.fixture
def folder(tmp_path) -> Path:
    make_up(tmp_path, "sasrec", "adam", 0.03, 100, 200)
    make_up(tmp_path, "sasrec", "sevo-adamw", 0.04, 100, 200)
    make_up(tmp_path, "sasrec", "sevo-adamw", 0.05, 200, 200, seed=1)
    make_up(tmp_path, "lightgcn", "adam", 0.02, 50, 60)
    return tmp_path


def time_it(folder: Path, device: str) -> None:
    """Table 8 of SASRec."""
    found = {"plain": [1.0, 2.0, 3.0], "sevo": [3.0] * 3, "inference": [1.0] * 3, "epochs": 200}
    measured = {"beauty": {"sasrec": found}}
    write_json(folder / "table8.json", {"device": device, "measured": measured})


def call(folder: Path, *more: str) -> dict:
    argv = ["accuracy-time", "--runs", str(folder / "runs"), "--out", str(folder), *more]
    assert main(argv) == 0
    content = read_json(folder / "accuracy-time.json")
    return {(p["model"], p["optimizer"]): p for p in content["points"]}


def test_quiet_seconds_are_preferred(folder):
    time_it(folder, "abacus")
    points = call(folder)
    assert points.keys() == {("sasrec", "adam"), ("sasrec", "sevo-adamw"), ("lightgcn", "adam")}
    assert points["sasrec", "adam"]["seconds"] == 2 * 100
    assert points["sasrec", "sevo-adamw"]["seconds"] == 3 * 150
    assert points["sasrec", "sevo-adamw"]["score"] == pytest.approx(0.045)
    assert points["lightgcn", "adam"]["seconds"] == 10 * 50
    assert [p["quiet"] for p in points.values()] == [False, True, True]
    text = (folder / "accuracy-time.md").read_text()
    assert "they are inflated" in text
    assert "- beauty, lightgcn-adam, seed 0: 60 of 1000 epochs" in text
    assert (folder / "accuracy-time.png").stat().st_size > 10_000


@pytest.mark.parametrize("device", [None, "another machine"])
def test_without_quiet_seconds_those_of_the_runs_count(folder, device):
    if device:
        time_it(folder, device)
    points = call(folder)
    assert points["sasrec", "adam"]["seconds"] == 10 * 100
    assert not any(p["quiet"] for p in points.values())


def test_without_runs_there_is_no_picture(tmp_path):
    assert call(tmp_path, "--datasets", "toys") == {}
    assert not (tmp_path / "accuracy-time.png").exists()


def test_options_that_it_does_not_have(tmp_path, capsys):
    assert main(["accuracy-time", "--out", str(tmp_path), "--epochs", "3"]) == 1
    assert "--epochs: accuracy-time does not have it" in capsys.readouterr().err
