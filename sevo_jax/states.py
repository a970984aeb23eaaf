"""Optimiser states that hold graphs: axes for seeds under ``vmap``, and tables that grow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.sparse import BCSR
from jax.typing import ArrayLike

from sevo_jax.graph import Graph
from sevo_jax.tables import Tables, table_groups


def seed_axes(tx: optax.GradientTransformation, params: Any) -> Any:
    """The axes of an optimiser's state for ``vmap`` over seeds: 0 everywhere, None for graphs.

    Without it, ``vmap`` works too but keeps one copy of the graph a seed.

    Args:
        tx: the optimiser.
        params: the parameters of one seed, or their shapes.

    Returns:
        A tree for ``in_axes`` and ``out_axes``.

    Example:
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

    Every table gets new rows of ``initial``, whatever in the state has the structure of the
    parameters (moments, traces) gets zeros there, and every graph in it gets isolated nodes. Then
    make the optimiser anew with the graph of all nodes and put that graph into the state::

        state, params = sevo_jax.grow(state, params, graph.num_nodes)
        tx = sevo_jax.sevo_adamw(1e-3, graph)
        state = optax.tree.set(state, graph=graph)

    Shapes change, so the step compiles anew. The count of steps goes on: a new row's first step
    is that of any row which meets its first gradient late.

    Args:
        state: an optimiser state that holds a graph, from `sevo_smooth` or an alias.
        params: the parameters.
        num_nodes: how many nodes there are to be, at least the present number.
        tables: which leaves grow, as `sevo_smooth` takes it. A joint table cannot grow here.
        initial: the new rows, an array that broadcasts to their shape.

    Returns:
        The state and the parameters.

    Raises:
        ValueError: a state without a graph, fewer nodes than now, tables that cannot be found, or a
            joint table.

    Example:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> tx = sevo_jax.sevo_adamw(0.1, sevo_jax.edge_graph([0], [1], num_nodes=2))
        >>> params = {"table": jnp.ones((2, 4)), "bias": jnp.ones(4)}
        >>> state, params = sevo_jax.grow(tx.init(params), params, num_nodes=3)
        >>> params["table"].shape, optax.tree.get(state, "mu")["table"].shape
        ((3, 4), (3, 4))
    """
    graphs = [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_graph) if _is_graph(leaf)]
    if not graphs:
        raise ValueError("state must hold a graph, as the states of sevo_smooth do; found none")
    present = graphs[0].num_nodes
    if num_nodes < present:
        raise ValueError(f"num_nodes must be at least the present {present}, got {num_nodes}")
    groups = table_groups(tables, params, present)
    if any(len(group) > 1 for group in groups):
        raise ValueError("tables: a joint table cannot grow, since its nodes would be renumbered")
    growing = {i for group in groups for i in group}
    structure = jax.tree.structure(params)

    def with_rows(tree: Any, fill: ArrayLike) -> Any:
        leaves = jax.tree.leaves(tree)
        for i in growing:
            new = jnp.broadcast_to(
                jnp.asarray(fill, leaves[i].dtype), (num_nodes - present, *leaves[i].shape[1:])
            )
            leaves[i] = jnp.concatenate([leaves[i], new])
        return jax.tree.unflatten(structure, leaves)

    def is_like_params(tree: Any) -> bool:
        return jax.tree.structure(tree) == structure

    def grown(leaf: Any) -> Any:
        if _is_graph(leaf):
            return _with_isolated(leaf, num_nodes)
        if is_like_params(leaf) and _rows(leaf, growing) == {present}:
            return with_rows(leaf, 0.0)
        return leaf

    state = jax.tree.map(grown, state, is_leaf=lambda x: _is_graph(x) or is_like_params(x))
    return state, with_rows(params, initial)


def _is_graph(leaf: Any) -> bool:
    return isinstance(leaf, Graph)


def _rows(tree: Any, which: set[int]) -> set[int]:
    leaves = jax.tree.leaves(tree)
    return {leaves[i].shape[0] if leaves[i].ndim else 0 for i in which}


def _with_isolated(graph: Graph, num_nodes: int) -> Graph:
    """The graph with isolated nodes at its end, in the same capacity."""

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
    return Graph(weights, resize(graph.operator), num_nodes)
