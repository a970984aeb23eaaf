"""Losses of a ranking: they fall as chosen items are scored higher than other items."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.settings import Loss as Loss

TOKENS_PER_CHUNK = 256
TOKENS_PER_PAIR_OF_CHUNKS = 64
"""Tokens at a time when two models are compared. Their scores are read more often than those of
one model, and so few of them stay in a CPU's cache."""


def bce(positive: Float[Array, "*n"], negative: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Binary cross-entropy: ``softplus(-s⁺)`` plus the mean of ``softplus(s⁻)``."""
    return jax.nn.softplus(-positive) + jax.nn.softplus(negative).mean(-1)


def bpr(positive: Float[Array, "*n"], negative: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Bayesian personalised ranking (Rendle et al., UAI 2009): mean of ``softplus(s⁻ - s⁺)``."""
    return jax.nn.softplus(negative - positive[..., None]).mean(-1)


PAIRWISE = {"bpr": bpr, "bce": bce}
"""Losses of the score of one chosen item and the scores of ``k`` others, by name."""


def gbce(
    positive: Float[Array, "*n"], negative: Float[Array, "*n k"], num_items: int, calibration: float
) -> Float[Array, "*n"]:
    """Generalised binary cross-entropy (Petrov & Macdonald, RecSys 2023), their Eq. 13 to 15.

    Few negatives make a model overconfident, since a positive is far more likely among ``1 + k``
    items than among all. So the positive's probability is raised to a power below 1:
    ``(power · softplus(-s⁺) + Σ softplus(s⁻)) / (1 + k)``, with
    ``power = 1 - calibration · (1 - k / (num_items - 1))``.

    Args:
        positive: the score of the chosen item.
        negative: scores of the drawn items.
        num_items: the number of items.
        calibration: ``t``, in [0, 1]; 0 is plain cross-entropy, 1 is calibrated in full.
    """
    drawn = negative.shape[-1]
    power = 1 - calibration * (1 - drawn / (num_items - 1))
    others = jax.nn.softplus(negative).sum(-1)
    return (power * jax.nn.softplus(-positive) + others) / (1 + drawn)


def sampled_softmax(
    positive: Float[Array, "*n"],
    negative: Float[Array, "*n k"],
    collides: Bool[Array, "*n k"],
    log_share: Float[Array, "*#n #k"] | float,
) -> Float[Array, "*n"]:
    """Estimates the cross-entropy over all items from ``k`` items that were drawn at random.

    ``-s⁺ + log(exp s⁺ + Σ exp(s⁻) / (k q))``, where ``q`` is the probability of drawing the item
    (the correction for it is known as logQ), and the sum leaves out draws of the positive item
    itself (Jean et al., ACL 2015).

    Args:
        positive: the score of the chosen item.
        negative: scores of the drawn items.
        collides: whether the drawn item is the chosen one.
        log_share: ``log q`` of the drawn items.
    """
    others = jnp.where(collides, -1e9, negative - log_share - math.log(negative.shape[-1]))
    return jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - positive)


@jax.custom_vjp
def softmax(
    hidden: Float[Array, "n dim"],
    vectors: Float[Array, "classes dim"],
    bias: Float[Array, " classes"],
    targets: Int[Array, " n"],
    real: Bool[Array, " n"],
) -> Float[Array, ""]:
    """Computes the cross-entropy over all classes, averaged over the tokens that are ``real``.

    A token's loss is ``-s_target + log Σ_j exp s_j`` with ``s_j = hidden · vectors[j] + bias[j]``.
    Value and gradient are computed together, for a chunk of tokens at a time: no matrix of all
    tokens by all classes is ever held. Tokens that are not real cost nothing.
    """
    return _softmax(hidden, vectors, bias, targets, real)[0]


