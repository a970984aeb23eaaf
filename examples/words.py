"""SEvo outside recommendation: word vectors smoothed over the co-occurrence graph of a text.

The vectors are trained by skip-grams with negative samples, on the licence in this repository. Run
it with ``python examples/words.py``. It prints the nearest words of three words, and how smooth the
vectors are over the graph.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax

TEXT = Path(__file__).parents[1] / "LICENSE"
DIM, WINDOW, BATCH, STEPS = 32, 2, 256, 2000
Carry = tuple[Any, optax.OptState]


def main() -> dict[str, float]:
    """Trains with and without SEvo and returns the smoothness per unit of squared norm."""
    words = re.findall(r"[a-z]+", TEXT.read_text().lower())
    vocabulary, ids = np.unique(words, return_inverse=True)
    graph = sevo_jax.sequence_graph([ids], vocabulary.size, max_len=None, walk_length=WINDOW)
    # Every pair of words at most WINDOW apart, both ways.
    pairs = np.concatenate([np.stack([ids[:-h], ids[h:]], axis=1) for h in range(1, WINDOW + 1)])
    pairs = jnp.asarray(np.concatenate([pairs, pairs[:, ::-1]]))

    def loss(params: dict[str, jax.Array], pair: jax.Array, negative: jax.Array) -> jax.Array:
        word, context = params["words"][pair[:, 0]], params["contexts"]
        positive = (word * context[pair[:, 1]]).sum(-1)
        against = (word * context[negative]).sum(-1)
        return (jax.nn.softplus(-positive) + jax.nn.softplus(against)).mean()

    def train(tx: optax.GradientTransformation) -> jax.Array:
        table = 0.1 * jax.random.normal(jax.random.key(0), (vocabulary.size, DIM))
        params = {"words": table, "contexts": jnp.zeros_like(table)}

        def step(carry: Carry, key: jax.Array) -> tuple[Carry, None]:
            params, state = carry
            pair_key, negative_key = jax.random.split(key)
            pair = jax.random.choice(pair_key, pairs, (BATCH,))
            negative = jax.random.randint(negative_key, (BATCH,), 0, vocabulary.size)
            gradients = jax.grad(loss)(params, pair, negative)
            updates, state = tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), STEPS)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return params["words"]

    roughness = {}
    for name, tx in {
        "optax.adamw": optax.adamw(1e-2),
        "sevo_adamw": sevo_jax.sevo_adamw(1e-2, graph, tables="words", beta=0.9),
    }.items():
        vectors = train(tx)
        roughness[name] = float(
            sevo_jax.diagnostics.smoothness(graph, vectors) / (vectors**2).sum()
        )
        print(f"{name}: Tr(X'L~X) / |X|^2 = {roughness[name]:.3f}")
        unit = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
        for word in ("license", "copyright", "work"):
            closest = jnp.argsort(-unit @ unit[np.flatnonzero(vocabulary == word)[0]])[1:6]
            print(f"  {word}: {', '.join(vocabulary[np.asarray(closest)])}")
    return roughness


if __name__ == "__main__":
    main()
