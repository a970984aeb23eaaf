"""SR-GNN: a gated graph network over the items of a session (Wu et al., AAAI 2019)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.initializers import symmetric_uniform
from models.losses import Loss


class SRGNN(Backbone):
    """Session-based recommendation with graph neural networks.

    The nodes of a session's graph are its distinct items, with an edge ``u -> v`` where ``v``
    follows ``u`` anywhere, once however often. ``In`` averages over a node's predecessors, ``Out``
    over its successors, and both are zero where there are none. From ``h = E[item]``,

    - ``a = [In (h W1 + b1) + c1 ; Out (h W2 + b2) + c2]``,
    - ``r = sigmoid(W_r a + U_r h)``, ``z = sigmoid(W_z a + U_z h)``,
    - ``n = tanh(W_n a + r * (U_n h))``, ``h <- (1 - z) * n + z * h``,

    each product with a bias. Then, over the items of the session in their order, repeats included,

    - ``α_t = q · sigmoid(W3 h_last + W4 h_t)``, ``s = Σ α_t h_t``,

    and the output is ``W5 [s ; h_last]``, all but ``q`` with a bias. Items are scored by ``E``.
    Everything starts at ``U(±1/sqrt(dim))``.

    Every beginning of a user's items is a training row of its own, and its next item the target;
    the published loss is the cross-entropy over all items. Published training decays all weights
    through the gradient.

    Args:
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of everything.
        loss: see `models.losses`.
        rngs: the stream ``params`` initialises the weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import SRGNN
        >>> model = SRGNN(num_items=9, dim=8, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[0, 5, 2, 5], [0, 0, 0, 7]])
        >>> model(items, jnp.sign(items), jnp.zeros_like(items)).shape
        (2, 1, 8)
    """

    task: ClassVar[Task] = "prefix"
    packs: ClassVar[bool] = False

    def __init__(
        self, num_items: int, *, dim: int = 64, loss: Loss = "softmax", rngs: nnx.Rngs
    ) -> None:
        uniform = symmetric_uniform(dim**-0.5)

        def linear(width: int, out: int, use_bias: bool = True) -> nnx.Linear:
            return nnx.Linear(
                width, out, use_bias=use_bias, kernel_init=uniform, bias_init=uniform, rngs=rngs
            )

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
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows 1 dim"]:
        """The output at the newest item of each row, from all items of the row."""
        real = segments > 0
        h = self.item_embedding(items)
        h = self.update(h, *session_graph(items, real))
        last = h[:, -1:]
        weights = self.weight(jax.nn.sigmoid(self.query(last) + self.key(h)))
        summary = jnp.where(real[..., None], weights * h, 0).sum(1, keepdims=True)
        return self.out(jnp.concatenate([summary, last], -1))

    def update(
        self,
        h: Float[Array, "rows width dim"],
        before: Float[Array, "rows width width"],
        after: Float[Array, "rows width width"],
    ) -> Float[Array, "rows width dim"]:
        """A step of the gated graph network: the state of every token, from its neighbours'."""
        neighbours = jnp.concatenate([before @ self.before(h), after @ self.after(h)], -1)
        from_input = jnp.split(self.input(neighbours + self.neighbours_bias), 3, -1)
        from_state = jnp.split(self.state(h), 3, -1)
        r = jax.nn.sigmoid(from_input[0] + from_state[0])
        z = jax.nn.sigmoid(from_input[1] + from_state[1])
        n = jnp.tanh(from_input[2] + r * from_state[2])
        return (1 - z) * n + z * h


def session_graph(
    items: Int[Array, "rows width"], real: Bool[Array, "rows width"]
) -> tuple[Float[Array, "rows width width"], Float[Array, "rows width width"]]:
    """The matrices that average over what stands before an item in its row, and over what follows.

    Shapes are static and nothing leaves the device: the first token of an item stands for its node.
    Entry ``[t, s]`` is 0 unless ``s`` is such a token. Tokens of the same item have equal rows, so
    that each carries its node's state.

    Args:
        items: ids.
        real: where there is an item.

    Returns:
        ``In`` and ``Out`` of each row; they sum to 1 over its neighbours, or are 0 without any.

    Example:
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
        """Over the nodes that each token's node has an edge to."""
        own = jnp.take_along_axis(neighbours, node[..., None], axis=1)
        return own / jnp.maximum(own.sum(-1, keepdims=True), 1)

    return average(adjacency.swapaxes(1, 2)), average(adjacency)
