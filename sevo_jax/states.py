"""Optimiser states that hold graphs: axes for seeds under ``vmap``, and tables that grow."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.sparse import BCSR
from jax.typing import ArrayLike

from sevo_jax.graph import Graph
from sevo_jax.tables import Tables, table_groups, tree_entries
from sevo_jax.validation import check_count


def seed_axes(tx: optax.GradientTransformation, params: Any) -> Any:
    """The axes of an optimiser's state for ``vmap`` over seeds: 0 everywhere, None for graphs.

    Without it, ``vmap`` works too but keeps one copy of the graph a seed.

    Args:
        tx: the optimiser.
        params: the parameters of one seed, or their shapes.

    Returns:
        A tree for ``in_axes`` and ``out_axes``.

    Examples:
        >>> import jax, jax.numpy as jnp, sevo_jax
        >>> tx = sevo_jax.sevo_adamw(0.1, sevo_jax.edge_graph([0], [1], num_nodes=2))
        >>> params = jnp.ones((3, 2, 4))  # three seeds
        >>> axes = sevo_jax.seed_axes(tx, params[0])
        >>> state = jax.vmap(tx.init, out_axes=axes)(params)
        >>> step = jax.vmap(tx.update, in_axes=(0, axes, 0), out_axes=(0, axes))
        >>> updates, state = step(params, state, params)
        >>> updates.shape
        (3, 2, 4)
    """
    state = jax.eval_shape(tx.init, params)
    return jax.tree.map(lambda leaf: None if _is_graph(leaf) else 0, state, is_leaf=_is_graph)


def grow(
    state: Any, params: Any, num_nodes: int, *, tables: Tables = None, initial: ArrayLike = 0.0
) -> tuple[Any, Any]:
    """Tables, moments and graphs with more nodes, the new ones at the end.

    Every table gets new rows of ``initial``; its moments and traces, found in the state by the
    table's path and shape, get zeros there; and every graph in the state of as many nodes as the
    tables have rows gets isolated ones. Then make the optimiser anew with the graph of all nodes
    and put that graph into the state::

        state, params = sevo_jax.grow(state, params, graph.num_nodes)
        tx = sevo_jax.sevo_adamw(1e-3, graph)
        state = optax.tree.set(state, graph=graph)

    Shapes change, so the step compiles anew. The count of steps goes on: a new row's first step
    is that of any row which meets its first gradient late.

    Args:
        state: an optimiser state that holds a graph, from `sevo_smooth` or an alias.
        params: the parameters.
        num_nodes: how many nodes there are to be, at least the present number.
        tables: which leaves grow, as `sevo_smooth` takes it, all of the same number of rows: all
            tables over the graphs of that size. A joint table cannot grow here.
        initial: the new rows, an array that broadcasts to their shape.

    Returns:
        The state and the parameters.

    Raises:
        TypeError: ``num_nodes`` is not an integer.
        ValueError: a state without a graph of the tables' size, fewer nodes than now, tables that
            cannot be found, a joint table, or moments of another shape (Adafactor's) to grow.

    Examples:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> tx = sevo_jax.sevo_adamw(0.1, sevo_jax.edge_graph([0], [1], num_nodes=2))
        >>> params = {"table": jnp.ones((2, 4)), "bias": jnp.ones(4)}
        >>> state, params = sevo_jax.grow(tx.init(params), params, num_nodes=3)
        >>> params["table"].shape, optax.tree.get(state, "mu")["table"].shape
        ((3, 4), (3, 4))
    """
    num_nodes = check_count("num_nodes", num_nodes)
    sizes = sorted({g.num_nodes for _, g in tree_entries(state, _is_graph) if _is_graph(g)})
    if not sizes:
        raise ValueError("state must hold a graph, as the states of sevo_smooth do; found none")
    if tables is None and len(sizes) > 1:
        raise ValueError(f"state holds graphs of {sizes} nodes; name the tables with tables=...")
    groups = table_groups(tables, params, sizes[0] if tables is None else None)
    if any(len(group) > 1 for group in groups):
        raise ValueError("tables: a joint table cannot grow, since its nodes would be renumbered")
    entries = tree_entries(params)
    growing = {entries[i][0] for group in groups for i in group}
    rows = sorted({leaf.shape[0] for path, leaf in entries if path in growing})
    if len(rows) != 1 or rows[0] not in sizes:
        raise ValueError(
            f"tables must all have the rows of one graph, got {rows} rows and graphs of {sizes}"
        )
    present = rows[0]
    if num_nodes < present:
        raise ValueError(f"num_nodes must be at least the present {present}, got {num_nodes}")
    shapes = {path: getattr(leaf, "shape", None) for path, leaf in entries}

    def with_rows(leaf: jax.Array, fill: ArrayLike) -> jax.Array:
        shape = (num_nodes - present, *leaf.shape[1:])
        return jnp.concatenate([leaf, jnp.broadcast_to(jnp.asarray(fill, leaf.dtype), shape)])

    def grown(path: tuple[str, ...], leaf: Any) -> Any:
        if _is_graph(leaf):
            return _with_isolated(leaf, num_nodes) if leaf.num_nodes == present else leaf
        suffixes = (path[start:] for start in range(len(path) + 1))
        of = next((suffix for suffix in suffixes if suffix in shapes), None)  # the longest
        if of not in growing or not hasattr(leaf, "shape"):
            return leaf
        if leaf.shape == shapes[of]:
            return with_rows(leaf, 0.0)
        if present in leaf.shape:
            raise ValueError(
                f"state: {'/'.join(path)} of shape {leaf.shape} belongs to the table "
                f"{'/'.join(of)!r} of shape {shapes[of]} and cannot grow; make the state anew"
            )
        return leaf

    leaves = [grown(*entry) for entry in tree_entries(state, _is_graph)]
    state = jax.tree.unflatten(jax.tree.structure(state, is_leaf=_is_graph), leaves)
    tables_grown = [with_rows(x, initial) if path in growing else x for path, x in entries]
    return state, jax.tree.unflatten(jax.tree.structure(params), tables_grown)


def _is_graph(leaf: Any) -> bool:
    return isinstance(leaf, Graph)


def _with_isolated(graph: Graph, num_nodes: int) -> Graph:
    """The graph with isolated nodes at its end, in the same capacity."""
    if graph.exchange is not None:
        raise ValueError(
            "state holds a graph that is split among devices: put one that is not into it "
            "(optax.tree.set), grow that, and shard the graph of all nodes"
        )

    def resize(matrix: BCSR) -> BCSR:
        data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
        indices = jnp.where(indices == graph.num_nodes, num_nodes, indices)  # padding
        indptr = jnp.pad(indptr, (0, num_nodes - graph.num_nodes), mode="edge")
        return BCSR(
            (data, indices, indptr),
            shape=(num_nodes, num_nodes),
            indices_sorted=True,
            unique_indices=True,
        )

    weights = None if graph.weights is None else resize(graph.weights)
    operator = resize(graph.operator)
    return dataclasses.replace(graph, weights=weights, operator=operator, num_nodes=num_nodes)
