"""The program of a training epoch on accelerators that are not here."""

from __future__ import annotations

import jax
import pytest

from experiments.run import Run
from experiments.settings.published import published
from experiments.training.prepare import initial_checkpoint, make_setup
from experiments.training.steps import Epochs
from tests.programs import (
    PLATFORMS,
    as_beside_a_gpu,
    check_kernel,
    largest_constant,
    lower,
    scatters,
)

TINY = {"dim": 8, "num_blocks": 1, "num_heads": 1, "max_len": 10, "batch_size": 16}


def epoch_of(data, optimizer: str, **changes):
    """The compiled epoch of packed rows, and its arguments."""
    settings = published("sasrec", "beauty", optimizer).replace(**TINY, **changes)
    run = Run("sasrec", "beauty", optimizer, 0, settings)
    setup = make_setup(run, data)
    state = initial_checkpoint(run, setup, data).state
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, [setup.layouts(data, 0)], state)
    return epochs.compiled, (state, setup.inputs, epochs.lay_out(0), jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 10])
def test_an_epoch(every, small, monkeypatch):
    as_beside_a_gpu(monkeypatch)
    epoch, arguments = epoch_of(small, "sevo-adamw", every=every)
    plain, plain_arguments = epoch_of(small, "adamw")
    expected = sorted(scatters(lower(plain, "tpu", *plain_arguments)))
    assert "f32" in expected  # of the embedding's gradient
    for platform in PLATFORMS:
        text = lower(epoch, platform, *arguments)
        check_kernel(text, platform)
        assert largest_constant(text) < 64
        found = sorted(scatters(text))
        marks = ["i32"] * (len(found) - len(expected)) if platform == "cuda" else []
        assert found == sorted(expected + marks)
