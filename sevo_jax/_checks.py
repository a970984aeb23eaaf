"""Checks of arguments that several modules share."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

STATIC_ARGS_HINT = (
    "under optax.inject_hyperparams declare it static: optax.inject_hyperparams(sevo_adamw, "
    'static_args=("graph", "tables", "num_layers", "method", "every", "mask")); sevo_smooth has '
    "decay_mask in place of mask"
)


EVERY_STEP: Any = np.int64(1)
"""The default of ``every``. `optax.inject_hyperparams` traces integers of Python, but not of NumPy,
so ``every`` need not be listed as static where it is left out."""


def check_choice(name: str, value: str, literal: Any) -> None:
    """Raises a `ValueError`, with the nearest name, unless a ``Literal`` has ``value``."""
    choices = get_args(literal)
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}")


def check_num_layers(num_layers: Any) -> int:
    """Returns ``num_layers`` as a Python integer of at least 0."""
    if isinstance(num_layers, Tracer):
        raise TypeError(f"num_layers must be a static integer, got a tracer; {STATIC_ARGS_HINT}")
    return check_count("num_layers", num_layers, least=0)


def check_every(every: Any) -> int:
    """Returns ``every`` as a Python integer of at least 1."""
    if isinstance(every, Tracer):
        raise TypeError(f"every must be a static integer, got a tracer; {STATIC_ARGS_HINT}")
    number = check_count("every", every)
    if number >= 2**31:
        raise ValueError(f"every must be less than 2^31, the most steps counted, got {number}")
    return number


def check_decay(decay: Any) -> None:
    """Raises an error unless ``decay`` is a scalar of at least 0; traced values pass unchecked."""
    if isinstance(decay, Tracer):
        return
    value = np.asarray(decay)
    if value.ndim or not jnp.issubdtype(value.dtype, jnp.number):
        raise TypeError(f"decay must be a scalar or a schedule, got {decay!r}")
    if not value >= 0:  # true for NaN
        raise ValueError(
            f"decay must be at least 0, the share that decay takes off the table, got {value}"
        )


def check_floating(name: str, dtype: Any) -> Any:
    """Returns a floating dtype as JAX has it; ``None`` stays."""
    if dtype is None:
        return None
    try:
        known = jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise TypeError(f"{name} must be a floating dtype, got {dtype!r}")
    return jax.dtypes.canonicalize_dtype(known)


ROUNDED = -1e-6
"""A ``beta`` above this and below 0 is 0, rounded. Compiled, `optax.linear_schedule` may end at
-5e-8 where it should be 0."""


def check_beta(beta: Any) -> None:
    """Raises an error unless ``beta`` is a scalar in [0, 1); traced values pass unchecked.

    What rounding leaves just below 0 passes, and counts as 0.
    """
    if isinstance(beta, Tracer):
        return
    value = np.asarray(beta)
    if value.ndim or not jnp.issubdtype(value.dtype, jnp.number):
        raise TypeError(f"beta must be a scalar, a schedule or a float, got {beta!r}")
    if not ROUNDED < value < 1:  # false for NaN
        raise ValueError(f"beta must lie in [0, 1), got {value}")


SCHEDULE_POINTS = (0, *(2**power for power in range(24)))
"""Steps at which a schedule is checked. At later steps ``1 - 1 / count`` is 1 in float32."""


def check_schedule(beta: Callable[[jax.Array], Any]) -> None:
    """Raises an error unless a schedule of beta lies in [0, 1) at `SCHEDULE_POINTS`."""
    with jax.ensure_compile_time_eval():  # works within jit and eval_shape, too
        for count in SCHEDULE_POINTS:
            value = beta(jnp.asarray(count, jnp.int32))
            try:
                check_beta(value)
            except ValueError as error:
                raise ValueError(f"{error} at step {count} of the schedule") from None


def nan_outside(beta: jax.Array) -> jax.Array:
    """Returns a traced ``beta``, replaced on the device by NaN where it lies outside [0, 1)."""
    return jnp.where((beta >= 0) & (beta < 1), beta, jnp.nan)


def check_positive(name: str, value: Any) -> None:
    """Raises an error unless ``value`` is finite and above 0; traced values pass unchecked."""
    if isinstance(value, Tracer):
        return
    number = np.asarray(value)
    if number.ndim or not jnp.issubdtype(number.dtype, jnp.number):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < number < np.inf:  # false for NaN
        raise ValueError(f"{name} must be finite and above 0, got {number}")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Returns ``value`` as a Python integer of at least ``least``."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def check_nodes(name: str, value: Any) -> int:
    """Returns ``value`` as a number of nodes, which indices of 32 bits must reach."""
    number = check_count(name, value)
    if number >= 2**31 - 1:
        raise ValueError(
            f"{name} must be less than 2^31 - 1, got {number}; number the ids from 0, such as by "
            "np.unique(ids, return_inverse=True)"
        )
    return number


def check_unmasked(name: str, values: Any) -> None:
    """Raises a `ValueError` where a masked array hides values, which NumPy would uncover."""
    if np.ma.is_masked(values):
        hidden = np.argwhere(np.ma.getmaskarray(values))
        raise ValueError(
            f"{name} must have a value everywhere, but {len(hidden)} are masked, the first at "
            f"position {', '.join(map(str, hidden[0]))}; leave them out"
        )


def check_ids(name: str, ids: Any, num_nodes: int, limit: str = "num_nodes") -> np.ndarray:
    """Returns ``ids`` as an integer array of one dimension, all in ``[0, num_nodes)``."""
    check_unmasked(name, ids)
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {ids.shape}")
    if ids.size == 0:
        return ids.astype(np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name} must hold integer node ids, got dtype {ids.dtype}")
    for extreme in (ids.min(), ids.max()):
        if not 0 <= extreme < num_nodes:
            raise ValueError(f"{name} must lie in [0, {limit}) = [0, {num_nodes}), got {extreme}")
    return ids


def check_weights(weights: ArrayLike | None, shape: tuple[int, ...]) -> tuple[np.ndarray, Any]:
    """Returns edge weights in float64, 1 for ``None``, and the floating dtype they came in."""
    if weights is None:
        return np.ones(shape), jax.dtypes.canonicalize_dtype(float)
    return check_shares(weights, shape, "an edge")


def check_shares(weights: ArrayLike, shape: tuple[int, ...], each: str) -> tuple[np.ndarray, Any]:
    """Returns weights in float64, one for ``each`` of what they weigh, and their floating dtype."""
    check_unmasked("weights", weights)
    given = np.asarray(weights)
    if given.shape != shape:
        raise ValueError(f"weights must have one entry {each}, shape {shape}, got {given.shape}")
    if jnp.issubdtype(given.dtype, jnp.complexfloating):
        raise TypeError(f"weights must be real numbers, got dtype {given.dtype}")
    values = given.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise ValueError(
            f"weights must be finite and non-negative, got {values[bad[0]]} at position {bad[0]}"
        )
    kept = jnp.issubdtype(given.dtype, jnp.floating) and given.dtype.itemsize <= 8
    return values, given.dtype if kept else jax.dtypes.canonicalize_dtype(float)


def rounds_to_0(weights: np.ndarray, dtype: Any) -> bool:
    """Tells whether the least of some positive weights is 0 in ``dtype``."""
    return bool(weights.min(initial=np.inf).astype(dtype) == 0)
