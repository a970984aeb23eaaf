"""Optimiser states that hold graphs: other graphs, axes for seeds, and tables that grow."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.experimental.sparse import BCSR
from jax.typing import ArrayLike

from sevo_jax._checks import check_nodes
from sevo_jax._graph import Graph, as_graph
from sevo_jax._matrices import Operator
from sevo_jax._smoothing import smooth_tables
from sevo_jax._tables import Tables, shape_of, table_groups, tree_entries
from sevo_jax._transforms import SevoSmoothState, own_operator

State = TypeVar("State")


def seed_axes(tx: optax.GradientTransformation, params: Any) -> Any:
    """Makes the axes of an optimiser's state for ``vmap`` over seeds: None for graphs, else 0.

    ``vmap`` works without it, but then keeps a copy of the graph for each seed.

    Args:
        tx: the optimiser.
        params: the parameters of one seed, or their shapes.

    Returns:
        A tree for ``in_axes`` and ``out_axes``.

    Raises:
        ValueError: an optimiser in `optax.MultiSteps`, under which each seed has its graph.

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

    def is_accumulating(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    for node in filter(is_accumulating, jax.tree.leaves(state, is_leaf=is_accumulating)):
        if any(map(_is_graph, jax.tree.leaves(node, is_leaf=_is_graph))):
            # Whether a step is due is mapped, so `vmap` selects between two graphs for each seed.
            raise ValueError(
                "tx: under vmap, optax.MultiSteps keeps a graph for each seed: write the axis 0 in "
                "place of seed_axes(...)"
            )

    def axes(node: Any) -> Any:
        return None if _is_graph(node) else 0

    return jax.tree.map(axes, state, is_leaf=_is_graph)


def set_graph(state: State, graph: Graph | Operator) -> State:
    """Replaces the graph in every `SevoSmoothState` that a state holds.

    Each gets a copy of its own, so that a step that donates the state deletes no other graph. A
    compiled step stays compiled if node count, capacity, dtype, kernel and precision stay. If
    several transformations smooth over as many nodes, all get the graph; to replace it in one
    alone, call this on that one's part of the state.

    Args:
        state: an optimiser's state, or a tree around it, such as Flax's `TrainState`: of chains,
            partitions, `optax.MultiSteps`, `optax.inject_hyperparams` and the like.
        graph: as `sevo_smooth` takes it, over as many nodes as the one that it replaces.

    Returns:
        The state, in the same structure.

    Raises:
        TypeError: no graph; or the state of `nnx.Optimizer`, which takes a graph by
            ``optimizer.update(model, grads, graph=graph)``.
        ValueError: a state without a graph, with graphs of several sizes, with one graph a seed, or
            with a graph of another number of nodes.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=3, capacity=8)
        >>> tx = sevo_jax.sevo_adamw(0.1, graph)
        >>> state = tx.init(jnp.ones((3, 4)))
        >>> graph = graph.add_edges([1], [2])
        >>> state = sevo_jax.set_graph(state, graph)
    """
    graph = as_graph(graph)
    nodes, structure = jax.tree.flatten(state, is_leaf=_is_smoothing)
    present = [node.graph for node in nodes if _is_smoothing(node)]
    if not present:
        raise ValueError(
            "state must hold a graph, as the states of sevo_smooth do; found none (a state of "
            "nnx.Optimizer takes it by optimizer.update(model, grads, graph=graph))"
        )
    sizes = sorted({g.num_nodes for g in present})
    if len(sizes) > 1:
        raise ValueError(
            f"state holds graphs of {sizes} nodes: set that of each part on its own, for a chain "
            "of two state = (sevo_jax.set_graph(state[0], one), sevo_jax.set_graph(state[1], two))"
        )
    if graph.num_nodes != sizes[0]:
        raise ValueError(
            f"graph must have as many nodes as the one that it replaces, {sizes[0]}, got "
            f"{graph.num_nodes}; sevo_jax.grow(state, params, num_nodes) adds nodes"
        )
    for held in present:
        _check_replaceable(held)

    def replaced(node: Any) -> Any:
        if not _is_smoothing(node):
            return node
        return node._replace(graph=_placed_as(node.graph, own_operator(graph)))

    return jax.tree.unflatten(structure, [replaced(node) for node in nodes])


def settle(params: Any, state: Any, *, graph: Graph | Operator | None = None) -> Any:
    """Returns the parameters as a smoothing at this moment would leave them.

    With ``every`` above 1, tables run ahead by raw steps between two smoothings. Evaluate, export
    or keep the settled parameters, and go on training with the others: nothing is disturbed.

    Args:
        params: the parameters, of the structure that the optimiser was made for: those that take
            its whole steps. These are ``params.fast`` under `optax.lookahead`, and ``z`` of the
            state under `optax.contrib.schedule_free`.
        state: an optimiser's state, or a tree around it.
        graph: the graph to smooth over; that of the state if ``None``.

    Returns:
        The parameters, in the same structure; JAX's arrays are new ones, so that a step that
        donates ``params`` does not delete them. With ``every=1`` nothing waits, and they are
        ``params`` itself: copy what you keep.

    Raises:
        ValueError: ``params`` has no such table as the state, or the graph has other nodes.

    Examples:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> tx = sevo_jax.sevo_sgd(0.1, graph, beta=0.5, num_layers=1, every=100)
        >>> params = jnp.zeros((2, 1))
        >>> updates, state = tx.update(jnp.array([[3.0], [0.0]]), tx.init(params), params)
        >>> params = optax.apply_updates(params, updates)
        >>> [f"{x:.1f}" for x in params[:, 0]]
        ['-0.3', '0.0']
        >>> [f"{x:.1f}" for x in sevo_jax.settle(params, state)[:, 0]]
        ['-0.2', '-0.1']
    """
    nodes = jax.tree.leaves(state, is_leaf=_is_smoothing)
    waiting = [node for node in nodes if _is_smoothing(node) and node.pending is not None]
    if not waiting and any("pending" in path for path, _ in tree_entries(state)):
        raise ValueError(
            "state must be the optimiser's state as Optax made it, or a tree around it, got a copy "
            "in dictionaries; of nnx.Optimizer give optimizer.opt_state"
        )
    leaves = dict(tree_entries(params))
    settled = dict(leaves)
    for node in waiting:
        pending, held = node.pending, tree_entries(node.pending.steps)
        if jnp.ndim(_arrays(node.pending.beta)):
            raise ValueError(
                "state is that of several seeds: write jax.vmap(sevo_jax.settle, in_axes=(0, axes))"
                "(params, state), with axes from sevo_jax.seed_axes, or 0"
            )
        own = as_graph(_arrays(node.graph) if graph is None else graph)
        if own.num_nodes != node.graph.num_nodes:
            raise ValueError(
                f"graph must have as many nodes as the state's, {node.graph.num_nodes}, got "
                f"{own.num_nodes}"
            )
        groups = [(i,) for i in range(len(held))]
        if pending.names is not None:
            groups = table_groups(pending.names, pending.steps, own.num_nodes)
        sums = [_in_params(path, total, leaves) for path, total in held]
        # A smoothing earlier in the chain has just moved the table, and hands that on to this one.
        for i, (path, _) in enumerate(held):
            sums[i] += settled[path] - leaves[path]
        smoothed, _ = smooth_tables(
            own,
            sums,
            groups,
            _arrays(pending.beta),
            pending.num_layers,
            pending.method,
            tol=_arrays(pending.tol),
        )
        for (path, _), new, total in zip(held, smoothed, sums, strict=True):
            table = settled[path]
            settled[path] = table + (new - total).astype(table.dtype)
    if not waiting:
        return params
    # A step that donates the parameters must not delete what is kept.
    kept = [
        jnp.copy(x) if x is leaves[path] and isinstance(x, jax.Array) else x
        for path, x in settled.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(params), kept)


def _in_params(
    path: tuple[str, ...], total: jax.Array, params: dict[tuple[str, ...], Any]
) -> jax.Array:
    """Widens a sum of steps, if ``params`` hold its table."""
    name = f"the table {'/'.join(path)!r}" if path else "one table"
    if path not in params or shape_of(params[path]) != shape_of(total):
        shapes = {"/".join(path): shape_of(leaf) for path, leaf in params.items()}
        raise ValueError(
            f"params must hold {name} of shape {shape_of(total)}, as the state does, got {shapes}; "
            "give the parameters that the optimiser trains"
        )
    return total.astype(jnp.promote_types(total.dtype, jnp.promote_types(params[path].dtype, "f4")))


def _arrays(tree: Any) -> Any:
    """Takes arrays out of Flax's variables."""

    def is_variable(node: Any) -> bool:
        return hasattr(node, "__jax_array__")

    return jax.tree.map(
        lambda x: jnp.asarray(x) if is_variable(x) else x, tree, is_leaf=is_variable
    )


def grow(
    state: Any,
    params: Any,
    num_nodes: int,
    *,
    tables: Tables = None,
    initial: ArrayLike = 0.0,
    tx: optax.GradientTransformation | None = None,
) -> tuple[Any, Any]:
    """Adds nodes at the end of tables, moments and graphs.

    Every table gets new rows of ``initial``. Its moments get the rows that a new state would have.
    With ``tx``, the optimiser of all nodes, they come from its new state, and so does the graph::

        tx = sevo_jax.sevo_adamw(1e-3, graph)
        state, params = sevo_jax.grow(state, params, graph.num_nodes, tx=tx)

    Without ``tx``, the moments and traces of Optax's usual optimisers get zeros, and the graph gets
    isolated nodes; then call `set_graph`. Other arrays of a table are an error, since they may
    start anywhere, such as RMSProp's moments or the parameters in `optax.contrib.schedule_free`.
    `optax.scale_by_yogi` has Adam's state but other moments, so it needs ``tx``.

    Shapes change, so the step compiles anew. The count of steps goes on, as for any row whose first
    gradient comes late.

    Args:
        state: an optimiser state that holds a graph, from `sevo_smooth` or an alias.
        params: the parameters.
        num_nodes: the new number of nodes, at least the present one.
        tables: the leaves that grow, as `sevo_smooth` takes it. Name all tables over graphs of
            that size. A joint table cannot grow here.
        initial: the new rows, an array that broadcasts to their shape.
        tx: the optimiser, made anew with the graph of ``num_nodes`` nodes.

    Returns:
        The state and the parameters.

    Raises:
        TypeError: ``num_nodes`` is not an integer.
        ValueError: a state without a graph of the tables' size, fewer nodes than now, tables that
            cannot be found, a joint table; a part of the state whose new rows are not known without
            ``tx``, or which has no rows of its own (some of Adafactor's moments); or a ``tx`` that
            is not the state's, or not of ``num_nodes`` nodes.

    Examples:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> tx = sevo_jax.sevo_adamw(0.1, sevo_jax.edge_graph([0], [1], num_nodes=2))
        >>> params = {"table": jnp.ones((2, 4)), "bias": jnp.ones(4)}
        >>> state, params = sevo_jax.grow(tx.init(params), params, num_nodes=3)
        >>> params["table"].shape, optax.tree.get(state, "mu")["table"].shape
        ((3, 4), (3, 4))
    """
    num_nodes = check_nodes("num_nodes", num_nodes)
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
    if num_nodes == present and tx is None:
        return state, params

    def with_rows(leaf: jax.Array | np.ndarray, rows: ArrayLike) -> jax.Array:
        shape = (num_nodes - present, *leaf.shape[1:])
        return jnp.concatenate([leaf, jnp.broadcast_to(jnp.asarray(rows, leaf.dtype), shape)])

    leaves = [with_rows(leaf, initial) if path in growing else leaf for path, leaf in entries]
    grown_params = jax.tree.unflatten(jax.tree.structure(params), leaves)
    shapes = {path: shape_of(leaf) for path, leaf in entries}

    def error(path: tuple[str, ...], leaf: Any, why: str) -> ValueError:
        return ValueError(
            f"state: {'/'.join(path)} of shape {shape_of(leaf)} belongs to the table "
            f"{'/'.join(_owner(path, shapes) or ())!r} of {present} rows and {why}"
        )

    def of_zeros(path: tuple[str, ...], leaf: Any, from_zero: bool) -> Any:
        """Grows a leaf without ``tx``: its path says which table it belongs to."""
        owner, unknown = _owner(path, shapes), "its new rows are not known: give grow(..., tx=...)"
        if _is_graph(leaf):
            return _with_isolated(leaf, num_nodes) if leaf.num_nodes == present else leaf
        if owner is None and shape_of(leaf) in [shapes[table] for table in growing]:
            raise error(path, leaf, unknown)
        if owner not in growing:
            return leaf
        if shape_of(leaf) == shapes[owner]:
            if not from_zero:
                raise error(path, leaf, unknown)
            return with_rows(leaf, 0.0)
        if present in shape_of(leaf):
            raise error(path, leaf, cannot)
        return leaf

    def made_anew(path: tuple[str, ...], leaf: Any, fresh: Any) -> Any:
        """Grows a leaf with ``tx``: leaves that grow have another shape in its new state."""
        if _is_graph(leaf):
            return fresh if leaf.num_nodes == present else leaf
        shape = shape_of(leaf)
        if shape[:1] == (present,) and shape_of(fresh) == (num_nodes, *shape[1:]):
            return with_rows(leaf, fresh[present:])
        # With as many columns as rows, a factored moment may belong to either axis.
        doubtful = present in shape and _owner(path, shapes) in growing
        if doubtful or shape_of(fresh) != shape:
            raise error(path, leaf, cannot)
        return leaf

    cannot = "cannot grow; make the state anew"
    held, structure = tree_entries(state, _is_graph), jax.tree.structure(state, is_leaf=_is_graph)
    if tx is None:
        grown = map(of_zeros, *zip(*held, strict=True), jax.tree.leaves(_starts_at_zero(state)))
    else:
        fresh = _init(tx, grown_params, num_nodes, structure)
        grown = map(made_anew, *zip(*held, strict=True), fresh)
    return jax.tree.unflatten(structure, grown), grown_params


def _owner(path: tuple[str, ...], params: Collection[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Finds the parameter of a leaf of the state: the longest one that its path ends with."""
    suffixes = (path[start:] for start in range(len(path) + 1))
    return next((suffix for suffix in suffixes if suffix in params), None)


def _init(
    tx: optax.GradientTransformation, params: Any, num_nodes: int, structure: Any
) -> list[Any]:
    """Makes the leaves of a new state; graphs are leaves."""
    try:
        fresh = tx.init(params)
    except ValueError as error:
        raise ValueError(
            f"tx must be the optimiser made anew with the graph of {num_nodes} nodes: {error}"
        ) from error
    if jax.tree.structure(fresh, is_leaf=_is_graph) != structure:
        raise ValueError(
            "tx must be the optimiser of this state, of another graph; its state has another "
            "structure (of nnx.Optimizer give nnx.as_pure(...) of opt_state and parameters)"
        )
    return jax.tree.leaves(fresh, is_leaf=_is_graph)


_FROM_ZERO = (
    SevoSmoothState,
    optax.EmaState,
    optax.ScaleByAdaDeltaState,
    optax.ScaleByAdamState,
    optax.ScaleByAdanState,
    optax.ScaleByAmsgradState,
    optax.ScaleByBeliefState,
    optax.ScaleByLionState,
    optax.TraceState,
)
"""States whose moments start at zero. Others start where their options say."""


def _starts_at_zero(state: Any) -> Any:
    """Marks the leaves that are known to be zero in a new state; graphs are leaves."""

    def is_known(node: Any) -> bool:
        return isinstance(node, (*_FROM_ZERO, optax.MultiStepsState, Graph))

    def marked(node: Any) -> Any:
        if isinstance(node, optax.MultiStepsState):
            fields = {name: _starts_at_zero(field) for name, field in node._asdict().items()}
            fields["acc_grads"] = jax.tree.map(lambda _: True, node.acc_grads)
            return optax.MultiStepsState(**fields)
        return jax.tree.map(lambda _: isinstance(node, _FROM_ZERO), node, is_leaf=_is_graph)

    return jax.tree.map(marked, state, is_leaf=is_known)


def _is_smoothing(node: Any) -> bool:
    return isinstance(node, SevoSmoothState)


def _check_replaceable(graph: Graph) -> None:
    """Raises an error unless a state's graph is one graph, of plain arrays."""
    values: Any = graph.operator.data
    if not isinstance(values, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        raise TypeError(
            f"state holds its graph in variables ({type(values).__name__}), as that of "
            "nnx.Optimizer does: hand the graph in by optimizer.update(model, grads, graph=graph)"
        )
    if values.ndim > (1 if graph.exchange is None else 2):
        raise ValueError(
            "state holds one graph a seed: make it with sevo_jax.seed_axes, which keeps one for "
            "all, or write jax.vmap(sevo_jax.set_graph, in_axes=(0, None))(state, graph)"
        )


def _placed_as(held: Graph, graph: Graph) -> Graph:
    """Puts ``graph`` on the devices of the graph that it replaces, if that lies whole on each."""
    own: Any = held.operator.data
    split = held.exchange is not None or graph.exchange is not None
    if split or isinstance(own, Tracer) or not getattr(own, "committed", False):
        return graph
    if not own.sharding.is_fully_replicated:
        return graph
    return jax.device_put(graph, own.sharding)


def _is_graph(leaf: Any) -> bool:
    return isinstance(leaf, Graph)


def _with_isolated(graph: Graph, num_nodes: int) -> Graph:
    """Adds isolated nodes at the end of a graph, in the same capacity."""
    if graph.exchange is not None:
        raise ValueError(
            "state holds a graph that is split among devices: give grow(..., tx=...), the "
            "optimiser with the graph of all nodes, split likewise"
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
