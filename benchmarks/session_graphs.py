"""``python -m benchmarks.session_graphs``: SR-GNN and LESSR against graphs built in Python.

The peers build the graphs of a batch session by session in Python, as the published code of both
models does. Then they run the same layers as ours on rows that are padded to the longest session,
or on rows in groups as ours. JAX may compute a batch while Python builds the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import report, workload
from experiments.data import Interactions
from experiments.inputs.batches import Batch, make_batch
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts, training_sequences
from experiments.inputs.packing import Layout
from experiments.settings import TrainingSettings
from experiments.training.timing import in_turn
from models import LESSR, SRGNN, Backbone
from models.layers.groups import by_group, flatten
from models.layers.losses import Loss
from models.lessr import SessionGraph, take_nodes

SETTINGS = TrainingSettings(batch_size=512, packed=False)
DIM = 64


class SRGNNGraphs:
    """SR-GNN's graphs, session by session, and the model on them."""

    @staticmethod
    def build(items: np.ndarray) -> tuple[np.ndarray, ...]:
        """Builds the graphs of rows padded on the left.

        Returns:
            Where tokens are real, the node of each token, the items of the nodes, ``In``, ``Out``.
        """
        rows, width = items.shape
        node_of, nodes = np.zeros((2, rows, width), np.int32)
        before, after = np.zeros((2, rows, width, width), np.float32)
        for row, line in enumerate(items):
            session = line[line > 0].tolist()
            distinct = sorted(set(session))
            number = {item: i for i, item in enumerate(distinct)}
            nodes[row, : len(distinct)] = distinct
            node_of[row, width - len(session) :] = [number[item] for item in session]
            for u, v in pairwise(session):
                after[row, number[u], number[v]] = before[row, number[v], number[u]] = 1
            for matrix in (before[row], after[row]):
                matrix /= np.maximum(matrix.sum(1, keepdims=True), 1)
        return items > 0, node_of, nodes, before, after

    @staticmethod
    def hidden(model: SRGNN, graphs: Sequence[tuple[jax.Array, ...]], key: jax.Array) -> jax.Array:
        """Returns the model's outputs."""
        real, node_of, nodes, before, after = zip(*graphs, strict=True)
        h = model.update(model.item_embedding(flatten(nodes)), before, after)
        h = by_group(lambda node_of, h: take_nodes(h, node_of), node_of, h)
        return model.out(by_group(model.read_out, real, h, model.key(h)))[:, None]


class LESSRGraphs:
    """LESSR's graphs, session by session, and the model on them."""

    @staticmethod
    def build(items: np.ndarray) -> tuple[np.ndarray, ...]:
        """Builds the graphs of rows padded on the left: the items, and fields of `SessionGraph`."""
        rows, width = items.shape
        node_of = np.zeros((rows, width), np.int32)
        is_node = np.zeros((rows, width), bool)
        shortcut = np.zeros((rows, width, width), bool)
        for row, line in enumerate(items):
            session = line[line > 0].tolist()
            begin = width - len(session)
            number: dict[int, int] = {}
            for column, item in enumerate(session, begin):
                number.setdefault(item, column)
            path = [number[item] for item in session]
            node_of[row, begin:] = path
            is_node[row, list(number.values())] = True
            edges = {(u, v) for i, u in enumerate(path) for v in path[i:]}
            sources, targets = zip(*edges, strict=True) if edges else ((), ())
            shortcut[row, sources, targets] = True
        return items, items > 0, node_of, is_node, shortcut

    @staticmethod
    def hidden(model: LESSR, graphs: Sequence[tuple[jax.Array, ...]], key: jax.Array) -> jax.Array:
        """Returns the model's outputs."""
        items = flatten([graph[0] for graph in graphs])
        return model.encode(items, [SessionGraph(*graph[1:]) for graph in graphs], key)


MODELS = ((SRGNN, SRGNNGraphs), (LESSR, LESSRGraphs))
LOSSES: tuple[Loss, ...] = ("softmax", "bpr")


