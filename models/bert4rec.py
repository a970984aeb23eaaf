"""BERT4Rec: a bidirectional transformer that fills in masked items (Sun et al., CIKM 2019)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.layers import losses
from models.layers.attention import attention, check_heads, sequence_mask
from models.layers.dropout import check_rates, dropout, split_keys
from models.layers.losses import Loss

LARGEST_INITIAL_WEIGHT = 0.02


def clipped_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Draws from Xavier's normal distribution and clips to ±0.02."""
    normal = nnx.initializers.glorot_normal()(key, shape, dtype)
    return jnp.clip(normal, -LARGEST_INITIAL_WEIGHT, LARGEST_INITIAL_WEIGHT)


class BERT4Rec(Backbone):
    """Sequential recommendation as a cloze test.

    With ``E`` the item table and ``P`` the position table, the first layer is
    ``x = dropout(LayerNorm(E[item] + P[position]))``; then, in every block,

    - ``x <- LayerNorm(x + dropout(Attention(x)))``, over all tokens of the sequence,
    - ``x <- LayerNorm(x + dropout(W2 dropout(GELU(W1 x + b1)) + b2))``, of width ``4d`` inside.

    Logits are ``h Wᵀ + b`` with a second table ``W``. Its rows are the padding, the items and the
    mask, whose id is ``num_items + 1``. The published loss is the cross-entropy over all of these
    rows at the masked tokens.

    Args:
        num_items: items are ``1 … num_items``.
        max_len: the longest sequence; a sequence's newest token stands at position ``max_len - 1``.
        dim: ``d``, the width of embeddings and layers.
        num_heads: number of attention heads; divides ``dim``.
        num_blocks: number of transformer blocks.
        dropout_rate: dropout rate of embeddings, attention probabilities and both sublayers.
        mask_rate: share of the items that training masks.
        loss: a name in `models.layers.losses`; all but ``softmax`` score the items alone.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``, or the rate is outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import BERT4Rec
        >>> model = BERT4Rec(num_items=9, max_len=4, dim=8, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[5, 2, 10, 0]])  # 5, 2 and the mask
        >>> segments, positions = jnp.array([[1, 1, 1, 0]]), jnp.array([[1, 2, 3, 0]])
        >>> model(items, segments, positions).shape
        (1, 4, 8)
    """

    task: Task = "masked"
    tables: ClassVar[tuple[str, ...]] = ("item_embedding", "output_embedding")

    def __init__(
        self,
        num_items: int,
        *,
        max_len: int = 50,
        dim: int = 64,
        num_heads: int = 4,
        num_blocks: int = 2,
        dropout_rate: float = 0.2,
        mask_rate: float = 0.5,
        loss: Loss = "softmax",
        rngs: nnx.Rngs,
    ) -> None:
        check_heads(dim, num_heads)
        check_rates(dropout_rate=dropout_rate)
        if not 0 < mask_rate <= 1:
            raise ValueError(f"mask_rate must be in (0, 1], got {mask_rate}")

        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, dim, embedding_init=clipped_normal, rngs=rngs)

        self.item_embedding, self.output_embedding = table(num_items + 2), table(num_items + 2)
        self.output_bias = nnx.Param(jnp.zeros(num_items + 2))
        self.position_embedding = table(max_len)
        self.norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.blocks = nnx.List(
            [EncoderBlock(dim, num_heads, dropout_rate, rngs=rngs) for _ in range(num_blocks)]
        )
        self.num_items = num_items
        self.dropout_rate = dropout_rate
        self.loss_name = loss
        self.mask_rate = mask_rate

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the output at every token, from all tokens of its segment."""
        keys = split_keys(key, 1 + len(self.blocks))
        mask = sequence_mask(segments, causal=False)
        x = self.norm(self.item_embedding(items) + self.position_embedding(positions))
        x = dropout(x, self.dropout_rate, keys[0])
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            x = block(x, mask, block_key)
        return x

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
        """Returns rows and biases of the output layer."""
        table, bias = self.output_embedding.embedding[...], self.output_bias[...]
        return (table, bias) if items is None else (table[items], bias[items])

    def loss(
        self,
        hidden: Float[Array, "rows width dim"],
        positives: Int[Array, "rows width"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows width"],
    ) -> Float[Array, ""]:
        """Returns the loss at the ``real`` tokens, the masked ones; see `Backbone.loss`.

        For ``softmax``, padding and mask are classes too.
        """
        if self.loss_name != "softmax":
            return super().loss(hidden, positives, negatives, real)
        flat = hidden.reshape(-1, hidden.shape[-1])
        return losses.softmax(flat, *self.item_vectors(), positives.ravel(), real.ravel())


class EncoderBlock(nnx.Module):
    """Attention and feed-forward layer, each followed by its LayerNorm; see `BERT4Rec`."""

    def __init__(self, dim: int, num_heads: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        def linear(width: int, out: int) -> nnx.Linear:
            return nnx.Linear(width, out, kernel_init=clipped_normal, rngs=rngs)

        uniform = nnx.initializers.glorot_uniform()
        self.qkv = nnx.Linear(dim, 3 * dim, kernel_init=uniform, rngs=rngs)
        self.out = linear(dim, dim)
        self.attention_norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.inner, self.outer = linear(dim, 4 * dim), linear(4 * dim, dim)
        self.feed_forward_norm = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "rows width dim"],
        mask: Bool[Array, "rows width width"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the block's output; a query sees the keys of ``mask``."""
        keys, rate = split_keys(key, 4), self.dropout_rate
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        mixed = attention(q, k, v, mask, num_heads=self.num_heads, dropout_rate=rate, key=keys[0])
        x = self.attention_norm(x + dropout(self.out(mixed), rate, keys[1]))
        inner = dropout(jax.nn.gelu(self.inner(x), approximate=False), rate, keys[2])
        return self.feed_forward_norm(x + dropout(self.outer(inner), rate, keys[3]))
