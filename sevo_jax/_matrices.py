"""Matrices on the host: from edges or any supported form to checked, normalised CSR, and to `BCSR`.

`sevo_jax._graph` is built on it. Nothing here runs under ``jit``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.core import Tracer
from jax.experimental.sparse import BCOO, BCSR
from numpy.typing import ArrayLike
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from sevo_jax._checks import (
    STATIC_ARGS_HINT,
    check_count,
    check_ids,
    check_unmasked,
    check_weights,
)

Operator = sp.sparray | sp.spmatrix | BCOO | BCSR | np.ndarray | jax.Array
"""An n x n matrix: SciPy sparse, `BCOO`, `BCSR`, or a dense NumPy or JAX array."""

SPECTRAL_TOLERANCE = 1e-5
_DENSE_EIGENVALUES_UP_TO = 64
_BLOCK = 2**15  # entries


def adjacency(
    senders: ArrayLike, receivers: ArrayLike, num_nodes: int, weights: ArrayLike | None
) -> tuple[Any, Any]:
    """Builds ``W`` of undirected edges as CSR in float64; also returns the dtype of the weights."""
    senders = check_ids("senders", senders, num_nodes)
    receivers = check_ids("receivers", receivers, num_nodes)
    if senders.shape != receivers.shape:
        raise ValueError(
            "senders and receivers must have the same length, got "
            f"{senders.shape[0]} and {receivers.shape[0]}"
        )
    values, dtype = check_weights(weights, senders.shape)
    return symmetrized(senders, receivers, values, num_nodes), dtype


def symmetrized(
    senders: np.ndarray, receivers: np.ndarray, values: np.ndarray, num_nodes: int
) -> Any:
    """Builds `adjacency` from edges that are already checked."""
    transposed = sp.coo_array((values, (receivers, senders)), shape=(num_nodes, num_nodes))
    # This claim skips a sort row by row; transposing below sorts too, in a single pass.
    transposed.has_canonical_format = True
    directed = transposed.tocsr().tocsc().T
    # Duplicates are summed before the transpose is added, so that w_ij and w_ji round alike.
    directed.sum_duplicates()
    return (directed + directed.T).tocsr()


def normalize(weights: Any, dtype: Any) -> Any:
    """Computes ``D^-1/2 W D^-1/2`` in float64, with zero rows for nodes of degree zero."""
    indptr, indices = weights.indptr, weights.indices
    counts, degrees = np.diff(indptr), np.zeros(indptr.size - 1)
    joined = counts > 0
    with np.errstate(over="ignore"):  # an error below
        degrees[joined] = np.add.reduceat(weights.data, indptr[:-1][joined], dtype=np.float64)
    over = np.flatnonzero(np.isinf(degrees))
    if over.size:
        raise ValueError(
            f"weights must add up to a finite degree at every node, got {degrees[over[0]]} at node "
            f"{over[0]}; only their ratios matter, so scale all of them down"
        )
    scale = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    data = np.empty(indices.size, np.float32 if dtype == np.float32 else np.float64)
    # A block of rows at a time, so that temporaries stay in the cache.
    bounds = np.searchsorted(indptr, np.arange(0, indices.size, _BLOCK))
    for first, last in pairwise([*bounds.tolist(), scale.size]):
        entries = slice(indptr[first], indptr[last])
        # One product of two scales, so that entries (i, j) and (j, i) round alike.
        both = np.repeat(scale[first:last], counts[first:last])
        both *= scale[indices[entries]]
        data[entries] = both * weights.data[entries]
    return sp.csr_array((data, indices, indptr), shape=weights.shape)


def to_scipy(matrix: Any) -> Any:
    """Converts any supported matrix to canonical CSR, in a dtype that SciPy can compute in."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(matrix)):
        raise TypeError(
            "a raw operator cannot be checked while it is traced: build the graph outside jit with "
            f"Graph.from_operator; {STATIC_ARGS_HINT}"
        )
    if isinstance(matrix, BCSR | BCOO) and (matrix.n_batch or matrix.n_dense or matrix.ndim != 2):
        raise ValueError(
            f"a graph's matrix must be square and have no batch or dense axes, got {matrix!r}"
        )
    supported = sp.issparse(matrix) or isinstance(matrix, BCSR | BCOO)
    if not supported and not (isinstance(matrix, np.ndarray | jax.Array) and matrix.ndim == 2):
        shape = (
            f" of shape {np.shape(matrix)}" if isinstance(matrix, np.ndarray | jax.Array) else ""
        )
        if hasattr(matrix, "operator"):
            raise TypeError(
                "expected a matrix, got a Graph: use it as it is; its operator is "
                "graph.to_scipy(), and its weights are graph.to_scipy(normalized=False)"
            )
        raise TypeError(
            "a graph must be a sevo_jax.Graph or a square matrix (SciPy sparse, BCOO, BCSR or "
            f"dense), got {type(matrix).__name__}{shape}"
        )
    # First of all: to convert a bad shape may take all memory, and bad indices may end the process.
    _check_kind(matrix.shape, matrix.dtype)
    if isinstance(matrix, BCSR):
        data, indices, indptr = map(np.asarray, (matrix.data, matrix.indices, matrix.indptr))
        csr = _checked_csr(data, indices, indptr, matrix.shape)
    elif isinstance(matrix, BCOO):
        data, indices = np.asarray(matrix.data), np.asarray(matrix.indices)
        # BCOO marks padding by both indices one past the end.
        kept = (indices != np.array(matrix.shape)).any(axis=1)
        csr = _checked_coo(data[kept], indices[kept, 0], indices[kept, 1], matrix.shape)
    elif sp.issparse(matrix):
        csr = from_scipy(matrix)
    else:
        check_unmasked("a graph's matrix", matrix)
        csr = sp.csr_array(_computable(np.asarray(matrix)))
    csr.sum_duplicates()
    csr.sort_indices()
    return csr if np.issubdtype(csr.dtype, np.floating) else csr.astype(np.float64)


