"""Losses of a ranking: how far an item that was chosen is scored above those that were not."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Loss = Literal["bce", "bpr", "softmax", "sampled-softmax"]

TOKENS_PER_CHUNK = 256


def bce(positive: Float[Array, "*n"], negative: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Binary cross-entropy: ``softplus(-s⁺)`` plus the mean of ``softplus(s⁻)``."""
    return jax.nn.softplus(-positive) + jax.nn.softplus(negative).mean(-1)


def bpr(positive: Float[Array, "*n"], negative: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Bayesian personalised ranking (Rendle et al., UAI 2009): mean of ``softplus(s⁻ - s⁺)``."""
    return jax.nn.softplus(negative - positive[..., None]).mean(-1)


def sampled_softmax(
    positive: Float[Array, "*n"],
    negative: Float[Array, "*n k"],
    collides: Bool[Array, "*n k"],
    num_items: int,
) -> Float[Array, "*n"]:
    """Cross-entropy over all items, estimated from ``k`` that were drawn uniformly.

    ``-s⁺ + log(exp s⁺ + items / k * Σ exp s⁻)``, where the sum leaves out draws of the positive
    item itself (Jean et al., ACL 2015).

    Args:
        positive: the score of the chosen item.
        negative: scores of the items drawn.
        collides: where the item drawn is the chosen one.
        num_items: how many items there are to draw from.
    """
    correction = jnp.log(num_items / negative.shape[-1])
    others = jnp.where(collides, -1e9, negative + correction)
    return jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - positive)


@jax.custom_vjp
def softmax(
    hidden: Float[Array, "n dim"],
    vectors: Float[Array, "classes dim"],
    bias: Float[Array, " classes"],
    targets: Int[Array, " n"],
    real: Bool[Array, " n"],
) -> Float[Array, ""]:
    """Cross-entropy over all classes: the mean of ``-s_target + log Σ_j exp s_j`` where ``real``.

    ``s_j = hidden · vectors[j] + bias[j]``. The gradient is computed along with the value, chunk by
    chunk of the real tokens alone, so that no matrix of all tokens by all classes is ever held, and
    tokens that are not real cost no row of scores.
    """
    return _softmax(hidden, vectors, bias, targets, real)[0]


def _softmax(
    hidden: Array, vectors: Array, bias: Array, targets: Array, real: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    hidden = jnp.where(real[:, None], hidden, 0)  # whatever else is there, infinities too
    chunk = min(TOKENS_PER_CHUNK, hidden.shape[0])
    spare = -hidden.shape[0] % chunk
    count = real.sum()
    order = jnp.argsort(~real, stable=True)
    order = jnp.concatenate([order, jnp.full(spare, hidden.shape[0])])  # beyond the end
    scale = 1 / jnp.maximum(count, 1)

    # The matrix of scores is passed over as rarely as can be: what the targets take off the
    # gradients is subtracted at the end, and factors of a token go to its row of the products.
    def add_chunk(i: Array, sums: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
        value, d_hidden, d_vectors, d_bias = sums
        tokens = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        share = jnp.where(i * chunk + jnp.arange(chunk) < count, scale, 0)
        h = hidden.at[tokens].get(mode="fill", fill_value=0)
        logits = h @ vectors.T + bias
        top = logits.max(-1)
        weights = jnp.exp(logits - top[:, None])
        total = weights.sum(-1)
        value += (share * (jnp.log(total) + top)).sum()
        share /= total
        d_hidden = d_hidden.at[tokens].set(share[:, None] * (weights @ vectors), mode="drop")
        # Transposed, for the product of a transposed matrix of scores takes twice as long.
        return (
            value,
            d_hidden,
            d_vectors + (share[:, None] * h).T @ weights,
            d_bias + share @ weights,
        )

    start = (
        jnp.zeros((), hidden.dtype),
        jnp.zeros_like(hidden),
        jnp.zeros_like(vectors.T),
        jnp.zeros_like(bias),
    )
    chunks = (count + chunk - 1) // chunk
    value, d_hidden, d_vectors, d_bias = jax.lax.fori_loop(0, chunks, add_chunk, start)
    share, wanted = jnp.where(real, scale, 0), vectors[targets]
    value -= (share * ((hidden * wanted).sum(-1) + bias[targets])).sum()
    d_hidden -= share[:, None] * wanted
    d_vectors = d_vectors.T.at[targets].add(-share[:, None] * hidden)
    return value, (d_hidden, d_vectors, d_bias.at[targets].add(-share))


def _softmax_backward(gradients: tuple[Array, Array, Array], g: Array) -> tuple[Array | None, ...]:
    return (*(g * d for d in gradients), None, None)


softmax.defvjp(_softmax, _softmax_backward)
