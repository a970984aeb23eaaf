"""SASRec: shapes, masks, segments, dropout and initial weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import SASRec
from models.layers.dropout import dropout
from tests.models.helpers import array, linear, norm

MAX_LEN = 6


@pytest.fixture(scope="module")
def model() -> SASRec:
    return SASRec(20, max_len=MAX_LEN, dim=8, num_heads=2, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def call(model):
    """The model's ``__call__``, compiled."""
    graphdef, params = nnx.split(model)
    return jax.jit(lambda *arguments: nnx.merge(graphdef, params)(*arguments))


def rows(*lines: list[int]) -> jax.Array:
    return jnp.array(lines, jnp.int32)


ITEMS = rows([5, 2, 7, 3, 9, 0])
SEGMENTS = rows([1, 1, 1, 2, 2, 0])
POSITIONS = rows([3, 4, 5, 4, 5, 0])


def test_shapes(model, call):
    hidden = call(ITEMS, SEGMENTS, POSITIONS)
    assert hidden.shape == (1, 6, 8)
    assert hidden.dtype == jnp.float32
    assert model.scores(hidden[0]).shape == (6, 20)
    assert model.loss(hidden, ITEMS, ITEMS[..., None], SEGMENTS > 0).shape == ()


def test_scores_are_dot_products_with_the_table_without_padding(model):
    hidden = jax.random.normal(jax.random.key(0), (3, 8))
    table = model.item_embedding.embedding[...]
    np.testing.assert_allclose(model.scores(hidden)[:, 4], hidden @ table[5], rtol=1e-5)


def test_loss_is_the_mean_over_real_tokens(model):
    hidden = jax.random.normal(jax.random.key(0), (1, 3, 8))
    table = np.asarray(model.item_embedding.embedding[...])
    value = model.loss(
        hidden, rows([4, 5, 0]), rows([6, 7, 8])[..., None], jnp.array([[True, True, False]])
    )
    h = np.asarray(hidden[0])
    terms = [
        np.log1p(np.exp(-h[i] @ table[p])) + np.log1p(np.exp(h[i] @ table[n]))
        for i, (p, n) in enumerate([(4, 6), (5, 7)])
    ]
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-5)


def test_packed_equals_padded(call):
    packed = call(ITEMS, SEGMENTS, POSITIONS)[0]
    padded = call(
        rows([0, 0, 0, 5, 2, 7], [0, 0, 0, 0, 3, 9]),
        rows([0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]),
        rows([0, 0, 0, 3, 4, 5], [0, 0, 0, 0, 4, 5]),
    )
    np.testing.assert_allclose(packed[:3], padded[0, 3:], atol=1e-5)
    np.testing.assert_allclose(packed[3:5], padded[1, 4:], atol=1e-5)


@pytest.mark.parametrize("attend_padding", [False, True])
def test_against_a_transformer_over_padded_rows(attend_padding):
    options = {"num_heads": 2, "attend_padding": attend_padding}
    model = SASRec(20, max_len=MAX_LEN, dim=8, **options, rngs=nnx.Rngs(0))
    for block in model.blocks:  # biases start at zero, where padding would have no value
        block.qkv.bias[...] = jax.random.normal(jax.random.key(1), (24,))
    hidden = model(ITEMS, SEGMENTS, POSITIONS)[0]
    for cells in ([0, 1, 2], [3, 4]):
        items = ITEMS[0, jnp.array(cells)]
        want = transformer(model, np.asarray(items))
        np.testing.assert_allclose(hidden[jnp.array(cells)], want, atol=1e-5)


def transformer(model: SASRec, items: np.ndarray) -> np.ndarray:
    """The model's output on one sequence, padded on the left to ``MAX_LEN``, in float64."""

    real = np.arange(MAX_LEN)[:, None] >= MAX_LEN - items.size
    x = np.zeros((MAX_LEN, 8))
    x[MAX_LEN - items.size :] = array(model.item_embedding.embedding)[items] * 8**0.5
    x = (x + array(model.position_embedding.embedding)) * real
    for block in model.blocks:
        kernel, bias = array(block.qkv.kernel), array(block.qkv.bias)
        q = norm(block.attention_norm, x, 1e-8) @ kernel[:, :8] + bias[:8]
        k, v = np.split(x @ kernel[:, 8:] + bias[8:], 2, axis=1)
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            logits = q[:, h] @ k[:, h].T / 4**0.5
            weights = np.tril(np.exp(logits))
            weights[MAX_LEN - items.size :] *= model.attend_padding | real[:, 0]
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
        x = x + linear(block.out, np.concatenate(heads, axis=1))
        y = norm(block.feed_forward_norm, x, 1e-8)
        x = (y + linear(block.outer, np.maximum(linear(block.inner, y), 0))) * real
    return norm(model.norm, x, 1e-8)[MAX_LEN - items.size :]