def _check_kind(shape: tuple[int, ...], dtype: Any) -> None:
    """Raises a `ValueError` unless the matrix is square, real, and small enough for `int32`."""
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"a graph's matrix must be square, got shape {shape}")
    if shape[0] >= np.iinfo(np.int32).max:
        raise ValueError(
            f"a graph must have fewer than {np.iinfo(np.int32).max} nodes, got shape {shape}"
        )
    real = jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_
    if not real or jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"a graph's matrix must be real, got dtype {dtype}")


def from_scipy(matrix: Any) -> Any:
    """Copies a SciPy matrix of any format and shape to CSR, after checking its indices.

    Anyone can set the arrays of a matrix, and SciPy's loops trust them.

    Raises:
        ValueError: indices or pointers that lie outside of the matrix.
    """
    if matrix.format == "csr":
        return _checked_csr(matrix.data, matrix.indices, matrix.indptr, matrix.shape)
    if matrix.format == "csc":
        transposed = _checked_csr(matrix.data, matrix.indices, matrix.indptr, matrix.shape[::-1])
        return transposed.T.tocsr()
    if matrix.format == "bsr":
        rows, columns = (
            size // block for size, block in zip(matrix.shape, matrix.blocksize, strict=True)
        )
        check_compressed(matrix.indices, matrix.indptr, matrix.data.shape[0], rows, columns)
    # The other formats make coordinates in NumPy and Python, which is safe.
    matrix = matrix.tocoo()
    rows, columns = matrix.coords
    return _checked_coo(matrix.data, rows, columns, matrix.shape)


def _checked_csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...]
) -> Any:
    check_compressed(indices, indptr, data.shape[0], *shape)
    stored = indptr[-1]  # the rest is padding
    parts = (_computable(data[:stored]), indices[:stored], indptr)
    return sp.csr_array(parts, shape=shape, copy=True)


def _checked_coo(
    data: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...]
) -> Any:
    for name, indices, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        _check_indices(name, indices, size)
    return sp.coo_array((_computable(data), (rows, columns)), shape=shape).tocsr()


def check_compressed(
    indices: np.ndarray, indptr: np.ndarray, capacity: int, rows: int, columns: int
) -> None:
    """Raises a `ValueError` unless the indices and pointers are those of a compressed matrix.

    Args:
        indices: the columns of each row, one row after the other, then padding.
        indptr: where each row begins, and where the last row ends.
        capacity: how many values there are.
        rows: how many rows are compressed (or columns, for a matrix of compressed columns).
        columns: how many columns a row has (or rows, for a matrix of compressed columns).
    """
    if indptr.shape != (rows + 1,) or not np.issubdtype(indptr.dtype, np.integer):
        raise ValueError(
            f"the matrix's pointers (indptr) must be {rows + 1} integers, got {indptr.dtype} of "
            f"shape {indptr.shape}"
        )
    if indices.shape != (capacity,):
        raise ValueError(
            f"the matrix must have one index a value, got {indices.shape} and {capacity}"
        )
    falling = np.flatnonzero(indptr[1:] < indptr[:-1])
    if indptr[0] != 0 or indptr[-1] > capacity or falling.size:
        raise ValueError(
            f"the matrix's pointers (indptr) must rise from 0 to at most its {capacity} entries, "
            f"got {indptr[0]} to {indptr[-1]}"
            + (f", falling at position {falling[0] + 1}" if falling.size else "")
        )
    _check_indices("column", indices[: indptr[-1]], columns)


def _check_indices(name: str, indices: np.ndarray, size: int) -> None:
    if indices.size == 0:
        return
    if not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"the matrix's {name} indices must be integers, got {indices.dtype}")
    for extreme in (indices.min(), indices.max()):
        if not 0 <= extreme < size:
            raise ValueError(f"the matrix's {name} indices must lie in [0, {size}), got {extreme}")


def floating_dtype(matrix: Any) -> Any:
    """Returns the dtype of ``matrix`` if it is floating, else JAX's default float."""
    floating = jnp.issubdtype(matrix.dtype, jnp.floating)
    return matrix.dtype if floating else jax.dtypes.canonicalize_dtype(float)


