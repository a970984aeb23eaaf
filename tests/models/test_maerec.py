"""MAERec against dense matrices, sets of edges and loops over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf, expit
from scipy.special import softmax as softmax_of

import sevo_jax
from models import MAERec
from models.edges import MASK_LEVELS, edges_of
from tests.models.helpers import (
    AMONG_OTHERS,
    DIM,
    EXAMPLES,
    MAX_LEN,
    NUM_ITEMS,
    PACKED,
    PADDED,
    ROWS,
    WIDTH,
    array,
    assert_uniform,
    drop_some,
    fix_dropout,
    linear,
    norm,
)
from tests.models.training import compile_gradients, randomize, types

pytestmark = pytest.mark.slow

NODES, EPS = NUM_ITEMS + 1, 1e-5
SEQUENCES = [[1, 2, 3, 4, 5], [6, 3, 7], [8, 9], [2, 10, 8, 2], [4, 4, 6], [11]]  # 12: in none
GRAPH = sevo_jax.sequence_graph(SEQUENCES, NODES, walk_length=3)
SMALL = {"max_len": MAX_LEN, "dim": DIM, "num_heads": 2, "num_seeds": 2, "num_negatives": 4}


def binary() -> np.ndarray:
    """The graph with self-edges, dense."""
    a = np.eye(NODES)
    for s in SEQUENCES:
        for i in range(len(s)):
            for j in range(i + 1, min(i + 4, len(s))):
                a[s[i], s[j]] = a[s[j], s[i]] = 1
    return a


def normalized(a: np.ndarray) -> np.ndarray:
    out = np.zeros_like(a)
    for i, j in np.argwhere(a):
        out[i, j] = a[i, j] / np.sqrt(a[i].sum() * a[j].sum())
    return out


ENTRIES = np.argwhere(binary())
EDGES = edges_of(GRAPH)


def dense(values: np.ndarray) -> np.ndarray:
    """A matrix from the values of the entries."""
    out = np.zeros((NODES, NODES))
    out[tuple(ENTRIES.T)] = np.asarray(values, np.float64)
    return out


def make(std: float = 0.5, **options) -> MAERec:
    model = MAERec(NUM_ITEMS, GRAPH, **{**SMALL, **options}, rngs=nnx.Rngs(0))
    return randomize(model, std)


def smoothed(model: MAERec, operator: np.ndarray) -> list[np.ndarray]:
    layers = [array(model.item_embedding.embedding)]
    for _ in range(model.num_layers):
        layers.append(operator @ layers[-1])
    return layers


def uniform(key: jax.Array, *shape: int) -> np.ndarray:
    return np.asarray(jax.random.uniform(key, shape))


def call(model: MAERec, inputs, key=None) -> np.ndarray:
    graphdef, state = nnx.split(model)
    return np.asarray(
        jax.jit(lambda s: nnx.merge(graphdef, s, copy=True)(*inputs.tokens, key))(state)
    )


# The graph.


def test_graph_ignores_weights_and_has_every_self_edge():
    np.testing.assert_array_equal(np.asarray(EDGES.rows), ENTRIES[:, 0])
    np.testing.assert_array_equal(EDGES.graph.operator.indices, ENTRIES[:, 1])
    np.testing.assert_array_equal(ENTRIES[np.asarray(EDGES.mirror)], ENTRIES[:, ::-1])
    np.testing.assert_allclose(dense(EDGES.graph.operator.data), normalized(binary()), atol=1e-6)
    again = edges_of(EDGES.graph)  # self-edges that are there do not count twice
    np.testing.assert_allclose(again.graph.operator.data, EDGES.graph.operator.data, rtol=1e-6)


def test_degrees_and_normalisation_of_what_is_kept():
    symmetric = np.random.default_rng(0).random((NODES, NODES)) < 0.4
    symmetric = np.triu(symmetric) | np.triu(symmetric).T
    symmetric[5] = symmetric[:, 5] = False
    kept = symmetric[tuple(ENTRIES.T)]
    a = binary() * symmetric
    np.testing.assert_array_equal(EDGES.degrees(kept), a.sum(1))
    values = dense(EDGES.normalized(kept))
    np.testing.assert_allclose(values, normalized(a), atol=1e-6)
    assert not values[5].any()


def test_product_and_its_gradient_need_no_symmetry():
    rng = np.random.default_rng(0)
    kept = rng.random(len(ENTRIES)) < 0.5
    x, g = rng.normal(size=(2, NODES, 3)).astype(np.float32)
    y, pull = jax.vjp(lambda x: EDGES.product(kept, x), x)
    np.testing.assert_allclose(y, dense(kept) @ x, atol=1e-5)
    np.testing.assert_allclose(pull(g)[0], dense(kept).T @ g, atol=1e-5)


# The mask.


def remaining(seeds: set[int], path_rate: float, key: jax.Array) -> set[tuple[int, int]]:
    """The edges that are left, level by level."""
    left = {(int(u), int(v)) for u, v in ENTRIES}
    for k, level_key in enumerate(jax.random.split(key, MASK_LEVELS), start=1):
        removed = {(u, v) for u, v in left if u in seeds or v in seeds}
        left -= removed
        ends = {node for edge in removed for node in edge}
        chance = uniform(level_key, NODES)
        in_order = sorted(ends, key=lambda node: -chance[node])
        seeds = set(in_order[: int(path_rate**k * len(ends))])
    return left


@pytest.mark.parametrize("path_rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [[], [3], [12, 8], list(range(NODES))], ids=str)
def test_paths_are_removed(seeds, path_rate):
    is_seed = np.isin(np.arange(NODES), seeds)
    for seed in range(5):
        key = jax.random.key(seed)
        kept = np.asarray(EDGES.without_paths(is_seed, path_rate, key))
        want = remaining(set(seeds), path_rate, key)
        assert {(int(u), int(v)) for u, v in ENTRIES[kept]} == want
        matrix = dense(kept)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert not matrix[is_seed].any()
        if path_rate == 0:
            assert matrix[~is_seed][:, ~is_seed].sum() == binary()[~is_seed][:, ~is_seed].sum()


def make_seed_scores(path_rate: float, key: jax.Array) -> Callable[[np.ndarray], np.ndarray]:
    """The scores of all nodes as a function of the table."""
    graphs = [binary()]
    for k, level_key in enumerate(jax.random.split(key, MASK_LEVELS), start=1):
        graphs.append(graphs[-1] * dense(uniform(level_key, len(ENTRIES)) < path_rate**k))

    def scores(e: np.ndarray) -> np.ndarray:
        order = graphs[0].sum(1, keepdims=True)
        m, n = [graphs[0] @ e - e], [order]
        for a in graphs[1:]:
            m.append(a @ m[-1] - m[-1] - order * m[-1])
            n.append(a @ n[-1] - n[-1] - order)
            order = a.sum(1, keepdims=True)
        around = sum(m) / (sum(n) + 1e-8)
        lengths = np.linalg.norm(around, axis=1) * np.linalg.norm(e, axis=1)
        return np.where(lengths > 0, (around * e).sum(1) / np.where(lengths > 0, lengths, 1), 0)

    return scores


@pytest.mark.parametrize("path_rate", [0.5, 1.0])
def test_seed_scores(path_rate):
    model, key = make(path_rate=path_rate), jax.random.key(3)
    want = make_seed_scores(path_rate, key)(array(model.item_embedding.embedding))
    np.testing.assert_allclose(model.seed_scores(key), want, atol=1e-4)


def test_a_new_mask_touches_as_many_seeds_as_asked_for():
    model = make(path_rate=0.0, num_seeds=3)
    _, mask = jax.jit(model.draw_mask)(jax.random.key(0))
    a = dense(np.asarray(mask) > 0)
    np.testing.assert_allclose(dense(mask), normalized(a), atol=1e-6)
    assert (a.sum(1) == 0).sum() == 3  # without self-edges, no other node loses all


def test_seeds_follow_scores_and_noise():
    model = make(num_seeds=1)
    draw = jax.jit(lambda key: model.draw_mask(key)[1])
    key = jax.random.key(5)
    score_key, noise_key, path_key = jax.random.split(key, 3)
    noise = jax.random.gumbel(noise_key, (NODES,))
    best = int(np.argmax(np.asarray(model.seed_scores(score_key) + noise)))
    left = remaining({best}, 0.5, path_key)
    assert {(int(u), int(v)) for u, v in ENTRIES[np.asarray(draw(key)) > 0]} == left


# The autoencoder.


def decode(model: MAERec, layers: list[np.ndarray], u: int, v: int) -> float:
    x = np.concatenate([layers[i][u] * layers[j][v] for i in (0, 1) for j in (0, 1)])
    for layer in model.decoder[:-1]:
        x = np.maximum(linear(layer, x), 0)
    return float(np.exp(expit(linear(model.decoder[-1], x)))[0])


@pytest.mark.parametrize("num_edges", [5, 2048])
def test_reconstruction(num_edges):
    model, key = make(num_edges=num_edges), jax.random.key(1)
    kept = np.asarray(EDGES.without_paths(np.arange(NODES) == 3, 0.5, jax.random.key(0)))
    removed = int((~kept).sum())
    assert 5 < removed < len(ENTRIES)
    mask = EDGES.normalized(kept)
    layers = smoothed(model, dense(mask))
    sample_key, negative_key = jax.random.split(key)
    chance = uniform(sample_key, len(ENTRIES))
    chosen = sorted(np.flatnonzero(~kept), key=lambda edge: -chance[edge])[:num_edges]
    assert len(chosen) == min(num_edges, removed)
    shape = (2, min(num_edges, len(ENTRIES)), 2)
    others = np.asarray(jax.random.randint(negative_key, shape, 1, NODES))
    want = 0.0
    for at, edge in enumerate(chosen):
        u, v = ENTRIES[edge]
        positive = decode(model, layers, u, v)
        negative = [decode(model, layers, other, v) for other in others[0, at]]
        negative += [decode(model, layers, u, other) for other in others[1, at]]
        want -= positive / (positive + sum(negative) + 1e-8)
    value = model.reconstruction(mask, model.smoothed(mask)[:-1], key)
    assert float(value) == pytest.approx(want, rel=1e-4)


def test_nothing_removed_is_nothing_to_restore():
    model = make()
    mask = EDGES.graph.operator.data
    assert model.reconstruction(mask, model.smoothed(mask)[:-1], jax.random.key(0)) == 0


# The transformer.


def transformer(
    model: MAERec,
    table: np.ndarray,
    items: np.ndarray,
    rates: tuple[float, float] | None = None,
    start: int = 0,
) -> np.ndarray:
    """The outputs over one sequence.

    In training the rates are those of dropout, and of attention's, of keys whose columns in the
    row begin at ``start``.
    """
    drop, (rate, attention_rate) = drop_some, rates or (0, 0)
    if rates is None:
        drop = lambda x, rate: x  # noqa: E731
    x = table[items] + array(model.position_embedding.embedding)[MAX_LEN - len(items) :]
    outputs = [drop(norm(model.norm, x, EPS), rate)]
    for block in model.blocks:
        x = outputs[-1]
        q, k, v = linear(block.query, x), linear(block.key, x), linear(block.value, x)
        mixed = np.zeros_like(v)
        for head in np.split(np.arange(DIM), block.num_heads):
            for i in range(len(items)):
                p = np.zeros(start + i + 1)
                p[start:] = softmax_of(k[: i + 1, head] @ q[i, head] / np.sqrt(head.size))
                mixed[i, head] = drop(p, attention_rate)[start:] @ v[: i + 1, head]
        a = norm(block.attention_norm, drop(linear(block.out, mixed), rate) + x, EPS)
        inner = linear(block.inner, a)
        gelu = inner * (1 + erf(inner / np.sqrt(2))) / 2
        outer = drop(linear(block.outer, gelu), rate)
        outputs.append(norm(block.feed_forward_norm, outer, EPS))
    return sum(outputs)


@pytest.mark.parametrize(
    "inputs", [PACKED, PADDED, AMONG_OTHERS], ids=["packed", "padded", "neighbours"]
)
def test_evaluation_against_a_transformer_over_single_sequences(inputs):
    model = make()
    table = sum(smoothed(model, normalized(binary())))
    hidden = call(model, inputs)
    for place, example in zip(inputs.places, EXAMPLES, strict=True):
        want = transformer(model, table, example.items)
        np.testing.assert_allclose(hidden[place], want, atol=1e-4)
    some = hidden[inputs.places[0]]
    np.testing.assert_allclose(model.scores(some), some @ table[1:].T, atol=1e-3)


# A step of training.


def test_training_smooths_over_the_masked_graph(monkeypatch):
    """The loss is that of a transformer over the masked graph, and so are the scored vectors.

    The mask of dropout is known, so that the test sees the places and rates of dropout.
    """
    fix_dropout(monkeypatch, "maerec", "layers.attention")
    rates = 0.2, 0.4
    options = {"recon_weight": 0.0, "l2": 0.0, "loss": "softmax", "mask_steps": 2}
    model = make(dropout_rate=rates[0], attention_dropout_rate=rates[1], **options)
    model.training_loss(PACKED.tokens, *PACKED.targets, jax.random.key(0))  # draws the mask
    value = float(model.training_loss(PACKED.tokens, *PACKED.targets, jax.random.key(1)))
    operator = dense(model.mask[...])
    assert (operator == 0).sum() > (normalized(binary()) == 0).sum()
    table = sum(smoothed(model, operator))
    losses = []
    for place, example in zip(PACKED.places, EXAMPLES, strict=True):
        hidden = transformer(model, table, example.items, rates, place[1].start)
        chances = softmax_of(hidden @ table[1:].T, axis=-1)
        chances = chances[np.arange(len(hidden)), example.positives - 1]
        losses += list(-np.log(chances)[example.real])
    assert value == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_loss_and_its_parts():
    model, key = make(recon_weight=0.3, l2=0.01), jax.random.key(0)
    mask_key, edges_key, dropout_key = jax.random.split(key, 3)
    value = model.training_loss(PACKED.tokens, *PACKED.targets, key)
    layers, seed_score = model.smoothed(model.mask[...]), model.draw_mask(mask_key)[0]
    masked = model.with_table(sum(layers))
    ranking = masked.loss(masked(*PACKED.tokens, dropout_key), *PACKED.targets)
    reconstruction = model.reconstruction(model.mask[...], layers[:-1], edges_key)
    squares = sum((array(leaf) ** 2).sum() for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    want = ranking + 0.3 * reconstruction + 0.01 * squares - seed_score
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    ranking = model.loss(model(*PACKED.tokens), *PACKED.targets)
    want = float(ranking + 0.01 * squares)
    value = model.training_loss(PACKED.tokens, *PACKED.targets)
    assert float(value) == pytest.approx(want, rel=1e-5)


def test_the_reward_reaches_the_embeddings():
    """The loss is minus the mean score of the nodes if nothing is ranked nor restored.

    Its gradient is that of the formula, by differences in float64.
    """
    model, key = make(recon_weight=0.0, l2=0.0, num_blocks=0), jax.random.key(3)
    nothing = jax.tree.map(np.zeros_like, PACKED.targets)
    value, gradients, _ = compile_gradients(model)(PACKED.tokens, nothing, key)
    mask_key, *_ = jax.random.split(key, 3)
    scores = make_seed_scores(0.5, jax.random.split(mask_key, 3)[0])
    e, step = array(model.item_embedding.embedding), 1e-5
    want = np.zeros_like(e)
    for at in np.ndindex(e.shape):
        change = np.zeros_like(e)
        change[at] = step
        want[at] = (scores(e - change) - scores(e + change)).mean() / (2 * step)
    assert value == pytest.approx(-scores(e).mean(), abs=1e-5)
    assert np.abs(want).max() > 0.02
    np.testing.assert_allclose(
        gradients["['item_embedding']['embedding'].value"], want, atol=1e-4, rtol=1e-3
    )


def reward_of(history: list[float]) -> float:
    """Computes the reward from the losses since the step of the last mask, which is included."""
    if len(history) < 3:
        return 1.0
    drops = [a - b for a, b in pairwise(history)]
    return 1.0 if drops[-1] > sum(drops[:-1]) / len(drops[:-1]) else 0.2


@pytest.mark.parametrize("mask_steps", [1, 2, 3])
def test_the_reward_of_a_mask(mask_steps):
    model, history, rewards = make(mask_steps=mask_steps), [], []
    rankings = np.random.default_rng(0).uniform(1, 2, 10 * mask_steps)
    for step, ranking in enumerate(rankings):
        anew = step % mask_steps == 0
        model.calls[...] = jnp.array(step + 1)
        reward = model.reward(jnp.asarray(ranking, jnp.float32), jnp.array(anew))
        history.append(float(ranking))
        if anew:
            rewards.append(want := reward_of(history))
            history = history[-1:]
            assert float(reward) == pytest.approx(want)
    assert set(rewards) == ({1.0} if mask_steps < 2 else {0.2, 1.0})


def test_masks_last_for_so_many_steps():
    model = make(mask_steps=3)
    full = np.asarray(model.mask[...])
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(rest, key):
        model = nnx.merge(graphdef, params, rest, copy=True)
        model.training_loss(PACKED.tokens, *PACKED.targets, key)
        return nnx.split(model, nnx.Param, ...)[2]

    masks = []
    for i in range(7):
        rest = run(rest, jax.random.key(i))
        masks.append(np.asarray(nnx.merge(graphdef, params, rest).mask[...]))
    same = [np.array_equal(a, b) for a, b in zip([full, *masks], masks, strict=False)]
    assert same == [False, True, True, False, True, True, False]


def test_prepared_without_smoothing_scores_the_same(monkeypatch):
    model = make()
    before = nnx.split(model)[1]
    vectors, hidden = model.item_vectors()[0], call(model, PACKED)
    prepared = model.prepared()
    monkeypatch.setattr(sevo_jax, "spmm", lambda graph, x: pytest.fail("smoothed again"))
    np.testing.assert_allclose(prepared.item_vectors()[0], vectors, atol=1e-6)
    np.testing.assert_allclose(call(prepared, PACKED), hidden, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.split(model)[1])


def test_evaluation_changes_nothing():
    model = make()
    before = nnx.split(model)[1]
    model.training_loss(PACKED.tokens, *PACKED.targets)
    after = nnx.split(model)[1]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def alone(sequence: list[int]) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Tokens and targets of a batch of nothing but one sequence, of the shapes of `PACKED`."""
    size = len(sequence)
    items, segments, positions = np.zeros((3, ROWS, WIDTH), np.int32)
    items[0, WIDTH - size :], segments[0, WIDTH - size :] = sequence, 1
    positions[0, WIDTH - size :] = np.arange(MAX_LEN - size, MAX_LEN)
    negatives = np.full((ROWS, WIDTH, 2), 5)
    return (items, segments, positions), (items, negatives, segments > 0)