def make_training(model: Backbone, hidden: Callable[..., jax.Array]) -> tuple[Any, Any]:
    """Makes a step of Adam and its first state.

    Args:
        model: the model.
        hidden: returns the outputs for a model, inputs and a key.

    Returns:
        The step, a function of state, inputs, targets and a key; and the state.
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(1e-3)

    def step(state: Any, inputs: Any, targets: tuple[jax.Array, ...], key: jax.Array) -> Any:
        params, rest, opt_state = state

        def loss(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(graphdef, params, rest, copy=True)
            value = model.loss(hidden(model, inputs, key), *targets)
            return value, nnx.split(model, nnx.Param, ...)[2]

        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), rest, opt_state), value

    return step, (params, rest, optimizer.init(params))


def first_steps(
    data: Interactions, settings: TrainingSettings, steps: int, *, grouped: bool
) -> Layout:
    """Lays out the first batches of an epoch of prefixes: the same batches in either layout."""
    layouts = EpochLayouts(data, settings, 0, "prefix", grouped=grouped)
    return jax.tree.map(lambda a: a[:steps], layouts(0))


def on_the_device(
    model: Backbone, data: Interactions, settings: TrainingSettings, layout: Layout
) -> Callable[[], Any]:
    """Returns a call that trains the steps; the device looks rows up and builds their graphs."""
    step, state = make_training(model, lambda model, tokens, key: model(*tokens, key))
    corpus = make_corpus(data)

    @jax.jit
    def train(state: Any, layout: Layout, key: jax.Array) -> Any:
        def body(state: Any, rows: Layout) -> Any:
            batch = make_batch("prefix", settings, corpus, rows, key)
            return step(state, batch.tokens, targets_of(batch), key)

        return jax.lax.scan(body, state, layout)

    return lambda: train(state, layout, jax.random.key(0))[1]


def targets_of(batch: Batch) -> tuple[jax.Array, ...]:
    """Returns the targets of a batch, as `Backbone.loss` takes them."""
    return batch.positives, batch.negatives, batch.real


def in_python(
    graphs: type[SRGNNGraphs] | type[LESSRGraphs],
    model: Backbone,
    data: Interactions,
    settings: TrainingSettings,
    layout: Layout,
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Returns a call that builds the graphs of every step and trains it, and one that only builds.

    Targets and negatives are drawn beforehand.
    """
    step, start = make_training(model, graphs.hidden)
    compiled = jax.jit(step)
    groups = layout if isinstance(layout, list) else [layout]
    cells = [np.asarray(group.cells) for group in groups]
    corpus, key = make_corpus(data), jax.random.key(0)
    targets = jax.lax.map(
        lambda rows: targets_of(make_batch("prefix", settings, corpus, rows, key)), groups
    )
    steps = range(cells[0].shape[0])

    def build(i: int) -> list[tuple[np.ndarray, ...]]:
        return [graphs.build(np.where(c[i] >= 0, data.items[c[i]], 0)) for c in cells]

    def train() -> Any:
        state, losses = start, []
        for i in steps:
            state, value = compiled(
                state, build(i), jax.tree.map(lambda a, i=i: a[i], targets), key
            )
            losses.append(value)
        return jnp.stack(losses)

    def build_all() -> None:
        for i in steps:
            build(i)

    return train, build_all


def measure(quick: bool) -> list[report.Case]:
    """Measures the first steps of an epoch, and scales them to the seconds of the epoch."""
    data = workload.dataset(quick)
    steps, rounds = (1, 1) if quick else (4, 7)
    longest = training_sequences(data, SETTINGS.max_len, "prefix")[1].max()
    settings = dataclasses.replace(
        SETTINGS, batch_size=32 if quick else SETTINGS.batch_size, max_len=int(longest)
    )
    grouped, padded = (first_steps(data, settings, steps, grouped=g) for g in (True, False))
    whole = EpochLayouts(data, settings, 0, "prefix").sequences_per_step.size
    cases: list[report.Case] = []
    for (kind, graphs), loss in product(MODELS, LOSSES):
        settings = dataclasses.replace(settings, loss=loss)
        model = kind(data.num_items, dim=DIM, loss=loss, rngs=nnx.Rngs(0))
        ours = on_the_device(model, data, settings, grouped)
        in_groups, _ = in_python(graphs, model, data, settings, grouped)
        to_longest, build = in_python(graphs, model, data, settings, padded)
        np.testing.assert_allclose(ours(), in_groups(), rtol=1e-3)
        calls = {"ours": ours, "padded": to_longest, "in groups": in_groups, "building": build}
        seconds = in_turn(calls, rounds)
        building = np.median(seconds.pop("building")) * whole / steps
        padded_over_ours = seconds["padded"] / seconds["ours"]
        name = f"{kind.__name__} ({loss}), epoch of {whole} steps, {data.name}"
        case = report.case(name, seconds, "s", whole / steps)
        case["padded_over_ours"] = round(float(np.median(padded_over_ours)), 2)
        case["of_rounds"] = f"{padded_over_ours.min():.3g} to {padded_over_ours.max():.3g}"
        case["building"] = f"{building:.3g} s"
        cases.append(case)
    return cases


if __name__ == "__main__":
    report.command("session_graphs", measure)
