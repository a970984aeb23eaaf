"""SEvo in a Flax NNX training loop: one line changes, the optimiser.

The model predicts the next item of made-up sessions, of 300 items in 30 groups. Run it with
``python examples/nnx_loop.py``. It prints how often the best item is of the next item's group.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sevo_jax

ITEMS, GROUPS, DIM, STEPS = 300, 30, 16, 300


def sessions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws sessions of four items, most of them from one group: ``int[count, 4]``."""
    group = rng.integers(GROUPS, size=(count, 1))
    within = group * (ITEMS // GROUPS) + rng.integers(ITEMS // GROUPS, size=(count, 4))
    return np.where(rng.random((count, 4)) < 0.8, within, rng.integers(ITEMS, size=(count, 4)))


class Model(nnx.Module):
    """Scores the next item by the mean of the last three."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.item_embedding = nnx.Embed(ITEMS, DIM, rngs=rngs)
        self.dense = nnx.Linear(DIM, DIM, rngs=rngs)

    def __call__(self, items: jax.Array) -> jax.Array:
        """Scores all items, ``float[batch, items]``, after the items ``int[batch, 3]``."""
        return self.item_embedding.attend(self.dense(self.item_embedding(items).mean(axis=1)))


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer[Model], batch: jax.Array) -> jax.Array:
    """Trains a step on sessions ``int[batch, 4]``; returns the loss."""

    def loss_of(model: Model) -> jax.Array:
        scores = model(batch[:, :3])
        return optax.softmax_cross_entropy_with_integer_labels(scores, batch[:, 3]).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def main() -> dict[str, float]:
    """Trains with and without SEvo and returns the share of hits."""
    rng = np.random.default_rng(0)
    train, test = sessions(rng, 400), sessions(rng, 2000)
    graph = sevo_jax.sequence_graph(train, ITEMS, padding=None)
    hits = {}
    for name, tx in {
        "optax.adamw": optax.adamw(1e-2, weight_decay=0.1),
        "sevo_adamw": sevo_jax.sevo_adamw(1e-2, graph, tables="item_embedding", weight_decay=0.1),
    }.items():
        model = Model(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        batches = np.random.default_rng(1).integers(len(train), size=(STEPS, 64))
        for batch in batches:
            train_step(model, optimizer, jnp.asarray(train[batch]))
        guess = np.asarray(model(jnp.asarray(test[:, :3])).argmax(axis=1))
        hits[name] = float((guess // (ITEMS // GROUPS) == test[:, 3] // (ITEMS // GROUPS)).mean())
        print(f"{name}: the best item is of the next item's group in {hits[name]:.1%} of sessions")
    return hits


if __name__ == "__main__":
    main()
