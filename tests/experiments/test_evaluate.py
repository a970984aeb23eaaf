"""Ranks by counting against ranks by sorting; packed against padded evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.data.interactions import from_sequences
from experiments.evaluation import (
    by_popularity,
    make_evaluation_set,
    make_evaluator,
    metrics_of,
    ranks_of,
)
from experiments.training.corpus import make_corpus
from models import SASRec
from tests.experiments.brute_force import brute_force_rank, inputs_and_targets

MAX_LEN = 8


@pytest.fixture(scope="module")
def evaluation(small):
    """A model's graph and parameters, the corpus, and an evaluator: all tests share programs."""
    model = SASRec(small.num_items, max_len=MAX_LEN, dim=8, num_blocks=1, rngs=nnx.Rngs(1))
    graphdef, params = nnx.split(model, nnx.Param)
    evaluate = make_evaluator(lambda p: nnx.merge(graphdef, p), MAX_LEN)
    return graphdef, params, make_corpus(small), evaluate


@pytest.mark.parametrize("split", ["valid", "test"])
def test_ranks_equal_a_sorted_list(small, split):
    # Small integers, so that many scores tie.
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (small.num_users, small.num_items)).astype(np.float32)
    blocks = make_evaluation_set(small, split, MAX_LEN)
    users = blocks.targets.shape[1]
    padded = jnp.zeros((users, small.num_items)).at[: small.num_users].set(scores)
    ranks = ranks_of(padded, blocks.targets[0], blocks.seen_users[0], blocks.seen_items[0])
    want = [
        brute_force_rank(row.tolist(), target, set(seen))
        for row, (seen, target) in zip(scores, inputs_and_targets(small, split), strict=True)
    ]
    np.testing.assert_array_equal(np.asarray(ranks)[: small.num_users], want)
    assert any(t in seen for seen, t in inputs_and_targets(small, split))  # the case is covered


def test_ties_count_against_the_target():
    ranks = ranks_of(jnp.ones((1, 7)), jnp.array([3]), jnp.array([0, 0]), jnp.array([5, 0]))
    assert ranks.tolist() == [6]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_evaluator_equals_brute_force_packed_and_padded(small, evaluation, split):
    graphdef, params, corpus, evaluate = evaluation
    got = {}
    for packed in (True, False):
        blocks = make_evaluation_set(small, split, MAX_LEN, packed=packed)
        ranks, finite = evaluate(params, corpus, blocks)
        assert finite
        got[packed] = np.asarray(ranks)[: small.num_users]
    np.testing.assert_array_equal(got[True], got[False])

    items = np.zeros((small.num_users, MAX_LEN), np.int32)
    for row, (seen, _) in zip(items, inputs_and_targets(small, split), strict=True):
        row[MAX_LEN - len(seen[-MAX_LEN:]) :] = seen[-MAX_LEN:]
    positions = jnp.where(items > 0, jnp.arange(MAX_LEN), 0)

    @jax.jit
    def score(params, items, segments, positions):
        model = nnx.merge(graphdef, params)
        return model.scores(model(items, segments, positions)[:, -1])

    scores = np.asarray(score(params, items, jnp.asarray(items > 0, jnp.int32), positions))
    want = [
        brute_force_rank(row.tolist(), target, set(seen))
        for row, (seen, target) in zip(scores, inputs_and_targets(small, split), strict=True)
    ]
    np.testing.assert_array_equal(got[True], want)


@pytest.mark.parametrize(
    ("limit", "value"), [("USERS_PER_BLOCK", 16), ("SCORES_PER_BLOCK", 16 * 40 + 1)]
)
def test_blocks_of_users(small, evaluation, monkeypatch, limit, value):
    """With many items, blocks have fewer users: no block holds more scores than the limit."""
    assert small.num_items == 40
    monkeypatch.setattr(f"experiments.evaluation.{limit}", value)
    _, params, corpus, evaluate = evaluation
    many = make_evaluation_set(small, "valid", MAX_LEN)
    monkeypatch.undo()
    one = make_evaluation_set(small, "valid", MAX_LEN)
    assert len(many.rows.cells) == 5
    assert len(one.rows.cells) == 1
    ranks = [np.asarray(evaluate(params, corpus, b)[0])[:70] for b in (many, one)]
    np.testing.assert_array_equal(*ranks)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_noticed(small, evaluation, value):
    graphdef, params, corpus, evaluate = evaluation
    model = nnx.merge(graphdef, params, copy=True)
    table = model.item_embedding.embedding
    table[...] = table[...].at[7, 0].set(value)
    params = nnx.state(model, nnx.Param)
    _, finite = evaluate(params, corpus, make_evaluation_set(small, "test", MAX_LEN))
    assert not finite


def test_metrics_by_hand():
    metrics = metrics_of(np.array([1, 2, 5, 6, 10, 11]))
    assert list(metrics) == ["HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"]
    gain = {r: 1 / np.log2(r + 1) for r in (1, 2, 5, 6, 10)}
    assert metrics["HR@1"] == pytest.approx(1 / 6)
    assert metrics["HR@5"] == pytest.approx(3 / 6)
    assert metrics["HR@10"] == pytest.approx(5 / 6)
    assert metrics["NDCG@5"] == pytest.approx((gain[1] + gain[2] + gain[5]) / 6)
    assert metrics["NDCG@10"] == pytest.approx(sum(gain.values()) / 6)


def test_by_popularity_by_hand():
    """Item g is in the training part of g users; ten users are tested on each of five items."""
    rows = [[g if user < g else 6, 6, g] for g in range(1, 6) for user in range(10)]
    data = from_sequences("made", np.concatenate(rows), np.full(50, 3))
    ranks = np.full(50, 100)
    ranks[:10], ranks[10:15] = 1, 2  # all that are tested on item 1, half of those on item 2
    groups = by_popularity(ranks, data)
    assert groups["users"] == [10, 10, 10, 10, 10]
    assert groups["most_interactions"] == [1, 2, 3, 4, 5]
    assert groups["HR@10"] == [1, 0.5, 0, 0, 0]
    assert groups["NDCG@10"] == pytest.approx([1, 0.5 / np.log2(3), 0, 0, 0])


def test_groups_without_users_have_no_metrics():
    data = from_sequences("made", np.tile([1, 2, 3], 4), np.full(4, 3))
    groups = by_popularity(np.array([1, 1, 20, 20]), data)
    assert groups["users"] == [4, 0, 0, 0, 0]
    assert groups["HR@10"] == [0.5, None, None, None, None]
