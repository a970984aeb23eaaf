"""Checkpoints of a run's folder: which are kept, and what is taken where one is damaged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments import summary
from experiments.errors import UserError
from experiments.files import read_json
from experiments.run import Run, check_files, check_folder, claim_folder, make_run
from experiments.settings import Settings
from experiments.training.checkpoints import (
    open_checkpoints,
    restore_best_params,
    restore_checkpoint,
    resume_checkpoint,
    save_checkpoint,
)
from experiments.training.state import Checkpoint, TrainState
from models.settings import SASRecSettings


def checkpoint(epoch: int) -> Checkpoint:
    """Makes a checkpoint, all of whose leaves differ from those of other epochs."""
    params = {"w": jnp.linspace(0, epoch, 600).reshape(30, 20)}
    empty = nnx.State({})
    state = TrainState(params, {"count": jnp.array(epoch)}, empty)
    best = jax.tree.map(jnp.negative, params)
    return Checkpoint(state, best, empty, epoch, epoch, float(epoch), 0.0)


def equal(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def steps(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.fixture
def folder(tmp_path) -> Path:
    with open_checkpoints(tmp_path) as saved:
        for epoch in (1, 2, 3):
            save_checkpoint(saved, checkpoint(epoch), tmp_path)
    return tmp_path


def test_two_are_kept_and_what_a_killed_write_left_is_not(folder):
    assert steps(folder) == {"2", "3"}
    shutil.copytree(folder / "checkpoints" / "3", folder / "checkpoints/4.orbax-checkpoint-tmp")
    with open_checkpoints(folder) as saved:  # as one reads who does not train there
        assert equal(restore_checkpoint(saved, checkpoint(0)), checkpoint(3))
    assert "4.orbax-checkpoint-tmp" in steps(folder)
    with open_checkpoints(folder, clean=True) as saved:
        save_checkpoint(saved, checkpoint(4), folder)
    assert steps(folder) == {"3", "4"}


@pytest.mark.parametrize("how", ["one bit", "cut off", "missing"])
def test_a_damaged_file_of_the_newest(folder, capsys, how):
    newest = folder / "checkpoints" / "3"
    files = sorted(file.relative_to(newest) for file in newest.rglob("*") if file.is_file())
    assert len(files) > 5
    rng = np.random.default_rng(0)
    for name in files:
        whole = (newest / name).read_bytes()
        at = rng.integers(len(whole))
        content = bytearray(whole)
        content[at] ^= 1 << rng.integers(8)
        (newest / name).write_bytes(whole[:at] if how == "cut off" else content)
        if how == "missing":
            (newest / name).unlink()
        best = restore_best_params(folder, checkpoint(0).best_params)
        if name.name != "checksums.json" or how == "cut off":
            note = f"{newest.parent}: the checkpoint of epoch 3 cannot be read ("
            assert note in capsys.readouterr().err
            assert equal(best, checkpoint(2).best_params)
        else:  # may still be good
            assert any(equal(best, checkpoint(epoch).best_params) for epoch in (2, 3))
            capsys.readouterr()
        (newest / name).write_bytes(whole)


def test_what_is_damaged_is_written_again(folder, capsys):
    newest = folder / "checkpoints" / "3"
    (newest / "checksums.json").write_text('{"default/d/arrays": "0"}')
    with open_checkpoints(folder) as saved:
        assert equal(restore_checkpoint(saved, checkpoint(0)), checkpoint(2))
        assert steps(folder) == {"2", "3"}  # nothing of another's is removed
        assert equal(resume_checkpoint(saved, checkpoint(0)), checkpoint(2))
        assert steps(folder) == {"2"}
        assert (
            "default/d/arrays is missing); the one of epoch 2 is taken" in capsys.readouterr().err
        )
        save_checkpoint(saved, checkpoint(3), folder)
    with open_checkpoints(folder) as saved:
        assert equal(resume_checkpoint(saved, checkpoint(0)), checkpoint(3))
    assert not capsys.readouterr().err


def test_none_can_be_read(folder):
    for step in ("2", "3"):
        (folder / "checkpoints" / step / "checksums.json").write_text('{"arrays": "0"}')
    with (
        open_checkpoints(folder) as saved,
        pytest.raises(UserError, match=r"of epoch 3 .* of epoch 2 .* to start over, remove the"),
    ):
        resume_checkpoint(saved, checkpoint(0))
    assert steps(folder) == {"2", "3"}
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_best_params(folder, checkpoint(0).best_params)


@pytest.mark.parametrize("name", ["runs [v2]", "w*", "which?", "c:\\runs", "\udcfe", "x{1,2}"])
def test_a_folder_may_have_any_name(tmp_path, name):
    """Beside one that a pattern of that name would find, too."""
    others = tmp_path / "runs v"
    for folder in (others, tmp_path / name):
        with open_checkpoints(folder) as saved:
            save_checkpoint(saved, checkpoint(1 if folder == others else 2), folder)
    with open_checkpoints(tmp_path / name) as saved:
        assert equal(restore_checkpoint(saved, checkpoint(0)), checkpoint(2))
        assert saved.all_steps() == [2]
    best = restore_best_params(tmp_path / name, checkpoint(0).best_params)
    assert equal(best, checkpoint(2).best_params)
    assert steps(tmp_path / name) == {"2"}


def test_a_checkpoint_that_cannot_be_read_again_is_none(tmp_path, monkeypatch):
    """It gets no checksums, and the run ends after its first save, not after its last."""

    def restore(*_, **__):
        raise ValueError("manifest not found")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    with (
        open_checkpoints(tmp_path) as saved,
        pytest.raises(UserError, match=r"epoch 1 was written and cannot be read again \(manifest"),
    ):
        save_checkpoint(saved, checkpoint(1), tmp_path)
    assert not list(tmp_path.rglob("checksums.json"))


def held_by(folder: Path, data, dataset: str = "log.csv", **settings) -> Run:
    """A folder claimed by a run on a data set so called."""
    run = Run("sasrec", dataset, "sevo-adamw", 0, Settings(SASRecSettings()).replace(**settings))
    claim_folder(run, data, folder)
    return run


def test_data_are_known_by_content_wherever_their_file_is(small, tmp_path):
    run = held_by(tmp_path / "run", small)
    for dataset in ("./log.csv", str(tmp_path / "log.csv"), "../elsewhere/copy.csv"):
        moved = dataclasses.replace(run, dataset=dataset)
        assert check_folder(moved, small, tmp_path / "run", resume=True) is None
    other = dataclasses.replace(small, items=small.items[::-1].copy())
    with pytest.raises(UserError, match=r"resume: .* the interactions are others"):
        check_folder(run, other, tmp_path / "run", resume=True)
    # A registered name brings settings of its own, and files beside its data.
    named = dataclasses.replace(run, dataset="beauty")
    with pytest.raises(UserError, match=r"dataset was 'log.csv' and is now 'beauty'"):
        check_folder(named, small, tmp_path / "run", resume=True)


@pytest.mark.parametrize("setting", ["graph", "categories", "teacher"])
def test_files_of_settings_are_known_by_content(small, tmp_path, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    names = {"graph": "g.npz", "categories": "c.json", "teacher": "t"}
    more = {"graph": "category"} if setting == "categories" else {}

    def write(folder: str, content: str) -> str:
        path = Path(folder, names[setting])
        file = path / "result.json" if setting == "teacher" else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return str(path)

    run = held_by(tmp_path / "run", small, **more, **{setting: write("one", "content")})

    def on(place: str) -> Run:
        return dataclasses.replace(run, settings=run.settings.replace(**{setting: place}))

    for place in (f"./one/{names[setting]}", write("two", "content")):
        assert check_folder(on(place), small, tmp_path / "run", resume=True) is None
    with pytest.raises(UserError, match=rf"{setting} was 'one/.*' and is now 'three/"):
        check_folder(on(write("three", "other")), small, tmp_path / "run", resume=True)
    write("one", "changed")
    with pytest.raises(UserError, match=rf"{setting} was another one/{names[setting]}"):
        check_folder(run, small, tmp_path / "run", resume=True)


def test_items_beside_a_graph_are_part_of_it(small, tmp_path):
    (tmp_path / "g.npz").write_text("graph")
    run = held_by(tmp_path / "run", small, graph=str(tmp_path / "g.npz"))
    (tmp_path / "g.items.parquet").write_text("items")
    with pytest.raises(UserError, match=r"graph was another .*g\.npz"):
        check_folder(run, small, tmp_path / "run", resume=True)


def test_a_graph_that_a_run_does_not_read_is_no_file_of_it(small, tmp_path):
    graph = tmp_path / "g.npz"
    graph.write_text("then")
    settings = Settings(SASRecSettings()).replace(graph=str(graph))
    reading = settings.replace(smoothness_weight=0.5)
    runs = [
        Run("sasrec", "log.csv", *of)
        for of in (("adamw", 0, settings), ("adamw", 1, reading), ("sevo-adamw", 0, settings))
    ]
    folders = [tmp_path / str(place) for place in range(3)]
    for run, folder in zip(runs, folders, strict=True):
        claim_folder(run, small, folder)
    graph.write_text("now")
    assert check_folder(runs[0], small, folders[0], resume=True) is None
    for run, folder in zip(runs[1:], folders[1:], strict=True):
        with pytest.raises(UserError, match=r"graph was another .*g\.npz"):
            check_folder(run, small, folder, resume=True)
    (tmp_path / "moved.npz").write_text("then")
    moved = [
        dataclasses.replace(run, settings=run.settings.replace(graph=str(tmp_path / "moved.npz")))
        for run in runs
    ]
    for run, folder in zip(moved, folders, strict=True):
        assert check_folder(run, small, folder, resume=True) is None
    check_files(runs[0], {"files": {"graph": "of another time"}}, folders[0])
    graph.unlink()
    check_files(runs[0], read_json(folders[0] / "config.json"), folders[0])
    for run, folder in zip(runs[1:], folders[1:], strict=True):
        with pytest.raises(UserError, match=r"graph: .* with .*g\.npz, and .* has no such file"):
            check_files(run, read_json(folder / "config.json"), folder)


@pytest.mark.parametrize("name", ["seed", "dataset", "dropout_rate", "graph"])
def test_a_configuration_that_lacks_a_name_is_no_run(name):
    run = make_run("sasrec", "beauty", "adamw")
    config = run.to_json() | {"data": "beside the run"}
    assert Run.from_json(config) == run
    del config[name]
    with pytest.raises(UserError, match=rf"config.json: lacks {name};"):
        Run.from_json(config)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("method", ["none", "kd", "rkd", "htd", "dkd"])
def test_only_a_schedule_over_all_epochs_keeps_a_run_from_more(small, tmp_path, method, finished):
    """A run that is trained anew, for want of a checkpoint, may have any number."""
    run = held_by(tmp_path, small, distill=method, epochs=3)
    if finished:
        (tmp_path / "result.json").write_text('{"epochs": 3, "test": {}}')
    longer = dataclasses.replace(run, settings=run.settings.replace(epochs=5))
    assert check_folder(longer, small, tmp_path, resume=True) is None
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert (check_folder(run, small, tmp_path, resume=True) is not None) == finished
    if method != "htd":
        assert check_folder(longer, small, tmp_path, resume=True) is None
        return
    with pytest.raises(UserError, match=r"epochs: .* of 3 epochs, over .* train 5 anew, in anoth"):
        check_folder(longer, small, tmp_path, resume=True)


def test_a_summary_of_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    """Nothing is published on it; it is one data set, however it is written, until it changes."""
    monkeypatch.setattr(summary, "_draw", lambda _, path: path.touch())
    scores = dict.fromkeys(summary.METRICS, 0.5)
    result = {"epochs": 1, "test": scores, "valid": scores, "seed": 0, "device": "none"}
    runs = ("log.csv", "adam"), ("./log.csv", "adamw"), ("beauty", "adam"), ("log.csv", "sgd")
    for dataset, optimizer in runs:
        folder = tmp_path / f"{Path(dataset).stem}-{optimizer}"
        folder.mkdir()
        run = make_run("sasrec", dataset, optimizer, epochs=1)
        content = {"beauty": "b"}.get(dataset, "changed" if optimizer == "sgd" else "a")
        config = run.to_json() | {"data": content}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "result.json").write_text(json.dumps(result))
    summary.write(tmp_path)
    rows = [line for line in (tmp_path / "summary.md").read_text().splitlines() if "SASRec" in line]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "SASRec, beauty", "SASRec, log.csv", "SASRec, log.csv", "SASRec, log.csv (content 2)",
    ]  # fmt: skip
    assert [row.split(" | ")[1].split(" [")[0] for row in rows] == [
        "Adam, as published", "Adam", "AdamW", "SGD",
    ]  # fmt: skip
