"""The optimisers that runs can be compared on."""

from __future__ import annotations

from typing import Any

import optax
from flax import nnx

import sevo_jax
from experiments.backbones import sasrec
from experiments.configs import Hyperparameters
from experiments.data import Interactions
from experiments.graphs import category_graph, item_graph, teacher_graph, user_item_graph
from experiments.teachers import load_teacher
from models import Backbone


def make_optimizer(
    name: str, settings: Hyperparameters, data: Interactions, model: Backbone
) -> optax.GradientTransformation:
    """The optimiser called ``name``, one of `configs.OPTIMIZERS`, for a model.

    The graph ``user-item`` needs a model with a table ``user_embedding``.
    """
    s, mask = settings, decay_mask(model)
    if name == "adam":
        return optax.chain(
            optax.add_decayed_weights(s.weight_decay, mask), optax.adam(s.learning_rate, s.b1, s.b2)
        )
    if name == "adamw":
        return optax.adamw(s.learning_rate, s.b1, s.b2, weight_decay=s.weight_decay, mask=mask)
    if name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(s.weight_decay, mask),
            optax.sgd(s.learning_rate, s.b1 or None),
        )
    if s.graph == "teacher":
        table = load_teacher(s, data, sasrec).item_embedding.embedding[...]
        graph = teacher_graph(table, s.num_neighbours, s.tau)
        tables = [[t] for t in model.tables]
    elif s.graph == "user-item":
        graph, tables = user_item_graph(data), [["user_embedding", *model.tables]]
    else:
        num_nodes = data.num_items + (2 if model.task == "masked" else 1)
        if s.graph == "category":
            graph = category_graph(data, num_nodes)
        else:
            graph = item_graph(data, s.max_len_graph, num_nodes)
        tables = [[t] for t in model.tables]
    smoothing: dict[str, Any] = {
        "tables": tables,
        "beta": s.beta,
        "num_layers": s.num_layers,
        "weight_decay": s.weight_decay,
        "mask": mask,
    }
    if name == "sevo-sgd":
        return sevo_jax.sevo_sgd(s.learning_rate, graph, momentum=s.b1 or None, **smoothing)
    make = {"sevo-adamw": sevo_jax.sevo_adamw, "sevo-adam": sevo_jax.sevo_adam}[name]
    return make(s.learning_rate, graph, b1=s.b1, b2=s.b2, **smoothing)


def decay_mask(model: Backbone) -> Any:
    """Which parameters decay, as Optax takes it: ``None`` for all."""
    if not model.undecayed:
        return None
    params = nnx.state(model, nnx.Param)
    return nnx.map_state(lambda path, _: path[-1] not in model.undecayed, params)
