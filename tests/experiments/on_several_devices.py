"""Checks of training on a mesh, run by `test_mesh` where there are eight devices."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import jax
import pytest

from experiments.data import Interactions, load
from experiments.errors import UserError
from experiments.inputs.mesh import ONE_DEVICE, Placement, make_mesh
from experiments.run import Run
from experiments.settings.published import published
from experiments.training import loop, prepare
from experiments.training.steps import TrainState
from tests.runs import records_of

TINY = {"epochs": 4, "batch_size": 16, "eval_every": 2, "max_len": 12, "dim": 8, "num_blocks": 1}


def placement(mesh: str | None) -> Placement:
    return Placement(make_mesh(mesh)) if mesh else ONE_DEVICE


def make_run(data: Interactions, model: str = "sasrec", graph: str = "item-item", **changes) -> Run:
    settings = published(model, data.name, "sevo-adamw", graph=graph)
    tiny = {name: value for name, value in TINY.items() if name in settings.flat()}
    settings = settings.replace(graph=graph, **tiny | changes)
    return Run(model, data.name, "sevo-adamw", 0, settings)


def same(folder: Path, expected: Path) -> None:
    for got, wanted in zip(records_of(folder), records_of(expected), strict=True):
        assert got["step"] == wanted["step"]
        assert got["train_loss"] == pytest.approx(wanted["train_loss"], abs=1e-5)
        assert got["valid"] == pytest.approx(wanted["valid"], abs=1e-5)
    results = [json.loads((f / "result.json").read_text()) for f in (folder, expected)]
    assert results[0]["test"] == pytest.approx(results[1]["test"], abs=1e-5)
    assert results[0]["best_epoch"] == results[1]["best_epoch"]
    assert results[0]["by_popularity"] == results[1]["by_popularity"]


@pytest.fixture(scope="module")
def data(users_file) -> Interactions:
    return load(str(users_file))


@pytest.fixture(scope="module", params=["mf-bpr", "sasrec"])
def expected(request, data, tmp_path_factory) -> tuple[Run, Path]:
    """A run of 50 steps and more on one device."""
    run, folder = make_run(data, request.param), tmp_path_factory.mktemp("one")
    loop.train(run, data, folder)
    assert records_of(folder)[-1]["step"] > 50
    return run, folder


def is_split(state: TrainState) -> bool:
    """Whether the tables and their moments are split in two, and nothing else is."""
    tables, others = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        (tables if "/embedding" in name else others).append(leaf)
    halves = [(x.shape[0], x.shape[1] // 2) for x in tables]
    held = [{part.data.shape for part in x.addressable_shards} for x in tables]
    assert len(tables) == 6  # items and users or positions, and two moments of each
    return held == [{half} for half in halves] and all(x.is_fully_replicated for x in others)


@pytest.mark.parametrize(
    ("begun", "resumed"),
    [
        ("data=2,model=2", None),
        ("data=2,model=2", "model=2"),
        ("data=4", "data=4,model=2"),
        (None, "data=3"),
    ],
)
def test_numbers_are_those_of_one_device_and_the_mesh_may_change(
    data, expected, tmp_path, monkeypatch, begun, resumed
):
    (run, folder), stop, states = expected, threading.Event(), []
    save = loop.save_checkpoint

    def watched(saved, checkpoint, folder) -> None:
        states.append(checkpoint.state)
        save(saved, checkpoint, folder)

    def train(mesh: str | None, **options) -> None:
        loop.train_together([run], data, [tmp_path], placement=placement(mesh), **options)

    monkeypatch.setattr(loop, "save_checkpoint", watched)
    with pytest.raises(loop.Interrupted, match="after epoch 2"):
        train(begun, stop=stop, report=lambda progress: stop.set())
    if begun is not None:
        assert is_split(states[-1]) == ("model=2" in begun)
    train(resumed, resume=True)
    same(tmp_path, folder)


@pytest.mark.parametrize(
    ("model", "mesh", "changes"),
    [
        ("sasrec", "data=3,model=2", {"packed": False, "loss": "softmax"}),
        ("bert4rec", "data=3,model=2", {}),
        ("mf-bpr", "data=3,model=2", {"graph": "user-item"}),
        ("sr-gnn", "data=3", {}),
        ("sr-gnn", "model=4", {}),
    ],
)
def test_other_models(data, tmp_path, model, mesh, changes):
    run = make_run(data, model, epochs=2, **changes)
    loop.train(run, data, tmp_path / "one")
    loop.train_together([run], data, [tmp_path / "several"], placement=placement(mesh))
    same(tmp_path / "several", tmp_path / "one")


def test_meshes_that_do_not_fit(data):
    with pytest.raises(UserError, match=r"16 devices, and there are 8 .*device_count=16"):
        make_mesh("data=8,model=2")
    with pytest.raises(UserError, match="data or model must be 1 for sr-gnn, which does not pack"):
        prepare.make_setup(make_run(data, "sr-gnn"), data, placement("data=2,model=2"))
    run, place = make_run(data), placement("model=3")
    setup = prepare.make_setup(run, data, place)
    with pytest.raises(UserError, match="model=3 does not divide the width 8 of item_embedding"):
        prepare.initial_checkpoint(run, setup, data)