def _softmax(
    hidden: Array, vectors: Array, bias: Array, targets: Array, real: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    hidden = jnp.where(real[:, None], hidden, 0)  # elsewhere there may be infinities
    chunks, take, scale = _chunks(real, TOKENS_PER_CHUNK)

    # The matrix of scores costs most, so that it is passed over as rarely as possible. Factors of
    # a token multiply its row of a product instead. The targets' part of the gradients is
    # subtracted at the end.
    def add_chunk(i: Array, sums: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
        value, d_hidden, d_vectors, d_bias = sums
        tokens, share = take(i)
        h = hidden.at[tokens].get(mode="fill", fill_value=0)
        logits = h @ vectors.T + bias
        top = logits.max(-1)
        weights = jnp.exp(logits - top[:, None])
        total = weights.sum(-1)
        value += (share * (jnp.log(total) + top)).sum()
        share /= total
        d_hidden = d_hidden.at[tokens].set(share[:, None] * (weights @ vectors), mode="drop")
        # The gradient of the vectors is held transposed: otherwise the matrix of scores would have
        # to be transposed, and its product takes twice as long.
        return (
            value,
            d_hidden,
            d_vectors + (share[:, None] * h).T @ weights,
            d_bias + share @ weights,
        )

    start = _zeros(hidden, vectors, bias)
    value, d_hidden, d_vectors, d_bias = jax.lax.fori_loop(0, chunks, add_chunk, start)
    share, wanted = jnp.where(real, scale, 0), vectors[targets]
    value -= (share * ((hidden * wanted).sum(-1) + bias[targets])).sum()
    d_hidden -= share[:, None] * wanted
    d_vectors = d_vectors.T.at[targets].add(-share[:, None] * hidden)
    return value, (d_hidden, d_vectors, d_bias.at[targets].add(-share))


def _softmax_backward(gradients: tuple[Array, Array, Array], g: Array) -> tuple[Array | None, ...]:
    return (*(g * d for d in gradients), None, None)


softmax.defvjp(_softmax, _softmax_backward)


Scored = Callable[[Float[Array, "n classes"], Float[Array, "n classes"], Int[Array, " n"]], Array]
"""A loss of each token, called with a student's scores, a teacher's scores and the targets."""

Scorer = tuple[Float[Array, "n dim"], Float[Array, "classes dim"], Float[Array, " classes"]]
"""Outputs, and the vectors and biases of the classes that they score."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_over_scores(
    loss: Scored,
    student: Scorer,
    teacher: Scorer,
    targets: Int[Array, " n"],
    real: Bool[Array, " n"],
) -> Float[Array, ""]:
    """Averages a loss that compares all scores of two models over the tokens that are ``real``.

    The teacher's scores are constants. As in `softmax`, value and gradient are computed together,
    for a chunk of tokens at a time, so that the scores of all tokens are never held.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.distillation import kd
        >>> from models.layers.losses import mean_over_scores
        >>> scorer = jnp.eye(2), jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), jnp.zeros(3)
        >>> real = jnp.array([True, True])
        >>> loss = lambda student, teacher, targets: kd(student, teacher, 2.0)
        >>> float(mean_over_scores(loss, scorer, scorer, jnp.array([0, 1]), real))
        0.0
    """
    return _mean_over_scores(loss, student, teacher, targets, real)[0]


def _mean_over_scores(
    loss: Scored, student: Scorer, teacher: Scorer, targets: Array, real: Array
) -> tuple[Array, Scorer]:
    (hidden, vectors, bias), (wanted, wanted_vectors, wanted_bias) = student, teacher
    hidden, wanted = (jnp.where(real[:, None], x, 0) for x in (hidden, wanted))
    chunks, take, _ = _chunks(real, TOKENS_PER_PAIR_OF_CHUNKS)

    def add_chunk(i: Array, sums: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
        value, d_hidden, d_vectors, d_bias = sums
        tokens, share = take(i)
        h, w, target = (
            jnp.asarray(x).at[tokens].get(mode="fill", fill_value=0)
            for x in (hidden, wanted, targets)
        )
        known = w @ wanted_vectors.T + wanted_bias

        def mean(scores: Array) -> Array:
            return (share * loss(scores, known, target)).sum()

        own, d_scores = jax.value_and_grad(mean)(h @ vectors.T + bias)
        return (
            value + own,
            d_hidden.at[tokens].set(d_scores @ vectors, mode="drop"),
            d_vectors + h.T @ d_scores,
            d_bias + d_scores.sum(0),
        )

    start = _zeros(hidden, vectors, bias)
    value, d_hidden, d_vectors, d_bias = jax.lax.fori_loop(0, chunks, add_chunk, start)
    return value, (d_hidden, d_vectors.T, d_bias)


def _mean_over_scores_backward(
    _: Scored, gradients: Scorer, g: Array
) -> tuple[Scorer, None, None, None]:
    d_hidden, d_vectors, d_bias = gradients
    return (g * d_hidden, g * d_vectors, g * d_bias), None, None, None


mean_over_scores.defvjp(_mean_over_scores, _mean_over_scores_backward)


def _zeros(hidden: Array, vectors: Array, bias: Array) -> tuple[Array, Array, Array, Array]:
    """Returns a loss of 0 and gradients of 0; the gradient of the vectors is transposed."""
    zero = jnp.zeros((), hidden.dtype)
    return zero, jnp.zeros_like(hidden), jnp.zeros_like(vectors.T), jnp.zeros_like(bias)


def _chunks(
    real: Bool[Array, " n"], size: int
) -> tuple[Int[Array, ""], Callable[[Array], tuple[Array, Array]], Float[Array, ""]]:
    """Deals the real tokens into chunks of ``size``.

    Returns:
        The number of chunks; a function ``take``; and the share of a real token in the mean.
        ``take(i)`` returns the positions of the tokens in chunk ``i`` and their shares in the mean.
        The last chunk is filled up with other positions, some past the end, whose share is 0.
    """
    size = min(size, real.size)
    count = real.sum()
    scale = 1 / jnp.maximum(count, 1)
    order = jnp.argsort(~real, stable=True)
    order = jnp.concatenate([order, jnp.full(-real.size % size, real.size)])

    def take(i: Array) -> tuple[Array, Array]:
        tokens = jax.lax.dynamic_slice_in_dim(order, i * size, size)
        return tokens, jnp.where(i * size + jnp.arange(size) < count, scale, 0)

    return (count + size - 1) // size, take, scale
