"""The device's part of training: steps and compiled epochs, for one seed or several.

All random numbers follow from the seed, the epoch and the step. A run that was interrupted thus
goes on exactly as it would have without the interruption.
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
from experiments.inputs.batches import check_layout, make_batch
from experiments.inputs.corpus import Corpus
from experiments.inputs.layout import EpochLayouts, round_up
from experiments.inputs.mesh import DATA, ONE_DEVICE, Placement
from experiments.inputs.packing import EMPTY, Layout
from experiments.settings import TrainingSettings
from experiments.training.state import TrainState, split_model
from experiments.training.watched import Norms, Watched
from models import Backbone


class Inputs(NamedTuple):
    """The arrays that an epoch reads and does not change.

    Attributes:
        corpus: the data.
        constants: the model's constants, such as a graph.
    """

    corpus: Corpus
    constants: Any


def make_step(
    graphdef: nnx.GraphDef[Backbone],
    optimizer: optax.GradientTransformation,
    training: TrainingSettings,
    few_rows: int | None = None,
    watched: Watched | None = None,
) -> Callable[[Inputs, TrainState, Layout, jax.Array], tuple[TrainState, Any]]:
    """Makes a training step: a function of the inputs, a state, a batch of rows and a key.

    All packed batches of an epoch have as many rows as the largest of them, but most need fewer.
    With ``few_rows``, a batch whose later rows are empty computes its first ``few_rows`` rows only:

        rows used    4    9    8   12      of 12 rows, few_rows = 8
        computed     8   12    8   12

    The results are the same: empty rows add nothing, and dropout counts cells from the first row.

    Args:
        graphdef: the model, without its parameters.
        optimizer: the optimiser.
        training: the settings of training.
        few_rows: see above; ``None`` computes all rows.
        watched: the tables whose norms are to be logged, if any.

    Returns:
        The step, which returns the new state and the loss; or loss and norms, if any are logged.
    """

    def step(
        inputs: Inputs, state: TrainState, laid_out: Layout, key: jax.Array
    ) -> tuple[TrainState, Any]:
        draw_key, dropout_key = jax.random.split(key)
        # The model of the state tells the task; the loss below merges its own, to differentiate.
        reader = nnx.merge(graphdef, state.params, state.carried, inputs.constants)
        check_layout(reader, laid_out)
        batch = make_batch(
            reader.task, training, inputs.corpus, laid_out, draw_key, reader.mask_rate
        )

        def loss(params: Any, rows: int) -> tuple[jax.Array, Any]:
            # A copy, since the model may write to its carried state.
            model = nnx.merge(graphdef, params, state.carried, inputs.constants, copy=True)
            tokens, positives, negatives, real = batch.first_rows(rows)
            value = model.training_loss(tokens, positives, negatives, real, dropout_key)
            return value, split_model(model)[2]

        def gradients(rows: int) -> Callable[[Any], tuple[tuple[jax.Array, Any], Any]]:
            return lambda params: jax.value_and_grad(loss, has_aux=True)(params, rows)

        rows = batch.real.shape[0]
        if few_rows is None or few_rows >= rows or isinstance(laid_out, list):
            (value, carried), grads = gradients(rows)(state.params)
        else:
            more = (laid_out.cells[few_rows:] != EMPTY).any()  # whether later rows are used
            (value, carried), grads = jax.lax.cond(
                more, gradients(rows), gradients(few_rows), state.params
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = TrainState(optax.apply_updates(state.params, updates), opt_state, carried)
        return state, value if watched is None else (value, watched.norms(grads, updates))

    return step


def make_epoch(
    step: Callable[..., Any], seed_axes: TrainState | None = None, shardings: Any = None
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Compiles an epoch: a scan of ``step`` over rows with a leading axis of steps.

    Args:
        step: a step of `make_step`.
        seed_axes: the axis of seeds in each leaf of a state of several seeds. All seeds are then
            trained together: rows, keys and losses have a leading axis of seeds.
        shardings: the shardings of the results.

    Returns:
        A function of state, inputs, rows and a key, which returns the new state and the loss of
        every step. It takes over the memory of the state.
    """

    def epoch(
        state: TrainState, inputs: Inputs, rows: Layout, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        keys = jax.random.split(key, jax.tree.leaves(rows)[0].shape[0])
        return jax.lax.scan(lambda s, batch: step(inputs, s, *batch), state, (rows, keys))

    if seed_axes is not None:
        epoch = jax.vmap(epoch, (seed_axes, None, 0, 0), (seed_axes, 0))
    return jax.jit(epoch, donate_argnums=0, out_shardings=shardings)


class Epochs:
    """Compiled epochs of one seed, or of several seeds in one program that shares the graph.

    Args:
        graphdef: the model, without its parameters.
        optimizer: the optimiser.
        inputs: the data and the model's constants.
        layouts: the layouts of each seed, which differ in the seed alone.
        state: the state of any of the seeds.
        placement: where arrays lie; on a mesh there can be one seed only.
        watched: the tables whose norms are to be logged, if any.

    Attributes:
        norms: of the last epoch, each ``float[(seeds,) steps]``; empty without ``watched``.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef[Backbone],
        optimizer: optax.GradientTransformation,
        inputs: Inputs,
        layouts: Sequence[EpochLayouts],
        state: TrainState,
        placement: Placement = ONE_DEVICE,
        watched: Watched | None = None,
    ) -> None:
        self._inputs, self._layouts, self._placement = inputs, layouts, placement
        self._together = len(layouts) > 1
        # All leaves get an axis of seeds, except the graph in the optimiser's state: it is shared.
        params, carried = jax.tree.map(lambda _: 0, (state.params, state.carried))
        self._axes = TrainState(params, sevo_jax.seed_axes(optimizer, state.params), carried)
        # Choosing between few rows and all rows pays on one CPU, for one seed. Under vmap both
        # sides of a condition are computed, a GPU may wait for the host to choose, and on a mesh
        # the first rows are not on all devices.
        shared = layouts[0]
        on_cpu = jax.default_backend() == "cpu"
        choosing = (
            not self._together and on_cpu and shared.training.packed and placement.mesh is None
        )
        # Epochs differ by some rows. On an accelerator a few more rows cost little, but every new
        # number of rows costs seconds to compile.
        packs = shared.training.packed and shared.task != "pair"
        most = max(each.rows for each in layouts)
        self._least_rows = round_up(1.05 * most) if packs and not on_cpu else 0
        few_rows = shared.few_rows if choosing and shared.task != "pair" else None
        step = make_step(graphdef, optimizer, shared.training, few_rows, watched)
        self._watches = watched is not None
        self.norms: Norms = {}

        def split_step(inputs: Inputs, state: TrainState, rows: Layout, key: jax.Array) -> Any:
            return step(inputs, state, placement.split(rows, DATA), key)

        axes = self._axes if self._together else None
        self.compiled: Any = make_epoch(split_step, axes, placement.shardings(state))

    def __call__(self, state: TrainState, rows: Layout, epoch: int) -> tuple[TrainState, jax.Array]:
        """Trains an epoch that `lay_out` laid out; returns state and losses ``[seeds, steps]``."""
        keys = [_training_key(layouts, epoch) for layouts in self._layouts]
        key = jnp.stack(keys) if self._together else keys[0]
        rows = self._placement.put_split(rows)
        state, losses = self.compiled(state, self._inputs, rows, key)
        if self._watches:
            losses, self.norms = losses
        return state, losses.reshape(len(keys), -1)

    def lay_out(self, epoch: int) -> Layout:
        """Lays out an epoch: ``int32[(seeds,) steps, rows, width]``, filled up with empty rows."""
        each = [layouts(epoch) for layouts in self._layouts]
        grouped = isinstance(each[0], list)

        def stack(*arrays: np.ndarray) -> np.ndarray:
            most = max(self._least_rows, *(a.shape[1] for a in arrays))
            # Random numbers belong to rows counted over all groups. Spare rows in one group would
            # shift the rows of the next, and change their negatives.
            most = most if grouped else self._placement.rows_for(most)
            spare = [((0, 0), (0, most - a.shape[1]), (0, 0)) for a in arrays]
            pairs = zip(arrays, spare, strict=True)
            filled = [np.pad(a, s, constant_values=EMPTY) for a, s in pairs]
            return np.stack(filled) if self._together else filled[0]

        return jax.tree.map(stack, *each)

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """Joins the states of the seeds into one."""
        if not self._together:
            return states[0]
        return self._by_axis(lambda *leaves: jnp.stack(leaves), *states)

    def state_of(self, state: TrainState, i: int) -> TrainState:
        """Returns the state of seed ``i`` from the joined state."""
        return self._by_axis(lambda leaf: leaf[i], state) if self._together else state

    def _by_axis(self, function: Callable[..., Any], *states: TrainState) -> TrainState:
        """Applies a function to leaves that each seed has; shared leaves come from the first."""

        def apply(axis: int | None, *subtrees: Any) -> Any:
            return subtrees[0] if axis is None else function(*subtrees)

        return jax.tree.map(apply, self._axes, *states, is_leaf=lambda x: x is None)


_INITIAL, _TRAINING = 0, 1
"""Numbers folded into a seed's key, one for the initial weights and one for the epochs. Both then
fold in 0, 1, …: without these numbers, weights and epochs would draw the same random numbers."""


def initial_key(seed: int) -> jax.Array:
    """Returns the key of a seed's initial weights; its generator does not depend on JAX's flags."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _INITIAL)


def _training_key(layouts: EpochLayouts, epoch: int) -> jax.Array:
    seed = jax.random.key(layouts.seed, impl=layouts.training.rng)
    return jax.random.fold_in(jax.random.fold_in(seed, _TRAINING), epoch)
