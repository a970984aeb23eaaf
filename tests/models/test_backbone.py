"""Properties of every model of sequences: rows do not matter, gradients reach everything."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from tests.models.helpers import (
    AMONG_OTHERS,
    DIM,
    NUM_ITEMS,
    PACKED,
    PACKING,
    PADDED,
    ROWS,
    SEQUENTIAL,
    WIDTH,
    forward,
    lay_out,
    loss_and_gradients,
    make,
    outputs,
    shared,
)


def case(name: str, *more: str) -> Any:
    """A case of a test; a second STOSA is for the slow ones."""
    return pytest.param(name, *more, marks=[pytest.mark.slow] * (name == "stosa-published"))


every_model = pytest.mark.parametrize("name", [case(name) for name in SEQUENTIAL])
every_packing_model = pytest.mark.parametrize("name", [case(name) for name in PACKING])
other_rows = pytest.mark.parametrize("inputs", [PADDED, AMONG_OTHERS], ids=["padded", "neighbours"])


@every_packing_model
@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_shapes(name):
    model, width = shared(name), DIM * (2 if name.startswith("stosa") else 1)
    hidden = forward(name)(*PACKED.tokens)
    assert hidden.shape == (ROWS, WIDTH, width)
    assert hidden.dtype == np.float32
    assert model.scores(hidden[0]).shape == (WIDTH, NUM_ITEMS)
    assert model.score(hidden, PACKED.targets[0]).shape == (ROWS, WIDTH)
    value, _ = loss_and_gradients(name)(PACKED)
    assert value.shape == ()


@every_packing_model
@other_rows
def test_rows_do_not_matter_to_outputs(name, inputs):
    for one, other in zip(outputs(name, PACKED), outputs(name, inputs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@every_packing_model
@other_rows
def test_rows_do_not_matter_to_loss_and_gradients(name, inputs):
    (value, gradients), (other_value, others) = map(loss_and_gradients(name), (PACKED, inputs))
    assert value > 0.1
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, others[path], atol=1e-5, rtol=1e-4, err_msg=path)


@every_packing_model
@pytest.mark.parametrize("changed", [0, 2])
def test_what_an_output_depends_on(name, changed):
    """Items up to it; for BERT4Rec all of the sequence. Never another sequence."""
    items, segments, positions = PACKED.tokens
    items = items.copy()
    items[0, changed] = items[0, changed] % NUM_ITEMS + 1
    after = np.asarray(forward(name)(items, segments, positions))[0]
    before = np.asarray(forward(name)(*PACKED.tokens))[0]
    np.testing.assert_array_equal(before[3:6], after[3:6])
    depends = np.abs(before - after)[:3].max(-1) > 1e-4
    assert depends.tolist() == [name == "bert4rec" or token >= changed for token in range(3)]


@every_model
def test_gradients_reach_every_parameter(name):
    _, gradients = loss_and_gradients(name)(PACKED if name in PACKING else PADDED)
    assert len(gradients) == len(jax.tree.leaves(nnx.state(shared(name))))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert gradient.any(), path


@every_model
def test_gradients_are_zero_where_there_is_nothing_to_predict(name):
    value, gradients = loss_and_gradients(name)(lay_out())
    assert value == 0
    for path, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, 0, err_msg=path)


@every_packing_model
def test_gradients_are_finite_for_a_sequence_of_one(name):
    """With all else padding."""
    inputs = lay_out((1, 2))
    keep = np.zeros((ROWS, WIDTH), bool)
    keep[1, 2] = True
    tokens = tuple(np.where(keep, a, 0) for a in inputs.tokens)
    positives, negatives, real = inputs.targets
    alone = inputs._replace(tokens=tokens, targets=(positives, negatives, real & keep))
    value, gradients = loss_and_gradients(name)(alone)
    assert 0 < value < np.inf
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path


@pytest.mark.parametrize(
    ("name", "rated"),
    [case(name, "dropout_rate") for name in PACKING] + [case("stosa", "attention_dropout_rate")],
)
@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_dropout(name, rated):
    def hidden(rate: float) -> np.ndarray:
        """The outputs with the keys 0, 1 and 0."""
        off = {"attention_dropout_rate": 0.0} if name.startswith("stosa") else {}
        model = make(name, **{"dropout_rate": 0.0, **off, rated: rate})
        run = jax.jit(lambda key: model(*PACKED.tokens, key))
        return np.stack([run(jax.random.key(k))[0, :6] for k in (0, 1, 0)])

    plain = np.asarray(forward(name)(*PACKED.tokens))[0, :6]
    first, second, again = hidden(0.5)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-2
    assert np.abs(first - plain).max() > 1e-2
    np.testing.assert_allclose(hidden(0.0)[0], plain, atol=1e-5)
