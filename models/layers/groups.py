"""Rows in groups of one width each, whose tokens are computed together.

The sequences of a batch differ in length. Padded to one width, a layer that looks at pairs of
tokens does mostly needless work, so a model may read its rows in groups of different widths.
Token-wise layers read the tokens of all groups as one array ``[tokens, …]``, one group after the
other. Layers that mix the tokens of a row are applied to each group by `by_group`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

Rows = Int[Array, "rows width"] | Sequence[Int[Array, "rows width"]]
"""One array of rows, or several of different widths."""


def as_groups(rows: Rows) -> list[Array]:
    """Returns a list of the arrays of rows, also when there is only one."""
    return jax.tree.leaves(rows)


def flatten(groups: Sequence[Shaped[Array, "rows width ..."]]) -> Shaped[Array, "tokens ..."]:
    """Joins the tokens of all groups, one group after the other."""
    return jnp.concatenate([group.reshape(-1, *group.shape[2:]) for group in groups])


def by_group(
    function: Callable[..., Array], groups: Sequence[Any], *tokens: Float[Array, "tokens _"]
) -> Float[Array, "n dim"]:
    """Applies a function of rows to every group.

    Args:
        function: called with a group and, for each array in ``tokens``, the part
            ``[rows, width, …]`` that belongs to the group; returns ``[rows, width, dim]`` or
            ``[rows, dim]``.
        groups: data of each group: an array ``[rows, width, …]`` or a tuple of such arrays.
        tokens: arrays in the order of `flatten`.

    Returns:
        The function's results, one group after the other: ``n`` tokens or rows.

    Examples:
        >>> import jax.numpy as jnp
        >>> from models.layers.groups import by_group
        >>> real = [jnp.array([[0, 1], [1, 1]]), jnp.array([[1, 1, 1]])]
        >>> x = jnp.arange(7.0)[:, None]
        >>> by_group(lambda real, x: (real[..., None] * x).sum(1), real, x).tolist()
        [[1.0], [5.0], [15.0]]
    """
    shapes = [jax.tree.leaves(group)[0].shape[:2] for group in groups]
    ends = list(accumulate(rows * width for rows, width in shapes))[:-1]
    parts = zip(*(jnp.split(x, ends) for x in tokens), strict=True)
    results = [
        function(group, *(part.reshape(*shape, part.shape[-1]) for part in own))
        for group, shape, own in zip(groups, shapes, parts, strict=True)
    ]
    return jnp.concatenate([result.reshape(-1, result.shape[-1]) for result in results])
