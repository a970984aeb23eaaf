"""Numbers about the tables that a graph smooths, for logs: norms of an epoch, and smoothness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sevo_jax
from experiments.training.state import in_table

Norms = dict[str, jax.Array]


class Watched(NamedTuple):
    """The tables of a run that are smoothed, or would be with another optimiser.

    Attributes:
        graph: their graph.
        groups: the names of tables; those of a group are smoothed together.
    """

    graph: sevo_jax.Graph
    groups: Sequence[Sequence[str]]

    def norms(self, grads: Any, updates: Any) -> Norms:
        """Returns the norms of gradients and updates of a step, for each table."""
        return {
            f"{what}/{name}": optax.tree.norm(table_of(tree, name))
            for what, tree in (("gradient", grads), ("update", updates))
            for group in self.groups
            for name in group
        }

    def smoothness(self, params: Any) -> dict[str, float]:
        """Returns ``Tr(X'(I - Ã)X)`` of each group's tables."""
        found = {
            f"smoothness/{'+'.join(group)}": _smoothness(
                self.graph, [table_of(params, name) for name in group]
            )
            for group in self.groups
        }
        return {name: float(value) for name, value in found.items()}


def means(norms: Norms, i: int) -> dict[str, float]:
    """Averages norms over the steps of an epoch, for seed ``i`` of ``[(seeds,) steps]``."""
    arrays = {name: np.asarray(values, np.float64) for name, values in norms.items()}
    return {name: float(a.reshape(-1, a.shape[-1])[i].mean()) for name, a in arrays.items()}


def table_of(tree: Any, name: str) -> jax.Array:
    """Finds the leaf of a table in parameters, or in a tree like them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return next(leaf for path, leaf in leaves if in_table(path, name))


@jax.jit
def _smoothness(graph: sevo_jax.Graph, tables: list[jax.Array]) -> jax.Array:
    return sevo_jax.diagnostics.smoothness(graph, jnp.concatenate(tables))
