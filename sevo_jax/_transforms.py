"""The gradient transformations: smoothing over a graph, and Adam with corrected moments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.sparse import BCSR
from jax.typing import ArrayLike

from sevo_jax._checks import (
    EVERY_STEP,
    check_beta,
    check_choice,
    check_decay,
    check_every,
    check_floating,
    check_num_layers,
    check_positive,
    check_schedule,
)
from sevo_jax._graph import Graph, as_graph
from sevo_jax._matrices import Operator
from sevo_jax._pending import Pending, add_steps, check_same_every, decayed_leaves, no_steps
from sevo_jax._smoothing import Method, check_exact, smooth_tables
from sevo_jax._tables import Tables, broadcast_mask, named_groups, table_groups


class SevoSmoothState(NamedTuple):
    """State of `sevo_smooth`.

    Attributes:
        count: steps so far, ``int32[]``, for a schedule of beta.
        graph: the transformation's own copy of the graph's operator. The weights are left out,
            since no step reads them. As state, the graph is an argument of the compiled step and
            not a constant in it. `set_graph` replaces it.
        iterations: conjugate-gradient iterations of the last step, ``int32[]``, the most of any
            table; 0 for methods of a fixed number of layers, and where nothing was smoothed.
        pending: the steps that wait for their smoothing; ``None`` with ``every=1``.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    graph: Graph
    iterations: jax.Array
    pending: Pending | None = None


