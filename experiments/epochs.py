"""The device's part of training: steps, compiled epochs and their layouts, for one seed or several.

Everything random follows from the seed, the epoch and the step, so that a run that was interrupted
goes on exactly as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sevo_jax
from experiments.batches import Corpus, read_tokens, sample_negatives
from experiments.configs import Hyperparameters
from experiments.data import Interactions
from experiments.errors import UserError
from experiments.packing import EMPTY, ROWS_MULTIPLE, layout

NEWEST_INPUT = 4
"""How far before the end of a user's items the newest training input stands: the test, validation
and newest training items come after it, and the last of these is its target."""


class TrainState(NamedTuple):
    """What an epoch changes."""

    params: Any
    opt_state: Any


def make_step(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    max_len: int,
    few_rows: int | None = None,
) -> Callable[[Corpus, TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array]]:
    """A training step: of corpus, state, cells ``int32[rows, width]`` and a key.

    Packed batches of an epoch have the rows of its largest. Most need fewer: where ``few_rows`` are
    enough, the model computes no more than these. Neither layout nor dropout, whose bits belong to
    positions counted from the first row, notices the rows that are left out.
    """

    def step(
        corpus: Corpus, state: TrainState, cells: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        negative_key, dropout_key = jax.random.split(key)
        tokens = read_tokens(corpus, cells, NEWEST_INPUT, max_len)
        real = cells != EMPTY
        positives = jnp.where(real, corpus.items[cells + 1], 0)
        negatives = sample_negatives(corpus.unseen, corpus.owners[cells], negative_key)

        def loss(params: Any, rows: int) -> jax.Array:
            model = nnx.merge(graphdef, params)
            hidden = model(*(t[:rows] for t in tokens), dropout_key)
            return model.loss(hidden, positives[:rows], negatives[:rows], real[:rows])

        def gradients(rows: int) -> Callable[[Any], tuple[jax.Array, Any]]:
            return lambda params: jax.value_and_grad(loss)(params, rows)

        rows = cells.shape[0]
        if few_rows is None or few_rows >= rows:
            value, grads = gradients(rows)(state.params)
        else:
            more = real[few_rows:].any()
            value, grads = jax.lax.cond(more, gradients(rows), gradients(few_rows), state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), value

    return step


def make_epoch(
    step: Callable[..., Any], seed_axes: TrainState | None = None
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Compiles an epoch: a scan of ``step`` over ``cells``, ``int32[steps, rows, width]``.

    With ``seed_axes``, the axes of a state of several seeds, it trains them all: cells, keys and
    losses then have a leading axis of seeds. The state is donated. Returns the new state and the
    loss of every step.
    """

    def epoch(
        state: TrainState, corpus: Corpus, cells: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        keys = jax.random.split(key, cells.shape[0])
        return jax.lax.scan(lambda s, batch: step(corpus, s, *batch), state, (cells, keys))

    if seed_axes is not None:
        epoch = jax.vmap(epoch, (seed_axes, None, 0, 0), (seed_axes, 0))
    return jax.jit(epoch, donate_argnums=0)


class EpochLayouts:
    """The layout of every epoch, a function of the data, the seed and the epoch alone."""

    def __init__(self, data: Interactions, settings: Hyperparameters, seed: int) -> None:
        # A training sequence of n items gives n - 1 inputs, the newest max_len of which are read.
        counts = np.minimum(data.lengths - 3, settings.max_len)
        users = np.flatnonzero(counts > 0)
        if users.size == 0:
            raise UserError(f"{data.name}: no user has two training items; nothing to learn from")
        newest = data.starts + data.lengths - NEWEST_INPUT
        self._first, self._counts = (newest - counts + 1)[users], counts[users]
        self.settings, self.seed = settings, seed
        # Epochs pack into about as many rows each. Epoch 0 sets the least for all, so that few
        # epochs differ in shape and compile anew.
        self.rows = 0
        first = self(0)
        self.rows = first.shape[1]
        self.few_rows = _few_rows((first != EMPTY).any(axis=-1).sum(axis=-1), self.rows)

    def __call__(self, epoch: int) -> np.ndarray:
        """``int32[steps, rows, width]``, users shuffled and dealt into batches."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self._first.size)
        s = self.settings
        cells, _ = layout(
            self._first[order],
            self._counts[order],
            s.batch_size,
            s.max_len,
            packed=s.packed,
            rows=self.rows,
        )
        return cells

    @property
    def users_per_step(self) -> np.ndarray:
        """``int64[steps]``: the weights of the steps' losses in an epoch's mean."""
        steps = np.arange(0, self._first.size, self.settings.batch_size)
        return np.minimum(self._first.size - steps, self.settings.batch_size)


def _few_rows(needed: np.ndarray, rows: int) -> int:
    """The number of rows that saves most if steps which need no more compute no more."""
    choices = np.append(np.arange(ROWS_MULTIPLE, rows, ROWS_MULTIPLE), rows)
    saved = (rows - choices) * (needed[:, None] <= choices).mean(axis=0)
    return int(choices[saved.argmax()])


class Epochs:
    """Compiled epochs of one seed, or of several in one program that shares what they can.

    Args:
        graphdef: the model, without its parameters.
        optimizer: the optimiser.
        corpus: the data.
        layouts: one for each seed, equal but for the seed.
        state: the state of any of them.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef[Any],
        optimizer: optax.GradientTransformation,
        corpus: Corpus,
        layouts: Sequence[EpochLayouts],
        state: TrainState,
    ) -> None:
        self._corpus, self._layouts = corpus, layouts
        self._together = len(layouts) > 1
        params = jax.tree.map(lambda _: 0, state.params)
        self._axes = TrainState(params, sevo_jax.seed_axes(optimizer, state.params))
        # Under vmap both sides of a condition are computed, and a GPU may wait for the host to
        # choose.
        choosing = not self._together and jax.default_backend() == "cpu"
        few_rows = layouts[0].few_rows if choosing else None
        step = make_step(graphdef, optimizer, layouts[0].settings.max_len, few_rows)
        self.compiled: Any = make_epoch(step, self._axes if self._together else None)

    def __call__(
        self, state: TrainState, cells: np.ndarray, epoch: int
    ) -> tuple[TrainState, jax.Array]:
        """Trains an epoch laid out by `lay_out`; the new state and losses ``[seeds, steps]``."""
        keys = [_training_key(layouts, epoch) for layouts in self._layouts]
        key = jnp.stack(keys) if self._together else keys[0]
        state, losses = self.compiled(state, self._corpus, cells, key)
        return state, losses.reshape(len(keys), -1)

    def lay_out(self, epoch: int) -> np.ndarray:
        """``int32[(seeds,) steps, rows, width]``, filled up to equal rows."""
        cells = [layouts(epoch) for layouts in self._layouts]
        if not self._together:
            return cells[0]
        rows = max(c.shape[1] for c in cells)
        spare = [((0, 0), (0, rows - c.shape[1]), (0, 0)) for c in cells]
        padded = (np.pad(*c, constant_values=EMPTY) for c in zip(cells, spare, strict=True))
        return np.stack(list(padded))

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """The states of the seeds as one."""
        if not self._together:
            return states[0]
        return self._by_axis(lambda *leaves: jnp.stack(leaves), *states)

    def state_of(self, state: TrainState, i: int) -> TrainState:
        """The state of seed ``i`` in that of all."""
        return self._by_axis(lambda leaf: leaf[i], state) if self._together else state

    def _by_axis(self, function: Callable[..., Any], *states: TrainState) -> TrainState:
        """``function`` of each seed's own leaves; what seeds share is taken from the first."""

        def apply(axis: int | None, *subtrees: Any) -> Any:
            return subtrees[0] if axis is None else function(*subtrees)

        return jax.tree.map(apply, self._axes, *states, is_leaf=lambda x: x is None)


_INITIAL, _TRAINING = 0, 1
"""What is folded into a seed's key for the initial weights, and for the epochs. Both fold numbers
from 0 on into the key that they get: from one key, weights and epochs would draw alike."""


def initial_key(seed: int) -> jax.Array:
    """The key of a seed's initial weights."""
    return jax.random.fold_in(jax.random.key(seed), _INITIAL)


def _training_key(layouts: EpochLayouts, epoch: int) -> jax.Array:
    seed = jax.random.key(layouts.seed, impl=layouts.settings.rng)
    return jax.random.fold_in(jax.random.fold_in(seed, _TRAINING), epoch)
