"""Checks of hyper-parameters that several modules share."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.core import Tracer

STATIC_ARGS_HINT = (
    "under optax.inject_hyperparams declare it static: optax.inject_hyperparams(sevo_adamw, "
    'static_args=("graph", "tables", "num_layers", "method"))'
)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """`ValueError`, with the nearest names, unless ``value`` is one of ``choices``."""
    if value in choices:
        return
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}{hint}")


def check_num_layers(num_layers: Any) -> int:
    """``num_layers`` as a Python integer of at least 0."""
    if isinstance(num_layers, Tracer):
        raise TypeError(f"num_layers must be a static integer, got a tracer; {STATIC_ARGS_HINT}")
    try:
        if isinstance(num_layers, bool | np.bool_):
            raise TypeError
        layers = operator.index(num_layers)
    except TypeError:
        raise TypeError(f"num_layers must be an integer, got {num_layers!r}") from None
    if layers < 0:
        raise ValueError(f"num_layers must be at least 0, got {layers}")
    return layers


def check_beta(beta: Any) -> None:
    """`ValueError` unless ``beta`` is a scalar in [0, 1); traced values pass unchecked."""
    if isinstance(beta, Tracer):
        return
    value = np.asarray(beta)
    if value.ndim or not np.issubdtype(value.dtype, np.number):
        raise TypeError(f"beta must be a scalar, a schedule or a float, got {beta!r}")
    if not 0 <= value < 1:  # false for NaN
        raise ValueError(f"beta must lie in [0, 1), got {value}")
