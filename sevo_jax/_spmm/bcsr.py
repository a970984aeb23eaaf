"""JAX's own product of a `BCSR` matrix. On CPUs it calls a library; elsewhere it scatters."""

from __future__ import annotations

import jax.numpy as jnp
from jax.experimental.sparse import BCSR

from sevo_jax._spmm.arrays import Columns, Pointers, Rows, Table, Values
from sevo_jax._spmm.sharded import varying_as

_FAST_DIM = 8
"""With fewer columns JAX's CPU kernel takes another path, four times slower than 8 columns are."""


def product(data: Values, indices: Columns, indptr: Pointers, x: Table) -> Rows:
    """``A @ x`` for a matrix ``A`` of compressed rows."""
    shape = (indptr.size - 1, x.shape[0])
    matrix = BCSR((data, indices, indptr), shape=shape, indices_sorted=True, unique_indices=True)
    return varying_as(matrix @ x, data, indices, indptr, x)


def product_on_cpus(data: Values, indices: Columns, indptr: Pointers, x: Table) -> Rows:
    """The same product, with narrow tables padded to the width that CPUs do fast."""
    spare = max(0, _FAST_DIM - x.shape[1])
    padded = jnp.pad(x, ((0, 0), (0, spare))) if spare else x
    return product(data, indices, indptr, padded)[:, : x.shape[1]]