def _computable(values: np.ndarray) -> np.ndarray:
    """Widens half precisions and integers to a dtype that SciPy can add in."""
    if jnp.issubdtype(values.dtype, jnp.floating) and values.dtype.itemsize < 4:
        return values.astype(np.float32)
    return values.astype(np.float64) if np.issubdtype(values.dtype, np.integer) else values


def to_bcsr(matrix: Any, dtype: Any, capacity: int | None) -> BCSR:
    """Moves CSR to the device as `BCSR`, in float64 only where JAX has it enabled."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a floating-point type, got {jnp.dtype(dtype)}")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    # Compared as Python floats: float64's maximum would overflow beside a float32.
    largest = float(max(matrix.data.max(initial=0.0), -matrix.data.min(initial=0.0)))
    if largest > float(jnp.finfo(dtype).max):
        raise ValueError(f"weights must fit {dtype}, got {largest}")
    spare = 0
    if capacity is not None:
        spare = check_count("capacity", capacity, least=0) - matrix.nnz
        if spare < 0:
            raise ValueError(
                f"capacity must be at least the graph's {matrix.nnz} entries, got {capacity}"
            )
    if matrix.nnz + spare > np.iinfo(np.int32).max:
        raise ValueError(
            f"a graph may have at most {np.iinfo(np.int32).max} stored entries, got "
            f"{matrix.nnz + spare}"
        )
    data, indices = matrix.data, matrix.indices
    if spare:  # JAX marks an entry as padding by a column one past the end
        data = np.pad(data, (0, spare))
        indices = np.pad(indices, (0, spare), constant_values=matrix.shape[1])
    return BCSR(
        (
            jnp.asarray(data, dtype),
            jnp.asarray(indices, jnp.int32),
            jnp.asarray(matrix.indptr, jnp.int32),
        ),
        shape=matrix.shape,
        indices_sorted=True,
        unique_indices=True,
    )


def check_operator(matrix: Any, given: Any, dtype: Any) -> None:
    """Raises a `ValueError` unless it is finite, symmetric, and of spectral radius at most 1."""
    check_values(matrix, "operator")
    largest = np.full(matrix.shape[0], abs(matrix.data).max(initial=0.0))
    check_symmetric(matrix, "operator", largest, given, dtype)
    radius = _spectral_radius(matrix)
    if radius > 1 + SPECTRAL_TOLERANCE:
        raise ValueError(
            f"operator must have a spectral radius of at most 1, got {radius:.6g}; an adjacency "
            "matrix must be normalised first, which Graph.from_weights does"
        )


def check_values(matrix: Any, name: str) -> None:
    """Raises a `ValueError` unless all entries are finite."""
    bad = np.flatnonzero(~np.isfinite(matrix.data))
    if bad.size:
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"{name} must be finite, got {matrix.data[bad[0]]} at ({row}, {matrix.indices[bad[0]]})"
        )


def check_symmetric(matrix: Any, name: str, sizes: np.ndarray, given: Any, dtype: Any) -> None:
    """Raises a `ValueError` unless a matrix is symmetric up to a few roundings.

    Args:
        matrix: the matrix.
        name: its name.
        sizes: ``float[n]``; the entries of rows ``i`` and ``j`` may differ by roundings of
            ``sqrt(sizes_i sizes_j)``. For weights these are the degrees, by which they are divided.
        given: the dtype in which the caller had the matrix.
        dtype: the dtype in which it will be stored.
    """
    difference = abs(matrix - matrix.T).tocoo()
    if difference.nnz == 0:
        return
    # Roundings of the precision before or after; of half precision, only if the caller rounded so.
    stored = jnp.promote_types(jax.dtypes.canonicalize_dtype(dtype), jnp.float32)
    eps = max(float(np.finfo(matrix.dtype).eps), float(jnp.finfo(stored).eps))
    if given.itemsize < 4:
        eps = float(jnp.finfo(given).eps)
    rows, columns = difference.coords
    limits = 16 * eps * np.sqrt(sizes[rows]) * np.sqrt(sizes[columns])
    over = difference.data - limits
    worst = int(over.argmax())
    if over[worst] > 0:
        row, column = rows[worst], columns[worst]
        raise ValueError(
            f"{name} must be symmetric, got {matrix[row, column]} at ({row}, {column}) and "
            f"{matrix[column, row]} at ({column}, {row})"
        )


def _spectral_radius(matrix: Any) -> float:
    if matrix.nnz == 0:
        return 0.0
    # The largest row sum bounds the radius, which often settles it.
    bound = float(abs(matrix).sum(axis=1).max())
    if bound <= 1 + SPECTRAL_TOLERANCE:
        return bound
    if matrix.shape[0] <= _DENSE_EIGENVALUES_UP_TO:
        return float(abs(np.linalg.eigvalsh(matrix.toarray().astype(np.float64))).max())
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    try:
        values: Any = eigsh(
            matrix.astype(np.float64),
            k=1,
            which="LM",
            v0=start,
            tol=SPECTRAL_TOLERANCE,  # pyright: ignore[reportArgumentType]
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        raise ValueError(
            "the operator's spectral radius could not be computed; if you know that it is at most "
            "1, pass Graph.from_operator(..., check=False)"
        ) from error
    return float(abs(values).max())
