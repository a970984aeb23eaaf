"""Packed and padded layouts hold the same tokens and give the same loss and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Interactions
from experiments.data.interactions import read_text
from experiments.inputs.batches import read_tokens
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts
from experiments.inputs.packing import EMPTY, Rows, layout, pack_rows
from experiments.settings import TrainingSettings
from models import SASRec

MAX_LEN, BATCH = 12, 32


@given(st.integers(1, 30).flatmap(lambda w: st.tuples(st.just(w), st.lists(st.integers(1, w)))))
@settings(deadline=None, max_examples=200)
def test_pack_rows_places_every_token_once(case):
    width, counts = case
    row, offset, used = pack_rows(np.array(counts, int), width)
    cells = np.zeros((used, width), int)
    for r, o, count in zip(row, offset, counts, strict=True):
        assert o + count <= width
        cells[r, o : o + count] += 1
    assert cells.max(initial=0) <= 1
    assert cells.sum() == sum(counts)
    assert cells.any(axis=1).all()


def test_pack_rows_is_tight_on_short_sequences():
    counts = np.random.default_rng(0).geometric(0.2, 500).clip(max=50)
    assert pack_rows(counts, 50)[2] <= -(-counts.sum() // 50) + 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 12), st.booleans())
@settings(deadline=None, max_examples=100)
def test_layout_keeps_sequences_whole_and_in_their_batch(counts, batch_size, packed):
    counts = np.array(counts)
    first = np.cumsum(counts) - counts
    (cells, ends), last = layout(first, counts, batch_size, 9, packed=packed)
    np.testing.assert_array_equal(np.sort(cells[cells != EMPTY]), np.arange(counts.sum()))
    for i, (begin, count) in enumerate(zip(first, counts, strict=True)):
        batch = cells[i // batch_size].reshape(-1)
        end = last[i // batch_size, i % batch_size]
        np.testing.assert_array_equal(
            batch[end - count + 1 : end + 1], np.arange(begin, begin + count)
        )
        assert (ends[i // batch_size].reshape(-1)[end - count + 1 : end + 1] == batch[end]).all()
        assert end // 9 == (end - count + 1) // 9
    np.testing.assert_array_equal(cells == EMPTY, ends == EMPTY)


def test_padded_rows_end_at_the_right():
    rows, last = layout(np.array([0, 2]), np.array([2, 3]), 2, 4, packed=False)
    np.testing.assert_array_equal(rows.cells[0], [[-1, -1, 0, 1], [-1, 2, 3, 4]])
    np.testing.assert_array_equal(last, [[3, 7]])


@pytest.fixture(params=["real", "made-up"])
def data(request, small) -> Interactions:
    if request.param == "made-up":
        return small
    return read_text(request.getfixturevalue("beauty_file"), "beauty200")


def rows_of(data: Interactions, packed: bool, epoch: int) -> Rows:
    hyper = TrainingSettings(batch_size=BATCH, max_len=MAX_LEN, packed=packed)
    return EpochLayouts(data, hyper, seed=0)(epoch)


def cells_of(data: Interactions, packed: bool, epoch: int) -> np.ndarray:
    return np.asarray(rows_of(data, packed, epoch).cells)


def test_both_layouts_have_the_same_tokens_in_every_step(data):
    for epoch in range(2):
        packed, padded = (cells_of(data, p, epoch) for p in (True, False))
        assert len(packed) == len(padded)
        for one, other in zip(packed, padded, strict=True):
            np.testing.assert_array_equal(
                np.sort(one[one != EMPTY]), np.sort(other[other != EMPTY])
            )
    assert not np.array_equal(cells_of(data, True, 0), cells_of(data, True, 1))


def test_an_epoch_reads_the_newest_training_inputs_of_every_user(data):
    cells = cells_of(data, True, 0)
    got = np.sort(cells[cells != EMPTY])
    want = [
        np.arange(max(start, start + n - 3 - MAX_LEN), start + n - 3)
        for start, n in zip(data.starts, data.lengths, strict=True)
    ]
    np.testing.assert_array_equal(got, np.concatenate(want))


@pytest.mark.slow
@pytest.mark.parametrize("attend_padding", [False, True])
def test_both_layouts_give_the_same_loss_and_gradients(data, attend_padding):
    corpus = make_corpus(data)
    negatives_of = jnp.asarray(
        np.random.default_rng(1).integers(1, data.num_items + 1, data.items.size)
    )
    shape = {"max_len": MAX_LEN, "dim": 16, "num_heads": 2, "attend_padding": attend_padding}
    model = SASRec(data.num_items, **shape, rngs=nnx.Rngs(0))
    for block in model.blocks:  # biases start at zero, where padding would have no value
        block.qkv.bias[...] = jnp.linspace(-1, 1, 48)
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    @jax.value_and_grad
    def loss(params, rows):
        real = rows.cells != EMPTY
        positives = jnp.where(real, corpus.items[rows.cells + 1], 0)
        model = nnx.merge(graphdef, params)
        hidden = model(*read_tokens("next", corpus, rows, MAX_LEN))
        return model.loss(hidden, positives, negatives_of[rows.cells][..., None], real)

    packed, padded = (Rows(*(a[1] for a in rows_of(data, p, 0))) for p in (True, False))
    assert packed.cells.shape[0] < padded.cells.shape[0]
    (one, one_gradients), (other, other_gradients) = loss(params, packed), loss(params, padded)
    assert float(one) == pytest.approx(float(other), abs=1e-5)
    for a, b in zip(jax.tree.leaves(one_gradients), jax.tree.leaves(other_gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
