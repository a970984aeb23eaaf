"""The edges of a graph that are masked and restored, for MAERec.

Edges are never taken out: they keep their places and are given the weight 0, so that every mask has
the same shape.
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
"""How often edges are removed: at the seeds, and twice at seeds drawn from their ends."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Edges:
    """A binary symmetric graph with self-edges, as entries that can be switched off.

    Attributes:
        graph: normalised; its indices are the columns of the entries.
        rows: of the entries, sorted.
        mirror: where each entry's transpose stands.
    """

    graph: sevo_jax.Graph
    rows: Int[Array, " entries"]
    mirror: Int[Array, " entries"]

    def degrees(self, kept: Bool[Array, " entries"]) -> Float[Array, " nodes"]:
        """How many entries of each row are kept."""
        return jax.ops.segment_sum(
            kept.astype(self.graph.dtype),
            self.rows,
            self.graph.num_nodes,
            indices_are_sorted=True,
        )

    def normalized(self, kept: Bool[Array, " entries"]) -> Float[Array, " entries"]:
        """``D^-1/2 A D^-1/2`` of the entries that are kept, and 0 for the others."""
        degrees = self.degrees(kept)
        scale = jnp.where(degrees > 0, jax.lax.rsqrt(jnp.maximum(degrees, 1)), 0)
        return jnp.where(kept, scale[self.rows] * scale[self.graph.operator.indices], 0)

    def product(
        self, kept: Bool[Array, " entries"], x: Float[Array, "nodes dim"]
    ) -> Float[Array, "nodes dim"]:
        """Sums over the entries that are kept, which need not be symmetric."""
        values = kept.astype(x.dtype)
        return _directed_product(self.graph, values, values[self.mirror], x)

    def without_paths(
        self, seeds: Bool[Array, " nodes"], path_rate: float, key: PRNGKeyArray
    ) -> Bool[Array, " entries"]:
        """What is left once the edges at seeds, and at seeds drawn from their ends, are removed."""
        columns = self.graph.operator.indices
        kept = jnp.ones(self.rows.shape, bool)
        for k, level_key in enumerate(jax.random.split(key, MASK_LEVELS), start=1):
            removed = kept & (seeds[self.rows] | seeds[columns])
            kept &= ~removed
            # An entry is removed along with its transpose: rows are the ends of all of them.
            ends = self.degrees(removed) > 0
            chances = jnp.where(ends, jax.random.uniform(level_key, ends.shape), -1)
            rank = jnp.zeros(ends.shape, int).at[jnp.argsort(-chances)].set(jnp.arange(ends.size))
            seeds = ends & (rank < jnp.floor(path_rate**k * ends.sum()))
        return kept


def edges_of(graph: sevo_jax.Graph) -> Edges:
    """The pairs that a graph joins, and each node with itself."""
    joined = graph.to_scipy().astype(bool) + sp.eye_array(graph.num_nodes, dtype=bool, format="csr")
    joined = joined.tocoo()
    binary = sp.csr_array((np.ones(joined.nnz, np.float32), joined.coords), shape=joined.shape)
    made = dataclasses.replace(sevo_jax.Graph.from_weights(binary), weights=None)
    matrix = made.to_scipy().tocoo()
    rows, columns = matrix.coords
    # In the order of columns, then rows, the i-th entry is the transpose of the i-th of all.
    mirror = np.lexsort((rows, columns))
    kernel = made.with_kernel(graph.kernel, precision=graph.precision)
    return Edges(kernel, jnp.asarray(rows, jnp.int32), jnp.asarray(mirror, jnp.int32))


def with_values(graph: sevo_jax.Graph, values: Float[Array, " entries"]) -> sevo_jax.Graph:
    """``graph`` with other values at the same entries."""
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
    """``A x``; `sevo_jax.spmm` takes ``A`` for symmetric, and would differentiate it as such."""
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
