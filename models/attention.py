"""Multi-head attention over rows in which several sequences may stand side by side."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.dropout import dropout


class EqualKeys(NamedTuple):
    """Keys that are all alike, and so need be computed but once: padding that is not masked.

    Attributes:
        counts: how many of them each query sees.
        key: the key of each.
        value: the value of each.
    """

    counts: Int[Array, "rows width"]
    key: Float[Array, " dim"]
    value: Float[Array, " dim"]


def sequence_mask(
    segments: Int[Array, "rows width"], *, causal: bool
) -> Bool[Array, "rows width width"]:
    """Which keys a query sees: those of its own sequence, up to itself if ``causal``.

    Empty cells see each other, so that no query is left without a key.
    """
    same = segments[:, :, None] == segments[:, None, :]
    if not causal:
        return same
    order = jnp.arange(segments.shape[1])
    return same & (order[:, None] >= order)


def attention(
    query: Float[Array, "rows width dim"],
    keys: Float[Array, "rows width dim"],
    values: Float[Array, "rows width dim"],
    mask: Bool[Array, "rows width width"],
    *,
    num_heads: int = 1,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
    padding: EqualKeys | None = None,
) -> Float[Array, "rows width dim"]:
    """``softmax(q kᵀ / sqrt(dim / heads)) v`` in each head, over the keys of ``mask``.

    Args:
        query: projected queries; the heads split the last axis.
        keys: projected keys.
        values: projected values.
        mask: which keys a query sees, at least one.
        num_heads: divides ``dim``.
        dropout_rate: of the probabilities.
        key: for dropout; ``None`` for evaluation.
        padding: more keys, to which dropout does not apply.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.attention import attention, sequence_mask
        >>> x = jnp.array([[[1.0], [2.0], [5.0]]])
        >>> mask = sequence_mask(jnp.array([[1, 1, 2]]), causal=True)
        >>> attention(0 * x, x, x, mask)[0, :, 0].tolist()
        [1.0, 1.5, 5.0]
    """
    rows, _, dim = query.shape
    size = dim // num_heads
    q, k, v = (split_heads(x, num_heads) for x in (query * size**-0.5, keys, values))
    logits = jnp.where(jnp.repeat(mask, num_heads, axis=0), q @ k.swapaxes(1, 2), -jnp.inf)
    # A softmax whose sum divides the product: width^2 divisions fewer.
    top = logits.max(-1, keepdims=True)
    pad = None
    if padding is not None:
        pad_key, pad_value = jnp.tile(
            jnp.stack([padding.key, padding.value]).reshape(2, num_heads, 1, size), (1, rows, 1, 1)
        )
        pads = jnp.repeat(padding.counts, num_heads, axis=0)[..., None]
        pad = (q * pad_key).sum(-1, keepdims=True) + jnp.log(pads), pad_value
        top = jnp.maximum(top, pad[0])
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    mixed = dropout(weights, dropout_rate, key) @ v
    if pad is not None:
        # Dropout would drop each of them on its own, and of many equal ones leave about the same
        # share every time.
        weight = jnp.exp(pad[0] - top)
        total, mixed = total + weight, mixed + weight * pad[1]
    return join_heads(mixed / total, num_heads)


def split_heads(x: Float[Array, "rows width dim"], heads: int) -> Float[Array, "n width size"]:
    """Moves heads from the last axis to the first, where batched products are fast."""
    rows, width, dim = x.shape
    x = x.reshape(rows, width, heads, dim // heads).swapaxes(1, 2)
    return x.reshape(rows * heads, width, dim // heads)


def join_heads(x: Float[Array, "n width size"], heads: int) -> Float[Array, "rows width dim"]:
    """The inverse of `split_heads`."""
    n, width, size = x.shape
    x = x.reshape(n // heads, heads, width, size).swapaxes(1, 2)
    return x.reshape(n // heads, width, heads * size)


def check_heads(dim: int, num_heads: int) -> None:
    """A `ValueError` unless the heads split the width evenly."""
    if dim % num_heads:
        raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