LITTLE = {"nothing": [], "one item": [3], "one item repeated": [3] * MAX_LEN}


@cache
def step_of_training() -> tuple[MAERec, Callable]:
    model = make(l2=0.0, recon_weight=0.5, loss="softmax")
    return model, compile_gradients(model)


def test_gradients_reach_every_parameter():
    """And are finite for items without neighbours, padding and lone items."""
    model, step = step_of_training()
    value, gradients, after = step(PACKED.tokens, PACKED.targets, jax.random.key(0))
    assert np.isfinite(value)
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert gradient.any(), path
        assert np.abs(gradient).max() < 1e4, path
    assert types(after) == types(model)


@pytest.mark.parametrize("name", LITTLE)
def test_gradients_are_finite_however_little_there_is(name):
    model, step = step_of_training()
    value, gradients, after = step(*alone(LITTLE[name]), jax.random.key(0))
    assert np.isfinite(value)
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() < 1e4, path
    assert types(after) == types(model)


def test_a_graph_without_edges():
    graph = sevo_jax.edge_graph([], [], NODES)
    model = MAERec(NUM_ITEMS, graph, **SMALL, rngs=nnx.Rngs(0))
    step = compile_gradients(model)
    for batch in ((PACKED.tokens, PACKED.targets), *map(alone, LITTLE.values())):
        value, gradients, _ = step(*batch, jax.random.key(0))
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        assert all(np.abs(gradient).max() < 1e4 for gradient in gradients.values())


