"""LightGCN against powers of a dense matrix in float64."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models import Constant, LightGCN, lightgcn
from sevo_jax import bipartite_graph
from tests.models.helpers import array, softplus

pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS, DIM = 5, 7, 6
USERS = [0, 0, 0, 1, 1, 3, 3, 3]  # 2 and 4 have no items
ITEMS = [1, 2, 5, 2, 7, 5, 5, 1]  # one of them twice; 3, 4 and 6 belong to nobody
ISOLATED_USER, ISOLATED_ITEM = 4, 6


@cache
def make(**options) -> LightGCN:
    graph = bipartite_graph(USERS, ITEMS, NUM_USERS, NUM_ITEMS + 1)
    options = {"dim": DIM, "std": 0.5, **options}
    return LightGCN(graph, NUM_USERS, NUM_ITEMS, **options, rngs=nnx.Rngs(0))


def initial(model: LightGCN) -> tuple[np.ndarray, np.ndarray]:
    return array(model.user_embedding.embedding), array(model.item_embedding.embedding)


def propagated(model: LightGCN, weights: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """``Σ w_l Ã^l E_0``, with matrices."""
    adjacency = np.zeros((NUM_USERS + NUM_ITEMS + 1,) * 2)
    for user, item in zip(USERS, ITEMS, strict=True):
        adjacency[user, NUM_USERS + item] = adjacency[NUM_USERS + item, user] = 1
    degree = adjacency.sum(1)
    scale = np.array([d**-0.5 if d else 0 for d in degree])
    operator = scale[:, None] * adjacency * scale
    powers = (w * np.linalg.matrix_power(operator, layer) for layer, w in enumerate(weights))
    final = sum(powers) @ np.concatenate(initial(model))
    return final[:NUM_USERS], final[NUM_USERS:]


every_weighting = pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [0.25] * 4),
        ({"num_blocks": 1}, [0.5, 0.5]),
        ({"num_blocks": 0}, [1]),
        ({"num_blocks": 2, "layer_weights": (0.5, -1.0, 2.0)}, [0.5, -1, 2]),
    ],
    ids=["default", "one-layer", "no-layer", "weights"],
)


@every_weighting
def test_vectors_and_scores_against_dense_matrices(options, weights):
    model = make(**options)
    users, items = propagated(model, weights)
    rows = np.array([[2], [0], [4], [3]])
    hidden = model(rows, rows, rows)
    np.testing.assert_allclose(hidden, users[rows], atol=1e-6)
    np.testing.assert_allclose(model.item_vectors()[0], items, atol=1e-6)
    want = users[rows[:, 0]] @ items.T
    np.testing.assert_allclose(model.scores(hidden[:, 0]), want[:, 1:], atol=1e-5)
    chosen = np.array([3, 1, 6, 5])
    np.testing.assert_allclose(model.score(hidden[:, 0], chosen), want[range(4), chosen], atol=1e-5)


@every_weighting
def test_prepared_without_propagating_scores_the_same(options, weights, monkeypatch):
    model = make(**options)
    rows = np.array([[2], [0], [4], [3]])
    want = model.scores(model(rows, rows, rows)[:, 0])
    before = initial(model)
    prepared = model.prepared()
    monkeypatch.setattr(lightgcn, "spmm", lambda graph, x: pytest.fail("propagated again"))
    np.testing.assert_allclose(prepared.scores(prepared(rows, rows, rows)[:, 0]), want, atol=1e-6)
    for own, unchanged in zip(initial(model), before, strict=True):
        np.testing.assert_array_equal(own, unchanged)


def test_nodes_without_edges_keep_their_share_of_their_own_embedding():
    model = make(num_blocks=2, layer_weights=(0.5, 0.3, 0.2))
    users, items = model.propagate()
    own_users, own_items = initial(model)
    np.testing.assert_allclose(users[ISOLATED_USER], 0.5 * own_users[ISOLATED_USER], rtol=1e-6)
    for item in (ISOLATED_ITEM, 0):
        np.testing.assert_allclose(items[item], 0.5 * own_items[item], rtol=1e-6)


PAIRS = np.array([[0], [3], [0], [1]])
POSITIVES, NEGATIVES = np.array([[5], [1], [2], [7]]), np.array([[[3]], [[2]], [[3]], [[6]]])
REAL = np.array([[True], [True], [True], [False]])


def loss_and_gradients(model: LightGCN, negatives=NEGATIVES, real=REAL):
    graphdef, params, rest = nnx.split(model, nnx.Param, Constant)

    @jax.jit
    def loss(params, rest):
        model = nnx.merge(graphdef, params, rest)
        return model.training_loss((PAIRS, PAIRS, PAIRS), POSITIVES, negatives, real)

    value, gradients = jax.value_and_grad(loss)(params, rest)
    tables = gradients["user_embedding"], gradients["item_embedding"]
    return float(value), *(array(table["embedding"]) for table in tables)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_loss_by_hand(loss):
    model = make(l2=0.3, loss=loss)
    users, items = propagated(model, [0.25] * 4)
    own_users, own_items = initial(model)
    negatives = np.concatenate([NEGATIVES, NEGATIVES[::-1]], axis=-1)
    ranking, squares = [], 0.0
    for row in np.flatnonzero(REAL):
        user, positive, two = PAIRS[row, 0], POSITIVES[row, 0], negatives[row, 0]
        above, below = users[user] @ items[positive], items[two] @ users[user]
        by_bce = softplus(-above) + softplus(below).mean()
        ranking.append(softplus(below - above).mean() if loss == "bpr" else by_bce)
        rows = [own_users[user], own_items[positive], *own_items[two]]
        squares += sum(row @ row for row in rows)
    value, *_ = loss_and_gradients(model, negatives)
    assert value == pytest.approx(np.mean(ranking) + 0.3 * squares / (2 * 3), rel=1e-5)


def test_l2_reaches_the_embeddings_of_the_batch_alone_as_often_as_they_occur():
    _, users, items = loss_and_gradients(make(l2=0.3))
    _, users_without, items_without = loss_and_gradients(make(l2=0.0))
    own_users, own_items = initial(make())
    user_counts, item_counts = np.zeros((NUM_USERS, 1)), np.zeros((NUM_ITEMS + 1, 1))
    user_counts[[0, 3], 0] = 2, 1
    item_counts[[5, 1, 2, 3], 0] = 1, 1, 2, 2
    np.testing.assert_allclose(users - users_without, 0.1 * user_counts * own_users, atol=1e-6)
    np.testing.assert_allclose(items - items_without, 0.1 * item_counts * own_items, atol=1e-6)


def test_gradients_reach_connected_nodes_beyond_the_batch():
    _, users, items = loss_and_gradients(make(l2=0.0))
    assert np.isfinite(users).all()
    assert np.isfinite(items).all()
    assert np.flatnonzero(users.any(1)).tolist() == [0, 1, 3]
    assert np.flatnonzero(items.any(1)).tolist() == [1, 2, 3, 5, 7]  # 3 is a negative


def test_nothing_real_is_no_loss():
    value, users, items = loss_and_gradients(make(), real=np.zeros_like(REAL))
    assert value == 0
    assert not users.any()
    assert not items.any()


def test_ranking_loss_of_outputs_is_the_training_loss_without_l2():
    model = make(l2=0.0)
    value, *_ = loss_and_gradients(model)
    hidden = model(PAIRS, PAIRS, PAIRS)
    assert float(model.loss(hidden, POSITIVES, NEGATIVES, REAL)) == pytest.approx(value, rel=1e-5)


def test_a_step_propagates_once(monkeypatch):
    calls = []
    monkeypatch.setattr(lightgcn, "spmm", lambda graph, x: calls.append(x) or x)
    loss_and_gradients(make())
    assert len(calls) == 3


def test_numbering_does_not_matter():
    """With users and items renumbered, and their embeddings with them."""
    model, rng = make(), np.random.default_rng(0)
    users = rng.permutation(NUM_USERS)
    items = np.append(0, 1 + rng.permutation(NUM_ITEMS))
    graph = bipartite_graph(users[USERS], items[ITEMS], NUM_USERS, NUM_ITEMS + 1)
    other = LightGCN(graph, NUM_USERS, NUM_ITEMS, dim=DIM, rngs=nnx.Rngs(1))
    for table, order in (("user_embedding", users), ("item_embedding", items)):
        rows = getattr(model, table).embedding[...]
        getattr(other, table).embedding[...] = jnp.zeros_like(rows).at[order].set(rows)
    for one, two, order in zip(model.propagate(), other.propagate(), (users, items), strict=True):
        np.testing.assert_allclose(one, two[order], atol=1e-6)


def test_a_graph_without_edges():
    graph = bipartite_graph([], [], 2, 4)
    model = LightGCN(graph, 2, 3, dim=DIM, rngs=nnx.Rngs(0))
    for final, own in zip(model.propagate(), initial(model), strict=True):
        np.testing.assert_allclose(final, own / 4, rtol=1e-6)


def test_a_dozen_users_are_learnt():
    """Their items rank above all others, and the loss falls to nearly nothing."""
    rng = np.random.default_rng(0)
    seen = np.stack([rng.choice(30, 4, replace=False) + 1 for _ in range(12)])
    users = np.repeat(np.arange(12), 4)[:, None]
    graph = bipartite_graph(users[:, 0], seen.ravel(), 12, 31)
    model = LightGCN(graph, 12, 30, dim=16, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, Constant)
    unseen = np.stack([np.setdiff1d(np.arange(1, 31), row) for row in seen])
    optimizer = optax.adam(0.05)

    @jax.jit
    def train(params, rest):
        def loss(params, key):
            choice = jax.random.randint(key, users.shape, 0, unseen.shape[1])
            negatives = jnp.asarray(unseen)[users, choice][..., None]
            model = nnx.merge(graphdef, params, rest)
            tokens = users, users, users
            return model.training_loss(tokens, seen.reshape(-1, 1), negatives, users >= 0)

        def step(carry, key):
            value, gradients = jax.value_and_grad(loss)(carry[0], key)
            updates, state = optimizer.update(gradients, carry[1])
            return (optax.apply_updates(carry[0], updates), state), value

        keys = jax.random.split(jax.random.key(0), 200)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)

    (params, _), values = train(params, rest)
    assert values[0] > 0.6
    assert values[-10:].mean() < 0.05
    model = nnx.merge(graphdef, params, rest)
    everyone = np.arange(12)[:, None]
    best = jax.lax.top_k(model.scores(model(everyone, everyone, everyone)[:, 0]), 4)[1] + 1
    np.testing.assert_array_equal(np.sort(best), np.sort(seen))


@pytest.mark.parametrize("options", [{}, {"std": 1e-4}])
def test_initial_scale(options):
    graph = bipartite_graph([0], [1], 100, 201)
    model = LightGCN(graph, 100, 200, **options, rngs=nnx.Rngs(0))
    for table in initial(model):
        assert table.std() == pytest.approx(options.get("std", 0.1), rel=0.1)


def test_bad_settings():
    graph = bipartite_graph([0], [1], 2, 3)
    with pytest.raises(ValueError, match=r"num_users \+ num_items \+ 1 = 6 nodes, got 5"):
        LightGCN(graph, 2, 3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"num_blocks \+ 1 = 4 numbers, got 2"):
        LightGCN(graph, 2, 2, layer_weights=(0.5, 0.5), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must be bpr or bce, got softmax"):
        loss_and_gradients(make(loss="softmax"))
