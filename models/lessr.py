"""LESSR: session graphs that keep the order of edges (Chen and Wong, KDD 2020).

A session becomes a graph over its distinct items. Shapes stay those of the rows: the node of an
item is the column where it first occurs, and all other columns are masked. Nothing depends on the
order of nodes, so that no graph has to be built on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.dropout import check_rates, dropout, split_keys
from models.groups import Rows, as_groups, by_group, flatten
from models.initializers import symmetric_uniform
from models.losses import Loss

PADDING = 0
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


class LESSR(Backbone):
    """Lossless edge-order preserving aggregation and shortcut graph attention for sessions.

    The items ``s_1 … s_n`` of a session make two graphs over its distinct items: the multigraph
    with an edge ``s_t -> s_(t+1)`` for every step, in the order of time, and the shortcut graph
    with one edge ``s_i -> s_j`` for all ``i <= j``, self-edges included. From the embeddings
    ``x_v`` of the nodes, layers of two kinds take turns. Each appends its output, of width ``d``:
    ``x <- [layer(x), x]``.

    - EOPA: with ``y = BatchNorm(x)``, ``PReLU(W_s y_v + W_n g_v)``, where ``g_v`` is the last state
      of a GRU over ``dropout(y_u)`` of the edges ``u -> v`` of the multigraph, in their order, and
      0 if there are none.
    - SGAT: with ``y = dropout(BatchNorm(x))``, ``PReLU(Σ_u a_uv W_v y_u)`` over the edges
      ``u -> v`` of the shortcut graph, where ``a_uv`` is the softmax over ``u`` of
      ``w·sigmoid(W_q y_u + b + W_k y_v)``.

    The readout is ``g = PReLU(W_o Σ_i a_i y_i)`` over the nodes, with ``y = dropout(BatchNorm(x))``
    and ``a`` the softmax of ``w·sigmoid(W_u y_i + W_v y_last + b)``; the output is
    ``W dropout(BatchNorm([x_last, g]))``. Batch statistics are those of the nodes of all sessions
    of a batch, in the last normalisation of the sessions. The published loss is cross-entropy over
    all items.

    The published embedding has ``max_norm = 1``: rows longer than 1 are rescaled to 1 in the
    parameters whenever they are read. A function cannot write to its parameters, so here they are
    rescaled on the way out, ``e = E[item] / max(1, |E[item]|)``, and the gradient goes through it:
    outputs are equal for equal parameters. Under training the two differ in that a row beyond the
    ball gets no gradient along itself here, and there is put back onto the sphere. Initial rows are
    put there at the start. Biases, ``BatchNorm`` and ``PReLU`` are not to decay.

    Args:
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of the embeddings and of a layer's output.
        num_layers: layers, the first of them EOPA.
        dropout_rate: of everything that is said to drop.
        loss: see `models.losses`.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: the rate is outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import LESSR
        >>> model = LESSR(num_items=9, dim=8, num_layers=1, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[0, 5, 2, 5], [0, 0, 0, 7]])
        >>> segments = (items > 0).astype(int)
        >>> model(items, segments, jnp.zeros_like(items)).shape  # at the newest items
        (2, 1, 8)
    """

    task: ClassVar[Task] = "prefix"
    packs: ClassVar[bool] = False
    undecayed: ClassVar[tuple[str, ...]] = ("bias", "scale", "slope")

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 3,
        dropout_rate: float = 0.2,
        loss: Loss = "softmax",
        rngs: nnx.Rngs,
    ) -> None:
        check_rates(dropout_rate=dropout_rate)
        self.item_embedding = nnx.Embed(
            num_items + 1, dim, embedding_init=normal_in_ball, rngs=rngs
        )
        kinds = [SGAT if i % 2 else EOPA for i in range(num_layers)]
        self.layers = nnx.List(
            [kind((i + 1) * dim, dim, dropout_rate, rngs=rngs) for i, kind in enumerate(kinds)]
        )
        self.readout = Readout((num_layers + 1) * dim, dim, dropout_rate, rngs=rngs)
        self.norm = BatchNorm((num_layers + 2) * dim)
        self.out = linear((num_layers + 2) * dim, dim, rngs=rngs)
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
        """The output at the newest item; ``segments`` and ``positions`` do not matter.

        With a key, batch statistics are used, and the running ones updated.
        """
        groups = as_groups(items)
        return self.encode(flatten(groups), [session_graph(group) for group in groups], key)

    def encode(
        self,
        items: Int[Array, " tokens"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows 1 dim"]:
        """`__call__` with graphs that are there already; ``items`` are those of the nodes."""
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
        """Embeddings, none longer than 1."""
        vectors, bias = super().item_vectors(items)
        return unit_ball(vectors), bias


def unit_ball(x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
    """``x / max(1, |x|)``."""
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1))


def normal_in_ball(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """``N(0, 1)``, rows longer than 1 rescaled to 1: the initial embeddings."""
    return unit_ball(jax.random.normal(key, shape, dtype))


def linear(inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs) -> nnx.Linear:
    """A layer whose weights start at ``U(±inputs^-1/2)``."""
    uniform = symmetric_uniform(inputs**-0.5)
    return nnx.Linear(
        inputs, outputs, use_bias=bias, kernel_init=uniform, bias_init=uniform, rngs=rngs
    )


class SessionGraph(NamedTuple):
    """The graphs of a group of sessions.

    Attributes:
        real: where there is an item.
        node: the node of each position's item: the column of its first occurrence.
        is_node: which columns are nodes.
        shortcut: whether there is an edge of the shortcut graph, by source and target.
    """

    real: Bool[Array, "rows width"]
    node: Int[Array, "rows width"]
    is_node: Bool[Array, "rows width"]
    shortcut: Bool[Array, "rows width width"]

    def newest(self, x: Float[Array, "rows width dim"]) -> Float[Array, "rows dim"]:
        """What nodes have at the node of each session's newest item."""
        return take_nodes(x, self.node[:, -1:])[:, 0]


