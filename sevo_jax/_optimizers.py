"""Ready-made optimisers, each a short `optax.chain` of the transformations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from sevo_jax._checks import EVERY_STEP, check_every
from sevo_jax._graph import Graph, as_graph
from sevo_jax._matrices import Operator
from sevo_jax._smoothing import Method
from sevo_jax._tables import Tables, table_mask
from sevo_jax._transforms import scale_by_adam, sevo_smooth


def sevo_adamw(
    learning_rate: optax.ScalarOrSchedule,
    graph: Graph | Operator,
    *,
    tables: Tables = None,
    beta: ArrayLike | Callable[[jax.Array], ArrayLike] = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    tol: ArrayLike = 1e-6,
    every: SupportsIndex = EVERY_STEP,
    pending_dtype: Any = None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[Any], Any] | None = None,
    moment_correction: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """SEvo-enhanced AdamW (Algorithm 1): smoothed steps for the tables, AdamW for the rest.

    ``E <- E - lr psi(m_hat / (sqrt(v_hat) + eps)) - lr weight_decay E``, with the moment correction
    of Theorem 3 on the tables. Other leaves get `optax.adamw`: exactly, or up to rounding with
    ``every`` above 1.

    Args:
        learning_rate: a scalar or a schedule of the step count.
        graph: a `Graph`, or a normalised operator; see `sevo_smooth`.
        tables: the leaves that are tables over the graph's nodes; see `sevo_smooth`.
        beta: the degree of smoothness in [0, 1): a scalar or a schedule.
        num_layers: ``L``, the number of sparse products, at least 0.
        method: ``"neumann"``, ``"neumann_unscaled"``, ``"iterative"`` or ``"exact"``; see `smooth`.
        tol: the relative residual of ``"exact"``.
        every: the steps between two smoothings; see `sevo_smooth` and `settle`.
        pending_dtype: dtype of the sum of the steps that wait; see `sevo_smooth`.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the square root of the second moment.
        eps_root: added under that square root.
        mu_dtype: dtype of the stored first moment; that of the parameters if ``None``.
        weight_decay: decoupled decay, multiplied by the learning rate; it is not smoothed.
        mask: the leaves that decay, as `optax.add_decayed_weights` takes it; all if ``None``.
        moment_correction: whether the moments of the tables are corrected; see `scale_by_adam`.

    Returns:
        The optimiser. Its state holds a copy of the graph. Donate the state to the compiled step,
        or scan over steps, so that no step copies it again.

    Raises:
        TypeError: as `sevo_smooth`.
        ValueError: as `sevo_smooth`.

    Examples:
        >>> import jax.numpy as jnp, optax, sevo_jax
        >>> graph = sevo_jax.sequence_graph([[0, 1, 2], [1, 2]], num_nodes=3)
        >>> tx = sevo_jax.sevo_adamw(1e-3, graph, tables="item_embedding")
        >>> params = {"item_embedding": jnp.ones((3, 4)), "bias": jnp.zeros(4)}
        >>> state = tx.init(params)
        >>> grads = {"item_embedding": jnp.ones((3, 4)), "bias": jnp.ones(4)}
        >>> updates, state = tx.update(grads, state, params)
        >>> params = optax.apply_updates(params, updates)
    """
    graph = as_graph(graph)

    def corrected(params: Any) -> Any:
        return table_mask(tables, params, graph.num_nodes)

    correction = corrected if moment_correction else False
    return optax.chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, moment_correction=correction),
        *_smoothed_steps(
            learning_rate,
            graph,
            weight_decay,
            mask,
            every=every,
            pending_dtype=pending_dtype,
            beta=beta,
            num_layers=num_layers,
            method=method,
            tol=tol,
            tables=tables,
        ),
    )


def sevo_adam(
    learning_rate: optax.ScalarOrSchedule,
    graph: Graph | Operator,
    *,
    tables: Tables = None,
    beta: ArrayLike | Callable[[jax.Array], ArrayLike] = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    tol: ArrayLike = 1e-6,
    every: SupportsIndex = EVERY_STEP,
    pending_dtype: Any = None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SEvo-enhanced Adam (Algorithm 2): smoothed steps for the tables, Adam for the rest.

    ``G <- grad + weight_decay E``, then ``E <- E - lr psi(m_hat / (sqrt(v_hat) + eps))``. The decay
    is coupled: it goes through the moments and is smoothed with them. There is no moment
    correction, which `sevo_adamw` has. Other leaves get exactly `optax.adam` of ``G``.

    Args:
        learning_rate: a scalar or a schedule of the step count.
        graph: a `Graph`, or a normalised operator; see `sevo_smooth`.
        tables: the leaves that are tables over the graph's nodes; see `sevo_smooth`.
        beta: the degree of smoothness in [0, 1): a scalar or a schedule.
        num_layers: ``L``, the number of sparse products, at least 0.
        method: ``"neumann"``, ``"neumann_unscaled"``, ``"iterative"`` or ``"exact"``; see `smooth`.
        tol: the relative residual of ``"exact"``.
        every: the steps between two smoothings; see `sevo_smooth` and `settle`.
        pending_dtype: dtype of the sum of the steps that wait; see `sevo_smooth`.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the square root of the second moment.
        eps_root: added under that square root.
        mu_dtype: dtype of the stored first moment; that of the parameters if ``None``.
        weight_decay: coefficient of the coupled L2 term.
        mask: the leaves that decay, as `optax.add_decayed_weights` takes it; all if ``None``.

    Returns:
        The optimiser; see `sevo_adamw` for its state.

    Raises:
        TypeError: as `sevo_smooth`.
        ValueError: as `sevo_smooth`.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> tx = sevo_jax.sevo_adam(0.1, sevo_jax.edge_graph([0], [1], 2), weight_decay=1e-6)
        >>> params = jnp.ones((2, 1))
        >>> updates, _ = tx.update(jnp.ones((2, 1)), tx.init(params), params)
        >>> [f"{step:.3f}" for step in updates[:, 0]]
        ['-0.100', '-0.100']
    """
    return optax.chain(
        _coupled_decay(weight_decay, mask),
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, moment_correction=False),
        *_smoothed_steps(
            learning_rate,
            graph,
            every=every,
            pending_dtype=pending_dtype,
            beta=beta,
            num_layers=num_layers,
            method=method,
            tol=tol,
            tables=tables,
        ),
    )


