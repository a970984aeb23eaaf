"""GRU4Rec: a recurrent network over a user's items (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.layers.dropout import check_rates, dropout
from models.layers.initializers import uniform_linear
from models.layers.losses import Loss
from models.layers.recurrent import gru


class GRU4Rec(Backbone):
    """Session-based recommendation with a gated recurrent unit.

    With ``E`` the item table, ``x_t = dropout(E[item_t])``; from ``h_0 = 0``, without biases,

    - ``r = sigmoid(W_r x + U_r h)``, ``z = sigmoid(W_z x + U_z h)``,
    - ``n = tanh(W_n x + r * (U_n h))``, ``h <- (1 - z) * n + z * h``,

    and the output is ``W h + b``. ``W`` and ``b`` start at ``U(±1/sqrt(hidden_dim))``, all other
    weights by Xavier's rule: the training loss on Beauty is then the published one.

    As published, every beginning of a user's items is a training row of its own, and the target is
    the item after it. The state reads forwards, so one pass over the items gives the outputs of all
    beginnings (``one_pass``). A batch then counts users, so that an epoch has fewer steps. The
    beginnings of a user share a dropout mask. Of a user of more than ``max_len`` items the newest
    ``max_len`` are read, and nothing before them is predicted.

    The published loss is BPR with one negative. Several sequences may stand in a row: the state is
    reset where a segment begins.

    Args:
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of the embeddings.
        hidden_dim: the width of the state.
        dropout_rate: dropout rate of the embeddings.
        one_pass: whether a user's items are one training row, which predicts after each item.
        loss: a name in `models.layers.losses`.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: the rate is outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import GRU4Rec
        >>> model = GRU4Rec(num_items=9, dim=8, rngs=nnx.Rngs(0))
        >>> items, segments = jnp.array([[5, 2, 7, 0]]), jnp.array([[1, 1, 2, 0]])
        >>> model(items, segments, jnp.zeros_like(items)).shape
        (1, 4, 8)
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        hidden_dim: int = 64,
        dropout_rate: float = 0.4,
        one_pass: bool = False,
        loss: Loss = "bpr",
        rngs: nnx.Rngs,
    ) -> None:
        check_rates(dropout_rate=dropout_rate)
        normal, uniform = nnx.initializers.glorot_normal(), nnx.initializers.glorot_uniform()
        self.item_embedding = nnx.Embed(num_items + 1, dim, embedding_init=normal, rngs=rngs)
        gates = 3 * hidden_dim
        self.input = nnx.Linear(dim, gates, use_bias=False, kernel_init=uniform, rngs=rngs)
        self.state = nnx.Linear(hidden_dim, gates, use_bias=False, kernel_init=uniform, rngs=rngs)
        self.out = uniform_linear(hidden_dim, dim, rngs=rngs)
        self.task: Task = "next" if one_pass else "prefix"
        self.num_items = num_items
        self.dropout_rate = dropout_rate
        self.loss_name = loss

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the output at every token, from the tokens of its segment up to itself."""
        x = dropout(self.item_embedding(items), self.dropout_rate, key)
        before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        goes_on = (segments == before)[..., None]
        recurrent = self.state.kernel[...]

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, keep = inputs
            h = jnp.where(keep, h, 0)
            h = gru(gates, h @ recurrent, h)
            return h, h

        time_first = jax.tree.map(lambda a: a.swapaxes(0, 1), (self.input(x), goes_on))
        start = jnp.zeros((items.shape[0], recurrent.shape[0]), x.dtype)
        _, states = jax.lax.scan(step, start, time_first)
        return self.out(states.swapaxes(0, 1))