def session_graph(items: Int[Array, "rows width"]) -> SessionGraph:
    """The graphs of sessions that are padded on the left.

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
    # u comes before v somewhere if it first comes before v last comes.
    return SessionGraph(real, first, is_node, nodes & (columns[:, None] <= last[:, None, :]))


def is_node(graphs: Sequence[SessionGraph]) -> Bool[Array, " tokens"]:
    """Which tokens of all groups are nodes."""
    return flatten([graph.is_node for graph in graphs])


def take_nodes(
    x: Float[Array, "rows width dim"], nodes: Int[Array, "rows n"]
) -> Float[Array, "rows n dim"]:
    """``x[row, node]``."""
    return jnp.take_along_axis(x, nodes[..., None], axis=1)


def masked_softmax(
    logits: Float[Array, "*n width"], mask: Bool[Array, "*n width"]
) -> Float[Array, "*n width"]:
    """A softmax over the entries of ``mask``; 0 everywhere if there are none."""
    top = jnp.where(mask, logits, -jnp.inf).max(-1, keepdims=True, initial=-1e30)
    weights = jnp.exp(jnp.where(mask, logits - jax.lax.stop_gradient(top), -jnp.inf))
    total = weights.sum(-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


class EOPA(nnx.Module):
    """Edge-order preserving aggregation; see `LESSR`."""

    def __init__(self, width: int, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(width)
        self.message = linear(width, 3 * width, bias=True, rngs=rngs)
        self.state = linear(width, 3 * width, bias=True, rngs=rngs)
        self.own = linear(width, dim, rngs=rngs)
        self.neighbours = linear(width, dim, rngs=rngs)
        self.activation = PReLU(dim)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "tokens m"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "tokens dim"]:
        """The layer's output at every node."""
        y = self.norm(x, is_node(graphs), training=key is not None)
        gates = self.message(dropout(y, self.dropout_rate, key))
        states = by_group(self.aggregate, graphs, gates)
        return self.activation(self.own(y) + self.neighbours(states))

    def aggregate(
        self, graph: SessionGraph, gates: Float[Array, "rows width 3*m"]
    ) -> Float[Array, "rows width m"]:
        """What every node gets from its neighbours, the sources of its edges."""
        # Where no item repeats, nodes have one edge at most: no recurrence. What it would keep for
        # its gradient is room that both sides of the condition must fill: it computes it again.
        repeats = (graph.real & ~graph.is_node).any()
        recur = jax.checkpoint(self.recur)
        return jax.lax.cond(repeats, recur, self.step_once, gates, graph)

    def recur(
        self, gates: Float[Array, "rows width 3*m"], graph: SessionGraph
    ) -> Float[Array, "rows width m"]:
        """The last state of every node: an edge after the other, in the order of time."""
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
        self, gates: Float[Array, "rows width 3*m"], graph: SessionGraph
    ) -> Float[Array, "rows width m"]:
        """`recur` where each node is the target of the edge from the column before, if of any."""
        start = jnp.zeros(gates.shape[2] // 3, gates.dtype)
        states = gru(gates[:, :-1], self.state(start), start)
        states = jnp.where(graph.real[:, :-1, None], states, 0)
        return jnp.pad(states, ((0, 0), (1, 0), (0, 0)))


def gru(
    from_input: Float[Array, "*n 3*m"], from_state: Float[Array, "*n 3*m"], h: Float[Array, "*n m"]
) -> Float[Array, "*n m"]:
    """A gated recurrent unit's next state, from the projections of its input and of its state."""
    (input_r, input_z, input_n) = jnp.split(from_input, 3, axis=-1)
    (state_r, state_z, state_n) = jnp.split(from_state, 3, axis=-1)
    r, z = jax.nn.sigmoid(input_r + state_r), jax.nn.sigmoid(input_z + state_z)
    return (1 - z) * jnp.tanh(input_n + r * state_n) + z * h


class SGAT(nnx.Module):
    """Shortcut graph attention; see `LESSR`."""

    def __init__(self, width: int, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(width)
        self.source = linear(width, dim, bias=True, rngs=rngs)
        self.target = linear(width, dim, rngs=rngs)
        self.value = linear(width, dim, rngs=rngs)
        self.logit = linear(dim, 1, rngs=rngs)
        self.activation = PReLU(dim)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "tokens m"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "tokens dim"]:
        """The layer's output at every node."""
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
        """For every node, the mean of the values of its sources, weighted by attention."""
        pairs = jax.nn.sigmoid(targets[:, :, None] + sources[:, None])
        weights = masked_softmax(self.logit(pairs)[..., 0], graph.shortcut.swapaxes(1, 2))
        return weights @ values


class Readout(nnx.Module):
    """Attention of a session's nodes by its newest item; see `LESSR`."""

    def __init__(self, width: int, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(width)
        self.node = linear(width, dim, rngs=rngs)
        self.newest = linear(width, dim, bias=True, rngs=rngs)
        self.logit = linear(dim, 1, rngs=rngs)
        self.out = linear(width, dim, rngs=rngs)
        self.activation = PReLU(dim)
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "tokens m"],
        graphs: Sequence[SessionGraph],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows dim"]:
        """A vector for each session."""
        y = self.norm(x, is_node(graphs), training=key is not None)
        y = dropout(y, self.dropout_rate, key)
        return self.activation(self.out(by_group(self.read_out, graphs, y, self.node(y))))

    def read_out(
        self,
        graph: SessionGraph,
        y: Float[Array, "rows width m"],
        nodes: Float[Array, "rows width dim"],
    ) -> Float[Array, "rows m"]:
        """The mean of the nodes of each session, weighted by its newest item's attention."""
        pairs = jax.nn.sigmoid(nodes + self.newest(graph.newest(y))[:, None])
        weights = masked_softmax(self.logit(pairs)[..., 0], graph.is_node)
        return (weights[..., None] * y).sum(1)


class PReLU(nnx.Module):
    """``x`` where it is positive, else ``slope x``, with a slope for each channel."""

    def __init__(self, dim: int) -> None:
        self.slope = nnx.Param(jnp.full(dim, 0.25, jnp.float32))

    def __call__(self, x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
        """The activation."""
        return jnp.where(x > 0, x, self.slope[...] * x)


class BatchNorm(nnx.Module):
    """Batch normalisation of those entries alone that are real.

    ``scale (x - mean) / sqrt(variance + eps) + bias``. In training the statistics are those of the
    batch, and a tenth of them, the variance unbiased, goes into the running ones, which evaluation
    uses. A batch of fewer than two entries, whose variance is not known, leaves those as they are.
    """

    def __init__(self, dim: int) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(dim)), nnx.Param(jnp.zeros(dim))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(dim)), nnx.BatchStat(jnp.ones(dim))

    def __call__(
        self, x: Float[Array, "*n dim"], real: Bool[Array, "*n"], *, training: bool
    ) -> Float[Array, "*n dim"]:
        """``x`` normalised, of all entries; only the ``real`` ones count."""
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
