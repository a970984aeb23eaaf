"""Initial weights that Flax lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, PRNGKeyArray


def symmetric_uniform(bound: float) -> Callable[..., Array]:
    """Returns an initialiser that draws from ``U(-bound, bound)``.

    Examples:
        >>> import jax
        >>> from models.layers.initializers import symmetric_uniform
        >>> weights = symmetric_uniform(0.5)(jax.random.key(0), (100,))
        >>> bool((abs(weights) <= 0.5).all() & (weights < 0).any())
        True
    """

    def initialize(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


def uniform_linear(
    inputs: int,
    outputs: int,
    *,
    bound: float | None = None,
    use_bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Returns a linear layer whose weights and bias start at ``U(-bound, bound)``.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        bound: ``inputs ** -0.5`` by default, the usual start in PyTorch.
        use_bias: whether there is a bias.
        rngs: the stream ``params`` initialises the weights.
    """
    uniform = symmetric_uniform(inputs**-0.5 if bound is None else bound)
    return nnx.Linear(
        inputs, outputs, use_bias=use_bias, kernel_init=uniform, bias_init=uniform, rngs=rngs
    )
