"""STOSA against Gaussians whose distances are written out pair by pair."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import softmax as softmax_of

from models import STOSA
from tests.models.helpers import (
    DIM,
    EXAMPLES,
    MAX_LEN,
    NUM_ITEMS,
    PACKED,
    array,
    elu,
    linear,
    norm,
    outputs,
    shared,
    softplus,
)

pytestmark = pytest.mark.slow

EPS = 1e-12
both_kinds = pytest.mark.parametrize("name", ["stosa", "stosa-published"])


def squared_distance(mean, covariance, other_mean, other_covariance) -> np.ndarray:
    """The squared 2-Wasserstein distance of Gaussians with diagonal covariances."""
    apart = (mean - other_mean) ** 2 + (np.sqrt(covariance) - np.sqrt(other_covariance)) ** 2
    return apart.sum(-1)


def split(layer: nnx.Linear, x: np.ndarray) -> list[np.ndarray]:
    """Queries and keys."""
    return np.split(linear(layer, x), 2, axis=1)


def stochastic_attention(model: STOSA, items: np.ndarray, published: bool):
    """Means and covariances of the outputs over one sequence."""
    first = MAX_LEN - len(items)
    mean = array(model.mean_embedding.embedding)[items]
    mean = elu(norm(model.mean_norm, mean + array(model.mean_position.embedding)[first:], EPS))
    covariance = array(model.covariance_embedding.embedding)[items]
    covariance = covariance + array(model.covariance_position.embedding)[first:]
    covariance = elu(norm(model.covariance_norm, covariance, EPS)) + 1
    for block in model.blocks:
        mean_query, mean_key = split(block.mean_query_key, mean)
        query, key = (elu(x) + 1 for x in split(block.covariance_query_key, covariance))
        value = elu(linear(block.covariance.value, covariance)) + 1
        mean_value = mean if published else linear(block.mean.value, mean)
        mixed, mean_mixed = np.zeros_like(value), np.zeros_like(value)
        for head in np.split(np.arange(DIM), block.num_heads):
            for i in range(len(items)):
                distances = np.array(
                    [
                        squared_distance(
                            mean_query[i, head], query[i, head], mean_key[j, head], key[j, head]
                        )
                        for j in range(i + 1)
                    ]
                )
                p = softmax_of(-distances / np.sqrt(head.size))
                mean_mixed[i, head] = p @ mean_value[: i + 1, head]
                mixed[i, head] = p**2 @ value[: i + 1, head]
        if not published:
            mean = stream(block.mean, mean_mixed, mean)
        covariance = elu(stream(block.covariance, mixed, covariance)) + 1
    return mean, covariance


def stream(layers, mixed: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Projection and feed-forward layer, each with a residual and a norm after it."""
    x = norm(layers.attention_norm, linear(layers.out, mixed) + x, EPS)
    inner = elu(linear(layers.inner, x))
    return norm(layers.feed_forward_norm, linear(layers.outer, inner) + x, EPS)


def item_gaussians(model: STOSA) -> tuple[np.ndarray, np.ndarray]:
    covariance = elu(array(model.covariance_embedding.embedding)) + 1
    return array(model.mean_embedding.embedding), covariance


@both_kinds
def test_against_explicit_distances(name):
    model, published = shared(name, num_blocks=2), name != "stosa"
    for hidden, example in zip(outputs(name, PACKED, num_blocks=2), EXAMPLES, strict=True):
        mean, covariance = stochastic_attention(model, example.items, published)
        np.testing.assert_allclose(hidden[:, :DIM], mean, atol=2e-5)
        np.testing.assert_allclose(hidden[:, DIM:] ** 2, covariance, atol=2e-5)


@both_kinds
def test_published_blocks_have_no_layers_for_means(name):
    assert all((block.mean is None) == (name != "stosa") for block in shared(name).blocks)


def random_hidden(*shape: int) -> np.ndarray:
    """Means and deviations."""
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=(*shape, DIM)), rng.uniform(0.1, 2, (*shape, DIM))
    return np.concatenate([mean, deviation], axis=-1).astype(np.float32)


def distances_to(model: STOSA, hidden: np.ndarray) -> np.ndarray:
    """From every output to every row of the tables."""
    hidden = hidden.astype(np.float64)
    mean, covariance = hidden[..., None, :DIM], hidden[..., None, DIM:] ** 2
    return squared_distance(mean, covariance, *item_gaussians(model))


def test_scores_are_squared_distances_but_for_a_constant_of_the_user():
    model, hidden = shared("stosa"), random_hidden(3)
    want = -distances_to(model, hidden)[:, 1:]
    scores = np.asarray(model.scores(hidden), np.float64)
    shift = scores - want
    np.testing.assert_allclose(shift, np.tile(shift[:, :1], NUM_ITEMS), atol=2e-5)
    items = np.array([4, 1, NUM_ITEMS])
    np.testing.assert_allclose(model.score(hidden, items), want[range(3), items - 1], rtol=1e-5)


def bpr_and_hinge(model: STOSA, hidden, positives, negatives) -> tuple[np.ndarray, np.ndarray]:
    """At each token: the ranking loss, and the hinge averaged over the negatives."""
    distances = distances_to(model, hidden)
    to_positive = np.take_along_axis(distances, positives[..., None], -1)
    to_negative = np.take_along_axis(distances, negatives, -1)
    mean, covariance = item_gaussians(model)
    between = squared_distance(
        mean[positives][..., None, :],
        covariance[positives][..., None, :],
        mean[negatives],
        covariance[negatives],
    )
    hinge = np.maximum(0, to_positive - between)
    return softplus(to_positive - to_negative).mean(-1), hinge.mean(-1)


@pytest.mark.parametrize("count", [1, 3])
def test_loss_has_a_hinge_between_positive_and_negatives(count):
    model, hidden = shared("stosa"), random_hidden(2, 3)
    rng = np.random.default_rng(1)
    positives, real = rng.integers(1, NUM_ITEMS, (2, 3)), np.array([[1, 0, 1], [1, 1, 0]]) > 0
    negatives = rng.integers(1, NUM_ITEMS, (2, 3, count))
    # Near the positives, or every distance to them would be larger than to the negatives.
    near = model.gaussians(positives[1])
    hidden[1] = near + 0.3 * (hidden[1] - near)
    ranking, hinge = bpr_and_hinge(model, hidden, positives, negatives)
    assert hinge[real].min() == 0 < hinge[real].max()
    for weight in (0.0, 0.3):
        model.pvn_weight = weight
        loss = jax.jit(model.loss)(hidden, positives, negatives, real)
        want = ranking[real].mean() + weight * hinge[real].mean()
        assert float(loss) == pytest.approx(want, rel=1e-5)


def test_initial_weights():
    model = STOSA(300, dim=16, rngs=nnx.Rngs(0))
    for weight in (model.mean_embedding.embedding, model.blocks[0].covariance.inner.kernel):
        assert array(weight).mean() == pytest.approx(0.01, abs=0.002)
        assert array(weight).std() == pytest.approx(0.02, rel=0.1)


def test_bad_settings():
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 8 and 3"):
        STOSA(9, dim=8, num_heads=3, rngs=nnx.Rngs(0))
    for name in ("dropout_rate", "attention_dropout_rate"):
        with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, 1\), got 1"):
            STOSA(9, **{name: 1.0}, rngs=nnx.Rngs(0))
