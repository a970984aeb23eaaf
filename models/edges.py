"""A graph whose edges can be switched off, for the masks of MAERec.

Edges are never taken out. They keep their places and get the weight 0, so that arrays have the same
shape for every mask.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCSR
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import sevo_jax

MASK_LEVELS = 3
"""Rounds in which edges are removed: at the seeds, then twice at ends of edges just removed."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Edges:
    """A binary symmetric graph with self-edges.

    An entry is one direction of an edge. Methods take ``kept``, whether each entry is switched on.

    Attributes:
        graph: the normalised graph; its indices are the columns of the entries.
        rows: the rows of the entries, sorted.
        mirror: the index of each entry's transpose.
    """

    graph: sevo_jax.Graph
    rows: Int[Array, " entries"]
    mirror: Int[Array, " entries"]

    def degrees(self, kept: Bool[Array, " entries"]) -> Float[Array, " nodes"]:
        """Counts the kept entries of each row."""
        return jax.ops.segment_sum(
            kept.astype(self.graph.dtype),
            self.rows,
            self.graph.num_nodes,
            indices_are_sorted=True,
        )

    def normalized(self, kept: Bool[Array, " entries"]) -> Float[Array, " entries"]:
        """Returns ``D^-1/2 A D^-1/2`` of the kept entries, and 0 for the others."""
        degrees = self.degrees(kept)
        scale = jnp.where(degrees > 0, jax.lax.rsqrt(jnp.maximum(degrees, 1)), 0)
        return jnp.where(kept, scale[self.rows] * scale[self.graph.operator.indices], 0)

    def product(
        self, kept: Bool[Array, " entries"], x: Float[Array, "nodes dim"]
    ) -> Float[Array, "nodes dim"]:
        """Sums ``x`` over the kept entries of each row; ``kept`` need not be symmetric."""
        values = kept.astype(x.dtype)
        return _directed_product(self.graph, values, values[self.mirror], x)

    def without_paths(
        self, seeds: Bool[Array, " nodes"], path_rate: float, key: PRNGKeyArray
    ) -> Bool[Array, " entries"]:
        """Removes the edges at seeds, then twice the edges at new seeds; returns what is kept.

        New seeds are drawn from the ends of the edges just removed: a share ``path_rate`` of them,
        then ``path_rate²``.
        """
        columns = self.graph.operator.indices
        kept = jnp.ones(self.rows.shape, bool)
        for k, level_key in enumerate(jax.random.split(key, MASK_LEVELS), start=1):
            removed = kept & (seeds[self.rows] | seeds[columns])
            kept &= ~removed
            # An entry is removed along with its transpose, so that rows alone name both ends.
            ends = self.degrees(removed) > 0
            chances = jnp.where(ends, jax.random.uniform(level_key, ends.shape), -1)
            rank = jnp.zeros(ends.shape, int).at[jnp.argsort(-chances)].set(jnp.arange(ends.size))
            seeds = ends & (rank < jnp.floor(path_rate**k * ends.sum()))
        return kept


def edges_of(graph: sevo_jax.Graph) -> Edges:
    """Returns the edges of a graph, and an edge from each node to itself."""
    joined = graph.to_scipy().astype(bool) + sp.eye_array(graph.num_nodes, dtype=bool, format="csr")
    joined = joined.tocoo()
    binary = sp.csr_array((np.ones(joined.nnz, np.float32), joined.coords), shape=joined.shape)
    made = dataclasses.replace(sevo_jax.Graph.from_weights(binary), weights=None)
    matrix = made.to_scipy().tocoo()
    rows, columns = matrix.coords
    # Sorted by column, then row, the i-th entry is the transpose of the i-th entry by row.
    mirror = np.lexsort((rows, columns))
    kernel = made.with_kernel(graph.kernel, precision=graph.precision)
    return Edges(kernel, jnp.asarray(rows, jnp.int32), jnp.asarray(mirror, jnp.int32))


def with_values(graph: sevo_jax.Graph, values: Float[Array, " entries"]) -> sevo_jax.Graph:
    """Returns ``graph`` with other values at the same entries."""
    before = graph.operator
    operator = BCSR(
        (values, before.indices, before.indptr),
        shape=before.shape,
        indices_sorted=True,
        unique_indices=True,
    )
    return dataclasses.replace(graph, operator=operator)


@jax.custom_vjp
def _directed_product(graph: sevo_jax.Graph, values: Array, mirrored: Array, x: Array) -> Array:
    """Computes ``A x`` for any ``A``: the gradient of `sevo_jax.spmm` assumes symmetry."""
    return sevo_jax.spmm(with_values(graph, values), x)


def _directed_product_forward(
    graph: sevo_jax.Graph, values: Array, mirrored: Array, x: Array
) -> tuple[Array, tuple[sevo_jax.Graph, Array]]:
    return _directed_product(graph, values, mirrored, x), (graph, mirrored)


def _directed_product_backward(
    residuals: tuple[sevo_jax.Graph, Array], g: Array
) -> tuple[None, None, None, Array]:
    graph, mirrored = residuals
    return None, None, None, sevo_jax.spmm(with_values(graph, mirrored), g)


_directed_product.defvjp(_directed_product_forward, _directed_product_backward)
