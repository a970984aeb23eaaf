"""Dropout whose mask costs a few integer operations an element.

Random bits by threefry took a third of a packed SASRec step on a CPU. A dropout mask needs no
cryptographic mixing. Here a threefry key seeds a hash of the element's index, and XLA fuses the
hash into the multiplication.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def dropout(x: Float[Array, ...], rate: float, key: PRNGKeyArray | None) -> Float[Array, ...]:
    """Zeroes each entry with probability ``rate`` and scales the others by ``1 / (1 - rate)``.

    Args:
        x: any floating array of at most 2^32 entries.
        rate: in [0, 1), static.
        key: random key of the mask; with ``None``, for evaluation, ``x`` is returned as it is.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from models.layers.dropout import dropout
        >>> kept = dropout(jnp.ones(10_000), 0.25, jax.random.key(0))
        >>> bool(abs(kept.mean() - 1) < 0.02)
        True
    """
    if key is None or rate == 0:
        return x
    seed = jax.random.bits(key, (2,), jnp.uint32)
    counter = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    bits = _mix(_mix(counter + seed[0]) ^ seed[1])
    return jnp.where(bits >= jnp.uint32(round(rate * 2**32)), x / (1 - rate), 0)


def _mix(z: Array) -> Array:
    """Mixes bits as MurmurHash3 does at its end: each bit flips every other half of the time."""
    z = (z ^ (z >> 16)) * jnp.uint32(0x85EBCA6B)
    z = (z ^ (z >> 13)) * jnp.uint32(0xC2B2AE35)
    return z ^ (z >> 16)


def split_keys(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """Splits a key into ``count`` keys; for ``None``, returns ``None`` as often."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def check_rates(**rates: float) -> None:
    """Raises a `ValueError` that names the argument unless each rate lies in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {rate}")
