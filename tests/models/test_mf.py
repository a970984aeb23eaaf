"""MF-BPR: two tables and a dot product."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from models import MFBPR
from tests.models.helpers import DIM, NUM_ITEMS, array, shared, softplus

USERS = np.array([[2], [0], [3]])


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_outputs_are_the_users_vectors_whatever_else_a_row_says():
    model = shared("mf-bpr")
    hidden = model(USERS, USERS, USERS)
    want = array(model.user_embedding.embedding)[USERS]
    np.testing.assert_allclose(hidden, want, rtol=1e-6)
    np.testing.assert_array_equal(hidden, model(USERS, 0 * USERS, 0 * USERS, jax.random.key(0)))


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_scores_are_dot_products():
    model = shared("mf-bpr")
    users, items = array(model.user_embedding.embedding), array(model.item_embedding.embedding)
    scores = model.scores(model(USERS, USERS, USERS)[:, 0])
    assert scores.shape == (3, NUM_ITEMS)
    np.testing.assert_allclose(scores, users[[2, 0, 3]] @ items[1:].T, atol=1e-5)


@pytest.mark.lenient  # NumPy arrays work outside jit, too
def test_loss_and_its_gradients_reach_the_rows_of_the_pairs_alone():
    graphdef, params = nnx.split(shared("mf-bpr"))
    positives, negatives = np.array([[5], [1], [5]]), np.array([[[7]], [[2]], [[9]]])
    real = np.array([[True], [True], [False]])

    def loss(params):
        model = nnx.merge(graphdef, params)
        return model.loss(model(USERS, USERS, USERS), positives, negatives, real)

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    users = array(params["user_embedding"]["embedding"])
    items = array(params["item_embedding"]["embedding"])
    margins = [users[2] @ (items[7] - items[5]), users[0] @ (items[2] - items[1])]
    assert float(value) == pytest.approx(softplus(np.array(margins)).mean(), rel=1e-5)
    reached = {
        name: set(np.flatnonzero(leaf["embedding"][...].any(1)).tolist())
        for name, leaf in gradients.items()
    }
    assert reached == {"user_embedding": {0, 2}, "item_embedding": {1, 2, 5, 7}}


def test_initial_scale():
    model = MFBPR(100, 200, dim=DIM, rngs=nnx.Rngs(0))
    for table in (model.user_embedding, model.item_embedding):
        assert array(table.embedding).std() == pytest.approx(1e-4, rel=0.1)
        assert abs(array(table.embedding).mean()) < 2e-5
