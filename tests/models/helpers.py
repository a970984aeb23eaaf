"""Shared by the tests of models: small models of random weights, rows of sequences, float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import MFBPR, SRGNN, STOSA, Backbone, BERT4Rec, GRU4Rec, SASRec

NUM_ITEMS, MAX_LEN, DIM = 12, 6, 8
MASK = NUM_ITEMS + 1
ROWS, WIDTH = 4, 8

TRANSFORMER = {"max_len": MAX_LEN, "dim": DIM, "num_heads": 2, "num_blocks": 1}
CLASSES: dict[str, tuple[type[Backbone], dict]] = {
    "sasrec": (SASRec, TRANSFORMER),
    "gru4rec": (GRU4Rec, {"dim": DIM, "hidden_dim": 5}),
    "bert4rec": (BERT4Rec, TRANSFORMER),
    "stosa": (STOSA, TRANSFORMER),
    "stosa-published": (STOSA, {**TRANSFORMER, "published": True}),
    "srgnn": (SRGNN, {"dim": DIM}),
    "mf-bpr": (MFBPR, {"num_users": 4, "dim": DIM}),
}
SEQUENTIAL = [name for name in CLASSES if name != "mf-bpr"]
PACKING = [name for name in SEQUENTIAL if CLASSES[name][0].packs]


def make(name: str, **options) -> Backbone:
    """A model all of whose weights are random: biases and scales too, which start at 0 and 1."""
    kind, defaults = CLASSES[name]
    options = {"num_items": NUM_ITEMS, **defaults, **options}
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: kind(**options, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)
    return nnx.merge(graphdef, params)


shared = cache(make)


class Example(NamedTuple):
    """A sequence and what is to be predicted at each of its tokens."""

    items: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    real: np.ndarray


def examples(*lengths: int) -> list[Example]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.integers(1, NUM_ITEMS + 1, shape)  # noqa: E731
    return [Example(draw(n), draw(n), draw(n, 2), np.arange(n) != 1) for n in lengths]


EXAMPLES = examples(3, 2, 1)
NEIGHBOURS = [e._replace(real=np.zeros(e.items.size, bool)) for e in examples(4, 6)]


class Inputs(NamedTuple):
    """A batch. ``places`` says where the tokens of each of `EXAMPLES` stand."""

    tokens: tuple[np.ndarray, np.ndarray, np.ndarray]
    targets: tuple[np.ndarray, np.ndarray, np.ndarray]
    places: list[tuple[int, slice]]


def lay_out(*places: tuple[int, int], neighbours: tuple[tuple[int, int], ...] = (), fill: int = 0):
    """Puts `EXAMPLES` at the places given, row and column, and `NEIGHBOURS` at others.

    Empty cells hold the item ``fill``.
    """
    items = np.full((ROWS, WIDTH), fill, np.int32)
    segments, positions, positives = np.zeros((3, ROWS, WIDTH), np.int32)
    negatives = np.zeros((ROWS, WIDTH, 2), np.int32)
    real = np.zeros((ROWS, WIDTH), bool)
    cells = []
    placed = [*zip(places, EXAMPLES, strict=False), *zip(neighbours, NEIGHBOURS, strict=False)]
    for i, ((row, column), example) in enumerate(placed):
        size = example.items.size
        cell = row, slice(column, column + size)
        assert not segments[cell].any()
        segments[cell], positions[cell] = i + 1, np.arange(MAX_LEN - size, MAX_LEN)
        items[cell], positives[cell], negatives[cell], real[cell] = example
        cells.append(cell)
    return Inputs((items, segments, positions), (positives, negatives, real), cells[: len(places)])


PACKED = lay_out((0, 0), (0, 3), (0, 5))
PADDED = lay_out((0, WIDTH - 3), (1, WIDTH - 2), (2, WIDTH - 1))
AMONG_OTHERS = lay_out((0, 4), (1, 0), (3, 2), neighbours=((0, 0), (1, 2)), fill=8)


@cache
def forward(name: str, **options) -> Callable[..., jax.Array]:
    """The outputs of a shared model in evaluation, compiled: a function of three arrays."""
    graphdef, params = nnx.split(shared(name, **options))
    return jax.jit(lambda *tokens: nnx.merge(graphdef, params)(*tokens))


def outputs(name: str, inputs: Inputs, **options) -> list[np.ndarray]:
    """The outputs of a shared model at each of the examples."""
    hidden = np.asarray(forward(name, **options)(*inputs.tokens))
    return [hidden[place] for place in inputs.places]


@cache
def loss_and_gradients(name: str) -> Callable[[Inputs], tuple[jax.Array, dict[str, np.ndarray]]]:
    """The training loss of ``shared(name)`` without dropout and its gradients by path.

    Of a model that does not pack, at the newest items alone.
    """
    graphdef, params = nnx.split(shared(name))

    def loss(params, tokens, targets):
        model = nnx.merge(graphdef, params)
        if not model.packs:
            targets = jax.tree.map(lambda t: t[:, -1:], targets)
        return model.training_loss(tokens, *targets)

    compiled = jax.jit(jax.value_and_grad(loss))

    def run(inputs: Inputs) -> tuple[jax.Array, dict[str, np.ndarray]]:
        value, gradients = compiled(params, inputs.tokens, inputs.targets)
        leaves = jax.tree.leaves_with_path(gradients)
        return value, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

    return run


def array(leaf) -> np.ndarray:
    """A parameter in float64."""
    return np.asarray(leaf[...], np.float64)


def linear(layer: nnx.Linear, x: np.ndarray) -> np.ndarray:
    return x @ array(layer.kernel) + array(layer.bias)


def norm(layer: nnx.LayerNorm, x: np.ndarray, eps: float) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * array(layer.scale) + array(layer.bias)


def drop_some(x, rate: float):
    """Dropout whose mask is known: every third entry of the last axis goes, in NumPy and in JAX."""
    return x * (np.arange(x.shape[-1]) % 3 > 0) / (1 - rate)


def fix_dropout(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Modules of `models` drop by `drop_some` where they have a key, so that places can be told."""
    for module in modules:
        monkeypatch.setattr(
            f"models.{module}.dropout",
            lambda x, rate, key: x if key is None else drop_some(x, rate),
        )


def assert_uniform(leaf, bound: float, path: object = None) -> None:
    """Checks draws from ``U(-bound, bound)``, with room of four standard errors or more."""
    values, std = array(leaf), bound / np.sqrt(3)
    assert np.abs(values).max() <= bound * (1 + 1e-6), path
    assert abs(values.mean()) < 4 * std / np.sqrt(values.size), path
    assert abs(values.std() - std) < 2 * std / np.sqrt(values.size), path


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)
