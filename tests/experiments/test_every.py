"""Runs whose smoothings wait: validation, checkpoints, resuming, and settings that do not fit."""

from __future__ import annotations

import functools

import chex
import jax
import optax
import pytest
from flax import nnx

import sevo_jax
from experiments import train
from experiments.errors import UserError
from experiments.files import read_lines
from experiments.inputs.layout import steps_per_epoch
from experiments.metrics import CRITERION
from experiments.run import make_run
from experiments.settings.published import MODELS
from experiments.training import loop, prepare
from experiments.training.checkpoints import open_checkpoints, resume_checkpoint
from experiments.training.optimizers import make_optimizer

TINY = {
    "dim": 4, "max_len": 5, "num_heads": 1, "num_blocks": 1, "batch_size": 16, "packed": False,
    "eval_every": 1, "learning_rate": 0.02,
}  # fmt: skip


def run_of(model: str = "sasrec", **changed):
    return make_run(model, "small", "sevo-adamw", **{**TINY, **changed})


def test_validation_and_checkpoints_hold_settled_parameters(small, tmp_path):
    tiny = {"model": "mf-bpr", "dim": 4, "batch_size": 64, "eval_every": 1, "learning_rate": 0.02}
    make = functools.partial(make_run, dataset="small", optimizer="sevo-adamw", seed=0, **tiny)
    run = make(every_epochs=2, epochs=3)
    loop.train(run, small, tmp_path)
    setup = prepare.make_setup(run, small)
    with open_checkpoints(tmp_path) as saved:
        held = resume_checkpoint(saved, prepare.initial_checkpoint(run, setup, small))
    state = held.state
    settled = sevo_jax.settle(state.params, state.opt_state)
    with pytest.raises(AssertionError):  # a step waits after three epochs
        chex.assert_trees_all_close(settled, state.params, rtol=1e-4)
    last = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert setup.evaluate("valid", settled, state.carried) == last["valid"]
    best = setup.evaluate("valid", held.best_params, held.best_carried)
    assert best[CRITERION] == held.best_score

    # The run goes on from parameters that are not settled, as if it had never stopped.
    longer, other = make(every_epochs=2, epochs=4), tmp_path / "at-once"
    ours = loop.train(longer, small, tmp_path, resume=True)
    theirs = loop.train(longer, small, other)
    assert ours["test"] == theirs["test"]
    records = [
        [(r["train_loss"], r["valid"]) for r in read_lines(folder / "metrics.jsonl")]
        for folder in (tmp_path, other)
    ]
    assert records[0] == records[1]


@pytest.mark.parametrize("method", ["neumann", "exact"])
def test_epochs_are_as_many_steps(small, method):
    steps = steps_per_epoch(run_of().settings.training, small, "next")
    model = prepare.make_model(run_of(), small)
    by_epochs, by_steps = (
        make_optimizer("sevo-adamw", run_of(method=method, **given).settings, small, model)
        for given in ({"every_epochs": 2}, {"every": 2 * steps})
    )
    params = nnx.state(model, nnx.Param)
    ours, expected = (jax.eval_shape(tx.init, params) for tx in (by_epochs, by_steps))
    assert optax.tree.get(ours, "pending").every == 2 * steps
    assert jax.tree.structure(ours) == jax.tree.structure(expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"every": 2, "every_epochs": 2}, "every_epochs: must be left out: every is 2 steps"),
        ({"every": 0}, "every: must be"),
        ({"every_epochs": -1}, "every_epochs: must be"),
    ],
)
def test_settings_that_do_not_fit(given, words):
    with pytest.raises(UserError) as error:
        run_of(**given).settings.check()
    assert words in str(error.value)


@pytest.mark.parametrize("options", [["--every-epochs", "4"], ["--every", "1000"]])
def test_a_smoothing_beyond_the_run_is_refused_first(options, users_file, tmp_path, capsys):
    """By default AdamW is trained first, for hours."""
    command = ["--dataset", str(users_file), "--epochs", "3", "--out", str(tmp_path), *options]
    assert train.main([*command, "--model", "mf-bpr"]) == 1
    assert "nothing is ever smoothed" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_student_waits_before_its_teacher_is_trained(small):
    waiting = {"distill": "kd", "teacher": "not-yet", "every_epochs": 2, "epochs": 3}
    prepare.check_smoothings(run_of(**waiting), small)
    with pytest.raises(UserError, match="nothing is ever smoothed"):
        prepare.check_smoothings(run_of(**waiting | {"epochs": 1}), small)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sevo-adamw", "sevo-adam", "sevo-sgd"])
def test_smoothings_wait_with_every_model(small, model, optimizer):
    """Its tables, and no other parameters, have sums of steps that wait."""
    run = make_run(model, "small", optimizer, every_epochs=2)
    built = prepare.make_model(run, small)
    params = nnx.state(built, nnx.Param)
    tx = make_optimizer(optimizer, run.settings, small, built)
    state = jax.eval_shape(tx.init, params)
    waiting = jax.tree.leaves(optax.tree.get(state, "pending").steps)
    assert len(waiting) == len(built.tables)
    updates, new = jax.eval_shape(tx.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)


@pytest.mark.parametrize("given", [{"every_epochs": 4}, {"every": 1000}])
def test_a_run_that_ends_before_its_first_smoothing_is_refused(small, given):
    run = run_of(epochs=3, **given)
    with pytest.raises(UserError, match="nothing is ever smoothed"):
        prepare.make_setup(run, small)
