"""The optimisers that runs can be compared on."""

from __future__ import annotations

import optax

import sevo_jax
from experiments.configs import Hyperparameters
from experiments.data import Interactions

TABLE = "item_embedding"


def item_graph(data: Interactions, max_len: int) -> sevo_jax.Graph:
    """Consecutive items of the training sequences; node 0 is padding, an isolated node."""
    return sevo_jax.sequence_graph(
        data.items[data.training_part()],
        data.num_items + 1,
        lengths=data.lengths - 2,
        max_len=max_len,
    )


def make_optimizer(
    name: str, settings: Hyperparameters, data: Interactions
) -> optax.GradientTransformation:
    """The optimiser called ``name``, one of `configs.OPTIMIZERS`."""
    rate, b1, b2 = settings.learning_rate, settings.b1, settings.b2
    if name == "adam":
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay), optax.adam(rate, b1, b2)
        )
    if name == "adamw":
        return optax.adamw(rate, b1, b2, weight_decay=settings.weight_decay)
    return sevo_jax.sevo_adamw(
        rate,
        item_graph(data, settings.max_len_graph),
        tables=TABLE,
        beta=settings.beta,
        num_layers=settings.num_layers,
        b1=b1,
        b2=b2,
        weight_decay=settings.weight_decay,
    )
