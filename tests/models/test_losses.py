"""Losses by hand, and those that are computed in chunks against dense ones."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from models.backbone import Constant
from models.distillation import dkd
from models.layers import losses
from tests.models.helpers import CLASSES, DIM, NUM_ITEMS, array, make, softplus

CALIBRATION = 0.6


def random_targets(count: int):
    """Outputs, positives, negatives that differ from them, and which tokens are real."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 3, DIM)).astype(np.float32)
    positives = rng.integers(1, NUM_ITEMS + 1, (2, 3))
    negatives = (positives[..., None] + rng.integers(0, NUM_ITEMS - 1, (2, 3, count))) % NUM_ITEMS
    return hidden, positives, negatives + 1, np.array([[1, 0, 1], [1, 1, 0]]) > 0


SHARES = np.arange(NUM_ITEMS + 1) / np.arange(NUM_ITEMS + 1).sum()
"""The probability with which each item is drawn by popularity, padding's first."""


def by_hand(
    name: str, scores: np.ndarray, positive: int, negatives: list[int], shares: np.ndarray
) -> float:
    """The loss at one token; column ``i`` of scores is item ``i``, and item 0 is padding."""
    if name == "softmax":
        return logsumexp(scores[1:]) - scores[positive]
    if name == "sampled-softmax":
        rest = [np.exp(scores[n]) / shares[n] for n in negatives if n != positive]
        rest = np.sum(rest) / len(negatives)
        return np.log(np.exp(scores[positive]) + rest) - scores[positive]
    if name == "gbce":
        alpha = len(negatives) / (NUM_ITEMS - 1)
        power = alpha * (CALIBRATION * (1 - 1 / alpha) + 1 / alpha)
        chosen = (1 / (1 + np.exp(-scores[positive]))) ** power
        others = [np.log(1 - 1 / (1 + np.exp(-scores[n]))) for n in negatives]
        return -(np.log(chosen) + np.sum(others)) / (1 + len(negatives))
    if name == "bce":
        terms = [softplus(scores[n]) for n in negatives]
        return softplus(-scores[positive]) + np.mean(terms)
    return np.mean([softplus(scores[n] - scores[positive]) for n in negatives])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("name", "negatives_of", "popular"),
    [
        ("bce", "tokens", False),
        ("bpr", "tokens", False),
        ("gbce", "tokens", False),
        ("softmax", "tokens", False),
        ("sampled-softmax", "step", False),
        ("sampled-softmax", "step", True),
        ("sampled-softmax", "tokens", False),
        ("sampled-softmax", "tokens", True),
    ],
)
def test_losses_by_hand(name, negatives_of, popular, count):
    model = make("mf-bpr", loss=name)
    model.calibration = CALIBRATION
    hidden, positives, negatives, real = random_targets(count)
    if name == "sampled-softmax":
        negatives[0, 0, 0] = positives[0, 0]  # a collision
    if shared := negatives_of == "step":
        negatives = np.array([positives[0, 0], 2, 9])[:count]  # the first collides
    shares = np.full(NUM_ITEMS + 1, 1 / NUM_ITEMS)
    if popular:
        shares = SHARES
        with np.errstate(divide="ignore"):
            model.log_shares = Constant(jnp.asarray(np.log(SHARES)))
    value = jax.jit(model.loss)(hidden, positives, negatives, real)
    scores = (hidden @ array(model.item_embedding.embedding).T).astype(np.float64)
    want = [
        by_hand(name, scores[c], positives[c], list(negatives if shared else negatives[c]), shares)
        for c in zip(*np.nonzero(real), strict=True)
    ]
    assert float(value) == pytest.approx(np.mean(want), rel=1e-5)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_sampled_softmax_of_every_item_is_the_softmax_over_items(name):
    """Every item drawn once, so that there is nothing to correct; in any order."""
    model = make(name, loss="sampled-softmax")
    _, positives, _, real = random_targets(1)
    width = DIM * (2 if name.startswith("stosa") else 1)
    hidden = np.random.default_rng(1).normal(size=(2, 3, width)).astype(np.float32)
    scores = np.asarray(model.scores(hidden.reshape(6, width)), np.float64).reshape(2, 3, -1)
    positive = np.take_along_axis(scores, positives[..., None] - 1, -1)[..., 0]
    want = (logsumexp(scores, axis=-1) - positive)[real].mean()
    everything = np.random.default_rng(2).permutation(NUM_ITEMS) + 1
    assert float(model.loss(hidden, positives, everything, real)) == pytest.approx(want, rel=1e-5)


@pytest.mark.lenient  # NumPy arrays work outside jit, too
@pytest.mark.parametrize("popular", [False, True])
def test_sampled_softmax_estimates_the_softmax(popular):
    """The more draws the closer; and the draws' sum is estimated without bias."""
    rng = np.random.default_rng(0)
    shares = SHARES[1:] if popular else np.full(NUM_ITEMS, 1 / NUM_ITEMS)
    scores, positive = rng.normal(size=NUM_ITEMS), 4
    full = logsumexp(scores) - scores[positive]

    def estimates(count: int) -> np.ndarray:
        drawn = rng.choice(NUM_ITEMS, (400, count), p=shares)
        top = np.full(400, scores[positive])
        return np.asarray(
            losses.sampled_softmax(top, scores[drawn], drawn == positive, np.log(shares[drawn])),
            np.float64,
        )

    few, many = estimates(20), estimates(2000)
    assert many.mean() == pytest.approx(full, abs=0.01)
    assert np.abs(many - full).max() < 0.15 < np.abs(few - full).max()
    odds = np.expm1(few)  # (the sum over other items) / exp s⁺
    assert odds.mean() == pytest.approx(np.expm1(full), abs=5 * odds.std() / 20)


