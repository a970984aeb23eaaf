"""Ranks by counting against ranks by sorting; packed against padded evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from experiments.data.interactions import from_sequences
from experiments.data.splits import split_last
from experiments.evaluation import make_evaluation_set, make_evaluator, ranked_users, ranks_of
from experiments.inputs.corpus import make_corpus
from experiments.metrics import by_history, by_popularity, in_order, metrics_of, of_lists
from models import SASRec
from tests.experiments.brute_force import (
    best_first,
    brute_force_metrics,
    brute_force_rank,
    inputs_and_targets,
)

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


def test_groups_by_history_by_hand():
    """Histories of 2 to 6 items, of ten users each; the longer, the better."""
    lengths = np.repeat(np.arange(3, 8), 10)
    data = from_sequences("made", np.arange(lengths.sum()), lengths)
    groups = by_history(np.repeat([20, 10, 5, 2, 1], 10), data)
    assert groups["users"] == [10] * 5
    assert groups["most_interactions"] == [2, 3, 4, 5, 6]
    assert groups["HR@10"] == [0, 1, 1, 1, 1]
    assert groups["NDCG@10"] == pytest.approx([0, *(1 / np.log2([11, 6, 3, 2]))])


def ranks_on(data, split: str, scores: np.ndarray) -> np.ndarray:
    """The ranks of all ranked users from ``scores``, ``[users, items]``, of all users."""
    users = ranked_users(data, split)
    blocks = make_evaluation_set(data, split, MAX_LEN)
    padded = np.zeros((blocks.last.shape[1], data.num_items), np.float32)
    padded[: users.size] = scores[users]
    found = ranks_of(jnp.asarray(padded), *(leaf[0] for leaf in blocks[2:]))
    ranks = np.asarray(found)[: users.size]
    return in_order(ranks) if ranks.ndim == 2 else ranks


def sought_and_seen(data, split: str, user: int) -> tuple[set[int], set[int]]:
    """The held-out items of a user, and the items read before them that are not among them."""
    train, valid, end = (int(place[user]) for place in data.ends)
    begin, stop = (train, valid) if split == "valid" else (valid, end)
    sought = set(data.items[begin:stop].tolist())
    return sought, set(data.items[data.starts[user] : begin].tolist()) - sought


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("n", [1, 4])
def test_metrics_equal_brute_force_with_ties_and_repeated_items(small, n, split):
    data = small if n == 1 else split_last(small, n)
    scores = np.random.default_rng(n).integers(0, 6, (data.num_users, data.num_items))
    ranks = ranks_on(data, split, scores.astype(np.float32))
    users = ranked_users(data, split)
    assert users.size == (data.lengths > 2 * n).sum()
    own = [sought_and_seen(data, split, user) for user in users]
    if n > 1:  # the cases are there
        assert len({len(sought) for sought, _ in own}) > 1
        assert any(
            sought & set(data.items[: data.ends[0][u]][data.starts[u] :].tolist())
            for u, (sought, _) in zip(users, own, strict=True)
        )
    lists = [
        best_first(scores[user].tolist(), *both) for user, both in zip(users, own, strict=True)
    ]
    want = brute_force_metrics(lists, [sought for sought, _ in own], (1, 3, 5, 10, 25))
    found = metrics_of(ranks, (1, 3, 5, 10, 25))
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("n", [1, 4])
def test_metrics_equal_those_of_scikit_learn(small, n):
    """It knows no excluded items, so they get scores below all others; and it averages ties."""
    data = small if n == 1 else split_last(small, n)
    scores = np.random.default_rng(0).normal(size=(data.num_users, data.num_items))
    ranks = ranks_on(data, "test", scores.astype(np.float32))
    users, relevant = ranked_users(data, "test"), np.zeros(scores.shape, int)
    for user in users:
        sought, seen = sought_and_seen(data, "test", user)
        relevant[user, [item - 1 for item in sought]] = 1
        scores[user, [item - 1 for item in seen]] = -100
    found = metrics_of(ranks, (3, 10, data.num_items))
    for k in (3, 10, data.num_items):
        want = ndcg_score(relevant[users], scores[users], k=k)
        assert found[f"NDCG@{k}"] == pytest.approx(want, abs=1e-6)
    if n == 1:  # the mean precision at one item is its reciprocal rank
        want = label_ranking_average_precision_score(relevant[users], scores[users])
        assert found[f"MRR@{data.num_items}"] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("n", [1, 3])
def test_recommended_lists_equal_brute_force(small, evaluation, n):
    """The lists hold what the ranks say, and their measures are those of plain Python."""
    graphdef, params, _, _ = evaluation
    data = small if n == 1 else split_last(small, n)
    evaluate = make_evaluator(lambda p: nnx.merge(graphdef, p), MAX_LEN, top_k=5)
    found = evaluate(params, make_corpus(data), make_evaluation_set(data, "test", MAX_LEN))
    users = ranked_users(data, "test")
    ranks, lists = (np.asarray(found[i])[: users.size] for i in (0, 2))
    hits = []
    for user, own in zip(users, lists, strict=True):
        sought, seen = sought_and_seen(data, "test", user)
        assert not set(own.tolist()) & seen
        assert len(set(own.tolist())) == 5
        hits.append(bool(sought & set(own.tolist())))
    ranks = in_order(ranks) if ranks.ndim == 2 else ranks
    assert metrics_of(ranks, (5,))["HR@5"] == np.mean(hits)
    assert 0 < np.mean(hits) < 1

    flat = [item for own in lists.tolist() for item in own[:3]]
    times = [flat.count(item) for item in range(1, data.num_items + 1)]
    trained = data.training_counts()[1:].tolist()
    bound = sorted(trained)[int(0.8 * (len(trained) - 1))]
    mean = sum(times) / len(times)
    apart = sum(abs(a - b) for a in times for b in times) / len(times) ** 2
    assert of_lists(lists, data, 3) == pytest.approx(
        {
            "coverage@3": len(set(flat)) / data.num_items,
            "Gini@3": apart / (2 * mean),
            "popularity@3": sum(trained[item - 1] for item in flat) / len(flat),
            "rare@3": sum(trained[item - 1] <= bound for item in flat) / len(flat),
        }
    )


def test_lists_of_users_with_few_items_left(small):
    """0 stands where nothing is left to recommend, and counts for nothing."""
    lists = np.array([[3, 0, 0], [3, 4, 0]])
    found = of_lists(lists, small, 3)
    counts = small.training_counts()
    assert found["coverage@3"] == 2 / 40
    assert found["popularity@3"] == pytest.approx((2 * counts[3] + counts[4]) / 3)
