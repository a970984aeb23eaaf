"""Initial weights that Flax lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray


def symmetric_uniform(bound: float) -> Callable[..., Array]:
    """``U(-bound, bound)``; with ``inputs ** -0.5`` the common start of linear layers and GRUs.

    Examples:
        >>> import jax
        >>> from models.initializers import symmetric_uniform
        >>> weights = symmetric_uniform(0.5)(jax.random.key(0), (100,))
        >>> bool((abs(weights) <= 0.5).all() & (weights < 0).any())
        True
    """

    def initialize(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize
