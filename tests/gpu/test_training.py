"""An epoch of packed rows on a GPU, beside the same epoch on the CPU."""

from __future__ import annotations

import contextlib

import jax
import numpy as np
import pytest

from experiments.data import load
from experiments.run import Run
from experiments.settings.published import published
from experiments.training.prepare import initial_checkpoint, make_setup
from experiments.training.steps import Epochs
from tests.gpu.conftest import REHEARSAL
from tests.runs import users_of_built_in_data

TINY = {"dim": 16, "num_blocks": 1, "max_len": 20, "batch_size": 64 if REHEARSAL else 16}


def losses_of(file, seeds: list[int], every: int) -> np.ndarray:
    """The losses of the first epoch's steps, ``float[seeds, steps]``."""
    data = load(str(file))
    settings = published("sasrec", str(file), "sevo-adamw").replace(**TINY, every=every)
    runs = [Run("sasrec", str(file), "sevo-adamw", seed, settings) for seed in seeds]
    setup = make_setup(runs[0], data)
    states = [initial_checkpoint(run, setup, data).state for run in runs]
    layouts = [setup.layouts(data, seed) for seed in seeds]
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, layouts, states[0])
    state, losses = epochs(epochs.stack(states), epochs.lay_out(0), 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    return np.asarray(losses)


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    return users_of_built_in_data(tmp_path_factory.mktemp("synthetic"))


@pytest.mark.parametrize("every", [1, 10])
def test_an_epoch_of_two_seeds_together_and_of_one(users, every, device):
    """The numbers of a CPU, without TF32 in the model's products; and a loss that falls."""
    with jax.default_matmul_precision("highest"):
        together, alone = losses_of(users, [0, 3], every), losses_of(users, [3], every)
        on_cpu = jax.default_device(jax.devices("cpu")[0])
        with contextlib.nullcontext() if device.platform == "cpu" else on_cpu:
            expected = losses_of(users, [3], every) if device.platform != "cpu" else alone
    assert together.shape[0] == 2
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4)
    np.testing.assert_allclose(alone, expected, rtol=1e-3)
    assert not np.array_equal(together[0], together[1])
    if not REHEARSAL:
        assert alone[0, -3:].mean() < alone[0, :3].mean()