def sevo_smooth(
    graph: Graph | Operator,
    *,
    beta: ArrayLike | Callable[[jax.Array], ArrayLike] = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    tol: ArrayLike = 1e-6,
    every: SupportsIndex = EVERY_STEP,
    pending_dtype: Any = None,
    decay: optax.ScalarOrSchedule | None = None,
    decay_mask: Any | Callable[[Any], Any] | None = None,
    tables: Tables = None,
    graph_arg: str = "graph",
) -> optax.GradientTransformationExtraArgs:
    """Smooths the updates of embedding tables over a graph: ``U <- psi(U)`` (Eq. 3 and 7).

    Put it after all parts of the step but decoupled weight decay and the learning rate; with
    ``every`` above 1, after the learning rate, too.

    With ``every=k`` above 1, steps pass as they are and add up to ``P``; every k-th step is
    ``U + psi(P) - P``. As ``psi`` is linear, the table then stands where k smoothed steps would
    have brought it, if the gradients had been the same::

        step          1         2         3             4         5         6             (every=3)
        the update    U1        U2        U3 + ψP - P   U4        U5        U6 + ψP - P
        P after it    U1        U1 + U2   0             U4        U4 + U5   0

    The sums must be of steps as the table takes them. So put it after the learning rate and
    whatever else scales steps, and give the decay that follows it (`sevo_adamw` does both)::

        optax.chain(
            sevo_jax.scale_by_adam(),
            optax.scale_by_learning_rate(lr),
            sevo_jax.sevo_smooth(graph, every=100, decay=lr * weight_decay),
            optax.add_decayed_weights(-lr * weight_decay),
        )

    Args:
        graph: a `Graph`, or a normalised operator ``Ã`` as SciPy sparse, `BCOO`, `BCSR` or a dense
            array, which is checked once.
        beta: the degree of smoothness in [0, 1): a scalar or a schedule of the step count. ``init``
            checks a schedule at step 0 and at powers of 2 up to some 8 million. If a later value
            lies outside, the steps of the tables are NaN; outside ``jit`` it is an error. With
            ``every``, the beta of a k-th step smooths the whole sum.
        num_layers: ``L``, the number of sparse products, at least 0.
        method: ``"neumann"`` (Eq. 7), ``"neumann_unscaled"``, ``"iterative"`` or ``"exact"``
            (Eq. 6), as in `smooth`.
        tol: the relative residual of ``"exact"``, above 0.
        every: the steps between two smoothings, static. `settle` gives the parameters as smoothed
            at any step, for an evaluation between two.
        pending_dtype: dtype of ``P``; that of the parameters if ``None``. ``bfloat16`` halves its
            memory. What its rounding misses passes unsmoothed: of the move of a float32 table that
            is 0.2, 0.7 and 2% for 10, 100 and 440 steps of one sign, and 0.8, 3 and 6% for random
            ones.
        decay: for ``every`` above 1, and needed there, the share of the table that decoupled weight
            decay takes off after this: a scalar, 0 if there is none, or a schedule of the step
            count. ``P`` decays with the table.
        decay_mask: the leaves that decay, as `optax.add_decayed_weights` takes it; all if ``None``.
            The parts of a joint table must decay alike.
        tables: the leaves that are tables over the nodes. ``None``: the one leaf of two or more
            axes whose leading axis has as many rows as the graph has nodes (a bare array may have
            one axis). A string: the leaf, or the module of one leaf, at that path
            (``"item_embedding"``, ``"encoder/item_embedding"``). A sequence of strings: one joint
            table, stacked in that order. A sequence of sequences: groups, each smoothed on its own.
            A mask, or a callable from parameters to a mask: every True leaf is a table.
        graph_arg: the extra argument of ``update`` that replaces the graph for one call. The
            state's graph stays. With ``every``, a k-th step smooths the whole sum over its graph.

    Returns:
        The transformation. Leaves that are no tables pass through unchanged. Call ``init`` outside
        ``jit`` or on shapes (`jax.eval_shape`), since a compiled ``init`` holds the graph as a
        constant. The compiled ``update`` never does.

    Raises:
        TypeError: a traced or unsuitable graph, ``num_layers`` or ``every``; a table or a
            ``pending_dtype`` that is not floating.
        ValueError: an option out of its range, or ``every`` above 1 without ``decay``; from
            ``init`` and ``update``, tables that cannot be found or do not fit the graph, tables in
            half precision with ``every`` above 1, or a state that was made with another ``every``.
            ``"exact"`` refuses a graph in half precision.

    Examples:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> tx = optax.chain(sevo_jax.sevo_smooth(graph, beta=0.5, num_layers=1), optax.scale(-1.0))
        >>> params = {"table": jnp.zeros((2, 1)), "bias": jnp.zeros(3)}
        >>> grads = {"table": jnp.array([[3.0], [0.0]]), "bias": jnp.ones(3)}
        >>> updates, _ = tx.update(grads, tx.init(params))
        >>> updates["table"].round(4).tolist()
        [[-2.0], [-1.0]]
    """
    graph = as_graph(graph)
    check_choice("method", method, Method)
    if method == "exact":
        check_exact(graph)
    layers = check_num_layers(num_layers)
    check_positive("tol", tol)
    every = check_every(every)
    sums_dtype = check_floating("pending_dtype", pending_dtype)
    if not callable(beta):
        check_beta(beta)
    if decay is None:
        if every > 1:
            raise ValueError(
                "decay must be given with every above 1: put sevo_smooth after the learning rate, "
                "so that it adds up steps as the table takes them, and write decay=0.0, or the "
                "share of the table that decoupled decay takes off after it"
            )
        decay = 0.0
    if not callable(decay):
        check_decay(decay)

    def init_fn(params: Any) -> Any:
        groups = table_groups(tables, params, graph.num_nodes)
        if callable(beta):
            check_schedule(beta)
        zero = jnp.zeros([], jnp.int32)
        state = SevoSmoothState(zero, own_operator(graph), jnp.copy(zero))
        if every == 1:
            return state
        decayed_leaves(decay_mask, params, groups)
        names = named_groups(tables)
        pending = Pending(
            no_steps(params, groups, sums_dtype),
            # Copies, so that a step that donates the state deletes no array of the caller's.
            beta=jnp.array(beta(zero) if callable(beta) else beta, float),
            tol=jnp.array(tol, float),
            every=every,
            num_layers=layers,
            method=method,
            names=None if names is None else tuple(map(tuple, names)),
        )
        return state._replace(pending=pending)

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        del params
        if not isinstance(state, SevoSmoothState):
            raise ValueError(
                f"state must be that of sevo_smooth with every={every}, got "
                f"{type(state).__name__}; the order of an optimiser's parts depends on every, so "
                "make the state by the optimiser's own init"
            )
        check_same_every(state.pending, every)
        replacement = extra_args.get(graph_arg)
        current = as_graph(state.graph if replacement is None else replacement)
        beta_now = beta(state.count) if callable(beta) else beta
        count = jnp.asarray(optax.safe_increment(state.count))

        leaves, structure = jax.tree.flatten(updates)
        found = table_groups(tables, updates, current.num_nodes)
        chosen, groups = _positions(found)
        steps, pending = [leaves[i] for i in chosen], state.pending

        def psi(x: Sequence[jax.Array | np.ndarray]) -> tuple[list[jax.Array], jax.Array]:
            return smooth_tables(current, x, groups, beta_now, layers, method, tol=tol)

        if pending is None:
            steps, iterations = psi(steps)
        else:
            share = decay(state.count) if callable(decay) else decay
            decayed = decayed_leaves(decay_mask, updates, found)
            decays = [share if decayed[i] else 0.0 for i in chosen]
            steps, sums, iterations = add_steps(pending, steps, decays, count, psi)
            pending = dataclasses.replace(
                pending,
                steps=sums,
                beta=jnp.array(beta_now, float),
                tol=jnp.array(tol, float),
            )
        for i, step in zip(chosen, steps, strict=True):
            leaves[i] = step
        smoothed_updates = jax.tree.unflatten(structure, leaves)
        return smoothed_updates, SevoSmoothState(count, state.graph, iterations, pending)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _positions(
    groups: Sequence[tuple[int, ...]],
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """Lists the tables in order, and their groups as positions in that list."""
    tables = sorted(i for group in groups for i in group)
    return tables, tuple(tuple(map(tables.index, group)) for group in groups)


def own_operator(graph: Graph) -> Graph:
    """Copies the operator of a graph, for a state that may be donated.

    A graph without entries gets one of padding, since Orbax cannot save arrays of no elements.
    """
    operator = jax.tree.map(jnp.copy, graph.operator)
    if operator.nse == 0:
        data, indices = operator.data, operator.indices
        spare = [(0, 0)] * (data.ndim - 1) + [(0, 1)]  # one in each part of a split graph
        operator = BCSR(
            (
                jnp.pad(data, spare),
                jnp.pad(indices, spare, constant_values=operator.shape[-1]),
                operator.indptr,
            ),
            shape=operator.shape,
            indices_sorted=operator.indices_sorted,
            unique_indices=operator.unique_indices,
        )
    exchange = jax.tree.map(jnp.copy, graph.exchange)
    return dataclasses.replace(graph, weights=None, operator=operator, exchange=exchange)


def scale_by_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    moment_correction: bool | Any | Callable[[Any], Any] = True,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` whose bias-corrected moments rest in rows without a gradient.

    A batch touches few rows of an embedding table. In plain Adam the moments of all others decay,
    and so does the step that smoothing spreads (Proposition 1). A row is idle in a step if its
    whole gradient is zero. With the correction (Eq. 8, Theorem 3), the bias-corrected moments of
    idle rows stay as they were: ``m_t = m_{t-1} (1 - b1^t) / (1 - b1^(t-1))``, which is Eq. 8 with
    its two terms joined, and likewise ``v_t``.

    The correction does nothing if something makes idle rows non-zero: coupled weight decay before
    this transformation, an L2 term in the loss, or gradient noise. There is no warning;
    `diagnostics.corrected_rows` shows it.

    It is made for steps that are smoothed, and no lazy Adam: an idle row keeps moving at full
    length, until it has a gradient again.

    Args:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the square root of the second moment.
        eps_root: added under that square root.
        mu_dtype: dtype of the stored first moment; that of the parameters if ``None``. In half
            precision an idle row's moment is rounded at every step, and so drifts.
        nesterov: as in `optax.scale_by_adam`; an idle row's missing gradient is its first moment.
        moment_correction: ``True`` for every leaf of two or more dimensions, where a row is a slice
            of the leading axis; ``False``; or a mask, or a callable that makes one, as
            `optax.masked` takes it.

    Returns:
        The transformation, with the state and, where nothing is corrected, the results of
        `optax.scale_by_adam`. Corrected leaves in half precision keep ``nu`` in float32.

    Raises:
        TypeError: a mask that does not hold booleans.
        ValueError: a mask that does not fit the parameters.

    Examples:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> tx = sevo_jax.scale_by_adam()
        >>> params = {"table": jnp.zeros((2, 1))}
        >>> state = tx.init(params)
        >>> for gradient in ([[2.0], [3.0]], [[2.0], [0.0]]):  # row 1 is idle in the second step
        ...     updates, state = tx.update({"table": jnp.array(gradient)}, state)
        >>> updates["table"].round(4).tolist()
        [[1.0], [1.0]]
    """
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)

    def corrected(tree: Any) -> Any:
        if isinstance(moment_correction, bool):
            return jax.tree.map(lambda leaf: moment_correction and jnp.ndim(leaf) >= 2, tree)
        mask = moment_correction(tree) if callable(moment_correction) else moment_correction
        return broadcast_mask("moment_correction", mask, tree)

    def init_fn(params: Any) -> Any:
        # The factor that keeps an idle row's bias-corrected second moment is just above 1. In half
        # precision it soon rounds to 1, so the moment is kept in float32.
        state: Any = adam.init(params)
        nu = _map(lambda c, v: _wide(v) if c else v, corrected(params), state.nu)
        return state._replace(nu=nu)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = jnp.asarray(optax.safe_increment(state.count))
        idle = _map(lambda c, g: zero_rows(g) if c else _NO_ROW, corrected(updates), updates)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        mu = _where_idle(idle, _rest(state.mu, b1, count), mu)
        nu = _where_idle(idle, _rest(state.nu, b2, count), nu)

        mu_hat = optax.tree.bias_correction(mu, b1, count)
        if nesterov:
            gradient = _where_idle(idle, mu_hat, optax.tree.bias_correction(updates, b1, count))
            ahead = optax.tree.bias_correction(mu, b1, optax.safe_increment(count))
            mu_hat = _map(lambda m, g: b1 * m + (1 - b1) * g, ahead, gradient)
        nu_hat = optax.tree.bias_correction(nu, b2, count)
        steps = _map(lambda m, v: m / (jnp.sqrt(v + eps_root) + eps), mu_hat, nu_hat)
        # The wide second moment of a narrow table does not widen its step.
        steps = _map(
            lambda rows, x, g, m: (
                x if rows is _NO_ROW else x.astype(jnp.promote_types(g.dtype, m.dtype))
            ),
            idle,
            steps,
            updates,
            state.mu,
        )
        mu = optax.tree.cast(mu, mu_dtype)
        return steps, optax.ScaleByAdamState(count, mu, optax.tree.cast_like(nu, state.nu))

    return optax.GradientTransformation(init_fn, update_fn)


_NO_ROW = False


def _map(function: Callable[..., Any], *trees: Any) -> Any:
    """Maps over trees, and leaves None where a leaf has no gradient, as Optax does."""
    return jax.tree.map(
        lambda first, *rest: None if first is None else function(first, *rest),
        *trees,
        is_leaf=lambda x: x is None,
    )


def _wide(moment: jax.Array) -> jax.Array:
    return moment.astype(jnp.promote_types(moment.dtype, jnp.float32))


def zero_rows(gradient: jax.Array | np.ndarray) -> jax.Array:
    """Marks the rows that are all zero, as ``bool[rows, 1, ...]``; a NaN is not zero."""
    return ~jnp.any(
        jnp.asarray(gradient) != 0, axis=tuple(range(1, jnp.ndim(gradient))), keepdims=True
    )


def _where_idle(idle: Any, resting: Any, moving: Any) -> Any:
    def choose(rows: Any, rest: jax.Array, move: jax.Array) -> jax.Array:
        return move if rows is _NO_ROW else jnp.where(rows, rest.astype(move.dtype), move)

    return _map(choose, idle, resting, moving)


def _rest(moments: Any, decay: ArrayLike, count: jax.Array) -> Any:
    """Scales moments to step ``count`` so that their bias-corrected values stay."""
    before = jnp.maximum(count - 1, 1)  # in the first step the moments are 0, and so is 1 - b^0
    ratio = (1 - decay**count) / (1 - decay**before)
    return jax.tree.map(lambda m: _wide(m) * ratio.astype(_wide(m).dtype), moments)