@pytest.mark.parametrize("rated", ["dropout_rate", "attention_dropout_rate"])
def test_dropout(rated):
    off = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "num_seeds": 1, "path_rate": 0.0}
    plain, dropped = (call(make(**{**off, rated: r}), PACKED, jax.random.key(0)) for r in (0, 0.5))
    assert np.abs(plain - dropped)[0, :6].max() > 1e-2


def xavier(shape: tuple[int, int]) -> float:
    """The bound of Xavier's uniform distribution."""
    return np.sqrt(6 / sum(shape))


def test_initial_weights():
    """Every parameter is checked, so that none starts at another scale unnoticed."""
    model = MAERec(NUM_ITEMS, GRAPH, **SMALL, rngs=nnx.Rngs(0))
    checked = 0
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Linear):
            assert_uniform(module.kernel, xavier(module.kernel.shape), path)
            assert not module.bias[...].any(), path
        elif isinstance(module, nnx.LayerNorm):
            assert (module.scale[...] == 1).all(), path
            assert not module.bias[...].any(), path
        elif isinstance(module, nnx.Embed):
            assert_uniform(module.embedding, xavier(module.embedding.shape), path)
        else:
            continue  # its parts come by themselves
        checked += len(jax.tree.leaves(nnx.state(module)))
    assert checked == len(jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert model.decoder[0].kernel.shape == (4 * DIM, 2 * DIM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_items": 20}, r"graph must have num_items \+ 1 = 21 nodes, got one of 13"),
        ({"num_heads": 3}, "dim must be a multiple of num_heads, got 8 and 3"),
        ({"dropout_rate": 1.0}, r"dropout_rate must lie in \[0, 1\), got 1"),
        ({"recon_weight": 1.5}, r"recon_weight must lie in \[0, 1\], got 1.5"),
        ({"num_negatives": 3}, "num_negatives must be even and positive, got 3"),
        ({"mask_steps": 0}, "mask_steps must be at least 1, got 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MAERec(**{"num_items": NUM_ITEMS, "graph": GRAPH, **SMALL, **options}, rngs=nnx.Rngs(0))


def test_the_kernel_of_the_graph_is_kept():
    assert edges_of(dataclasses.replace(GRAPH, kernel="gather")).graph.kernel == "gather"
