"""The gated recurrent unit, as one step on projections that the caller computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gru(
    from_input: Float[Array, "*#n gates"],
    from_state: Float[Array, "*#n gates"],
    h: Float[Array, "*#n dim"],
) -> Float[Array, "*#n dim"]:
    """Steps a gated recurrent unit (Cho et al., EMNLP 2014): returns the next state.

    With ``[a_r, a_z, a_n]`` the projections of the input and ``[b_r, b_z, b_n]`` those of the
    state, ``r = sigmoid(a_r + b_r)``, ``z = sigmoid(a_z + b_z)``, ``n = tanh(a_n + r * b_n)``, and
    the next state is ``(1 - z) * n + z * h``. Inputs can thus be projected for all steps at once.
    Leading axes broadcast.

    Args:
        from_input: the input times its three matrices, side by side, biases included.
        from_state: the state times its three matrices, likewise.
        h: the state.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.layers.recurrent import gru
        >>> gru(jnp.zeros(3), jnp.zeros(3), jnp.array([4.0])).tolist()  # both gates half open
        [2.0]
    """
    (input_r, input_z, input_n) = jnp.split(from_input, 3, axis=-1)
    (state_r, state_z, state_n) = jnp.split(from_state, 3, axis=-1)
    r, z = jax.nn.sigmoid(input_r + state_r), jax.nn.sigmoid(input_z + state_z)
    return (1 - z) * jnp.tanh(input_n + r * state_n) + z * h
