"""``python -m benchmarks.softmax``: cross-entropy over all items, in chunks and in one piece.

Value and gradients of a step's tokens, at two catalogues' sizes. The plain form holds the scores of
all tokens and items, as XLA plans it. The targets are drawn by popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from experiments.data import TABLE_1
from experiments.training.timing import in_turn
from models.layers import losses

DIM = 64
TOKENS = 3400
"""About the tokens of a packed step of SASRec on Beauty."""
SIZES = ("beauty", "electronics")
ROUNDS = 7


def plain(
    hidden: jax.Array, vectors: jax.Array, bias: jax.Array, targets: jax.Array, real: jax.Array
) -> jax.Array:
    """The cross-entropy as it is usually written."""
    logits = hidden @ vectors.T + bias
    wanted = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    values = jax.nn.logsumexp(logits, axis=1) - wanted
    return jnp.where(real, values, 0).sum() / real.sum()


def gradients(loss: Callable[..., jax.Array]) -> Any:
    """Returns the loss and its gradients by outputs, vectors and biases, compiled."""
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures each size: time, and temporary memory."""
    rng = np.random.default_rng(0)
    for name in SIZES[: 1 if quick else None]:
        items, tokens = (100, 20) if quick else (TABLE_1[name].items, TOKENS)
        floats = ((tokens, DIM), (items, DIM), (items,))
        given: list[Any] = [jnp.asarray(rng.normal(size=s), jnp.float32) / 8 for s in floats]
        given += [jnp.asarray(rng.zipf(1.2, tokens) % items), jnp.ones(tokens, bool)]
        compiled = {
            label: gradients(loss).lower(*given).compile()
            for label, loss in (("in chunks", losses.softmax), ("plain", plain))
        }
        calls = {label: partial(program, *given) for label, program in compiled.items()}
        seconds = in_turn(calls, 1 if quick else ROUNDS)
        where = f"{tokens} tokens, {items} items ({name})"
        yield report.case(f"time, {where}", seconds, "ms", 1e3)
        memory = {
            label: np.array([program.memory_analysis().temp_size_in_bytes])
            for label, program in compiled.items()
        }
        yield report.case(f"temporary memory, {where}", memory, "MiB", 2**-20)


if __name__ == "__main__":
    report.command("softmax", measure)
