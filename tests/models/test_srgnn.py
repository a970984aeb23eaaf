"""SR-GNN against session graphs of dictionaries and loops in float64."""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit as sigmoid
from scipy.special import log_softmax

from models import SRGNN
from models.srgnn import session_graph
from tests.models.helpers import (
    DIM,
    NUM_ITEMS,
    WIDTH,
    Inputs,
    array,
    forward,
    linear,
    loss_and_gradients,
    make,
    shared,
    softplus,
)

pytestmark = pytest.mark.slow

SESSIONS = {
    "one": [7],
    "path": [3, 9, 12, 1],
    "repeated": [5, 2, 5, 7, 2, 5],
    "same edge twice": [5, 2, 8, 5, 2],
    "self-loop": [4, 6, 6, 1],
    "self-loop at the end": [4, 6, 6],
    "one distinct item": [11, 11, 11],
    "full": [1, 2, 3, 1, 4, 3, 2, 2],
    "padding": [],
}


def rows_of(sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, segments and positions of sessions, each in a row of its own, padded on the left."""
    items, segments, positions = np.zeros((3, len(sessions), WIDTH), np.int32)
    for row, session in enumerate(sessions):
        if session:
            items[row, -len(session) :] = session
            segments[row, -len(session) :] = row + 1
            positions[row, -len(session) :] = np.arange(WIDTH - len(session), WIDTH)
    return items, segments, positions


ROWS = rows_of(SESSIONS.values())
EDGES = {
    "repeated": {(5, 2), (2, 5), (5, 7), (7, 2)},
    "same edge twice": {(5, 2), (2, 8), (8, 5)},
    "self-loop": {(4, 6), (6, 6), (6, 1)},
}


def neighbours_of(session: list[int]) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    """The items before, and those after each item."""
    before: dict[int, set[int]] = {item: set() for item in session}
    after: dict[int, set[int]] = {item: set() for item in session}
    for this, following in pairwise(session):
        after[this].add(following)
        before[following].add(this)
    return before, after


def gated_unit(model: SRGNN, a: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The gated recurrent unit of Cho et al. (2014), with a bias in every product."""
    reset, update, new = np.split(linear(model.input, a), 3)
    reset_by, update_by, new_by = np.split(linear(model.state, h), 3)
    r, z = sigmoid(reset + reset_by), sigmoid(update + update_by)
    return (1 - z) * np.tanh(new + r * new_by) + z * h


def output(model: SRGNN, session: list[int]) -> np.ndarray:
    """The published model, item by item."""
    table, bias = array(model.item_embedding.embedding), array(model.neighbours_bias)
    before, after = neighbours_of(session)
    state = {}
    for item in before:
        halves = []
        for layer, neighbours in ((model.before, before[item]), (model.after, after[item])):
            messages = [linear(layer, table[other]) for other in neighbours]
            halves.append(np.mean(messages, axis=0) if messages else np.zeros(DIM))
        state[item] = gated_unit(model, np.concatenate(halves) + bias, table[item])
    last, summary = state[session[-1]], np.zeros(DIM)
    for item in session:
        gate = sigmoid(linear(model.query, last) + linear(model.key, state[item]))
        summary += (gate @ array(model.weight.kernel)[:, 0]) * state[item]
    return linear(model.out, np.concatenate([summary, last]))


def test_outputs_against_loops():
    model, hidden = shared("srgnn"), forward("srgnn")(*ROWS)
    assert hidden.shape == (len(SESSIONS), 1, DIM)
    assert hidden.dtype == np.float32
    for (name, session), got in zip(SESSIONS.items(), hidden, strict=True):
        if session:
            want = output(model, session)
            np.testing.assert_allclose(got[0], want, atol=1e-5, err_msg=name)
    assert np.isfinite(hidden).all()


def test_graphs_against_loops():
    items, segments, _ = ROWS
    graphs = [np.asarray(a) for a in jax.jit(session_graph)(items, segments > 0)]
    for row, session in enumerate(SESSIONS.values()):
        first = {item: WIDTH - len(session) + session.index(item) for item in session}
        for got, neighbours in zip(graphs, neighbours_of(session), strict=True):
            want = np.zeros((WIDTH, WIDTH))
            for token, item in enumerate(session, WIDTH - len(session)):
                for other in neighbours[item]:
                    want[token, first[other]] = 1 / len(neighbours[item])
            np.testing.assert_allclose(got[row], want, rtol=1e-6)


@pytest.mark.parametrize("name", EDGES)
def test_edges_by_hand(name):
    session = SESSIONS[name]
    items, segments, _ = rows_of([session])
    _, after = session_graph(items, segments > 0)
    edges = {(int(items[0, t]), int(items[0, s])) for t, s in np.argwhere(np.asarray(after[0]))}
    assert edges == EDGES[name]


def test_what_stands_in_padding_does_not_matter():
    items, segments, positions = ROWS
    sound = segments.any(1)
    filled = np.where(segments == 0, 5, items)  # an item of some of the sessions, too
    one, other = forward("srgnn")(*ROWS), forward("srgnn")(filled, segments, 0 * positions)
    np.testing.assert_allclose(one[sound], other[sound], atol=1e-6)


def test_width_does_not_matter():
    wider = tuple(np.pad(a, ((0, 0), (WIDTH, 0))) for a in ROWS)
    one, other = (forward("srgnn")(*rows)[:-1] for rows in (ROWS, wider))
    # Another width sums in another order: a few roundings of float32, relative to the value.
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_order_of_rows_and_numbering_of_items_do_not_matter():
    rng = np.random.default_rng(0)
    order, numbers = rng.permutation(len(SESSIONS)), np.append(0, 1 + rng.permutation(NUM_ITEMS))
    model, other = shared("srgnn"), make("srgnn")
    table = model.item_embedding.embedding[...]
    other.item_embedding.embedding[...] = table.at[numbers].set(table)
    items, segments, positions = ROWS
    hidden, again = model(*ROWS), other(numbers[items][order], segments[order], positions[order])
    np.testing.assert_allclose(hidden[order], again, atol=1e-5)
    scores, scores_again = model.scores(hidden[:, 0]), other.scores(again[:, 0])
    np.testing.assert_allclose(scores[order], scores_again[:, numbers[1:] - 1], atol=1e-5)


def test_direction_of_edges_matters():
    """Sessions of the same items, the same last one, and mirrored edges."""
    one, other = forward("srgnn")(*rows_of([[1, 2, 3, 2, 1], [1, 3, 2, 3, 1]]))
    assert np.abs(one - other).max() > 1e-3


@pytest.fixture
def targets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At the newest items: positives, two negatives each, and which are real."""
    rng = np.random.default_rng(1)
    positives, *negatives = rng.integers(1, NUM_ITEMS + 1, (3, len(SESSIONS), 1))
    real = np.array([[bool(session) and len(session) != 3] for session in SESSIONS.values()])
    return positives, np.stack(negatives, -1), real


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_loss_by_hand(targets, loss):
    model = make("srgnn", loss=loss)
    positives, negatives, real = targets
    table, values = array(model.item_embedding.embedding), []
    for row, session in enumerate(SESSIONS.values()):
        if real[row]:
            scores = table @ output(model, session)
            positive, two = positives[row, 0], negatives[row, 0]
            cross_entropy = -log_softmax(scores[1:])[positive - 1]
            pairwise = softplus(scores[two] - scores[positive]).mean()
            values.append(cross_entropy if loss == "softmax" else pairwise)
    value = jax.jit(lambda: model.training_loss(ROWS, *targets))()
    assert float(value) == pytest.approx(np.mean(values), rel=1e-5)


def test_cross_entropy_is_the_default():
    assert SRGNN(NUM_ITEMS, dim=DIM, rngs=nnx.Rngs(0)).loss_name == "softmax"


@pytest.mark.parametrize("name", SESSIONS)
def test_gradients_are_finite_beside_padding(name):
    """And the embedding of padding gets none."""
    tokens = rows_of([SESSIONS[name], []])
    positives = np.full((2, WIDTH), 3)
    targets = positives, positives[..., None] + 1, tokens[1] > 0
    value, gradients = loss_and_gradients("srgnn")(Inputs(tokens, targets, []))
    assert (value > 0.1) == bool(SESSIONS[name])
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        if "item_embedding" in path:
            np.testing.assert_array_equal(gradient[0], 0)


def test_initial_scales():
    model = SRGNN(1000, dim=25, rngs=nnx.Rngs(0))
    leaves = jax.tree.leaves_with_path(nnx.state(model))
    assert len(leaves) == 1 + 2 * 7 + 1 + 1
    for path, leaf in leaves:
        values = np.asarray(leaf)
        assert 0.8 * 0.2 < np.abs(values).max() <= 0.2, path
        assert values.min() < 0 < values.max(), path
