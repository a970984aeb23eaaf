"""Loggers: what an epoch's numbers are, where they go, and that a run stays what it was."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

import sevo_jax
from experiments import runner, summary, train
from experiments.data import load
from experiments.training import loop
from experiments.training.finished import load_run
from experiments.training.graphs import item_graph
from experiments.training.prepare import initial_checkpoint
from tests.runs import NAME, REPOSITORY, TINY, error_of, records_of, runs_of


def leaves_of(tree) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves}


@pytest.fixture(scope="module")
def options(users_file) -> list[str]:
    return ["--dataset", str(users_file), "--optimizer", "sevo-adamw", *TINY]


@pytest.fixture(scope="module")
def logged(options, users_file, tmp_path_factory):
    """A run of two epochs of a step, the same without a log, and what was logged."""
    (run,) = runs_of([*options, "--epochs=2", "--eval-every=2", "--batch-size=100000"])
    numbers: list[tuple[Path, int, dict[str, float]]] = []
    folder, data = tmp_path_factory.mktemp("logged"), load(str(users_file))
    loop.train(run, data, folder / "on", log=lambda *own: numbers.append(own))
    loop.train(run, data, folder / "off")
    return folder, numbers


def test_a_log_changes_nothing_but_rounding(logged):
    folder, _ = logged
    for one, other in zip(*(records_of(folder / name) for name in ("on", "off")), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["valid"] == pytest.approx(other["valid"], abs=0.02)  # ranks may turn
    assert {p.name for p in (folder / "on").iterdir()} == {
        p.name for p in (folder / "off").iterdir()
    }
    on, off = (leaves_of(load_run(folder / name).checkpoint.state.params) for name in ("on", "off"))
    for name, leaf in on.items():
        np.testing.assert_allclose(leaf, off[name], atol=1e-7)


def test_what_is_logged(logged):
    folder, ((_, one, first), (place, two, second), (_, best, test)) = logged
    assert (place, one, two) == (folder / "on", 1, 2)
    tables = ["gradient/item_embedding", "update/item_embedding"]
    assert set(first) == {"train_loss", "seconds", *tables}
    record = json.loads((folder / "on" / "metrics.jsonl").read_text())
    assert second["train_loss"] == record["train_loss"]
    assert {name: second[f"valid/{name}"] for name in record["valid"]} == record["valid"]
    result = json.loads((folder / "on" / "result.json").read_text())
    assert best == result["best_epoch"]
    assert test == {f"test/{name}": value for name, value in result["test"].items()}

    run, data, setup, checkpoint = load_run(folder / "on")
    table = checkpoint.best_params["item_embedding"]["embedding"][...]
    want = sevo_jax.diagnostics.smoothness(item_graph(data, 50), table)
    assert second["smoothness/item_embedding"] == pytest.approx(float(want), rel=1e-5)
    assert set(second) == {
        *first,
        *(f"valid/{n}" for n in record["valid"]),
        *["smoothness/item_embedding"],
    }
    # One step an epoch: the ways of both together are at least as long as the whole.
    start = initial_checkpoint(run, setup, data).state.params["item_embedding"]["embedding"][...]
    way = float(np.linalg.norm(np.asarray(table) - np.asarray(start)))
    assert first[tables[1]] + second[tables[1]] >= way > abs(first[tables[1]] - second[tables[1]])
    assert first[tables[0]] > 0


def test_norms_of_a_single_step(options, users_file, tmp_path):
    """Two seeds together; each has the norm of its own step."""
    given = [*options, "--epochs=1", "--batch-size=100000", "--seeds", "0", "3"]
    runs, data, numbers = runs_of(given), load(str(users_file)), []
    folders = [tmp_path / run.name for run in runs]
    loop.train_together(runs, data, folders, log=lambda *own: numbers.append(own))
    for run, folder in zip(runs, folders, strict=True):
        _, _, setup, checkpoint = load_run(folder)
        start = leaves_of(initial_checkpoint(run, setup, data).state.params)
        end = leaves_of(checkpoint.state.params)
        (name,) = (name for name in end if name.startswith("item_embedding/"))
        own = next(found for place, _, found in numbers if place == folder)
        way = np.linalg.norm(end[name] - start[name])
        assert own["update/item_embedding"] == pytest.approx(way, rel=1e-4)
    assert numbers[0][2]["update/item_embedding"] != numbers[1][2]["update/item_embedding"]


def scalars_in(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars in TensorBoard's file: records of a length, a checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    (file,) = folder.glob("events.out.tfevents.*")
    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
        at += 16 + length
    return found


def fail(out: Path) -> None:
    raise ZeroDivisionError(f"no room to draw in {out.name}")


def test_tensorboard_and_an_error_of_drawing(options, tmp_path, monkeypatch, capsys):
    """The error ends nothing, and is printed once."""
    pytest.importorskip("tensorboardX", reason='needs tensorboardX: pip install -e ".[log]"')
    monkeypatch.setattr(summary, "update", fail)
    monkeypatch.setattr(runner, "SHARE", 1e9)  # at every validation
    out = ["--out", str(tmp_path), "--log", "tensorboard"]
    assert train.main([*options, "--epochs", "4", *out]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("the summary of the runs so far cannot be written (no room to draw in ") == 1
    assert (tmp_path / "summary.md").exists()
    found = scalars_in(tmp_path / NAME)
    records = [json.loads(line) for line in (tmp_path / NAME / "metrics.jsonl").open()]
    assert list(found["train_loss"]) == [1, 2, 3, 4]
    assert list(found["smoothness/item_embedding"]) == [2, 4]
    for record in records:
        logged = found["valid/NDCG_10"][record["epoch"]]
        assert logged == pytest.approx(record["valid"]["NDCG@10"], rel=1e-6)


def test_loggers_that_cannot_be_had(options, tmp_path, capsys, monkeypatch):
    out = [*options, "--out", str(tmp_path / "out"), "--log"]
    error = error_of(capsys, [*out, "tensorbord"])
    assert error == (
        "error: unknown logger 'tensorbord' (did you mean 'tensorboard'?); known: tensorboard"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "--log: tensorboard needs a pack" in (error := error_of(capsys, [*out, "tensorboard"]))
    assert "pip install tensorboardX" in error
    assert not (tmp_path / "out").exists()


def test_the_page_shows_the_hook(tmp_path, monkeypatch):
    """Its lines run as they are, given a tracker."""
    page = (REPOSITORY / "docs" / "experiments.md").read_text().partition("### Logs")[2]
    lines = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    tracked = []

    class Tracker:
        def log(self, numbers):
            tracked.append(numbers)

    monkeypatch.chdir(tmp_path)
    exec(lines, {"tracker": Tracker()})
    assert [own["epoch"] for own in tracked[:2]] == [1, 2]
    assert "valid/NDCG@10" in tracked[1]


def test_a_run_in_training_can_be_looked_at(options, users_file, tmp_path):
    (run,) = runs_of([*options, "--epochs", "4", "--split", "last-n", "--last-n", "2"])
    seen = []

    def report(progress: loop.Progress) -> None:
        if progress.score is not None:
            summary.update(tmp_path)
            seen.append((tmp_path / "summary.md").read_text())

    loop.train(run, load(str(users_file)), tmp_path / NAME, report=report)
    assert "| In training |" in seen[0]
    assert "2, at 2 of 4" in seen[0]
    assert "Protocol: last-n: each user's last 2 items test" in seen[0]
    assert "at 4 of 4" in seen[1]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    summary.update(tmp_path)
    assert "In training" not in (tmp_path / "summary.md").read_text()


def test_long_drawing_is_not_repeated_at_once(tmp_path, monkeypatch):
    calls: list[Path] = []
    monkeypatch.setattr(summary, "update", calls.append)
    monkeypatch.setattr(runner, "SHARE", 1e-9)
    look = runner.glance(tmp_path)
    look()
    look()
    assert calls == [tmp_path]
