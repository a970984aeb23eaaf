"""GRU4Rec against its recurrence, written out item by item."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from models import GRU4Rec
from tests.models.helpers import EXAMPLES, PACKED, array, linear, outputs, shared


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def recurrence(model: GRU4Rec, items: np.ndarray) -> np.ndarray:
    """The gated recurrent unit of Cho et al. (2014), the reset gate on the state's projection."""
    w_reset, w_update, w_new = np.split(array(model.input.kernel), 3, axis=1)
    u_reset, u_update, u_new = np.split(array(model.state.kernel), 3, axis=1)
    table, state, states = array(model.item_embedding.embedding), np.zeros(len(u_new)), []
    for item in items:
        x = table[item]
        reset = sigmoid(x @ w_reset + state @ u_reset)
        update = sigmoid(x @ w_update + state @ u_update)
        new = np.tanh(x @ w_new + reset * (state @ u_new))
        state = update * state + (1 - update) * new
        states.append(state)
    return linear(model.out, np.array(states))


def test_against_the_recurrence():
    model = shared("gru4rec")
    for hidden, example in zip(outputs("gru4rec", PACKED), EXAMPLES, strict=True):
        np.testing.assert_allclose(hidden, recurrence(model, example.items), atol=1e-5)


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_scores_are_dot_products_with_the_table_without_padding():
    model = shared("gru4rec")
    hidden = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    want = hidden @ array(model.item_embedding.embedding)[1:].T
    np.testing.assert_allclose(model.scores(hidden), want, atol=1e-5)
    np.testing.assert_allclose(
        model.score(hidden, np.array([4, 1, 12])), want[range(3), [3, 0, 11]], atol=1e-5
    )


def test_the_recurrent_layer_has_no_biases():
    model = shared("gru4rec")
    assert model.input.bias is None
    assert model.state.bias is None


def test_initial_scales():
    model = GRU4Rec(1000, dim=32, hidden_dim=48, rngs=nnx.Rngs(0))
    table = array(model.item_embedding.embedding)
    assert table.std() == pytest.approx((2 / (1001 + 32)) ** 0.5, rel=0.03)
    for kernel, inputs in ((model.input.kernel, 32), (model.state.kernel, 48)):
        bound = (6 / (inputs + 3 * 48)) ** 0.5
        assert 0.98 * bound < np.abs(array(kernel)).max() <= bound
    for weights in (model.out.kernel, model.out.bias):
        assert 0.9 * 48**-0.5 < np.abs(array(weights)).max() <= 48**-0.5


def test_bad_settings():
    with pytest.raises(ValueError, match=r"dropout_rate must lie in \[0, 1\), got 1"):
        GRU4Rec(9, dropout_rate=1.0, rngs=nnx.Rngs(0))
