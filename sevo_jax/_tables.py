"""Finds the leaves of a parameter tree that are embedding tables over the graph's nodes.

A table is found by its path, in any tree: plain dicts, Flax NNX states, Linen variables or Equinox
modules. Only structures and shapes are read, at trace time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from sevo_jax._checks import STATIC_ARGS_HINT


@runtime_checkable
class DataclassLike(Protocol):
    """A tree that is a dataclass, such as an Equinox module."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Mask = bool | Mapping[Any, Any] | Sequence[bool] | DataclassLike
Tables = None | str | Sequence[str] | Sequence[Sequence[str]] | Mask | Callable[[Any], Any]
"""The ways to name tables; see `sevo_smooth`."""


Entries = list[tuple[tuple[str, ...], Any]]


def tree_entries(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Entries:
    """Lists every leaf with its path, as components.

    A trailing ``value`` is dropped if it has no siblings, since Flax's variables add it.
    """

    def is_known(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode) or (is_leaf is not None and is_leaf(node))

    found = jax.tree.leaves_with_path(tree, is_leaf=is_known)
    everything = [(_components(path), leaf) for path, leaf in found]
    siblings = Counter(path[:-1] for path, _ in everything)  # those that Optax masks, too
    entries = [(path, leaf) for path, leaf in everything if not isinstance(leaf, optax.MaskedNode)]

    def is_variable(path: tuple[str, ...]) -> bool:
        return len(path) > 1 and path[-1] == "value" and siblings[path[:-1]] == 1

    return [(path[:-1] if is_variable(path) else path, leaf) for path, leaf in entries]


def table_groups(tables: Tables, tree: Any, num_nodes: int | None) -> list[tuple[int, ...]]:
    """Finds the groups of leaves to smooth, as positions in ``jax.tree.leaves(tree)``.

    The leaves of one group have ``num_nodes`` rows in all. If that is ``None``, for named tables,
    rows are not checked. A tree without leaves, such as Optax's placeholders, has no groups.

    Raises:
        TypeError: a table that is not floating, or ``tables`` of no known form.
        ValueError: a name that matches no leaf or several, a leaf named twice, rows that do not add
            up to ``num_nodes``, or tables of one group that differ in their features.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tables)):
        raise TypeError(f"tables must be static, got a tracer; {STATIC_ARGS_HINT}")
    entries = tree_entries(tree)
    if not entries:
        return []
    if tables is None and num_nodes is not None:
        groups = [_only_candidate(entries, num_nodes)]
    elif isinstance(tables, str):
        groups = [(_find(tables, entries),)]
    elif names := named_groups(tables):
        groups = [tuple(_find(name, entries) for name in group) for group in names]
    else:
        mask = broadcast_mask("tables", tables(tree) if callable(tables) else tables, tree)
        groups = [(i,) for i, is_table in enumerate(jax.tree.leaves(mask)) if is_table]
        if not groups:
            raise ValueError(f"tables: the mask selects no leaf; there are {_listing(entries)}")
    _check_groups(groups, entries, num_nodes)
    return groups


def table_mask(tables: Tables, tree: Any, num_nodes: int) -> Any:
    """Marks tables by a tree of booleans in the structure of ``tree``."""
    chosen = {i for group in table_groups(tables, tree, num_nodes) for i in group}
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [i in chosen for i in range(len(leaves))])


def broadcast_mask(name: str, mask: Any, tree: Any) -> Any:
    """Broadcasts ``mask``, a tree of booleans and a prefix of ``tree``, to its structure.

    Raises:
        TypeError: leaves that are no booleans; the message calls the mask ``name``.
        ValueError: the mask is no prefix of the tree.
    """
    for leaf in jax.tree.leaves(mask):
        if not isinstance(leaf, bool) and getattr(leaf, "dtype", None) != jnp.bool_:
            raise TypeError(f"{name}: a mask must hold booleans, got {leaf!r}")
    try:
        return jax.tree.map(lambda m, sub: jax.tree.map(lambda _: bool(m), sub), mask, tree)
    except ValueError as error:
        raise ValueError(
            f"{name}: a mask must have the structure of the parameters, or of their upper levels; "
            f"the parameters are {_listing(tree_entries(tree))} ({error})"
        ) from error


def _components(path: tuple[Any, ...]) -> tuple[str, ...]:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return tuple(name.split("/")) if name else ()


def named_groups(tables: Any) -> list[list[str]] | None:
    """Converts names to lists of groups; returns ``None`` for a mask or a callable."""
    if not isinstance(tables, list | tuple):
        return None
    if not tables:
        raise ValueError("tables must name at least one table, got an empty sequence")
    strings = [isinstance(t, str) for t in tables]
    if all(strings):
        return [list(tables)]
    groups = [
        isinstance(t, list | tuple) and len(t) > 0 and all(isinstance(s, str) for s in t)
        for t in tables
    ]
    if all(groups):
        return [list(t) for t in tables]
    if any(strings) or any(groups):
        raise ValueError(
            "tables must be a name, a sequence of names (one joint table) or a sequence of "
            f"sequences of names (groups), not a mixture: got {tables!r}"
        )
    return None


def _find(name: str, entries: Entries) -> int:
    """Finds the position of the one leaf that ``name`` denotes.

    The components of the name stand together in the leaf's path. They end at the leaf, or at a
    module that holds exactly one leaf. If several leaves fit, the one whose path begins with the
    name wins.
    """
    wanted = tuple(name.split("/"))
    paths = [path for path, _ in entries]
    if wanted[-1] == "value" and len(wanted) > 1 and wanted[:-1] in paths:
        wanted = wanted[:-1]
    found: list[int] = []
    crowded: list[str] = []
    for i, path in enumerate(paths):
        for end in range(len(wanted), len(path) + 1):
            if path[end - len(wanted) : end] != wanted:
                continue
            held = sum(other[:end] == path[:end] for other in paths)
            if end == len(path) or held == 1:
                found.append(i)
                break
            crowded.append("/".join(path))
    from_root = [i for i in found if paths[i][: len(wanted)] == wanted]
    if len(found) == 1 or len(from_root) == 1:
        return (from_root or found)[0]
    if found:
        matches = ", ".join("/".join(paths[i]) for i in found)
        raise ValueError(f"tables: {name!r} matches several leaves: {matches}; give a longer path")
    if crowded:
        raise ValueError(
            f"tables: {name!r} is a module of several leaves: {', '.join(crowded)}; name one"
        )
    raise ValueError(f"tables: {name!r} matches no leaf; there are {_listing(entries)}")


def _only_candidate(entries: Entries, num_nodes: int) -> tuple[int, ...]:
    """Finds the one leaf with a row a node: of two or more axes, or a bare array."""
    rows = [i for i, (_, leaf) in enumerate(entries) if shape_of(leaf)[:1] == (num_nodes,)]
    found = [i for i in rows if len(shape_of(entries[i][1])) > 1]
    if not found and entries[0][0] == ():  # a bare array has no name that could be written
        found = rows
    if len(found) == 1:
        return (found[0],)
    if found:
        raise ValueError(
            f"several leaves have the graph's {num_nodes} rows: "
            f"{_listing([entries[i] for i in found])}; name the table with tables=..."
        )
    cures = [_cure(path, shape_of(leaf), num_nodes) for path, leaf in entries]
    advice = "".join(f"; {cure}" for cure in cures if cure)
    raise ValueError(
        f"no leaf of two or more axes has the graph's {num_nodes} rows; there are "
        f"{_listing(entries)}{advice}"
    )


def _cure(path: tuple[str, ...], shape: tuple[int, ...], num_nodes: int) -> str | None:
    """Advises how to write it if a leaf that is nearly a table is one."""
    name = "/".join(path) or "the array"
    excess = shape[0] - num_nodes if shape else 0
    if len(shape) == 1 and excess == 0:
        return f"if {name!r} is a table of one feature, write tables={name!r}"
    if len(shape) > 1 and 1 <= abs(excess) <= 2:
        rows = f"{abs(excess)} row{'s' if abs(excess) > 1 else ''}"
        return (
            f"if {name!r} is the table, it has {rows} too {'many' if excess > 0 else 'few'}: build "
            f"the graph with num_nodes={shape[0]} (nodes without edges stay isolated)"
        )
    return None


def _check_groups(groups: list[tuple[int, ...]], entries: Entries, num_nodes: int | None) -> None:
    seen: set[int] = set()
    for group in groups:
        for i in group:
            path, leaf = entries[i]
            if i in seen:
                raise ValueError(f"tables names {'/'.join(path)!r} more than once")
            seen.add(i)
            if not hasattr(leaf, "dtype"):
                raise TypeError(
                    f"table {'/'.join(path)!r} must be an array, got {type(leaf).__name__}; pass "
                    "the arrays of a module alone: eqx.filter(model, eqx.is_inexact_array)"
                )
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(f"table {'/'.join(path)!r} must be floating, got {leaf.dtype}")
            if leaf.ndim == 0:
                raise ValueError(f"table {'/'.join(path)!r} must have rows, got a scalar")
        members = [entries[i] for i in group]
        rows = sum(leaf.shape[0] for _, leaf in members)
        if num_nodes is not None and rows != num_nodes:
            joint = "one row a node" if len(group) == 1 else "rows that add up to the nodes"
            raise ValueError(
                f"table {_listing(members)} must have {joint}: got {rows} rows for a graph of "
                f"{num_nodes} nodes"
            )
        if len({leaf.shape[1:] for _, leaf in members}) > 1:
            raise ValueError(f"tables smoothed jointly must agree in features: {_listing(members)}")


def _listing(entries: Entries) -> str:
    return ", ".join(f"{'/'.join(path)}{list(shape_of(leaf))}" for path, leaf in entries)


def shape_of(leaf: Any) -> tuple[int, ...]:
    """Returns the shape of an array; other leaves have none, and are never tables."""
    return getattr(leaf, "shape", ())
