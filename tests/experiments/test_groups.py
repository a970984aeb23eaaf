"""Rows in groups of widths: every sequence once, and shapes that nearly all epochs share."""

from __future__ import annotations

from itertools import chain, combinations

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.evaluation import make_evaluation_set, make_evaluator
from experiments.inputs import packing
from experiments.inputs.batches import make_batch
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts, training_sequences
from experiments.inputs.packing import (
    EMPTY,
    Group,
    choose_groups,
    group_rows,
    longer_of_blocks,
    longer_of_random,
)
from experiments.settings import TrainingSettings
from experiments.training.state import TrainState, split_model
from experiments.training.steps import Epochs, Inputs
from models import SRGNN, BERT4Rec, SASRec

MAX_LEN, BATCH = 12, 64
SETTINGS = TrainingSettings(batch_size=BATCH, max_len=MAX_LEN, packed=False)
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def shapes_of(groups: list[packing.Rows]) -> list[tuple[int, ...]]:
    return [np.asarray(rows.cells).shape[1:] for rows in groups]


@given(lengths, st.integers(1, 12), st.booleans())
@settings(deadline=None, max_examples=100)
def test_every_sequence_has_a_row_in_its_batch(counts, batch_size, known):
    """Also where the groups that were chosen have no room for a batch."""
    counts = np.array(counts)
    first = np.cumsum(counts) - counts
    longer = (longer_of_blocks if known else longer_of_random)(counts, batch_size)
    groups, row = group_rows(first, counts, batch_size, choose_groups(longer))
    assert sum(rows for rows, _ in shapes_of(groups)) == batch_size
    cells = np.concatenate([np.asarray(rows.cells[rows.cells != EMPTY]) for rows in groups])
    np.testing.assert_array_equal(np.sort(cells), np.arange(counts.sum()))
    for i, (begin, count) in enumerate(zip(first, counts, strict=True)):
        batch = [
            (cells, ends)
            for rows in groups
            for cells, ends in zip(
                rows.cells[i // batch_size], rows.ends[i // batch_size], strict=True
            )
        ]
        cells, ends = batch[row[i // batch_size, i % batch_size]]
        np.testing.assert_array_equal(cells[-count:], np.arange(begin, begin + count))
        assert (cells[:-count] == EMPTY).all()
        np.testing.assert_array_equal(ends, np.where(cells == EMPTY, EMPTY, begin + count - 1))


@given(lengths, st.integers(1, 12), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_no_other_groups_cost_less(counts, batch_size, most):
    longer = longer_of_blocks(np.array(counts), batch_size)

    def cost(widths) -> int:
        """Returns the cost of groups of these widths, the widest first."""
        ends = [*(longer[w] for w in widths[1:]), longer[0]]
        return sum((e - longer[w]) * w**2 for e, w in zip(ends, widths, strict=True))

    widest = max(counts)
    options = [
        cost([widest, *sorted(others, reverse=True)])
        for number in range(min(most, widest))
        for others in combinations(range(1, widest), number)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "MOST_GROUPS", most)
        groups = choose_groups(longer)
    assert [g.first for g in groups] == [longer[g.width] for g in groups]
    assert cost([g.width for g in groups]) == min(options)


def test_a_batch_of_everything_needs_what_there_is():
    counts = np.array([3, 1, 1, 5])
    np.testing.assert_array_equal(longer_of_random(counts, 9), [4, 2, 2, 1, 1, 0])
    np.testing.assert_array_equal(longer_of_blocks(counts, 2), [2, 1, 1, 1, 1, 0])


def test_random_batches_rarely_need_more():
    rng = np.random.default_rng(0)
    counts = rng.geometric(0.2, 20_000).clip(max=15)
    longer = longer_of_random(counts, 100)
    most = np.zeros_like(longer)
    for _ in range(30):
        most = np.maximum(most, longer_of_blocks(rng.permutation(counts), 100))
    assert (most <= longer).all()
    assert (longer[1:10] < 2 * most[1:10]).all()


def test_a_group_grows_where_it_must():
    groups = (Group(0, 5), Group(1, 2))
    rows, row = group_rows(np.arange(0, 30, 5), np.array([1, 2, 1, 5, 3, 2]), 3, groups)
    assert shapes_of(rows) == [(2, 5), (1, 2)]
    np.testing.assert_array_equal(row, [[1, 0, 2], [0, 1, 2]])


@pytest.fixture(scope="module")
def layouts(small) -> EpochLayouts:
    return EpochLayouts(small, SETTINGS, 0, "prefix", grouped=True)


def batches_of(layout: packing.Layout) -> list[list[int]]:
    """The sequences of each batch, by their ends."""
    groups = layout if isinstance(layout, list) else [layout]
    ends = np.concatenate([np.asarray(rows.ends)[..., -1] for rows in groups], axis=1)
    return [sorted(line[line != EMPTY].tolist()) for line in ends]


def test_an_epoch_reads_every_prefix_once(small, layouts):
    ends, _ = training_sequences(small, MAX_LEN, "prefix")
    padded = EpochLayouts(small, SETTINGS, 0, "prefix")
    for epoch in range(3):
        batches = batches_of(layouts(epoch))
        assert sorted(chain.from_iterable(batches)) == sorted(ends.tolist())
        assert batches == batches_of(padded(epoch))  # the batches do not depend on the layout
        assert [len(b) for b in batches] == layouts.sequences_per_step.tolist()


def test_layouts_depend_on_data_seed_and_epoch_alone(small, layouts):
    again = EpochLayouts(small, SETTINGS, 0, "prefix", grouped=True)
    jax.tree.map(np.testing.assert_array_equal, again(2), layouts(2))
    other = EpochLayouts(small, SETTINGS, 1, "prefix", grouped=True)
    assert batches_of(other(2)) != batches_of(layouts(2)) != batches_of(layouts(1))
    assert {tuple(shapes_of(each(e))) for each in (layouts, other) for e in range(20)} == {
        tuple(shapes_of(layouts(0)))
    }


def test_a_batch_of_groups_holds_what_the_padded_one_does(small, layouts):
    padded = EpochLayouts(small, SETTINGS, 0, "prefix")
    corpus, read = make_corpus(small), []
    for layout in (layouts(0), [padded(0)]):
        rows = jax.tree.map(lambda a: a[1], layout)
        batch = make_batch("prefix", SETTINGS, corpus, rows, jax.random.key(0))
        items = [line for group in jax.tree.leaves(batch.tokens.items) for line in group.tolist()]
        sessions = [tuple(item for item in line if item) for line in items]
        assert batch.positives.shape == batch.real.shape == (len(sessions), 1)
        assert batch.negatives.shape == (len(sessions), 1, 1)
        assert batch.real[:, 0].tolist() == [bool(session) for session in sessions]
        read.append(sorted(zip(sessions, batch.positives[:, 0].tolist(), strict=True)))
    assert read[0] == read[1]


class Unpacked(BERT4Rec):
    packs = False


@pytest.mark.parametrize(
    ("kind", "grouped", "message"),
    [
        (SRGNN, False, "rows must be in groups for a model that does not pack"),
        (SASRec, True, "packs = True and rows in groups"),
        (Unpacked, True, "task masked must pack"),
    ],
)
def test_rows_that_a_model_does_not_read_are_refused(small, kind, grouped, message):
    """Not trained or tested on tokens other than those meant."""
    model = kind(small.num_items, dim=4, rngs=nnx.Rngs(0))
    graphdef, params, carried, constants = split_model(model)
    corpus, optimizer = make_corpus(small), optax.sgd(0.1)
    layouts = EpochLayouts(small, SETTINGS, 0, model.task, grouped=grouped)
    state = TrainState(params, optimizer.init(params), carried)
    train = Epochs(graphdef, optimizer, Inputs(corpus, constants), [layouts], state)
    with pytest.raises(ValueError, match=message):
        train(state, train.lay_out(0), 0)
    evaluate = make_evaluator(lambda p: nnx.merge(graphdef, p, carried), MAX_LEN)
    blocks = make_evaluation_set(small, "test", MAX_LEN, task=model.task, grouped=grouped)
    with pytest.raises(ValueError, match=message):
        evaluate(params, corpus, blocks)