def test_causal(call):
    before = call(ITEMS, SEGMENTS, POSITIONS)[0]
    after = call(ITEMS.at[0, 2].set(11), SEGMENTS, POSITIONS)[0]
    np.testing.assert_array_equal(before[:2], after[:2])
    assert not np.allclose(before[2], after[2])


def test_later_outputs_depend_on_earlier_items(call):
    before = call(ITEMS, SEGMENTS, POSITIONS)[0]
    after = call(ITEMS.at[0, 0].set(11), SEGMENTS, POSITIONS)[0]
    assert not np.allclose(before[2], after[2])


def test_segments_do_not_leak(call):
    before = call(ITEMS, SEGMENTS, POSITIONS)[0]
    after = call(ITEMS.at[0, :3].set(11), SEGMENTS, POSITIONS)[0]
    np.testing.assert_array_equal(before[3:5], after[3:5])


def test_padding_row_is_unused_and_padding_cells_change_nothing(model):
    graphdef, params = nnx.split(model, nnx.Param)

    def total(params, items):
        hidden = nnx.merge(graphdef, params)(items, SEGMENTS, POSITIONS, jax.random.key(1))
        return (hidden[0, :5] ** 3).sum()

    gradient = jax.jit(jax.grad(total))(params, ITEMS)["item_embedding"]["embedding"][...]
    assert not gradient[0].any()
    assert (np.abs(gradient[np.array([5, 2, 7, 3, 9])]).sum(1) > 0).all()
    total = jax.jit(total)
    assert total(params, ITEMS) == total(params, ITEMS.at[0, 5].set(13))


@pytest.mark.parametrize("attend_padding", [False, True])
def test_gradients_are_finite_on_a_row_of_padding_only(attend_padding):
    model = SASRec(20, max_len=MAX_LEN, dim=8, attend_padding=attend_padding, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    zeros = jnp.zeros((1, 6), jnp.int32)

    def loss(params):
        model = nnx.merge(graphdef, params)
        return model.loss(model(zeros, zeros, zeros), zeros, zeros[..., None], zeros > 0)

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_has_its_rate_and_is_unbiased(rate):
    size = 200_000
    kept = dropout(jnp.ones((400, 500)), rate, jax.random.key(3))
    error = (rate * (1 - rate) / size) ** 0.5
    assert float((kept == 0).mean()) == pytest.approx(rate, abs=5 * error)
    assert float(kept.mean()) == pytest.approx(1, abs=5 * error / (1 - rate))
    np.testing.assert_allclose(np.unique(kept), [0, 1 / (1 - rate)], rtol=1e-6)


def test_dropout_masks_differ_between_keys_and_do_not_line_up():
    first, second = (dropout(jnp.ones(100_000), 0.5, jax.random.key(k)) > 0 for k in (0, 1))
    assert float((first == second).mean()) == pytest.approx(0.5, abs=0.01)
    for shift in (1, 2, 64):
        assert float((first[shift:] == first[:-shift]).mean()) == pytest.approx(0.5, abs=0.01)


def test_dropout_without_key_or_rate_is_the_identity(call):
    x = jnp.arange(6.0)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
    plain, dropped = (call(ITEMS, SEGMENTS, POSITIONS, k) for k in (None, jax.random.key(0)))
    assert not np.allclose(plain, dropped)


def test_initial_scales():
    dim, items = 64, 3000
    model = SASRec(items, max_len=50, dim=dim, rngs=nnx.Rngs(0))
    block = model.blocks[0]
    table = model.item_embedding.embedding[...]
    assert float(table.std()) == pytest.approx((2 / (items + 1 + dim)) ** 0.5, rel=0.02)
    positions = model.position_embedding.embedding[...]
    assert float(positions.std()) == pytest.approx((2 / (50 + dim)) ** 0.5, rel=0.05)
    # Uniform on ±a has standard deviation a / sqrt(3).
    assert float(block.qkv.kernel[...].std()) == pytest.approx((2 / (4 * dim)) ** 0.5, rel=0.03)
    assert float(jnp.abs(block.qkv.kernel[...]).max()) <= (6 / (4 * dim)) ** 0.5
    assert float(block.out.kernel[...].std()) == pytest.approx((2 / (2 * dim)) ** 0.5, rel=0.05)
    for layer in (block.inner, block.outer):
        for weight in (layer.kernel[...], layer.bias[...]):
            assert 0.9 * dim**-0.5 < float(jnp.abs(weight).max()) <= dim**-0.5
    assert not block.qkv.bias[...].any()
    assert not block.out.bias[...].any()


def test_seeds_differ_and_repeat():
    def table(seed: int) -> np.ndarray:
        return np.asarray(SASRec(9, dim=4, rngs=nnx.Rngs(seed)).item_embedding.embedding[...])

    np.testing.assert_array_equal(table(0), table(0))
    assert not np.array_equal(table(0), table(1))


def test_bad_settings():
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 8 and 3"):
        SASRec(9, dim=8, num_heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dropout_rate must lie in \[0, 1\), got 1"):
        SASRec(9, dropout_rate=1.0, rngs=nnx.Rngs(0))
