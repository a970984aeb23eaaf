"""SEvo in an Equinox training loop: users and items are smoothed over one bipartite graph.

The model is matrix factorisation with BPR, on made-up purchases. Run it with
``python examples/equinox_loop.py``. It prints the share of users whose held-out item scores above a
random one.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax

USERS, ITEMS, TASTES, DIM, STEPS = 400, 200, 8, 16, 400


class Model(eqx.Module):
    """Two tables; a score is a dot product."""

    users: eqx.nn.Embedding
    items: eqx.nn.Embedding

    def __init__(self, key: jax.Array) -> None:
        normal = 0.1 * jax.random.normal(key, (USERS + ITEMS, DIM))
        self.users = eqx.nn.Embedding(weight=normal[:USERS])
        self.items = eqx.nn.Embedding(weight=normal[USERS:])

    def __call__(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """Scores pairs of a user and an item, ``float[batch]``."""
        return (self.users.weight[users] * self.items.weight[items]).sum(-1)


def purchases(rng: np.random.Generator) -> np.ndarray:
    """Draws five items a user, mostly of the user's taste: ``int[users, 5]``."""
    taste = rng.integers(TASTES, size=(USERS, 1))
    liked = taste + TASTES * rng.integers(ITEMS // TASTES, size=(USERS, 5))
    return np.where(rng.random((USERS, 5)) < 0.8, liked, rng.integers(ITEMS, size=(USERS, 5)))


def main() -> dict[str, float]:
    """Trains with and without SEvo and returns the share of pairs in the right order."""
    rng = np.random.default_rng(0)
    bought = purchases(rng)
    users, items = np.repeat(np.arange(USERS), 4), bought[:, :4].ravel()
    graph = sevo_jax.bipartite_graph(users, items, USERS, ITEMS)

    def bpr(model: Model, batch: jax.Array) -> jax.Array:
        user, positive, negative = batch.T
        return jax.nn.softplus(model(user, negative) - model(user, positive)).mean()

    @eqx.filter_jit
    def train_step(
        model: Model, state: optax.OptState, batch: jax.Array, tx: optax.GradientTransformation
    ) -> tuple[Model, optax.OptState]:
        gradients = eqx.filter_grad(bpr)(model, batch)
        updates, state = tx.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    correct = {}
    for name, tx in {
        "optax.adam": optax.adam(1e-2),
        "sevo_adam": sevo_jax.sevo_adam(1e-2, graph, tables=("users", "items"), beta=0.9),
    }.items():
        model = Model(jax.random.key(0))
        state = tx.init(eqx.filter(model, eqx.is_inexact_array))
        draw = np.random.default_rng(1)
        for _ in range(STEPS):
            pair = draw.integers(users.size, size=256)
            negative = draw.integers(ITEMS, size=256)
            batch = np.stack([users[pair], items[pair], negative], axis=1)
            model, state = train_step(model, state, jnp.asarray(batch), tx)
        everyone, other = jnp.arange(USERS), jnp.asarray(draw.integers(ITEMS, size=USERS))
        better = model(everyone, jnp.asarray(bought[:, 4])) > model(everyone, other)
        correct[name] = float(better.mean())
        print(f"{name}: {correct[name]:.1%} of users score the held-out item above a random one")
    return correct


if __name__ == "__main__":
    main()
