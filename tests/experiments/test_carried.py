"""Models that carry more than parameters through training: LESSR's statistics, MAERec's mask."""

from __future__ import annotations

import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments.data import load
from experiments.run import Run
from experiments.serving.recommender import Recommender
from experiments.settings.published import published
from experiments.training import loop, prepare
from experiments.training.backbones import BUILDERS
from experiments.training.checkpoints import Checkpoint, open_checkpoints, restore_checkpoint
from experiments.training.graphs import neighbour_graph
from experiments.training.optimizers import make_optimizer
from experiments.training.steps import TrainState
from models.edges import edges_of

TINY = {"dim": 4, "num_blocks": 1, "max_len": 3, "batch_size": 64, "eval_every": 1}


def run_on(data: str, model: str, seed: int = 0, *, epochs: int = 2) -> Run:
    settings = published(model, data, "adamw").replace(**TINY, epochs=epochs)
    return Run(model, data, "adamw", seed, settings)


def checkpoint_of(folder: Path) -> dict:
    """The last checkpoint, but for the seconds."""
    with open_checkpoints(folder) as saved:
        tree = saved.restore(saved.latest_step(), args=ocp.args.StandardRestore())
    del tree["seconds"]
    return tree


def equal(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lessr", "maerec"])
def test_resume_is_bit_identical(users_file, tmp_path, model):
    run, data = run_on(str(users_file), model), load(str(users_file))
    straight = loop.train(run, data, tmp_path / "straight")
    stop = threading.Event()
    stop.set()
    with pytest.raises(loop.Interrupted):
        loop.train(run, data, tmp_path / "resumed", stop=stop)
    begun = checkpoint_of(tmp_path / "resumed")
    assert begun["epoch"] == 1
    resumed = loop.train(run, data, tmp_path / "resumed", resume=True)
    assert (resumed["valid"], resumed["test"]) == (straight["valid"], straight["test"])
    one, other = checkpoint_of(tmp_path / "straight"), checkpoint_of(tmp_path / "resumed")
    assert equal(one, other)
    assert not equal(begun["state"]["carried"], other["state"]["carried"])


@pytest.mark.slow
def test_the_best_epoch_is_tested_with_what_it_carried(users_file, tmp_path, monkeypatch):
    """A run whose first epoch is the best is tested, and recommends, as a run of that alone."""
    short, data = run_on(str(users_file), "lessr", epochs=1), load(str(users_file))
    want = loop.train(short, data, tmp_path / "short")
    evaluate, scores = prepare.Setup.evaluate, iter([2.0, 1.0])

    def falling(*arguments):
        return evaluate(*arguments) | {"NDCG@10": next(scores)}

    monkeypatch.setattr(prepare.Setup, "evaluate", falling)
    found = loop.train(run_on(str(users_file), "lessr"), data, tmp_path / "long")
    assert found["best_epoch"] == 1
    assert found["test"] == want["test"]
    checkpoint, after_one = checkpoint_of(tmp_path / "long"), checkpoint_of(tmp_path / "short")
    assert equal(checkpoint["best_carried"], after_one["state"]["carried"])
    assert not equal(checkpoint["best_carried"], checkpoint["state"]["carried"])
    long, brief = (Recommender.load(tmp_path / name).recommend() for name in ("long", "short"))
    assert long.equals(brief)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lessr", "maerec"])
def test_seeds_together_are_those_of_separate_runs(users_file, tmp_path, model):
    runs, data = [run_on(str(users_file), model, seed) for seed in (0, 3)], load(str(users_file))
    together = [tmp_path / f"together{run.seed}" for run in runs]
    results = loop.train_together(runs, data, together)
    for run, folder, result in zip(runs, together, results, strict=True):
        alone = loop.train(run, data, tmp_path / f"alone{run.seed}")
        assert result["test"] == pytest.approx(alone["test"], abs=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            checkpoint_of(folder)["state"]["carried"],
            checkpoint_of(tmp_path / f"alone{run.seed}")["state"]["carried"],
        )


def test_a_checkpoint_from_before_models_carried_anything(tmp_path):
    params, opt_state = {"w": jnp.arange(3.0)}, {"count": jnp.array(7)}
    old = {"state": {"params": params, "opt_state": opt_state}, "best_params": params}
    old |= {"epoch": 4, "best_epoch": 2, "best_score": 0.5, "seconds": 3.0}
    empty = nnx.State({})
    zeros = jax.tree.map(jnp.zeros_like, TrainState(params, opt_state, empty))
    start = Checkpoint(zeros, zeros.params, empty, 0, 0, -1.0, 0.0)
    with open_checkpoints(tmp_path) as saved:
        saved.save(4, args=ocp.args.StandardSave(old))
        found = restore_checkpoint(saved, start)
    want = Checkpoint(TrainState(params, opt_state, empty), params, empty, 4, 2, 0.5, 3.0)
    assert equal(found, want)


@pytest.mark.parametrize("optimizer", ["adamw", "sevo-adamw"])
def test_vectors_of_lessr_do_not_decay(small, optimizer):
    """Biases, scales and slopes: whatever is no matrix."""
    settings = published("lessr", "small", optimizer).replace(dim=4, weight_decay=0.5)
    model = nnx.eval_shape(lambda: BUILDERS["lessr"](settings, small, nnx.Rngs(0)))
    made = make_optimizer(optimizer, settings, small, model)

    @jax.jit
    def updates_of(params):
        gradients = jax.tree.map(jnp.zeros_like, params)
        return made.update(gradients, made.init(params), params)[0]

    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), nnx.state(model, nnx.Param))
    updates = updates_of(params)
    for leaf in jax.tree.leaves(updates):
        want = -0.5 * settings.optimizer.learning_rate if leaf.ndim > 1 else 0
        np.testing.assert_allclose(leaf, want, rtol=1e-6)


@pytest.mark.parametrize(("name", "entries"), [("beauty", 542_368), ("toys", 498_665)])
def test_the_graph_of_maerec_has_the_published_size(data_folder, name, entries):
    if not list(data_folder.glob(f"{name.title()}*.txt")):
        pytest.skip(f"real data: no {name} in {data_folder}")
    assert edges_of(neighbour_graph(load(name, data_folder))).rows.size == entries
