"""Smoothing that waits: steps pass as they are, and every k-th brings the smoothing of their sum.

A table's steps ``U`` since the last smoothing add up to ``P``. The k-th step is ``U + psi(P) - P``.
As psi is linear, the table then stands where k smoothed steps would have brought it. Decoupled
decay shrinks the table by a share in each step. It shrinks ``P`` by the same share, since ``P`` is
a part of the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike

from sevo_jax._smoothing import Method
from sevo_jax._tables import broadcast_mask


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pending:
    """The steps since the last smoothing, and how to smooth them.

    Attributes:
        steps: the sum of the steps of every table, in the structure of the parameters. Other leaves
            are `optax.MaskedNode`.
        beta: the degree of smoothness at the last step, ``float[]``.
        tol: the relative residual of ``"exact"``, ``float[]``.
        every: the steps between two smoothings.
        num_layers: ``L``.
        method: as in `smooth`.
        names: the groups of tables, each smoothed as one; ``None`` smooths each table on its own.
    """

    steps: Any
    beta: Any  # an array, or what stands for one in a tree of shapes or of axes
    tol: Any
    every: int = dataclasses.field(metadata={"static": True})
    num_layers: int = dataclasses.field(metadata={"static": True})
    method: Method = dataclasses.field(metadata={"static": True})
    names: tuple[tuple[str, ...], ...] | None = dataclasses.field(metadata={"static": True})


def no_steps(params: Any, groups: Sequence[Sequence[int]], dtype: Any) -> Any:
    """Makes the sum of no steps: zeros for the tables, of ``dtype`` or, if ``None``, their own."""
    leaves, structure = jax.tree.flatten(params)
    tables = {i for group in groups for i in group}
    for i in tables:
        check_precision(leaves[i].dtype)
    steps = [
        jnp.zeros_like(leaf, dtype=dtype) if i in tables else optax.MaskedNode()
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, steps)


def check_precision(dtype: Any) -> None:
    """Raises a `ValueError` for a table in half precision.

    It loses steps to rounding that its sum keeps. A smoothing would take off what it never got.
    """
    if jnp.finfo(dtype).bits < 32:
        raise ValueError(
            f"every above 1 needs tables of float32 or float64, got {dtype}: keep the table in "
            "float32, and cast it where the model reads it"
        )


def add_steps(
    pending: Pending,
    steps: Sequence[ArrayLike],
    decays: Sequence[ArrayLike],
    count: jax.Array,
    psi: Callable[[Sequence[jax.Array]], tuple[list[jax.Array], jax.Array]],
) -> tuple[list[jax.Array], Any, jax.Array]:
    """Adds a step to the sums, and smooths them if it is a k-th one.

    Args:
        pending: the sums so far.
        steps: the step of each table.
        decays: the share that decay takes off each table in this step.
        count: the number of this step, from 1.
        psi: the smoothing of all tables, which returns its iterations, too.

    Returns:
        The step that each table takes, the new ``pending.steps``, and the iterations.
    """
    held, structure = jax.tree.flatten(pending.steps)
    due = count % pending.every == 0

    def add(p: jax.Array, share: ArrayLike, u: jax.Array) -> jax.Array:
        wide = jnp.promote_types(jnp.promote_types(p.dtype, u.dtype), jnp.float32)
        return (1 - jnp.asarray(share, wide)) * p.astype(wide) + u.astype(wide)

    def waiting(steps: list[jax.Array], sums: list[jax.Array]) -> Any:
        sums = [new.astype(old.dtype) for new, old in zip(sums, held, strict=True)]
        return steps, sums, jnp.zeros([], jnp.int32)

    def smoothing(steps: list[jax.Array], sums: list[jax.Array]) -> Any:
        smoothed, iterations = psi(sums)
        moved = [
            (u + (s - p)).astype(u.dtype) for u, s, p in zip(steps, smoothed, sums, strict=True)
        ]
        brought = moved, [jnp.zeros_like(p) for p in held], iterations
        return jax.tree.map(lambda a, b: jnp.where(due, a, b), brought, waiting(steps, sums))

    arrays = list(map(jnp.asarray, steps))
    sums = list(map(add, held, decays, arrays))
    # `due` may be mapped, over seeds. JAX would then compute both branches at every step.
    moves, sums, iterations = jax.lax.cond(_any(due), smoothing, waiting, arrays, sums)
    return moves, jax.tree.unflatten(structure, sums), iterations


@custom_vmap
def _any(due: jax.Array) -> jax.Array:
    """Returns a boolean that no ``vmap`` maps: whether ``due`` holds for any of the mapped."""
    return due


@_any.def_vmap
def _(  # pyright: ignore[reportUnusedFunction]
    size: int, in_batched: Sequence[bool], due: jax.Array
) -> tuple[jax.Array, bool]:
    del size, in_batched
    return _any(due.any(axis=0)), False


def decayed_leaves(
    mask: Any | Callable[[Any], Any] | None, tree: Any, groups: Sequence[Sequence[int]]
) -> list[bool]:
    """Lists whether each leaf decays.

    Raises:
        ValueError: a part of a joint table decays, and another does not. Their sums, smoothed
            together, would not be those of the steps, each smoothed and decayed in its turn.
    """
    if mask is None:
        return [True for _ in jax.tree.leaves(tree)]
    wanted = broadcast_mask("decay mask", mask(tree) if callable(mask) else mask, tree)
    decayed = jax.tree.leaves(wanted)
    if any(len({decayed[i] for i in group}) > 1 for group in groups):
        raise ValueError(
            "decay mask: with every above 1, all parts of a joint table must decay or none; the "
            "mask has some of them"
        )
    return decayed


def check_same_every(pending: Pending | None, every: int) -> None:
    """Raises a `ValueError` if a state was made with another ``every``."""
    made_with = 1 if pending is None else pending.every
    if made_with != every:
        raise ValueError(
            f"state was made with every={made_with}, not every={every}: make it by the "
            "transformation's own init"
        )
