"""Seeds trained together: the numbers of separate runs, and nothing shared but the graph."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import runner, train
from experiments.data import load
from experiments.errors import UserError
from experiments.inputs.layout import EpochLayouts
from experiments.run import Run
from experiments.settings.published import published
from experiments.training import loop, prepare
from experiments.training.loop import train_together
from experiments.training.steps import Epochs

SEEDS = (0, 3, 7)
TINY = {"dim": 16, "num_blocks": 1, "max_len": 20, "batch_size": 16, "eval_every": 2}


def runs_on(file: Path, optimizer: str = "sevo-adamw", **changes) -> list[Run]:
    settings = published("sasrec", str(file), optimizer).replace(**TINY, epochs=4, **changes)
    return [Run("sasrec", str(file), optimizer, seed, settings) for seed in SEEDS]


def folders_in(out: Path, runs: list[Run]) -> list[Path]:
    return [out / run.name for run in runs]


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sevo-adamw", "adam"])
def test_losses_and_metrics_are_those_of_separate_runs(users_file, tmp_path, optimizer):
    """52 steps; 200 users in batches of 16, so that seeds pack into unequal numbers of rows."""
    runs, data = runs_on(users_file, optimizer), load(str(users_file))
    folders = folders_in(tmp_path / "together", runs)
    results = train_together(runs, data, folders)
    for run, folder, result in zip(runs, folders, results, strict=True):
        alone = loop.train(run, data, tmp_path / "alone" / run.name)
        for record, expected in zip(
            records_of(folder), records_of(tmp_path / "alone" / run.name), strict=True
        ):
            assert record["step"] == expected["step"]
            assert record["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-5)
            assert record["valid"] == pytest.approx(expected["valid"], abs=1e-5)
        assert result["test"] == pytest.approx(alone["test"], abs=1e-5)
        assert (result["seed"], result["best_epoch"]) == (run.seed, alone["best_epoch"])
    assert records_of(folders[0])[-1]["step"] == 52
    losses = {records_of(folder)[-1]["train_loss"] for folder in folders}
    assert len(losses) == len(SEEDS)


def test_seeds_share_one_graph(users_file):
    """The compiled epoch takes the graph once, however many seeds it trains."""
    run, data = runs_on(users_file)[0], load(str(users_file))
    setup = prepare.make_setup(run, data)
    states = [
        prepare.initial_checkpoint(dataclasses.replace(run, seed=s), setup, data).state
        for s in SEEDS
    ]
    layouts = [EpochLayouts(data, run.settings.training, seed) for seed in SEEDS]
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, layouts, states[0])
    stacked = epochs.stack(states)
    entries = states[0].opt_state[1].graph.operator.data.size
    graph = stacked.opt_state[1].graph
    assert graph.operator.data.shape == (entries,)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stacked.params)} == {len(SEEDS)}
    for i, state in enumerate(states):
        for leaf, own in zip(
            jax.tree.leaves(epochs.state_of(stacked, i)), jax.tree.leaves(state), strict=True
        ):
            np.testing.assert_array_equal(leaf, own)


@pytest.mark.slow
def test_runs_at_different_epochs_catch_up_and_go_on_together(users_file, tmp_path):
    runs, data = runs_on(users_file), load(str(users_file))
    folders = folders_in(tmp_path / "out", runs)
    stop = threading.Event()
    stop.set()
    with pytest.raises(loop.Interrupted):  # seed 0 stands at epoch 1
        loop.train(runs[0], data, folders[0], stop=stop)
    loop.train(runs[1], data, folders[1])  # seed 3 is done
    done = (folders[1] / "result.json").read_bytes()
    results = train_together(runs, data, folders, resume=True)
    assert (folders[1] / "result.json").read_bytes() == done
    for run, result in zip(runs, results, strict=True):
        alone = loop.train(run, data, tmp_path / "alone" / run.name)
        assert result["valid"] == pytest.approx(alone["valid"], abs=1e-5)


def test_a_run_that_diverges_loses_nothing_of_the_others(users_file, tmp_path, change_epoch_3):
    change_epoch_3(lambda state, losses: (state, losses.at[1, 5].set(jnp.nan)))
    settings = published("mf-bpr", str(users_file), "sevo-adamw")
    settings = settings.replace(dim=8, batch_size=16, eval_every=2, epochs=4)
    runs = [Run("mf-bpr", str(users_file), "sevo-adamw", seed, settings) for seed in SEEDS]
    folders, data = folders_in(tmp_path, runs), load(str(users_file))
    with pytest.raises(UserError) as caught:
        train_together(runs, data, folders)
    step = next(r["step"] for r in records_of(folders[0]) if r["epoch"] == 2) + 6
    expected = rf"seed3: .* nan at step {step} \(epoch 3\); the check"
    assert re.search(expected, str(caught.value))
    saved = [{int(path.name) for path in (f / "checkpoints").glob("[0-9]*")} for f in folders]
    assert saved == [{3, 4}, {2}, {3, 4}]  # the others go on without it
    assert [(f / "result.json").exists() for f in folders] == [True, False, True]


def test_runs_must_differ_in_seeds_alone(users_file, tmp_path):
    runs = [*runs_on(users_file), runs_on(users_file, dropout_rate=0.9)[0]]
    with pytest.raises(ValueError, match="seeds alone"):
        train_together(runs, load(str(users_file)), folders_in(tmp_path, runs))


@pytest.mark.slow
def test_the_command_groups_seeds(users_file, tmp_path):
    options = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    argv = ["--dataset", str(users_file), "--seeds", "0", "1", "--epochs", "2", *options]
    argv += ["--together", "True", "--rng", "unsafe_rbg", "--out", str(tmp_path)]
    assert train.main(argv) == 0
    names = {path.parent.name for path in tmp_path.glob("*/result.json")}
    assert names == {f"sasrec-{o}-seed{s}" for o in ("adamw", "sevo-adamw") for s in (0, 1)}
    config = json.loads((tmp_path / "sasrec-adamw-seed0" / "config.json").read_text())
    assert config["rng"] == "unsafe_rbg"
    runs = runs_on(users_file)
    assert [len(group) for group in runner.make_groups(runs, None)] == [1, 1, 1]  # on a CPU
