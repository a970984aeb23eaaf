"""BERT4Rec against a transformer encoder over single sequences, and its softmax over all rows."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf, logsumexp
from scipy.special import softmax as softmax_of

from models import BERT4Rec
from tests.models.helpers import (
    DIM,
    EXAMPLES,
    MASK,
    MAX_LEN,
    NUM_ITEMS,
    PACKED,
    array,
    linear,
    norm,
    outputs,
    shared,
)

EPS = 1e-5


def encoder(model: BERT4Rec, items: np.ndarray) -> np.ndarray:
    """Post-norm transformer layers over one sequence, whose newest token has the last position."""
    x = array(model.item_embedding.embedding)[items]
    x = norm(model.norm, x + array(model.position_embedding.embedding)[MAX_LEN - len(items) :], EPS)
    for block in model.blocks:
        q, k, v = np.split(linear(block.qkv, x), 3, axis=1)
        size = DIM // block.num_heads
        heads = []
        for h in range(block.num_heads):
            part = slice(h * size, (h + 1) * size)
            p = softmax_of(q[:, part] @ k[:, part].T / np.sqrt(size), axis=1)
            heads.append(p @ v[:, part])
        x = norm(block.attention_norm, x + linear(block.out, np.hstack(heads)), EPS)
        inner = linear(block.inner, x)
        gelu = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(block.feed_forward_norm, x + linear(block.outer, gelu), EPS)
    return x


def masked(inputs):
    """The inputs with the mask at the first example's second item and for the third example."""
    items = inputs.tokens[0].copy()
    for example, token in ((0, 1), (2, 0)):
        row, cells = inputs.places[example]
        items[row, cells.start + token] = MASK
    return inputs._replace(tokens=(items, *inputs.tokens[1:]))


def test_against_an_encoder():
    model = shared("bert4rec", num_blocks=2)
    for hidden, example, hide in zip(
        outputs("bert4rec", masked(PACKED), num_blocks=2), EXAMPLES, (1, None, 0), strict=True
    ):
        items = example.items.copy()
        if hide is not None:
            items[hide] = MASK
        np.testing.assert_allclose(hidden, encoder(model, items), atol=1e-5)


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_scores_are_logits_of_the_output_layer_without_padding_and_mask():
    model = shared("bert4rec")
    hidden = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    logits = hidden @ array(model.output_embedding.embedding).T + array(model.output_bias)
    assert logits.shape == (3, NUM_ITEMS + 2)
    np.testing.assert_allclose(model.scores(hidden), logits[:, 1:-1], atol=1e-5)
    items = np.array([4, 1, NUM_ITEMS])
    np.testing.assert_allclose(model.score(hidden, items), logits[range(3), items], atol=1e-5)


def test_loss_is_a_softmax_over_all_rows():
    """Padding and mask are classes too."""
    model = shared("bert4rec")
    hidden = np.random.default_rng(0).normal(size=(2, 3, DIM)).astype(np.float32)
    positives = np.array([[4, 1, 2], [12, 3, 7]])
    real = np.array([[True, False, True], [True, True, False]])
    logits = hidden @ array(model.output_embedding.embedding).T + array(model.output_bias)
    values = (
        logsumexp(logits, axis=-1) - np.take_along_axis(logits, positives[..., None], 2)[..., 0]
    )
    loss = jax.jit(model.loss)(hidden, positives, positives[..., None], real)
    assert float(loss) == pytest.approx(values[real].mean(), rel=1e-5)


def test_initial_weights_are_clipped():
    model = BERT4Rec(50, max_len=MAX_LEN, dim=16, num_blocks=1, rngs=nnx.Rngs(0))
    block = model.blocks[0]
    tables = (model.item_embedding, model.output_embedding, model.position_embedding)
    layers = (block.out, block.inner, block.outer)
    for weight in [t.embedding for t in tables] + [layer.kernel for layer in layers]:
        assert np.abs(array(weight)).max() == pytest.approx(0.02)
        assert 0.015 < array(weight).std() < 0.02
    bound = (6 / (4 * 16)) ** 0.5
    assert 0.9 * bound < np.abs(array(block.qkv.kernel)).max() <= bound


def test_bad_settings():
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 8 and 3"):
        BERT4Rec(9, dim=8, num_heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dropout_rate must lie in \[0, 1\), got -0.1"):
        BERT4Rec(9, dropout_rate=-0.1, rngs=nnx.Rngs(0))
