"""Attention in one piece against queries one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax as softmax_of

from models.layers.attention import (
    BLOCK,
    EqualKeys,
    attention,
    join_heads,
    sequence_mask,
    split_heads,
)

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [3, 0, 0, 4, 4, 4]])
PADS = np.array([[2, 2, 2, 3, 3, 0], [5, 0, 0, 0, 0, 0]])


def inputs() -> list[np.ndarray]:
    """Queries, keys and values; and the key and the value of padding."""
    rng = np.random.default_rng(0)
    shapes = [(2, 6, 4)] * 3 + [(4,)] * 2
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def one_by_one(segments, q, k, v, pad_key, pad_value, pads, heads: int, causal: bool):
    out = np.zeros(q.shape)
    for row, cell in np.ndindex(segments.shape):
        seen = [
            j
            for j in range(segments.shape[1])
            if segments[row, j] == segments[row, cell] and (j <= cell or not causal)
        ]
        for head in np.split(np.arange(q.shape[-1]), heads):
            keys = [k[row, j, head] for j in seen] + [pad_key[head]] * pads[row, cell]
            values = [v[row, j, head] for j in seen] + [pad_value[head]] * pads[row, cell]
            p = softmax_of(np.array(keys) @ q[row, cell, head] / np.sqrt(head.size))
            out[row, cell, head] = p @ np.array(values)
    return out


@pytest.mark.parametrize("pads", [None, PADS], ids=["masked", "padding"])
@pytest.mark.parametrize(("heads", "causal"), [(1, True), (2, True), (2, False), (4, False)])
def test_against_queries_one_by_one(heads, causal, pads):
    """Padding as so many keys that are written out; none of them, for some queries."""
    q, k, v, pad_key, pad_value = inputs()
    mask = sequence_mask(jnp.asarray(SEGMENTS), causal=causal)
    equal = None if pads is None else EqualKeys(jnp.asarray(pads), pad_key, pad_value)
    got = jax.jit(lambda *a: attention(*a, mask, num_heads=heads, padding=equal))(q, k, v)
    none = np.zeros_like(SEGMENTS)
    want = one_by_one(
        SEGMENTS, q, k, v, pad_key, pad_value, none if pads is None else pads, heads, causal
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["masked", "padding"])
def test_wide_rows_in_blocks_are_those_in_one_piece(padded):
    """Outputs and gradients, with sequences that begin in one block and end in the next."""
    rng, width = np.random.default_rng(0), 2 * BLOCK + 5  # the last block is shorter
    operands = [rng.normal(size=(2, width, 4)).astype(np.float32) for _ in range(3)]
    operands += [rng.normal(size=4).astype(np.float32) for _ in range(2)]
    segments = np.sort(rng.integers(1, 5, (2, width)))
    mask, pads = sequence_mask(jnp.asarray(segments), causal=True), jnp.asarray(segments % 3)

    def value_of(causal):
        def value(q, k, v, pad_key, pad_value):
            padding = EqualKeys(pads, pad_key, pad_value) if padded else None
            out = attention(q, k, v, mask, causal=causal, num_heads=2, padding=padding)
            return (out**3).sum(), out

        return jax.jit(jax.value_and_grad(value, range(5), has_aux=True))

    one, blocks = (value_of(causal)(*operands) for causal in (False, True))
    for got, want in zip(jax.tree.leaves(blocks), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_each_block_drops_its_share():
    width = 2 * BLOCK
    mask = sequence_mask(jnp.ones((1, width), int), causal=True)
    zeros, key = jnp.zeros((1, width, 1)), jax.random.key(0)
    kept = attention(zeros, zeros, zeros + 1, mask, causal=True, dropout_rate=0.5, key=key)
    last_queries = np.asarray(kept).reshape(2, BLOCK)[:, BLOCK // 2 :]
    assert last_queries.mean(1) == pytest.approx(1, abs=0.05)
    assert (last_queries.std(1) > 0.02).all()


def test_large_logits_and_their_gradients_are_finite():
    q, k, v, pad_key, pad_value = inputs()
    mask = sequence_mask(jnp.asarray(SEGMENTS), causal=True)

    def total(q, k, v, pad_key, pad_value):
        equal = EqualKeys(jnp.asarray(PADS), pad_key, pad_value)
        return attention(q, k, v, mask, padding=equal).sum()

    compiled = jax.jit(jax.value_and_grad(total, range(5)))
    value, gradients = compiled(1e3 * q, 1e3 * k, v, 1e3 * pad_key, pad_value)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in gradients)


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_dropout_drops_probabilities_and_does_not_average_anew():
    """With values of one, what is left of the probabilities, each twice as large or zero."""
    q, k, _, _, _ = inputs()
    mask = sequence_mask(jnp.ones((2, 6), int), causal=False)
    ones = jnp.ones((2, 6, 4))
    run = jax.jit(
        lambda key: attention(0 * q, k, ones, mask, num_heads=2, dropout_rate=0.5, key=key)
    )
    mixed = np.stack([run(jax.random.key(i)) for i in range(50)])
    left = mixed * 6 / 2  # equal probabilities: how many of the 6 keys are left
    np.testing.assert_allclose(left, np.round(left), atol=1e-5)
    assert set(np.round(left).astype(int).ravel()) == set(range(7))
    # 2400 independent counts of 6 keys: of each row, query and head, in every run.
    assert left.mean() == pytest.approx(3, abs=5 * (6 / 4 / 1200) ** 0.5)


def test_heads_are_split_and_joined():
    x = jnp.arange(2.0 * 3 * 4).reshape(2, 3, 4)
    split = split_heads(x, 2)
    assert split.shape == (4, 3, 2)
    np.testing.assert_array_equal(split[1], x[0, :, 2:])
    np.testing.assert_array_equal(split[2], x[1, :, :2])
    np.testing.assert_array_equal(join_heads(split, 2), x)
