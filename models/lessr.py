"""LESSR: session graphs that keep the order of edges (Chen and Wong, KDD 2020).

A session becomes a graph over its distinct items. Graphs have the shapes of the rows and are built
on the device: the node of an item is the column where it first occurs, and all other columns are
masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.layers.dropout import check_rates, dropout, split_keys
from models.layers.groups import Rows, as_groups, by_group, flatten
from models.layers.initializers import uniform_linear
from models.layers.losses import Loss
from models.layers.recurrent import gru

PADDING = 0
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


class LESSR(Backbone):
    """Lossless edge-order preserving aggregation and shortcut graph attention for sessions.

    The items ``s_1 … s_n`` of a session make two graphs over its distinct items. The multigraph has
    an edge ``s_t -> s_(t+1)`` for every step, in the order of time. The shortcut graph has one edge
    ``s_i -> s_j`` for all ``i <= j``, self-edges included. Layers of two kinds take turns, starting
    from the embeddings ``x_v`` of the nodes. Each appends its output, of width ``d``:
    ``x <- [layer(x), x]``.

    - EOPA: with ``y = BatchNorm(x)``, ``PReLU(W_s y_v + W_n g_v)``, where ``g_v`` is the last state
      of a GRU over ``dropout(y_u)`` of the edges ``u -> v`` of the multigraph, in their order, and
      0 if there are none.
    - SGAT: with ``y = dropout(BatchNorm(x))``, ``PReLU(Σ_u a_uv W_v y_u)`` over the edges
      ``u -> v`` of the shortcut graph, where ``a_uv`` is the softmax over ``u`` of
      ``w·sigmoid(W_q y_u + b + W_k y_v)``.

    The readout is ``g = PReLU(W_o Σ_i a_i y_i)`` over the nodes, with ``y = dropout(BatchNorm(x))``
    and ``a`` the softmax of ``w·sigmoid(W_u y_i + W_v y_last + b)``; the output is
    ``W dropout(BatchNorm([x_last, g]))``. Batch statistics are taken over the nodes of all sessions
    of a batch, and in the last normalisation over the sessions. The published loss is cross-entropy
    over all items.

    The published embedding has ``max_norm = 1``: whenever a row longer than 1 is read, the
    parameter itself is rescaled to length 1. A function cannot write to its parameters. So this
    model rescales what it reads, ``e = E[item] / max(1, |E[item]|)``, and differentiates through
    it. Outputs are equal for equal parameters. Training differs for rows longer than 1: here they
    get no gradient along themselves, in the published code they are put back onto the sphere. No
    initial row is longer than 1.

    Biases, ``BatchNorm`` and ``PReLU`` do not decay.

    Args:
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of the embeddings and of a layer's output.
        num_blocks: number of layers, the first of them EOPA.
        dropout_rate: dropout rate wherever the formulas say ``dropout``.
        loss: a name in `models.layers.losses`.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: the rate is outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import LESSR
        >>> model = LESSR(num_items=9, dim=8, num_blocks=1, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[0, 5, 2, 5], [0, 0, 0, 7]])
        >>> segments = (items > 0).astype(int)
        >>> model(items, segments, jnp.zeros_like(items)).shape  # at the newest items
        (2, 1, 8)
    """

    task: Task = "prefix"
    packs: ClassVar[bool] = False
    undecayed: ClassVar[tuple[str, ...]] = ("bias", "scale", "slope")

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_blocks: int = 3,
        dropout_rate: float = 0.2,
        loss: Loss = "softmax",
        rngs: nnx.Rngs,
    ) -> None:
        check_rates(dropout_rate=dropout_rate)
        self.item_embedding = nnx.Embed(
            num_items + 1, dim, embedding_init=normal_in_ball, rngs=rngs
        )
        kinds = [SGAT if i % 2 else EOPA for i in range(num_blocks)]
        self.layers = nnx.List(
            [kind((i + 1) * dim, dim, dropout_rate, rngs=rngs) for i, kind in enumerate(kinds)]
        )
        self.readout = Readout((num_blocks + 1) * dim, dim, dropout_rate, rngs=rngs)
        self.norm = BatchNorm((num_blocks + 2) * dim)
        self.out = uniform_linear((num_blocks + 2) * dim, dim, use_bias=False, rngs=rngs)
        self.num_items = num_items
        self.dropout_rate = dropout_rate
        self.loss_name = loss

    def __call__(
        self,
        items: Rows,
        segments: Rows,
        positions: Rows,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows 1 dim"]:
        """Returns the output at the newest item; ``segments`` and ``positions`` are not read.

        With a key it normalises by the statistics of the batch, and updates the running ones.
        """
        groups = as_groups(items)
        return self.encode(flatten(groups), [session_graph(group) for group in groups], key)

    def encode(
        self,
        items: Int[Array, " tokens"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows 1 dim"]:
        """Returns the outputs of `__call__` for graphs that are already built.

        Args:
            items: the item at each token, read at the nodes.
            graphs: the graphs of each group.
            key: as in `__call__`.
        """
        *keys, readout_key, out_key = split_keys(key, len(self.layers) + 2)
        x, _ = self.item_vectors(items)
        for layer, layer_key in zip(self.layers, keys, strict=True):
            x = jnp.concatenate([layer(x, graphs, layer_key), x], axis=-1)
        newest = by_group(SessionGraph.newest, graphs, x)
        session = jnp.concatenate([newest, self.readout(x, graphs, readout_key)], axis=-1)
        real = jnp.concatenate([graph.real[:, -1] for graph in graphs])
        y = self.norm(session, real, training=key is not None)
        return self.out(dropout(y, self.dropout_rate, out_key))[:, None]

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
        """Returns embeddings, none longer than 1."""
        vectors, bias = super().item_vectors(items)
        return unit_ball(vectors), bias


def unit_ball(x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
    """Computes ``x / max(1, |x|)``."""
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1))


def normal_in_ball(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """Draws initial embeddings from ``N(0, 1)`` and rescales rows longer than 1 to length 1."""
    return unit_ball(jax.random.normal(key, shape, dtype))


class SessionGraph(NamedTuple):
    """The graphs of a group of sessions.

    Attributes:
        real: where there is an item.
        node: the node of the item in each column: the column where the item first occurs.
        is_node: whether a column is a node.
        shortcut: ``[row, source, target]``, whether the shortcut graph has this edge.
    """

    real: Bool[Array, "rows width"]
    node: Int[Array, "rows width"]
    is_node: Bool[Array, "rows width"]
    shortcut: Bool[Array, "rows width width"]

    def newest(self, x: Float[Array, "rows width dim"]) -> Float[Array, "rows dim"]:
        """Returns ``x`` at the node of each session's newest item."""
        return take_nodes(x, self.node[:, -1:])[:, 0]