def sevo_sgd(
    learning_rate: optax.ScalarOrSchedule,
    graph: Graph | Operator,
    *,
    tables: Tables = None,
    beta: ArrayLike | Callable[[jax.Array], ArrayLike] = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
    tol: ArrayLike = 1e-6,
    every: SupportsIndex = EVERY_STEP,
    pending_dtype: Any = None,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SEvo-enhanced SGD (Algorithm 3): smoothed steps for the tables, SGD for the rest.

    ``G <- grad + weight_decay E``, ``M <- momentum M + G``, then ``E <- E - lr psi(M)``; with
    ``nesterov``, ``psi(G + momentum M)``. Other leaves get exactly `optax.sgd` of ``G``.

    Args:
        learning_rate: a scalar or a schedule of the step count.
        graph: a `Graph`, or a normalised operator; see `sevo_smooth`.
        tables: the leaves that are tables over the graph's nodes; see `sevo_smooth`.
        beta: the degree of smoothness in [0, 1): a scalar or a schedule.
        num_layers: ``L``, the number of sparse products, at least 0.
        method: ``"neumann"``, ``"neumann_unscaled"``, ``"iterative"`` or ``"exact"``; see `smooth`.
        tol: the relative residual of ``"exact"``.
        every: the steps between two smoothings; see `sevo_smooth` and `settle`.
        pending_dtype: dtype of the sum of the steps that wait; see `sevo_smooth`.
        momentum: decay of the momentum; none is kept if ``None``.
        nesterov: whether the momentum looks one step ahead.
        weight_decay: coefficient of the coupled L2 term.
        mask: the leaves that decay, as `optax.add_decayed_weights` takes it; all if ``None``.

    Returns:
        The optimiser; see `sevo_adamw` for its state.

    Raises:
        TypeError: as `sevo_smooth`.
        ValueError: as `sevo_smooth`.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> tx = sevo_jax.sevo_sgd(0.1, graph, beta=0.5, num_layers=1)
        >>> params = jnp.ones((2, 1))
        >>> updates, _ = tx.update(jnp.array([[3.0], [0.0]]), tx.init(params), params)
        >>> [f"{step:.3f}" for step in updates[:, 0]]
        ['-0.200', '-0.100']
    """
    return optax.chain(
        _coupled_decay(weight_decay, mask),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
        *_smoothed_steps(
            learning_rate,
            graph,
            every=every,
            pending_dtype=pending_dtype,
            beta=beta,
            num_layers=num_layers,
            method=method,
            tol=tol,
            tables=tables,
        ),
    )


def _smoothed_steps(
    learning_rate: optax.ScalarOrSchedule,
    graph: Graph | Operator,
    weight_decay: optax.ScalarOrSchedule | None = None,
    mask: Any | Callable[[Any], Any] | None = None,
    **smoothing: Any,
) -> list[optax.GradientTransformation]:
    """Lists the last parts of an optimiser: smoothing, decoupled decay and learning rate.

    Steps that wait are added up as the table takes them, so the learning rate then comes first.
    """
    rate = optax.scale_by_learning_rate(learning_rate)
    if check_every(smoothing["every"]) == 1:
        decay = [] if weight_decay is None else [optax.add_decayed_weights(weight_decay, mask)]
        return [sevo_smooth(graph, **smoothing), *decay, rate]
    if weight_decay is None:
        return [rate, sevo_smooth(graph, decay=0.0, **smoothing)]
    share = _product(learning_rate, weight_decay)
    return [
        rate,
        sevo_smooth(graph, decay=share, decay_mask=mask, **smoothing),
        _in_their_dtypes(optax.add_decayed_weights(_product(-1.0, share), mask)),
    ]


def _in_their_dtypes(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation, with updates in the dtypes in which they came.

    Schedules are in JAX's widest dtype, which would widen those of narrow parameters.
    """

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        new, state = tx.update(updates, state, params)
        return optax.tree.cast_like(new, updates), state

    return optax.GradientTransformation(tx.init, update_fn)


def _product(*factors: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    """Multiplies scalars and schedules."""
    numbers: list[Any] = [f for f in factors if not callable(f)]
    if len(numbers) == len(factors):
        return math.prod(numbers)
    # JAX's widest dtype, since schedules may be in float32 where tables are in float64.
    return lambda count: math.prod(
        jnp.asarray(f(count) if callable(f) else f, float) for f in factors
    )


def _coupled_decay(
    weight_decay: optax.ScalarOrSchedule, mask: Any | Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    """Adds an L2 term. For a plain 0 it adds nothing, and then needs no parameters."""
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, mask)
