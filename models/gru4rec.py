"""GRU4Rec: a recurrent network over a user's items (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.dropout import check_rates, dropout
from models.initializers import symmetric_uniform
from models.losses import Loss


class GRU4Rec(Backbone):
    """Session-based recommendation with a gated recurrent unit.

    With ``E`` the item table, ``x_t = dropout(E[item_t])``; from ``h_0 = 0``, without biases,

    - ``r = sigmoid(W_r x + U_r h)``, ``z = sigmoid(W_z x + U_z h)``,
    - ``n = tanh(W_n x + r * (U_n h))``, ``h <- (1 - z) * n + z * h``,

    and the output is ``W h + b``. Weights start by Xavier's rule, but ``W`` and ``b`` from
    ``U(±1/sqrt(hidden_dim))``: the training loss on Beauty is then the published one.

    Every beginning of a user's items is a training row of its own, and its next item the target;
    the published loss is BPR with one negative. Several sequences may stand in a row: the state is
    reset where a segment begins.

    Args:
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of the embeddings.
        hidden_dim: the width of the state.
        dropout_rate: of the embeddings.
        loss: see `models.losses`.
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

    task: ClassVar[Task] = "prefix"

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        hidden_dim: int = 64,
        dropout_rate: float = 0.4,
        loss: Loss = "bpr",
        rngs: nnx.Rngs,
    ) -> None:
        check_rates(dropout_rate=dropout_rate)
        normal, uniform = nnx.initializers.glorot_normal(), nnx.initializers.glorot_uniform()
        self.item_embedding = nnx.Embed(num_items + 1, dim, embedding_init=normal, rngs=rngs)
        gates = 3 * hidden_dim
        self.input = nnx.Linear(dim, gates, use_bias=False, kernel_init=uniform, rngs=rngs)
        self.state = nnx.Linear(hidden_dim, gates, use_bias=False, kernel_init=uniform, rngs=rngs)
        fan_in = symmetric_uniform(hidden_dim**-0.5)
        self.out = nnx.Linear(hidden_dim, dim, kernel_init=fan_in, bias_init=fan_in, rngs=rngs)
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
        """The output at every token, from the tokens of its segment up to itself."""
        x = dropout(self.item_embedding(items), self.dropout_rate, key)
        before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        goes_on = (segments == before)[..., None]
        recurrent = self.state.kernel[...]

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, keep = inputs
            h = jnp.where(keep, h, 0)
            from_input, from_state = jnp.split(gates, 3, -1), jnp.split(h @ recurrent, 3, -1)
            r = jax.nn.sigmoid(from_input[0] + from_state[0])
            z = jax.nn.sigmoid(from_input[1] + from_state[1])
            n = jnp.tanh(from_input[2] + r * from_state[2])
            h = (1 - z) * n + z * h
            return h, h

        time_first = jax.tree.map(lambda a: a.swapaxes(0, 1), (self.input(x), goes_on))
        start = jnp.zeros((items.shape[0], recurrent.shape[0]), x.dtype)
        _, states = jax.lax.scan(step, start, time_first)
        return self.out(states.swapaxes(0, 1))
