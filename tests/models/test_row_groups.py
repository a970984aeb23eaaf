"""Models that read rows in groups compute what they compute on padded ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import LESSR, SRGNN
from models.layers.groups import as_groups, by_group, flatten
from tests.models.training import compile_gradients, randomize

pytestmark = pytest.mark.slow

NUM_ITEMS, DIM = 12, 4
GROUPS = {
    7: [[5, 2, 5, 5, 3, 2], [9, 8, 9, 8, 9, 8, 9], []],
    5: [],
    3: [[1, 2, 3], [4, 4, 4], [7], [12], [6, 1], []],
}


def padded(sessions: list[list[int]], width: int) -> np.ndarray:
    rows = [[0] * (width - len(s)) + s for s in sessions]
    return np.array(rows, np.int32).reshape(-1, width)


def tokens(groups: list[np.ndarray]) -> tuple:
    """Items, segments and positions, as a model reads them."""
    return groups, [(g > 0).astype(np.int32) for g in groups], [np.zeros_like(g) for g in groups]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SRGNN, {"loss": "bpr"}),
        (LESSR, {"num_blocks": 2, "dropout_rate": 0.0}),
    ],
)
def test_loss_gradients_and_running_statistics(kind, options):
    model = kind(NUM_ITEMS, dim=DIM, **options, rngs=nnx.Rngs(0))
    step = compile_gradients(randomize(model))
    sessions = [session for group in GROUPS.values() for session in group]
    real = np.array([[bool(session)] for session in sessions])
    positives = np.array([[1 + 2 * len(session) % NUM_ITEMS] for session in sessions])
    targets, key = (positives, positives[..., None] % NUM_ITEMS + 1, real), jax.random.key(0)
    one = step(tokens([padded(group, width) for width, group in GROUPS.items()]), targets, key)
    other = step(tokens([padded(sessions, 9)]), targets, key)
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for path, gradient in one[1].items():
        assert gradient.any(), path
        np.testing.assert_allclose(gradient, other[1][path], rtol=1e-3, atol=1e-5, err_msg=path)
    after = [jax.tree.leaves(nnx.state(model, nnx.BatchStat)) for model in (one[2], other[2])]
    assert len(after[0]) == (2 * 4 if kind is LESSR else 0)
    for statistics in zip(*after, strict=True):
        np.testing.assert_allclose(*statistics, rtol=1e-5, atol=1e-6)


def test_one_array_is_one_group():
    array = np.zeros((2, 3))
    assert [group.shape for group in as_groups(array)] == [(2, 3)]
    assert [group.shape for group in as_groups((array, array[:1]))] == [(2, 3), (1, 3)]


def test_by_group():
    """A function of rows sees them as they were, and its results come in the order of groups."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(rows, width, 2)) for rows, width in ((2, 3), (0, 2), (4, 1))]
    assert flatten(groups).shape == (10, 2)
    seen = []

    def function(group, x, y):
        seen.append(x)
        np.testing.assert_allclose(y, 2 * group, rtol=1e-6)
        return x.sum(1)

    sums = by_group(function, groups, flatten(groups), 2 * flatten(groups))
    for x, group in zip(seen, groups, strict=True):
        np.testing.assert_allclose(x, group, rtol=1e-6)
    np.testing.assert_allclose(sums, np.concatenate([g.sum(1) for g in groups]), atol=1e-6)
    twice = by_group(lambda group, x: 2 * x, groups, flatten(groups))
    np.testing.assert_array_equal(twice, 2 * jnp.asarray(flatten(groups)))