def test_sampled_softmax_whose_draws_all_collide_is_zero():
    value = losses.sampled_softmax(jnp.array([2.0]), jnp.ones((1, 3)), jnp.ones((1, 3)) > 0, -2.2)
    assert value.tolist() == [0]


TOKENS, COLUMNS = 11, 7
MASKS = np.stack([np.ones(TOKENS), np.zeros(TOKENS), np.arange(TOKENS) % 3 == 1]) > 0


def arrays(seed: int) -> list[np.ndarray]:
    """Outputs, vectors, bias and targets."""
    rng = np.random.default_rng(seed)
    floats = [rng.normal(size=s).astype(np.float32) for s in ((TOKENS, 3), (COLUMNS, 3), COLUMNS)]
    return [*floats, rng.integers(0, COLUMNS, TOKENS)]


def dense(hidden, vectors, bias, targets, real):
    """Twice the loss, so that the gradient that comes from above is not one."""
    logits = hidden @ vectors.T + bias
    values = jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(targets)), targets]
    return 2 * jnp.where(real, values, 0).sum() / jnp.maximum(real.sum(), 1)


def chunked(*arguments):
    return 2 * losses.softmax(*arguments)


def check_cases(cases, got, want):
    """Values and gradients of each case of `MASKS` alone, and of all together under vmap."""
    compiled, stacked = jax.jit(got), jax.tree.map(lambda *a: np.stack(a), *cases)
    one_by_one = jax.tree.map(lambda *a: np.stack(a), *(compiled(*case) for case in cases))
    together, want = (jax.jit(jax.vmap(f))(*stacked) for f in (got, want))
    for result in (one_by_one, together):
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)
            assert a[0].any()
            assert not a[1].any()  # nothing is real


@pytest.mark.parametrize("chunk", [4, 256])
def test_softmax_equals_a_dense_one_with_its_gradients(monkeypatch, chunk):
    """Every token real, none and some; one by one, and together under vmap."""
    monkeypatch.setattr(losses, "TOKENS_PER_CHUNK", chunk)
    cases = [(*arrays(seed), mask) for seed, mask in enumerate(MASKS)]
    check_cases(cases, *(jax.value_and_grad(loss, (0, 1, 2)) for loss in (chunked, dense)))


def test_softmax_never_holds_the_scores_of_all_tokens():
    """XLA plans them for the dense form, and not for ours."""
    tokens, items, dim = 4096, 3000, 8
    floats = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((tokens, dim), (items, dim), (items,))]
    whole = [jax.ShapeDtypeStruct((tokens,), kind) for kind in (jnp.int32, bool)]
    ours, plain = (
        jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*floats, *whole).compile()
        for loss in (losses.softmax, dense)
    )
    scores = 4 * tokens * items
    assert plain.memory_analysis().temp_size_in_bytes >= scores
    assert ours.memory_analysis().temp_size_in_bytes < scores / 4


def taught(scores, known, targets):
    parts = dkd(scores, known, targets, 2.0)
    return parts.target + 3 * parts.others


def dense_taught(student, teacher, targets, real):
    scores, known = (hidden @ vectors.T + bias for hidden, vectors, bias in (student, teacher))
    values = taught(scores, known, targets)
    return 2 * jnp.where(real, values, 0).sum() / jnp.maximum(real.sum(), 1)


def chunked_taught(*arguments):
    return 2 * losses.mean_over_scores(taught, *arguments)


@pytest.mark.parametrize("chunk", [4, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_a_loss_of_two_models_scores_equals_a_dense_one_with_its_gradients(monkeypatch, chunk):
    monkeypatch.setattr(losses, "TOKENS_PER_PAIR_OF_CHUNKS", chunk)
    cases = [
        (tuple(student), tuple(teacher[:3]), targets, mask)
        for seed, mask in enumerate(MASKS)
        for *student, targets in [arrays(seed)]
        for teacher in [arrays(seed + len(MASKS))]
    ]
    got, want = (jax.value_and_grad(loss) for loss in (chunked_taught, dense_taught))
    check_cases(cases, got, want)

    (hidden, *rest), teacher, targets, real = cases[2]
    spoilt = np.where(real[:, None], hidden, np.float32(np.nan))
    chex.assert_trees_all_equal(
        got((spoilt, *rest), teacher, targets, real), got((hidden, *rest), teacher, targets, real)
    )
    of_teacher = jax.grad(chunked_taught, 1)(*cases[0])
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_teacher))


def test_softmax_survives_large_scores():
    hidden, vectors = np.full((2, 1), 300.0, np.float32), np.array([[1.0], [-1.0]], np.float32)
    arguments = hidden, vectors, np.zeros(2, np.float32), np.array([0, 1]), np.ones(2, bool)
    value, gradients = jax.jit(jax.value_and_grad(losses.softmax, (0, 1, 2)))(*arguments)
    assert float(value) == pytest.approx(300)  # 0 and 600
    assert all(np.isfinite(leaf).all() for leaf in gradients)


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_what_is_not_real_does_not_matter():
    """Not even if it is no number."""
    rng = np.random.default_rng(0)
    hidden, vectors = (
        rng.standard_normal((600, 4), np.float32),
        rng.standard_normal((9, 4), np.float32),
    )
    targets, real = rng.integers(0, 9, 600), np.arange(600) < 200

    def gradients(hidden):
        loss = jax.value_and_grad(losses.softmax, (0, 1, 2))
        return loss(jnp.asarray(hidden), jnp.asarray(vectors), jnp.zeros(9), targets, real)

    spoilt = hidden.copy()
    spoilt[200], spoilt[500] = np.inf, np.nan
    chex.assert_trees_all_equal(gradients(spoilt), gradients(hidden))
