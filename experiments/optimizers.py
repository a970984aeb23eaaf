"""The optimisers that runs can be compared on."""

from __future__ import annotations

from typing import Any

import optax

import sevo_jax
from experiments.configs import Hyperparameters
from experiments.data import Interactions
from models import Backbone


def item_graph(data: Interactions, max_len: int, num_nodes: int | None = None) -> sevo_jax.Graph:
    """Consecutive items of the training sequences.

    Node 0 is padding, and there may be more after the items: isolated nodes.
    """
    return sevo_jax.sequence_graph(
        data.items[data.training_part()],
        data.num_items + 1 if num_nodes is None else num_nodes,
        lengths=data.lengths - 2,
        max_len=max_len,
    )


def user_item_graph(data: Interactions) -> sevo_jax.Graph:
    """Users and their training items, the padding item among the items."""
    training = data.training_part()
    return sevo_jax.bipartite_graph(
        data.owners[training], data.items[training], data.num_users, data.num_items + 1
    )


def make_optimizer(
    name: str, settings: Hyperparameters, data: Interactions, model: Backbone
) -> optax.GradientTransformation:
    """The optimiser called ``name``, one of `configs.OPTIMIZERS`, for a model.

    The graph ``user-item`` needs a model with a table ``user_embedding``.
    """
    s = settings
    if name == "adam":
        return optax.chain(
            optax.add_decayed_weights(s.weight_decay), optax.adam(s.learning_rate, s.b1, s.b2)
        )
    if name == "adamw":
        return optax.adamw(s.learning_rate, s.b1, s.b2, weight_decay=s.weight_decay)
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(s.weight_decay), optax.sgd(s.learning_rate, s.b1 or None)
        )
    if s.graph == "item-item":
        num_nodes = data.num_items + (2 if model.task == "masked" else 1)
        graph, tables = item_graph(data, s.max_len_graph, num_nodes), [[t] for t in model.tables]
    else:
        graph, tables = user_item_graph(data), [["user_embedding", *model.tables]]
    smoothing: dict[str, Any] = {
        "tables": tables,
        "beta": s.beta,
        "num_layers": s.num_layers,
        "weight_decay": s.weight_decay,
    }
    if name == "sevo-sgd":
        return sevo_jax.sevo_sgd(s.learning_rate, graph, momentum=s.b1 or None, **smoothing)
    make = {"sevo-adamw": sevo_jax.sevo_adamw, "sevo-adam": sevo_jax.sevo_adam}[name]
    return make(s.learning_rate, graph, b1=s.b1, b2=s.b2, **smoothing)
