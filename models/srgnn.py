"""SR-GNN: a gated graph network over the items of a session (Wu et al., AAAI 2019)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.layers.groups import Rows, as_groups, by_group, flatten
from models.layers.initializers import symmetric_uniform, uniform_linear
from models.layers.losses import Loss
from models.layers.recurrent import gru


class SRGNN(Backbone):
    """Session-based recommendation with graph neural networks.

    The nodes of a session's graph are its distinct items. There is one edge ``u -> v`` if ``v``
    follows ``u`` anywhere, however often. ``In`` averages over a node's predecessors and ``Out``
    over its successors; without any, they are zero. From ``h = E[item]``,

    - ``a = [In (h W1 + b1) + c1 ; Out (h W2 + b2) + c2]``,
    - ``r = sigmoid(W_r a + U_r h)``, ``z = sigmoid(W_z a + U_z h)``,
    - ``n = tanh(W_n a + r * (U_n h))``, ``h <- (1 - z) * n + z * h``,

    each product with a bias. Then, over the items of the session in their order, repeats included,

    - ``α_t = q · sigmoid(W3 h_last + W4 h_t)``, ``s = Σ α_t h_t``,

    and the output is ``W5 [s ; h_last]``, all but ``q`` with a bias. Items are scored by ``E``.
    All weights and biases start at ``U(±1/sqrt(dim))``.

    Every beginning of a user's items is a training row of its own; the target is the item after it.
    The published loss is the cross-entropy over all items. Published training decays all weights
    through the gradient.

    Args:
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of embeddings and layers.
        loss: a name in `models.layers.losses`.
        rngs: the stream ``params`` initialises the weights.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import SRGNN
        >>> model = SRGNN(num_items=9, dim=8, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[0, 5, 2, 5], [0, 0, 0, 7]])
        >>> model(items, jnp.sign(items), jnp.zeros_like(items)).shape
        (2, 1, 8)
    """

    task: Task = "prefix"
    packs: ClassVar[bool] = False

    def __init__(
        self, num_items: int, *, dim: int = 64, loss: Loss = "softmax", rngs: nnx.Rngs
    ) -> None:
        uniform = symmetric_uniform(dim**-0.5)
        linear = functools.partial(uniform_linear, bound=dim**-0.5, rngs=rngs)
        self.item_embedding = nnx.Embed(num_items + 1, dim, embedding_init=uniform, rngs=rngs)
        self.before, self.after = linear(dim, dim), linear(dim, dim)
        self.neighbours_bias = nnx.Param(uniform(rngs.params(), (2 * dim,)))
        self.input, self.state = linear(2 * dim, 3 * dim), linear(dim, 3 * dim)
        self.query, self.key = linear(dim, dim), linear(dim, dim)
        self.weight = linear(dim, 1, use_bias=False)
        self.out = linear(2 * dim, dim)
        self.num_items = num_items
        self.loss_name = loss

    def __call__(
        self,
        items: Rows,
        segments: Rows,
        positions: Rows,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows 1 dim"]:
        """Returns the output at the newest item of each row, from all items of the row."""
        groups = as_groups(items)
        real = [group > 0 for group in as_groups(segments)]
        before, after = zip(*map(session_graph, groups, real), strict=True)
        h = self.item_embedding(flatten(groups))
        h = self.update(h, before, after)
        return self.out(by_group(self.read_out, real, h, self.key(h)))[:, None]

    def update(
        self,
        h: Float[Array, "tokens dim"],
        before: Sequence[Float[Array, "rows width width"]],
        after: Sequence[Float[Array, "rows width width"]],
    ) -> Float[Array, "tokens dim"]:
        """Steps the gated graph network: updates each token's state from its neighbours' states."""
        neighbours = [
            by_group(jnp.matmul, before, self.before(h)),
            by_group(jnp.matmul, after, self.after(h)),
        ]
        from_input = self.input(jnp.concatenate(neighbours, -1) + self.neighbours_bias)
        return gru(from_input, self.state(h), h)

    def read_out(
        self,
        real: Bool[Array, "rows width"],
        h: Float[Array, "rows width dim"],
        keys: Float[Array, "rows width dim"],
    ) -> Float[Array, "rows 2*dim"]:
        """Returns ``[s ; h_last]``: the newest item weights the states, ``s`` is their sum."""
        last = h[:, -1:]
        weights = self.weight(jax.nn.sigmoid(self.query(last) + keys))
        summary = jnp.where(real[..., None], weights * h, 0).sum(1)
        return jnp.concatenate([summary, last[:, 0]], -1)


def session_graph(
    items: Int[Array, "rows width"], real: Bool[Array, "rows width"]
) -> tuple[Float[Array, "rows width width"], Float[Array, "rows width width"]]:
    """Builds the matrices that average over an item's predecessors and over its successors.

    Shapes are static and nothing leaves the device: an item's first token stands for its node. Row
    ``t`` holds the weights of the neighbours of token ``t``, at their first tokens. Tokens of the
    same item have equal rows, so that each carries the state of its node.

    Args:
        items: item ids.
        real: where there is an item.

    Returns:
        ``In`` and ``Out``. Each of their rows sums to 1, or is 0 without neighbours.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.srgnn import session_graph
        >>> items = jnp.array([[5, 2, 5, 7]])
        >>> before, after = session_graph(items, items > 0)
        >>> after[0].tolist()[0], after[0].tolist()[2]
        ([0.0, 0.5, 0.0, 0.5], [0.0, 0.5, 0.0, 0.5])
    """
    node = (items[:, :, None] == items[:, None, :]) & real[:, None, :]
    node = jnp.argmax(node, axis=-1)
    row = jnp.arange(items.shape[0])[:, None]
    edges = (real[:, :-1] & real[:, 1:]).astype(jnp.float32)
    adjacency = jnp.zeros((*items.shape, items.shape[1]))
    adjacency = adjacency.at[row, node[:, :-1], node[:, 1:]].max(edges)

    def average(neighbours: Array) -> Array:
        """Divides each row by its sum, and gives each token the row of its node."""
        own = jnp.take_along_axis(neighbours, node[..., None], axis=1)
        return own / jnp.maximum(own.sum(-1, keepdims=True), 1)

    return average(adjacency.swapaxes(1, 2)), average(adjacency)
