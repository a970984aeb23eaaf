"""STOSA: items as Gaussians, compared by their Wasserstein distance (Fan et al., WWW 2022)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task, mean_of_real
from models.layers.attention import check_heads, join_heads, sequence_mask, split_heads
from models.layers.dropout import check_rates, dropout, split_keys
from models.layers.losses import Loss

LAYER_NORM_EPS = 1e-12
SMALLEST_VARIANCE = 1e-24


def normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Draws from ``N(0.01, 0.02²)``, the start of all weights."""
    return 0.01 + 0.02 * jax.random.normal(key, shape, dtype)


def positive(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Computes ``ELU(x) + 1``, which turns any number into a covariance."""
    return jax.nn.elu(x) + 1


def deviation(covariance: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Computes the square root, with a finite gradient at 0."""
    return jnp.sqrt(jnp.maximum(covariance, SMALLEST_VARIANCE))


class STOSA(Backbone):
    """Stochastic self-attention.

    An item is a Gaussian of mean ``M[item]`` and diagonal covariance ``ELU(C[item]) + 1``. With
    position tables ``P`` and ``Q``, two streams enter the blocks,

    - means ``m = ELU(dropout(LayerNorm(M[item] + P[position])))`` and
    - covariances ``c = ELU(dropout(LayerNorm(C[item] + Q[position]))) + 1``.

    A block projects each to queries, keys and values (of covariances by ``ELU(·) + 1``), attends
    with ``p = dropout(softmax(-W2²(query, key) / sqrt(d / heads)))``, and for each stream computes

    - ``a = LayerNorm(dropout(W Σ p v) + m)``, for covariances with ``p²`` in place of ``p``,
    - ``LayerNorm(dropout(F2 ELU(F1 a)) + a)``, of width ``4d`` inside, for covariances followed by
      ``ELU(·) + 1``,

    where ``W2²(a, b) = |m_a - m_b|² + |sqrt(c_a) - sqrt(c_b)|²`` is the squared 2-Wasserstein
    distance. An item's score is minus its squared distance from the output. Up to a term that
    depends on the output alone, that is ``2 (m, sqrt c)·(m_i, sqrt c_i) - |m_i|² - |sqrt c_i|²``,
    a dot product and a bias.

    The published loss is BPR plus ``pvn_weight`` times the mean of
    ``max(0, W2²(sequence, positive) - W2²(positive, negative))``.

    Args:
        num_items: items are ``1 … num_items``.
        max_len: the longest sequence; a sequence's newest item stands at position ``max_len - 1``.
        dim: ``d``, the width of either stream.
        num_heads: number of attention heads; divides ``dim``.
        num_blocks: number of blocks.
        dropout_rate: dropout rate outside the attention.
        attention_dropout_rate: dropout rate of the attention probabilities.
        pvn_weight: weight of the distance between positive and negative item.
        published: whether the means leave the blocks as they entered them, as in the published
            code. Means and covariances then both set the attention, which mixes only covariances.
        loss: a name in `models.layers.losses`; the second term is added to ``bpr`` alone.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``, or a rate is outside [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import STOSA
        >>> model = STOSA(num_items=9, max_len=4, dim=8, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[5, 2, 7, 0]])  # the sequence 5, 2 beside the sequence 7
        >>> segments, positions = jnp.array([[1, 1, 2, 0]]), jnp.array([[2, 3, 3, 0]])
        >>> model(items, segments, positions).shape  # means and deviations, side by side
        (1, 4, 16)
    """

    task: Task = "next"
    tables: ClassVar[tuple[str, ...]] = ("mean_embedding", "covariance_embedding")

    def __init__(
        self,
        num_items: int,
        *,
        max_len: int = 100,
        dim: int = 64,
        num_heads: int = 4,
        num_blocks: int = 1,
        dropout_rate: float = 0.3,
        attention_dropout_rate: float = 0.0,
        pvn_weight: float = 0.005,
        published: bool = False,
        loss: Loss = "bpr",
        rngs: nnx.Rngs,
    ) -> None:
        check_heads(dim, num_heads)
        check_rates(dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate)

        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, dim, embedding_init=normal, rngs=rngs)

        self.mean_embedding, self.covariance_embedding = table(num_items + 1), table(num_items + 1)
        self.mean_position, self.covariance_position = table(max_len), table(max_len)
        self.mean_norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.covariance_norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.blocks = nnx.List(
            [
                StochasticBlock(
                    dim, num_heads, dropout_rate, attention_dropout_rate, published, rngs=rngs
                )
                for _ in range(num_blocks)
            ]
        )
        self.num_items = num_items
        self.dropout_rate = dropout_rate
        self.pvn_weight = pvn_weight
        self.loss_name = loss

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width moments"]:
        """Returns mean and deviation at every token, from its segment's tokens up to itself."""
        keys, rate = split_keys(key, 2 + len(self.blocks)), self.dropout_rate
        mask = sequence_mask(segments, causal=True)
        mean = self.mean_embedding(items) + self.mean_position(positions)
        mean = jax.nn.elu(dropout(self.mean_norm(mean), rate, keys[0]))
        covariance = self.covariance_embedding(items) + self.covariance_position(positions)
        covariance = positive(dropout(self.covariance_norm(covariance), rate, keys[1]))
        for block, block_key in zip(self.blocks, keys[2:], strict=True):
            mean, covariance = block(mean, covariance, mask, block_key)
        return jnp.concatenate([mean, deviation(covariance)], axis=-1)

    def gaussians(self, items: Int[Array, "*n"] | slice) -> Float[Array, "*n moments"]:
        """Returns means and deviations of items."""
        mean = self.mean_embedding.embedding[...][items]
        covariance = positive(self.covariance_embedding.embedding[...][items])
        return jnp.concatenate([mean, deviation(covariance)], axis=-1)

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n moments"], Float[Array, "*n"]]:
        """Returns twice an item's mean and deviation, and as bias minus their squared norm."""
        gaussians = self.gaussians(slice(None) if items is None else items)
        return 2 * gaussians, -(gaussians**2).sum(-1)

    def score(
        self, hidden: Float[Array, "*#n moments"], items: Int[Array, "*#n"]
    ) -> Float[Array, ...]:
        """Returns minus the squared distance itself: a shift would change ``bce``."""
        return -((hidden - self.gaussians(items)) ** 2).sum(-1)

    def loss(
        self,
        hidden: Float[Array, "rows width moments"],
        positives: Int[Array, "rows width"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows width"],
    ) -> Float[Array, ""]:
        """Returns the loss of the ranking plus the term between positive and negative items."""
        ranking = super().loss(hidden, positives, negatives, real)
        if self.loss_name != "bpr":
            return ranking
        apart = self.score(self.gaussians(positives)[..., None, :], negatives)
        hinge = jax.nn.relu(apart - self.score(hidden, positives)[..., None]).mean(-1)
        return ranking + self.pvn_weight * mean_of_real(hinge, real)


class StochasticBlock(nnx.Module):
    """Wasserstein attention and a feed-forward layer for either stream; see `STOSA`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout_rate: float,
        attention_dropout_rate: float,
        published: bool,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        # Published means need queries and keys alone.
        self.mean = None if published else Stream(dim, dropout_rate, rngs=rngs)
        self.mean_query_key = nnx.Linear(dim, 2 * dim, kernel_init=normal, rngs=rngs)
        self.covariance = Stream(dim, dropout_rate, rngs=rngs)
        self.covariance_query_key = nnx.Linear(dim, 2 * dim, kernel_init=normal, rngs=rngs)
        self.num_heads = num_heads
        self.attention_dropout_rate = attention_dropout_rate

    def __call__(
        self,
        mean: Float[Array, "rows width dim"],
        covariance: Float[Array, "rows width dim"],
        mask: Bool[Array, "rows width width"],
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "rows width dim"], Float[Array, "rows width dim"]]:
        """Returns both streams after the block."""
        keys = split_keys(key, 3)
        mean_q, mean_k = jnp.split(self.mean_query_key(mean), 2, axis=-1)
        projected = deviation(positive(self.covariance_query_key(covariance)))
        deviation_q, deviation_k = jnp.split(projected, 2, axis=-1)
        heads = self.num_heads
        q, k = (
            jnp.concatenate([split_heads(m, heads), split_heads(s, heads)], axis=-1)
            for m, s in ((mean_q, deviation_q), (mean_k, deviation_k))
        )
        # Minus the squared distance. Its term of the query alone is left out: a softmax over keys
        # does not depend on it.
        logits = 2 * q @ k.swapaxes(1, 2) - (k**2).sum(-1)[:, None, :]
        logits *= (mean.shape[-1] // heads) ** -0.5
        p = jax.nn.softmax(jnp.where(jnp.repeat(mask, heads, axis=0), logits, -jnp.inf), axis=-1)
        p = dropout(p, self.attention_dropout_rate, keys[0])
        if self.mean is not None:
            value = split_heads(self.mean.value(mean), heads)
            mean = self.mean(join_heads(p @ value, heads), mean, keys[1])
        value = split_heads(positive(self.covariance.value(covariance)), heads)
        mixed = join_heads(p**2 @ value, heads)
        return mean, positive(self.covariance(mixed, covariance, keys[2]))


class Stream(nnx.Module):
    """Layers of a block for one stream, means or covariances, after attention mixed its values."""

    def __init__(self, dim: int, dropout_rate: float, *, rngs: nnx.Rngs) -> None:
        def linear(width: int, out: int) -> nnx.Linear:
            return nnx.Linear(width, out, kernel_init=normal, rngs=rngs)

        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)

        self.value, self.out = linear(dim, dim), linear(dim, dim)
        self.inner, self.outer = linear(dim, 4 * dim), linear(4 * dim, dim)
        self.attention_norm, self.feed_forward_norm = norm(), norm()
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        mixed: Float[Array, "rows width dim"],
        x: Float[Array, "rows width dim"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows width dim"]:
        """Adds the projected mixed values to ``x``, then applies the feed-forward layer."""
        keys, rate = split_keys(key, 2), self.dropout_rate
        x = self.attention_norm(dropout(self.out(mixed), rate, keys[0]) + x)
        inner = self.outer(jax.nn.elu(self.inner(x)))
        return self.feed_forward_norm(dropout(inner, rate, keys[1]) + x)
