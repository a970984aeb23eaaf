"""The optimisers that runs can be compared on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp
from flax import nnx

import sevo_jax
from experiments.data import Interactions
from experiments.errors import ArgumentError
from experiments.inputs.layout import steps_per_epoch
from experiments.settings import OptimizerSettings, Settings, is_file
from experiments.training.graphs import (
    category_graph,
    graph_from_file,
    item_graph,
    teacher_graph,
    user_item_graph,
)
from experiments.training.teachers import load_teacher
from models import Backbone
from models.backbone import Task


def make_optimizer(
    name: str, settings: Settings, data: Interactions, model: Backbone
) -> optax.GradientTransformation:
    """Makes an optimiser for a model.

    Args:
        name: one of `experiments.settings.OPTIMIZERS`.
        settings: the settings of the run.
        data: the data set, from which the graph is built.
        model: the model; for the graph ``user-item`` it needs a table ``user_embedding``.
    """
    s, mask, rate = settings.optimizer, decay_mask(model), learning_rate(settings, data, model.task)
    if name == "adam":
        return optax.chain(
            optax.add_decayed_weights(s.weight_decay, mask), optax.adam(rate, s.b1, s.b2)
        )
    if name == "adamw":
        adamw = optax.adamw(rate, s.b1, s.b2, weight_decay=s.weight_decay, mask=mask)
        if s.smoothness_weight == 0:
            return adamw
        return optax.chain(
            add_smoothness_gradient(s.smoothness_weight, *smoothed_tables(settings, data, model)),
            adamw,
        )
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(s.weight_decay, mask),
            optax.sgd(rate, s.b1 or None),
        )
    graph, tables = smoothed_tables(settings, data, model)  # all optimisers below smooth
    if s.kappa:
        in_tables = table_mask(model)
        return optax.chain(
            sevo_jax.scale_by_adam(s.b1, s.b2, moment_correction=in_tables),
            smooth_rare_items(graph, data.training_counts(), s, tables, in_tables),
            optax.add_decayed_weights(s.weight_decay, mask),
            optax.scale_by_learning_rate(rate),
        )
    smoothing: dict[str, Any] = {
        "tables": tables,
        "beta": s.beta,
        "num_layers": s.num_layers,
        "method": s.method,
        "every": steps_between_smoothings(settings, data, model.task),
    }
    smoothing |= {"weight_decay": s.weight_decay, "mask": mask}
    if name == "sevo-sgd":
        return sevo_jax.sevo_sgd(rate, graph, momentum=s.b1 or None, **smoothing)
    smoothing |= {"b1": s.b1, "b2": s.b2}
    if name == "sevo-adam":
        return sevo_jax.sevo_adam(rate, graph, **smoothing)
    return sevo_jax.sevo_adamw(rate, graph, moment_correction=s.moment_correction, **smoothing)


def learning_rate(settings: Settings, data: Interactions, task: Task) -> optax.ScalarOrSchedule:
    """Returns the step size; a schedule over steps if ``decay_every`` is set."""
    s, training = settings.optimizer, settings.training
    if not s.decay_every:
        return s.learning_rate
    steps = s.decay_every * steps_per_epoch(training, data, task)
    return optax.exponential_decay(s.learning_rate, steps, 0.1, staircase=True)


def steps_between_smoothings(settings: Settings, data: Interactions, task: Task) -> int:
    """Returns ``every`` in steps.

    Raises:
        ArgumentError: the run ends before the first smoothing.
    """
    s, training = settings.optimizer, settings.training
    if s.every == 1 and not s.every_epochs:
        return 1
    epoch = steps_per_epoch(training, data, task)
    every = s.every_epochs * epoch or s.every
    if every > training.epochs * epoch:
        raise ArgumentError(
            "every_epochs" if s.every_epochs else "every",
            f"must be at most the steps of the run, {training.epochs * epoch} "
            f"({epoch} an epoch), or nothing is ever smoothed; got {every}",
        )
    return every


def smoothed_tables(
    settings: Settings, data: Interactions, model: Backbone
) -> tuple[sevo_jax.Graph, list[list[str]]]:
    """Returns the graph that the settings name, and the groups of tables smoothed over it."""
    s, own = settings.graph, [[table] for table in model.tables]
    if s.kind == "teacher":
        table = load_teacher(settings, data).item_embedding.embedding[...]
        return teacher_graph(table, s.num_neighbours, s.tau), own
    if s.kind == "user-item":
        return user_item_graph(data), [["user_embedding", *model.tables]]
    # Tables also have rows for padding and, for the task masked, the mask.
    num_nodes = data.num_items + (2 if model.task == "masked" else 1)
    if s.kind == "category":
        return category_graph(data, num_nodes, s.categories, s.max_category_size), own
    if is_file(s.kind):
        return graph_from_file(Path(s.kind), data, num_nodes)[0], own
    graph = item_graph(
        data.whole if s.graph_of_all_users and data.whole else data,
        s.max_len_graph,
        num_nodes,
        walk_length=s.walk_length,
        keep=s.keep,
        weighting=s.weighting,
    )
    return graph, own


def smooth_rare_items(
    graph: sevo_jax.Graph,
    counts: np.ndarray,
    settings: OptimizerSettings,
    tables: Sequence[Sequence[str]],
    in_tables: Any,
) -> optax.GradientTransformation:
    """Smooths with a beta for each node: ``psi(X) = S sum_{l<=L} (B^½ Ã B^½)^l S X``.

    ``B`` has ``beta_i = beta kappa / (kappa + n_i)`` on its diagonal, and ``S`` has
    ``sqrt((1 - beta_i) / (1 - beta_i^(L+1)))``. With one beta for all it is Eq. 7.

    Args:
        graph: the graph.
        counts: ``int[items + 1]``, the interactions ``n_i`` of the first nodes; others have none.
        settings: beta, kappa and L.
        tables: the tables, as `sevo_jax.sevo_smooth` takes them.
        in_tables: the same tables, as a mask.

    Examples:
        >>> import jax.numpy as jnp
        >>> from experiments.settings import OptimizerSettings
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> settings = OptimizerSettings(beta=0.5, kappa=1.0, num_layers=1)
        >>> tx = smooth_rare_items(graph, np.array([0, 0]), settings, [["e"]], {"e": True})
        >>> steps = {"e": jnp.array([[3.0], [0.0]])}
        >>> tx.update(steps, tx.init(steps))[0]["e"].round(4).tolist()
        [[2.0], [1.0]]
    """
    layers, own = settings.num_layers, np.zeros(graph.num_nodes)
    own[: counts.size] = counts
    share = settings.kappa / (settings.kappa + own)
    weights = sp.diags_array(np.sqrt(share)) @ graph.to_scipy() @ sp.diags_array(np.sqrt(share))
    beta = settings.beta * share
    # The smoothing below brings the factor 1 - settings.beta, the same for all.
    size = np.sqrt((1 - beta) / (1 - beta ** (layers + 1)) / (1 - settings.beta))
    rows = jnp.asarray(size, jnp.float32)[:, None]
    scale = optax.masked(optax.stateless_with_tree_map(lambda step, _: rows * step), in_tables)
    return optax.chain(
        scale,
        sevo_jax.sevo_smooth(
            sevo_jax.Graph.from_operator(weights),
            beta=settings.beta,
            num_layers=layers,
            method="neumann_unscaled",
            tables=tables,
        ),
        scale,
    )


def add_smoothness_gradient(
    weight: float, graph: sevo_jax.Graph, tables: Sequence[Sequence[str]]
) -> optax.GradientTransformation:
    """Adds the gradient of ``weight * Tr(E'(I - Ã)E)``, a loss term for each table ``E`` (Eq. 43).

    Examples:
        >>> import jax.numpy as jnp
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> tx = add_smoothness_gradient(0.5, graph, [["table"]])
        >>> params = {"table": jnp.array([[3.0], [1.0]])}
        >>> gradient = {"table": jnp.zeros((2, 1))}
        >>> tx.update(gradient, tx.init(params), params)[0]["table"].tolist()
        [[2.0], [-2.0]]
    """
    # One iteration at beta = 1/2 gives S = (E + ÃE) / 2. So the gradient 2 (I - Ã)E is 4 (E - S).
    halfway = sevo_jax.sevo_smooth(graph, beta=0.5, num_layers=1, method="iterative", tables=tables)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        smoothed, state = halfway.update(params, state)
        updates = jax.tree.map(lambda g, e, s: g + 4 * weight * (e - s), updates, params, smoothed)
        return updates, state

    return optax.GradientTransformation(halfway.init, update)


def table_mask(model: Backbone) -> Any:
    """Returns a mask of the parameters that are tables of items."""
    return nnx.map_state(lambda path, _: path[0] in model.tables, nnx.state(model, nnx.Param))


def decay_mask(model: Backbone) -> Any:
    """Returns Optax's mask of the parameters that decay; ``None`` if all do."""
    if not model.undecayed:
        return None
    params = nnx.state(model, nnx.Param)
    return nnx.map_state(lambda path, _: path[-1] not in model.undecayed, params)