def session_graph(items: Int[Array, "rows width"]) -> SessionGraph:
    """Builds the graphs of sessions that are padded on the left.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.lessr import session_graph
        >>> session_graph(jnp.array([[0, 5, 2, 5]])).node.tolist()
        [[0, 1, 2, 1]]
    """
    real = items != PADDING
    columns = jnp.arange(items.shape[1])
    same = items[:, :, None] == items[:, None, :]
    first = same.argmax(-1)
    last = columns[-1] - same[:, :, ::-1].argmax(-1)
    is_node = real & (first == columns)
    nodes = is_node[:, :, None] & is_node[:, None, :]
    # u stands before v somewhere if the first u stands before the last v.
    return SessionGraph(real, first, is_node, nodes & (columns[:, None] <= last[:, None, :]))


def is_node(graphs: Sequence[SessionGraph]) -> Bool[Array, " tokens"]:
    """Returns whether each token is a node, for all groups."""
    return flatten([graph.is_node for graph in graphs])


def take_nodes(
    x: Float[Array, "rows width dim"], nodes: Int[Array, "rows n"]
) -> Float[Array, "rows n dim"]:
    """Returns ``x[row, node]``."""
    return jnp.take_along_axis(x, nodes[..., None], axis=1)


class EOPA(nnx.Module):
    """Edge-order preserving aggregation; see `LESSR`."""

    def __init__(self, width: int, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(width)
        self.message = uniform_linear(width, 3 * width, rngs=rngs)
        self.state = uniform_linear(width, 3 * width, rngs=rngs)
        self.own = uniform_linear(width, dim, use_bias=False, rngs=rngs)
        self.neighbours = uniform_linear(width, dim, use_bias=False, rngs=rngs)
        self.activation = PReLU(dim)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "tokens m"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "tokens dim"]:
        """Returns the layer's output at every node."""
        y = self.norm(x, is_node(graphs), training=key is not None)
        gates = self.message(dropout(y, self.dropout_rate, key))
        states = by_group(self.aggregate, graphs, gates)
        return self.activation(self.own(y) + self.neighbours(states))

    def aggregate(
        self, graph: SessionGraph, gates: Float[Array, "rows width gates"]
    ) -> Float[Array, "rows width m"]:
        """Returns the GRU's last state at every node."""
        # If no item repeats, a node has at most one edge, and no recurrence is needed. Both sides
        # of a condition keep arrays of the same shapes for their gradients. The recurrence would
        # keep much, and so computes it again instead.
        repeats = (graph.real & ~graph.is_node).any()
        recur = jax.checkpoint(self.recur)
        return jax.lax.cond(repeats, recur, self.step_once, gates, graph)

    def recur(
        self, gates: Float[Array, "rows width gates"], graph: SessionGraph
    ) -> Float[Array, "rows width m"]:
        """Follows the edges in the order of time, and returns the last state of every node."""
        rows = jnp.arange(gates.shape[0])

        def follow(states: Array, edge: tuple[Array, Array, Array]) -> tuple[Array, None]:
            source, target, real = edge
            before = states[rows, target]
            after = gru(gates[rows, source], self.state(before), before)
            return states.at[rows, target].set(jnp.where(real[:, None], after, before)), None

        edges = (graph.node[:, :-1].T, graph.node[:, 1:].T, graph.real[:, :-1].T)
        start = jnp.zeros((*gates.shape[:2], gates.shape[2] // 3), gates.dtype)
        return jax.lax.scan(follow, start, edges)[0]

    def step_once(
        self, gates: Float[Array, "rows width gates"], graph: SessionGraph
    ) -> Float[Array, "rows width m"]:
        """Computes the result of `recur` for sessions in which no item repeats.

        The only edge to a node then comes from the column before it.
        """
        start = jnp.zeros(gates.shape[2] // 3, gates.dtype)
        states = gru(gates[:, :-1], self.state(start), start)
        states = jnp.where(graph.real[:, :-1, None], states, 0)
        return jnp.pad(states, ((0, 0), (1, 0), (0, 0)))


class SGAT(nnx.Module):
    """Shortcut graph attention; see `LESSR`."""

    def __init__(self, width: int, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(width)
        self.source = uniform_linear(width, dim, rngs=rngs)
        self.target = uniform_linear(width, dim, use_bias=False, rngs=rngs)
        self.value = uniform_linear(width, dim, use_bias=False, rngs=rngs)
        self.logit = uniform_linear(dim, 1, use_bias=False, rngs=rngs)
        self.activation = PReLU(dim)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "tokens m"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "tokens dim"]:
        """Returns the layer's output at every node."""
        y = self.norm(x, is_node(graphs), training=key is not None)
        y = dropout(y, self.dropout_rate, key)
        arrays = self.target(y), self.source(y), self.value(y)
        return self.activation(by_group(self.attend, graphs, *arrays))

    def attend(
        self,
        graph: SessionGraph,
        targets: Float[Array, "rows width dim"],
        sources: Float[Array, "rows width dim"],
        values: Float[Array, "rows width dim"],
    ) -> Float[Array, "rows width dim"]:
        """Averages the values of every node's sources, weighted by attention."""
        pairs = jax.nn.sigmoid(targets[:, :, None] + sources[:, None])
        weights = jax.nn.softmax(self.logit(pairs)[..., 0], where=graph.shortcut.swapaxes(1, 2))
        return weights @ values


class Readout(nnx.Module):
    """Sum over a session's nodes, weighted by its newest item's attention; see `LESSR`."""

    def __init__(self, width: int, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(width)
        self.node = uniform_linear(width, dim, use_bias=False, rngs=rngs)
        self.newest = uniform_linear(width, dim, rngs=rngs)
        self.logit = uniform_linear(dim, 1, use_bias=False, rngs=rngs)
        self.out = uniform_linear(width, dim, use_bias=False, rngs=rngs)
        self.activation = PReLU(dim)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "tokens m"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows dim"]:
        """Returns a vector for each session."""
        y = self.norm(x, is_node(graphs), training=key is not None)
        y = dropout(y, self.dropout_rate, key)
        return self.activation(self.out(by_group(self.read_out, graphs, y, self.node(y))))

    def read_out(
        self,
        graph: SessionGraph,
        y: Float[Array, "rows width m"],
        nodes: Float[Array, "rows width dim"],
    ) -> Float[Array, "rows m"]:
        """Averages the nodes of each session, weighted by its newest item's attention."""
        pairs = jax.nn.sigmoid(nodes + self.newest(graph.newest(y))[:, None])
        weights = jax.nn.softmax(self.logit(pairs)[..., 0], where=graph.is_node)
        return (weights[..., None] * y).sum(1)


class PReLU(nnx.Module):
    """``x`` where it is positive, else ``slope x``, with a slope for each channel."""

    def __init__(self, dim: int) -> None:
        self.slope = nnx.Param(jnp.full(dim, 0.25, jnp.float32))

    def __call__(self, x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
        """Applies the activation."""
        return jnp.where(x > 0, x, self.slope[...] * x)


class BatchNorm(nnx.Module):
    """Batch normalisation whose statistics count real entries only.

    ``scale (x - mean) / sqrt(variance + eps) + bias``. Training normalises by the statistics of the
    batch, and moves the running ones by a tenth of the way towards them, the variance unbiased.
    Evaluation uses the running ones. A batch of fewer than two entries has no unbiased variance,
    and does not move them.
    """

    def __init__(self, dim: int) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(dim)), nnx.Param(jnp.zeros(dim))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(dim)), nnx.BatchStat(jnp.ones(dim))

    def __call__(
        self, x: Float[Array, "*n dim"], real: Bool[Array, "*n"], *, training: bool
    ) -> Float[Array, "*n dim"]:
        """Normalises all entries of ``x`` by statistics of the ``real`` ones."""
        mean, variance = self.mean[...], self.variance[...]
        if training:
            axes, count = tuple(range(real.ndim)), real.sum()
            mean = jnp.where(real[..., None], x, 0).sum(axes) / jnp.maximum(count, 1)
            squares = jnp.where(real[..., None], (x - mean) ** 2, 0).sum(axes)
            variance = squares / jnp.maximum(count, 1)
            rate = jnp.where(count > 1, BATCH_NORM_MOMENTUM, 0)
            unbiased = squares / jnp.maximum(count - 1, 1)
            for running, new in ((self.mean, mean), (self.variance, unbiased)):
                old = running[...]
                running[...] = jax.lax.stop_gradient(old + rate * (new - old))
        scale = self.scale[...] * jax.lax.rsqrt(variance + BATCH_NORM_EPS)
        return (x - mean) * scale + self.bias[...]
