"""Initial weights that Flax lacks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, PRNGKeyArray


def symmetric_uniform(bound: float) -> Initializer:
    """``U(-bound, bound)``; with ``inputs ** -0.5`` the common start of linear layers and GRUs.

    Example:
        >>> import jax
        >>> from models.initializers import symmetric_uniform
        >>> weights = symmetric_uniform(0.5)(jax.random.key(0), (100,))
        >>> bool((abs(weights) <= 0.5).all() & (weights < 0).any())
        True
    """

    def initialize(key: PRNGKeyArray, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
