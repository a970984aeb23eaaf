"""Adam on rows that are rarely updated: plain, lazy, and with SEvo's moment correction alone.

Each row of the table is a linear regression of its own. The first rows are drawn in nearly every
batch, the last ones in one of a hundred. Run it with ``python examples/rare_rows.py``. For each
optimiser, at the learning rate that suits it best, it prints two things by how often rows are
drawn: their error, and how many learning rates a number of the row moves for each draw.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax

ROWS, DIM, BATCH, STEPS, NOISE = 1000, 8, 32, 2000, 0.5
RATES = np.array([3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1], np.float32)
PARTS = 4  # equal shares of the rows, from the most to the least drawn


class Result(NamedTuple):
    """The outcome of an optimiser at its best rate; the arrays are ``float[PARTS]``."""

    rate: float
    error: np.ndarray
    path: np.ndarray


def lazy_adam() -> optax.GradientTransformation:
    """Adam in which rows without a gradient neither move nor change their moments."""
    adam = optax.scale_by_adam()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        drawn = (updates != 0).any(axis=1, keepdims=True)
        step, moved = cast(tuple[Any, Any], adam.update(updates, state, params))
        mu, nu = jnp.where(drawn, moved.mu, state.mu), jnp.where(drawn, moved.nu, state.nu)
        return jnp.where(drawn, step, 0), moved._replace(mu=mu, nu=nu)

    return optax.GradientTransformation(adam.init, update)


def train(scaling: optax.GradientTransformation, rate: jax.Array) -> tuple[jax.Array, ...]:
    """Trains, and returns each row's error, its path in learning rates and its number of draws."""
    popularity = -jnp.log(jnp.arange(1, ROWS + 1))  # Zipf's law
    truth = jax.random.normal(jax.random.key(0), (ROWS, DIM))
    tx = optax.chain(scaling, optax.scale_by_learning_rate(optax.linear_schedule(rate, 0, STEPS)))

    def loss(
        table: jax.Array, rows: jax.Array, features: jax.Array, labels: jax.Array
    ) -> jax.Array:
        return (((table[rows] * features).sum(-1) - labels) ** 2).sum() / 2

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        table, state, path, drawn = carry
        keys = jax.random.split(key, 3)
        rows = jax.random.categorical(keys[0], popularity, shape=(BATCH,))
        features = jax.random.normal(keys[1], (BATCH, DIM))
        labels = (truth[rows] * features).sum(-1) + NOISE * jax.random.normal(keys[2], (BATCH,))
        updates: Any
        updates, state = tx.update(jax.grad(loss)(table, rows, features, labels), state)
        path += jnp.abs(updates).mean(-1) / rate
        return (table + updates, state, path, drawn.at[rows].set(drawn[rows] + 1)), None

    table, zeros = jnp.zeros_like(truth), jnp.zeros(ROWS)
    keys = jax.random.split(jax.random.key(1), STEPS)
    (table, _, path, drawn), _ = jax.lax.scan(step, (table, tx.init(table), zeros, zeros), keys)
    return ((table - truth) ** 2).mean(-1), path, drawn


def main() -> dict[str, Result]:
    """Tunes the rate of each optimiser, and prints and returns what it does at its best."""
    found = {}
    for name, scaling in {
        "optax.scale_by_adam": optax.scale_by_adam(),
        "lazy Adam": lazy_adam(),
        "sevo_jax.scale_by_adam": sevo_jax.scale_by_adam(),
    }.items():
        every_rate = jax.jit(jax.vmap(partial(train, scaling)))
        errors, paths, drawn = (np.asarray(x) for x in every_rate(RATES))
        best = errors.mean(axis=1).argmin()
        error = np.stack(np.split(errors[best], PARTS)).mean(axis=1)
        path, drawn = (np.stack(np.split(x[best], PARTS)).sum(axis=1) for x in (paths, drawn))
        found[name] = Result(float(RATES[best]), error, path / drawn)
        print(f"{name}, rate {RATES[best]:g}")
        print("  error:", *(f"{x:.2f}" for x in error))
        print("  learning rates moved for each draw of a row:", *(f"{x:.1f}" for x in path / drawn))
    return found


if __name__ == "__main__":
    main()
