"""Dropout whose mask costs a few integer operations an element.

Threefry bits took a third of a packed SASRec step on a CPU. A dropout mask needs no cryptographic
mixing: here a threefry key seeds a counter-based hash, which XLA fuses into the multiplication.
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
        key: a key of the mask; ``None`` returns ``x``, as evaluation wants it.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from models.dropout import dropout
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
    """The finaliser of MurmurHash3: every input bit flips each output bit half of the time."""
    z = (z ^ (z >> 16)) * jnp.uint32(0x85EBCA6B)
    z = (z ^ (z >> 13)) * jnp.uint32(0xC2B2AE35)
    return z ^ (z >> 16)


def split_keys(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """So many keys, or as often ``None`` where there is no dropout."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def check_rates(**rates: float) -> None:
    """A `ValueError` that names the argument, unless each rate lies in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {rate}")
