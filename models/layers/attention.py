"""Multi-head attention over rows in which several sequences may stand side by side."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.layers.dropout import dropout, split_keys


class EqualKeys(NamedTuple):
    """Many keys that are all alike, such as padding that is not masked; computed once.

    Attributes:
        counts: how many of the keys each query sees.
        key: the one key.
        value: its value.
    """

    counts: Int[Array, "rows width"]
    key: Float[Array, " dim"]
    value: Float[Array, " dim"]


def sequence_mask(
    segments: Int[Array, "rows width"], *, causal: bool
) -> Bool[Array, "rows width width"]:
    """Lets a query see the keys of its own sequence; if ``causal``, only those up to itself.

    Empty cells see each other, so that every query has a key.

    Args:
        segments: the sequence that each token belongs to, 0 for padding.
        causal: whether later tokens are hidden.

    Returns:
        ``mask[row, query, key]``.
    """
    same = segments[:, :, None] == segments[:, None, :]
    if not causal:
        return same
    order = jnp.arange(segments.shape[1])
    return same & (order[:, None] >= order)


BLOCK = 100
"""The most queries in a block of causal attention."""


def attention(
    query: Float[Array, "rows width dim"],
    keys: Float[Array, "rows width dim"],
    values: Float[Array, "rows width dim"],
    mask: Bool[Array, "rows width width"],
    *,
    causal: bool = False,
    num_heads: int = 1,
    dropout_rate: float = 0.0,
    key: PRNGKeyArray | None = None,
    padding: EqualKeys | None = None,
) -> Float[Array, "rows width dim"]:
    """Computes ``softmax(q kᵀ / sqrt(dim / heads)) v`` in each head, over the keys of ``mask``.

    Where later keys are hidden, wide rows are computed in blocks of queries, each with the keys up
    to its last query. Two blocks leave out a quarter of all pairs, four three eighths.

    Args:
        query: projected queries; the heads split the last axis.
        keys: projected keys.
        values: projected values.
        mask: the keys that each query sees, at least one.
        causal: whether ``mask`` hides all later keys.
        num_heads: number of heads; divides ``dim``.
        dropout_rate: dropout rate of the probabilities.
        key: random key for dropout; ``None`` for evaluation.
        padding: more keys, to which dropout does not apply.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.layers.attention import attention, sequence_mask
        >>> x = jnp.array([[[1.0], [2.0], [5.0]]])
        >>> mask = sequence_mask(jnp.array([[1, 1, 2]]), causal=True)
        >>> attention(0 * x, x, x, mask)[0, :, 0].tolist()
        [1.0, 1.5, 5.0]
    """
    width = query.shape[1]
    count = -(-width // BLOCK) if causal else 1
    size = -(-width // count)
    block_keys = [key] if count == 1 else split_keys(key, count)
    mixed = []
    for start, block_key in zip(range(0, width, size), block_keys, strict=True):
        end = min(start + size, width)
        block, seen = slice(start, end), slice(end)
        pads = padding and padding._replace(counts=padding.counts[:, block])
        mixed.append(
            _mix_values(
                query[:, block],
                keys[:, seen],
                values[:, seen],
                mask[:, block, seen],
                num_heads,
                dropout_rate,
                block_key,
                pads,
            )
        )
    return jnp.concatenate(mixed, axis=1)


def _mix_values(
    query: Float[Array, "rows queries dim"],
    keys: Float[Array, "rows keys dim"],
    values: Float[Array, "rows keys dim"],
    mask: Bool[Array, "rows queries keys"],
    num_heads: int,
    dropout_rate: float,
    key: PRNGKeyArray | None,
    padding: EqualKeys | None,
) -> Float[Array, "rows queries dim"]:
    """Computes `attention` for a block of queries."""
    rows, _, dim = query.shape
    size = dim // num_heads
    q, k, v = (split_heads(x, num_heads) for x in (query * size**-0.5, keys, values))
    logits = jnp.where(jnp.repeat(mask, num_heads, axis=0), q @ k.swapaxes(1, 2), -jnp.inf)
    # The softmax is written out: its sum divides the product, not the larger matrix of weights.
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
        # No dropout here. It would drop each of the equal keys on its own. Of many keys it keeps
        # nearly the same share every time.
        weight = jnp.exp(pad[0] - top)
        total, mixed = total + weight, mixed + weight * pad[1]
    return join_heads(mixed / total, num_heads)


def split_heads(x: Float[Array, "rows width dim"], heads: int) -> Float[Array, "n width size"]:
    """Moves heads from the last axis to the first, where batched products are fast."""
    rows, width, dim = x.shape
    x = x.reshape(rows, width, heads, dim // heads).swapaxes(1, 2)
    return x.reshape(rows * heads, width, dim // heads)


def join_heads(x: Float[Array, "n width size"], heads: int) -> Float[Array, "rows width dim"]:
    """Moves heads back to the last axis: the inverse of `split_heads`."""
    n, width, size = x.shape
    x = x.reshape(n // heads, heads, width, size).swapaxes(1, 2)
    return x.reshape(n // heads, width, heads * size)


def check_heads(dim: int, num_heads: int) -> None:
    """Raises a `ValueError` unless the heads split the width evenly."""
    if dim % num_heads:
        raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
