"""SASRec: a causal transformer over a user's items (Kang and McAuley, ICDM 2018).

Several short sequences may stand side by side in a row of tokens. A token attends only to tokens of
its own segment, so that packed rows and padded rows give the same result.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone
from models.layers.attention import EqualKeys, attention, check_heads, sequence_mask
from models.layers.dropout import check_rates, dropout, split_keys
from models.layers.initializers import uniform_linear
from models.layers.losses import Loss

LAYER_NORM_EPS = 1e-8
PADDING = 0


class SASRec(Backbone):
    """Self-attentive sequential recommendation.

    With ``E`` the item table and ``P`` the position table, the first layer is
    ``x = dropout(sqrt(d) E[item] + P[position])``; then, in every block,

    - ``x <- x + Attention(query=LayerNorm(x), key=x, value=x)``,
    - ``y = LayerNorm(x)``, ``x <- y + FeedForward(y)``,

    and a last LayerNorm. Item 0 is padding; its row of the table is never used. The score of an
    item is its dot product with the output at the newest position.

    The published model pads a sequence of ``n`` items to ``max_len`` and does not mask the padding.
    All keys of padding equal the key bias, all values the value bias, and they take a share of the
    probability. With ``attend_padding`` every query gets one more key that stands for all of them,
    with the logit ``query · key bias / sqrt(d) + log(max_len - n)``; no row has to be padded for
    it. There is one difference from the published model: dropout never drops this key.

    Args:
        num_items: items are ``1 … num_items``.
        max_len: the longest sequence; a sequence's newest item stands at position ``max_len - 1``.
        dim: ``d``, the width of embeddings and layers.
        num_heads: number of attention heads; divides ``dim``.
        num_blocks: number of transformer blocks.
        dropout_rate: dropout rate of embeddings, attention probabilities and feed-forward layers.
        attend_padding: whether padding takes part in attention, as published.
        loss: a name in `models.layers.losses`; published: ``bce`` with one negative.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``, or the rate is outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import SASRec
        >>> model = SASRec(num_items=9, max_len=4, dim=8, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[5, 2, 7, 0]])  # the sequence 5, 2 beside the sequence 7
        >>> segments, positions = jnp.array([[1, 1, 2, 0]]), jnp.array([[2, 3, 3, 0]])
        >>> model(items, segments, positions).shape
        (1, 4, 8)
    """

    def __init__(
        self,
        num_items: int,
        *,
        max_len: int = 50,
        dim: int = 64,
        num_heads: int = 1,
        num_blocks: int = 2,
        dropout_rate: float = 0.3,
        attend_padding: bool = False,
        loss: Loss = "bce",
        rngs: nnx.Rngs,
    ) -> None:
        check_heads(dim, num_heads)
        check_rates(dropout_rate=dropout_rate)
        normal = nnx.initializers.glorot_normal()
        self.item_embedding = nnx.Embed(num_items + 1, dim, embedding_init=normal, rngs=rngs)
        self.position_embedding = nnx.Embed(max_len, dim, embedding_init=normal, rngs=rngs)
        self.blocks = nnx.List(
            [Block(dim, num_heads, dropout_rate, rngs=rngs) for _ in range(num_blocks)]
        )
        self.norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.num_items = num_items
        self.dropout_rate = dropout_rate
        self.attend_padding = attend_padding
        self.loss_name = loss

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the output at every token, from the tokens of its segment up to itself."""
        keys = split_keys(key, 1 + len(self.blocks))
        real = (segments != PADDING)[..., None]
        mask = sequence_mask(segments, causal=True)
        # A token's position minus the number of tokens before it is the padding before its
        # sequence. For empty cells that may be negative.
        padding = jnp.maximum(positions + 1 - mask.sum(-1), 0) if self.attend_padding else None

        table = self.item_embedding.embedding[...]
        x = table[items] * table.shape[1] ** 0.5 + self.position_embedding(positions)
        x = jnp.where(real, dropout(x, self.dropout_rate, keys[0]), 0)
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            x = jnp.where(real, block(x, mask, padding, block_key), 0)
        return self.norm(x)


class Block(nnx.Module):
    """Attention and feed-forward layer, each with a residual connection; see `SASRec`."""

    def __init__(self, dim: int, num_heads: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        xavier = nnx.initializers
        self.attention_norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.qkv = nnx.Linear(dim, 3 * dim, kernel_init=xavier.glorot_uniform(), rngs=rngs)
        self.out = nnx.Linear(dim, dim, kernel_init=xavier.glorot_normal(), rngs=rngs)
        self.feed_forward_norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.inner = uniform_linear(dim, dim, rngs=rngs)
        self.outer = uniform_linear(dim, dim, rngs=rngs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "rows width dim"],
        mask: Bool[Array, "rows width width"],
        padding: Int[Array, "rows width"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the block's output.

        Args:
            x: the input at every token.
            mask: the keys that each query sees.
            padding: the number of padding keys that each query also sees; ``None`` for none.
            key: random key for dropout; ``None`` for evaluation.
        """
        attention_key, inner_key, outer_key = split_keys(key, 3)
        x = x + self.attend(self.attention_norm(x), x, mask, padding, attention_key)
        y = self.feed_forward_norm(x)
        inner = jax.nn.relu(dropout(self.inner(y), self.dropout_rate, inner_key))
        return y + dropout(self.outer(inner), self.dropout_rate, outer_key)

    def attend(
        self,
        query: Float[Array, "rows width dim"],
        x: Float[Array, "rows width dim"],
        mask: Bool[Array, "rows width width"],
        padding: Int[Array, "rows width"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows width dim"]:
        """Computes multi-head attention.

        Queries come from ``query``, which is normalised; keys and values from ``x``, which is not.
        """
        dim = x.shape[-1]
        kernel, bias = self.qkv.kernel[...], cast("nnx.Param[Array]", self.qkv.bias)[...]
        q = query @ kernel[:, :dim] + bias[:dim]
        k, v = jnp.split(x @ kernel[:, dim:] + bias[dim:], 2, axis=-1)
        equal = None
        if padding is not None:  # padding is a vector of zeros: its key and value are the biases
            equal = EqualKeys(padding, *jnp.split(bias[dim:], 2))
        mixed = attention(
            q,
            k,
            v,
            mask,
            causal=True,
            num_heads=self.num_heads,
            dropout_rate=self.dropout_rate,
            key=key,
            padding=equal,
        )
        return self.out(mixed)
