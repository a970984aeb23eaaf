"""LESSR against graphs that are built session by session, and edges followed one by one."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit, logsumexp
from scipy.special import softmax as softmax_of

from models import LESSR
from models.lessr import BatchNorm, PReLU, session_graph
from tests.models.helpers import (
    array,
    assert_uniform,
    drop_some,
    fix_dropout,
    linear,
    softplus,
)
from tests.models.training import compile_gradients, randomize, types

pytestmark = pytest.mark.slow

NUM_ITEMS, DIM, WIDTH, EPS = 12, 4, 7, 1e-5
REPEATS = [[5, 2, 5, 5, 3, 2], [7], [4, 4, 4], [], [1, 2, 3], [9, 8, 9, 8, 9, 8, 9]]
PATHS = [[5, 2, 3], [], [7], [1, 2, 3, 4, 5, 6, 8], [12, 11]]
both = pytest.mark.parametrize("sessions", [REPEATS, PATHS], ids=["repeats", "paths"])


def rows(sessions: list[list[int]], width: int = WIDTH) -> tuple[np.ndarray, ...]:
    """Sessions padded on the left, as the model reads them."""
    items = np.array([[0] * (width - len(s)) + s for s in sessions], np.int32)
    return items, (items > 0).astype(np.int32), np.zeros_like(items)


def make(**options) -> LESSR:
    """A model of random weights and running statistics; some embeddings are longer than 1."""
    model = LESSR(NUM_ITEMS, dim=DIM, **options, rngs=nnx.Rngs(0))
    model = randomize(model, 0.5)
    rng = np.random.default_rng(1)
    for norm in norms(model):
        norm.mean[...] = jnp.asarray(rng.normal(size=norm.mean.shape), jnp.float32)
        norm.variance[...] = jnp.asarray(rng.uniform(0.2, 2, norm.mean.shape), jnp.float32)
    return model


def norms(model: LESSR) -> list[BatchNorm]:
    return [*(layer.norm for layer in model.layers), model.readout.norm, model.norm]


def run(model: LESSR, tokens, key=None) -> tuple[np.ndarray, LESSR]:
    """The outputs, compiled, and the model after them."""
    graphdef, state = nnx.split(model)

    def call(state, key):
        model = nnx.merge(graphdef, state)
        return model(*tokens, key), nnx.state(model)

    hidden, state = jax.jit(call)(state, key)
    return np.asarray(hidden), nnx.merge(graphdef, state)


# The model, session by session.


class Transcription:
    """The outputs at the end of each session; padding rows are no sessions.

    Training drops by `drop_some`. ``after`` holds the running statistics that a step of it leaves,
    norm by norm.
    """

    def __init__(self, model: LESSR, sessions: list[list[int]], training: bool) -> None:
        self.training, self.rate, self.after = training, model.dropout_rate, []
        sessions = [s for s in sessions if s]
        table = array(model.item_embedding.embedding)
        table /= np.maximum(1, np.linalg.norm(table, axis=1, keepdims=True))
        nodes = [sorted(set(s)) for s in sessions]  # in an order of no meaning
        x = [table[n] for n in nodes]
        for i, layer in enumerate(model.layers):
            y = self.batch_norm(layer.norm, x)
            of_session = self.sgat if i % 2 else self.eopa
            each = zip(y, nodes, sessions, strict=True)
            out = [prelu(layer, of_session(layer, *arguments)) for arguments in each]
            x = [np.hstack(pair) for pair in zip(out, x, strict=True)]
        y = map(self.drop, self.batch_norm(model.readout.norm, x))
        vectors = []
        for of_nodes, raw, n, s in zip(y, x, nodes, sessions, strict=True):
            newest = n.index(s[-1])
            read = self.read_out(model.readout, of_nodes, newest)
            vectors.append(np.concatenate([raw[newest], read])[None])
        vectors = np.vstack(self.batch_norm(model.norm, vectors))
        self.outputs = self.drop(vectors) @ array(model.out.kernel)

    def drop(self, y: np.ndarray) -> np.ndarray:
        return drop_some(y, self.rate) if self.training else y

    def batch_norm(self, norm: BatchNorm, x: list[np.ndarray]) -> list[np.ndarray]:
        mean, variance = array(norm.mean), array(norm.variance)
        if self.training:
            together = np.vstack(x)
            new_mean, unbiased = together.mean(0), together.var(0, ddof=1)
            self.after.append((0.9 * mean + 0.1 * new_mean, 0.9 * variance + 0.1 * unbiased))
            mean, variance = new_mean, together.var(0)
        scale, bias = array(norm.scale), array(norm.bias)
        return [(part - mean) / np.sqrt(variance + EPS) * scale + bias for part in x]

    def eopa(self, layer, y: np.ndarray, nodes: list[int], session: list[int]) -> np.ndarray:
        outputs, messages = [], self.drop(y)
        for v in nodes:
            h = np.zeros(y.shape[1])
            for before, item in pairwise(session):
                if item == v:
                    h = gru(layer, messages[nodes.index(before)], h)
            own, of_neighbours = array(layer.own.kernel), array(layer.neighbours.kernel)
            outputs.append(y[nodes.index(v)] @ own + h @ of_neighbours)
        return np.array(outputs)

    def sgat(self, layer, y: np.ndarray, nodes: list[int], session: list[int]) -> np.ndarray:
        edges = {(u, v) for j, v in enumerate(session) for u in session[: j + 1]}
        outputs, y = [], self.drop(y)
        for v in nodes:
            sources = [nodes.index(u) for u in nodes if (u, v) in edges]
            target = y[nodes.index(v)] @ array(layer.target.kernel)
            logits = [logit(layer, linear(layer.source, y[u]) + target) for u in sources]
            outputs.append(softmax_of(logits) @ y[sources] @ array(layer.value.kernel))
        return np.array(outputs)

    def read_out(self, readout, y: np.ndarray, newest: int) -> np.ndarray:
        by = linear(readout.newest, y[newest])
        weights = softmax_of([logit(readout, node @ array(readout.node.kernel) + by) for node in y])
        return prelu(readout, weights @ y @ array(readout.out.kernel))


def gru(layer, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    x_r, x_z, x_n = np.split(linear(layer.message, x), 3)
    h_r, h_z, h_n = np.split(linear(layer.state, h), 3)
    z = expit(x_z + h_z)
    return (1 - z) * np.tanh(x_n + expit(x_r + h_r) * h_n) + z * h


def logit(layer, x: np.ndarray) -> float:
    return (expit(x) @ array(layer.logit.kernel)).item()


def prelu(layer, x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, x * array(layer.activation.slope))


def real(sessions: list[list[int]]) -> np.ndarray:
    return np.array([bool(s) for s in sessions])


@both
@pytest.mark.parametrize("num_blocks", [3, 4])
def test_evaluation(sessions, num_blocks):
    model = make(num_blocks=num_blocks)
    hidden, after = run(model, rows(sessions))
    assert hidden.shape == (len(sessions), 1, DIM)
    assert np.isfinite(hidden).all()
    want = Transcription(model, sessions, training=False).outputs
    np.testing.assert_allclose(hidden[real(sessions), 0], want, atol=1e-5)
    for one, other in zip(norms(model), norms(after), strict=True):  # nothing is assigned
        np.testing.assert_array_equal(one.mean[...], other.mean[...])
        np.testing.assert_array_equal(one.variance[...], other.variance[...])


@both
def test_training(sessions, monkeypatch):
    """The mask of dropout is known: it is seen what is dropped, and what is not."""
    fix_dropout(monkeypatch, "lessr")
    model = make(dropout_rate=0.3)
    hidden, after = run(model, rows(sessions), jax.random.key(0))
    want = Transcription(model, sessions, training=True)
    np.testing.assert_allclose(hidden[real(sessions), 0], want.outputs, atol=1e-4)
    for norm, (mean, variance) in zip(norms(after), want.after, strict=True):
        np.testing.assert_allclose(norm.mean[...], mean, atol=1e-5)
        np.testing.assert_allclose(norm.variance[...], variance, atol=1e-5)


def test_padding_and_order_of_rows_do_not_matter():
    model, key = make(dropout_rate=0.0), jax.random.key(0)
    one, _ = run(model, rows(REPEATS), key)
    other, _ = run(model, rows([*REPEATS[::-1], []], WIDTH + 2), key)
    np.testing.assert_allclose(one[real(REPEATS)], other[-2::-1][real(REPEATS)], atol=1e-4)


def test_ids_do_not_matter():
    """Items renamed, and their embeddings with them."""
    model = make()
    names = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(NUM_ITEMS)])
    renamed = [[int(names[i]) for i in s] for s in REPEATS]
    one, _ = run(model, rows(REPEATS))
    table = model.item_embedding.embedding[...]
    model.item_embedding.embedding[...] = table.at[names].set(table)
    other, _ = run(model, rows(renamed))
    np.testing.assert_allclose(one[real(REPEATS)], other[real(REPEATS)], atol=1e-5)


def test_dropout():
    model, tokens = make(dropout_rate=0.5), rows(PATHS)
    first, second, again = (run(model, tokens, jax.random.key(k))[0] for k in (0, 1, 0))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-2


def test_what_is_scored_is_at_most_1_long():
    model = make()
    table = array(model.item_embedding.embedding)
    lengths = np.linalg.norm(table, axis=1)
    assert lengths.min() < 1 < lengths.max()
    want = table / np.maximum(1, lengths)[:, None]
    hidden = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    np.testing.assert_allclose(model.scores(hidden), hidden @ want[1:].T, atol=1e-5)
    items = np.array([4, 1, 12])
    np.testing.assert_allclose(model.score(hidden, items), (hidden * want[items]).sum(1), atol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_loss(loss):
    model, tokens = make(loss=loss), rows(PATHS)
    hidden, _ = run(model, tokens)
    positives, negatives = np.array([[4], [0], [1], [9], [6]]), np.array([[[3]], [[1]]] * 3)[:5]
    value = model.loss(jnp.asarray(hidden), positives, negatives, real(PATHS)[:, None])
    scores = hidden[:, 0] @ np.asarray(model.item_vectors()[0], np.float64).T
    terms = []
    for row, s in enumerate(PATHS):
        if s:
            positive, negative = positives[row, 0], negatives[row, 0, 0]
            of_all = logsumexp(scores[row, 1:]) - scores[row, positive]
            of_pair = softplus(scores[row, negative] - scores[row, positive])
            terms.append(of_all if loss == "softmax" else of_pair)
    assert float(value) == pytest.approx(np.mean(terms), rel=1e-5)


def targets(sessions: list[list[int]]) -> tuple[np.ndarray, ...]:
    positives = np.array([[1 + len(s)] for s in sessions])
    return positives, np.full((len(sessions), 1, 1), NUM_ITEMS), real(sessions)[:, None]


def test_gradients_reach_every_parameter():
    step = compile_gradients(make(num_blocks=4))
    _, gradients, _ = step(rows(REPEATS), targets(REPEATS), jax.random.key(0))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert gradient.any(), path
    assert not gradients["['item_embedding']['embedding'].value"][0].any()


def test_gradients_are_finite_however_little_there_is():
    model = LESSR(NUM_ITEMS, dim=DIM, rngs=nnx.Rngs(0))
    step = compile_gradients(model)
    for sessions in ([[7], []], [[4, 4], []], [[3], [3]], [[], []]):
        value, gradients, after = step(rows(sessions), targets(sessions), jax.random.key(0))
        assert np.isfinite(value)
        assert any(sessions) or value == 0
        for path, gradient in gradients.items():
            assert np.isfinite(gradient).all(), path
        for leaf in jax.tree.leaves(nnx.state(after)):
            assert np.isfinite(leaf).all()
        assert types(after) == types(model)


def test_session_graph_against_loops():
    items, *_ = rows(REPEATS)
    graph = session_graph(jnp.asarray(items))
    for row in range(len(REPEATS)):
        line = items[row].tolist()
        real_columns = [c for c in range(WIDTH) if line[c]]
        want = {(line.index(line[i]), line.index(line[j])) for j in real_columns
                for i in real_columns if i <= j}  # fmt: skip
        assert {tuple(map(int, edge)) for edge in np.argwhere(graph.shortcut[row])} == want
        assert np.flatnonzero(graph.is_node[row]).tolist() == sorted({u for u, _ in want})
        for column in real_columns:
            assert graph.node[row, column] == line.index(line[column])


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_batch_norm(count):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (2, 4, 3)).astype(np.float32)
    mask = np.zeros(8, bool)
    mask[rng.permutation(8)[:count]] = True
    norm = BatchNorm(3)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.1, 0.2, 0.3])
    out = np.asarray(norm(x, mask.reshape(2, 4), training=True)).reshape(8, 3)[mask]
    some = x.reshape(8, 3)[mask].astype(np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    if count:
        want = (some - some.mean(0)) / np.sqrt(some.var(0) + EPS) * [1, 2, 3] + [0.1, 0.2, 0.3]
        np.testing.assert_allclose(out, want, atol=1e-4)
    if count > 1:
        mean, variance = 0.1 * some.mean(0), 0.9 + 0.1 * some.var(0, ddof=1)
    np.testing.assert_allclose(norm.mean[...], mean, atol=1e-5)
    np.testing.assert_allclose(norm.variance[...], variance, atol=1e-5)
    out = np.asarray(norm(x, mask.reshape(2, 4), training=False))
    want = (x - mean) / np.sqrt(variance + EPS) * [1, 2, 3] + [0.1, 0.2, 0.3]
    np.testing.assert_allclose(out, want, atol=1e-4)


def test_initial_weights():
    """Every parameter is checked, so that none starts at another scale unnoticed."""
    model = LESSR(500, dim=16, rngs=nnx.Rngs(0))
    checked = 0
    for path, module in nnx.iter_modules(model):
        leaves = jax.tree.leaves(nnx.state(module))
        if isinstance(module, nnx.Linear):
            for leaf in leaves:
                assert_uniform(leaf, module.kernel.shape[0] ** -0.5, path)
        elif isinstance(module, BatchNorm):
            assert (module.scale[...] == 1).all(), path
            assert (module.variance[...] == 1).all(), path
            assert not module.bias[...].any(), path
            assert not module.mean[...].any(), path
        elif isinstance(module, PReLU):
            assert (module.slope[...] == 0.25).all(), path
        elif isinstance(module, nnx.Embed):
            table = array(module.embedding)
            np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-6)
            assert abs(table.mean()) < 4 * 0.25 / np.sqrt(table.size)
        else:
            continue  # its parts come by themselves
        checked += len(leaves)
    assert checked == len(jax.tree.leaves(nnx.state(model)))


def test_bad_settings():
    with pytest.raises(ValueError, match=r"dropout_rate must lie in \[0, 1\), got 1"):
        LESSR(9, dropout_rate=1.0, rngs=nnx.Rngs(0))
