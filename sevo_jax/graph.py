"""The graph: a normalised adjacency matrix, checked once on the host and carried as a pytree.

SEvo needs one thing of a graph, the operator ``Ã = D^-1/2 W D^-1/2`` (Section 2.1). `Graph` holds
it together with the edge weights ``W`` it came from. Everything that can go wrong with a graph is
checked here, outside ``jit``; unflattening a `Graph` checks nothing.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.core import Tracer
from jax.experimental.sparse import BCOO, BCSR
from numpy.typing import ArrayLike
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from sevo_jax.validation import (
    STATIC_ARGS_HINT,
    check_choice,
    check_count,
    check_ids,
    check_weights,
)

Operator = Any
"""An n x n matrix: SciPy sparse, `BCOO`, `BCSR`, or a dense NumPy or JAX array."""

SelfLoops = Literal["none", "isolated", "all"]
"""Which nodes get an edge of weight 1 to themselves."""

Kernel = Literal["bcsr", "gather", "pallas"]
"""What multiplies by the operator; see `sevo_jax.sparse`."""

Precision = Literal["bfloat16"]
"""What a table's rows are rounded to as they are gathered."""

SPECTRAL_TOLERANCE = 1e-5
_DENSE_EIGENVALUES_UP_TO = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """An undirected weighted graph over ``num_nodes`` nodes, as a pytree of device arrays.

    Make one with a builder (`sequence_graph`, `edge_graph`) or from an operator of your own
    (`Graph.from_operator`); the constructor itself checks nothing.

    Attributes:
        weights: ``W``, symmetric and non-negative, ``float[n, n]`` in `BCSR` form; ``None`` when
            only an operator was given.
        operator: ``Ã``, symmetric with spectral radius at most 1, ``float[n, n]`` in `BCSR` form.
        num_nodes: ``n``, static.
        kernel: what multiplies by the operator, static; ``None`` for the platform's default. See
            `with_kernel`.
        precision: what that rounds gathered rows to, static; ``None`` for nothing.

    Example:
        >>> import sevo_jax
        >>> sevo_jax.edge_graph([0, 1], [1, 2], num_nodes=4)
        Graph(num_nodes=4, capacity=4, dtype=float32)
    """

    weights: BCSR | None
    operator: BCSR
    num_nodes: int = dataclasses.field(metadata={"static": True})
    kernel: Kernel | None = dataclasses.field(default=None, metadata={"static": True})
    precision: Precision | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def capacity(self) -> int:
        """Stored entries of the operator: both directions of an edge, and what pads them.

        Two graphs share a compiled step if they are equal in ``num_nodes``, ``capacity``, dtype,
        kernel and precision, and both have weights or neither has.
        """
        return self.operator.nse

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the operator's values."""
        return self.operator.dtype

    def __repr__(self) -> str:
        text = f"num_nodes={self.num_nodes}, capacity={self.capacity}, dtype={self.dtype}"
        text += f", kernel={self.kernel}" if self.kernel else ""
        text += f", precision={self.precision}" if self.precision else ""
        return f"Graph({text})"

    @classmethod
    def from_operator(
        cls,
        operator: Operator,
        check: bool = True,
        *,
        dtype: Any = None,
        capacity: int | None = None,
    ) -> Graph:
        """A graph from an operator ``Ã`` that is used exactly as given.

        Args:
            operator: ``float[n, n]``: SciPy sparse, `BCOO`, `BCSR`, or dense.
            check: whether to verify that the operator is finite, symmetric to rounding, and of
                spectral radius at most 1 + 1e-5. Without these, smoothing may diverge or point away
                from the update (Theorem 1). The shape is always checked.
            dtype: of the result; that of ``operator`` if ``None``.
            capacity: stored entries, zero-padded; as many as there are if ``None``.

        Raises:
            TypeError: the operator is a traced array or not a matrix at all.
            ValueError: it is not square, fails a check, or has more entries than the capacity.

        Example:
            >>> import numpy as np, sevo_jax
            >>> sevo_jax.Graph.from_operator(np.array([[0.0, 1.0], [1.0, 0.0]]))
            Graph(num_nodes=2, capacity=2, dtype=float32)
        """
        matrix = _to_scipy(operator)
        dtype = _floating_dtype(operator) if dtype is None else dtype
        if check:
            _check_operator(matrix, dtype)
        return cls(None, _to_bcsr(matrix, dtype, capacity), matrix.shape[0])

    @classmethod
    def from_weights(
        cls,
        weights: Operator,
        dtype: Any = None,
        *,
        self_loops: SelfLoops = "none",
        capacity: int | None = None,
    ) -> Graph:
        """A graph from an adjacency matrix ``W``, normalised to ``Ã = D^-1/2 W D^-1/2``.

        A node without edges gets a zero row: smoothing then scales its step by
        ``(1 - beta) / (1 - beta^(L+1))``, as the paper does. With ``self_loops="isolated"`` such
        nodes get an edge to themselves, and smoothing leaves their step alone. The degrees and the
        product are computed in float64 and rounded once to ``dtype``.

        Args:
            weights: ``float[n, n]``, symmetric, finite, non-negative.
            dtype: of the result; that of ``weights`` if ``None``.
            self_loops: who gets a self-edge of weight 1 on top of ``W``: ``"none"``, the
                ``"isolated"`` nodes, or ``"all"``.
            capacity: stored entries, zero-padded; as many as there are if ``None``.

        Raises:
            TypeError: the weights are a traced array or not a matrix.
            ValueError: they are not square, symmetric, finite and non-negative, or have more
                entries than the capacity.

        Example:
            >>> import numpy as np, sevo_jax
            >>> graph = sevo_jax.Graph.from_weights(np.array([[0.0, 3.0], [3.0, 0.0]]))
            >>> graph.to_scipy().toarray().tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        matrix = _to_scipy(weights)
        _check_values(matrix, "weights")
        if matrix.nnz and matrix.data.min() < 0:
            raise ValueError(f"weights must be non-negative, got a minimum of {matrix.data.min()}")
        dtype = _floating_dtype(weights) if dtype is None else dtype
        _check_symmetric(matrix, "weights", dtype)
        return graph_of(matrix, dtype, self_loops, capacity)

    def add_edges(
        self,
        senders: ArrayLike,
        receivers: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        num_nodes: int | None = None,
        self_loops: SelfLoops = "none",
        capacity: int | None = None,
    ) -> Graph:
        """This graph with more edges, or more nodes, normalised anew.

        Args:
            senders: ``int[edges]``, as in `edge_graph`.
            receivers: ``int[edges]``.
            weights: ``float[edges]``; 1 for every edge if ``None``.
            num_nodes: how many nodes the result has; as many as now if ``None``.
            self_loops: as in `Graph.from_weights`; self-edges that are there already stay.
            capacity: stored entries, zero-padded. If ``None``, the present capacity where the
                result fits, so that nothing compiles anew; else as many as there are.

        Raises:
            TypeError: as `edge_graph`.
            ValueError: as `edge_graph`; fewer nodes than now; more entries than the capacity; or
                this graph was made from an operator and has no weights.

        Example:
            >>> import sevo_jax
            >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2).add_edges([1], [2], num_nodes=3)
            >>> graph.to_scipy(normalized=False).toarray()[1].tolist()
            [1.0, 0.0, 1.0]
        """
        before = self.to_scipy(normalized=False)
        n = self.num_nodes if num_nodes is None else check_count("num_nodes", num_nodes)
        if n < self.num_nodes:
            raise ValueError(f"num_nodes must be at least the present {self.num_nodes}, got {n}")
        before.resize((n, n))
        added, _ = adjacency(senders, receivers, n, weights)
        total = (before + added).tocsr()
        graph = graph_of(total, self.dtype, self_loops, capacity)
        if capacity is None and graph.capacity < self.capacity:
            graph = graph.with_capacity(self.capacity)
        return dataclasses.replace(graph, kernel=self.kernel, precision=self.precision)

    def with_capacity(self, capacity: int) -> Graph:
        """This graph with another number of stored entries.

        Raises:
            ValueError: the graph has more entries.

        Example:
            >>> import sevo_jax
            >>> sevo_jax.edge_graph([0], [1], num_nodes=2).with_capacity(8).capacity
            8
        """
        weights = None
        if self.weights is not None:
            weights = _to_bcsr(_to_scipy(self.weights), self.dtype, capacity)
        operator = _to_bcsr(_to_scipy(self.operator), self.dtype, capacity)
        return dataclasses.replace(self, weights=weights, operator=operator)

    def with_kernel(self, kernel: Kernel | None, *, precision: Precision | None = None) -> Graph:
        """This graph with another kernel behind its product, in every function and optimiser.

        What is made of it by `add_edges`, `with_capacity`, `save` and `load` keeps the choice.

        Args:
            kernel: ``"bcsr"``, JAX's product, the default on CPUs; ``"gather"``, sums of gathered
                rows without a scatter, the default elsewhere; ``"pallas"``, a Triton kernel for
                NVIDIA GPUs (interpreted, and slow, on CPUs); ``None``, the platform's default.
            precision: ``"bfloat16"`` rounds the rows as they are gathered, and sums in float32 or
                more: half the bytes for accelerators, slower on CPUs. It needs the kernel
                ``"gather"``, or ``None``. The method ``"exact"`` then solves a rounded system, and
                may stop at its bound of iterations before it reaches ``tol``.

        Raises:
            ValueError: an unknown name, or a precision that the kernel does not have.

        Example:
            >>> import jax.numpy as jnp, sevo_jax
            >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2).with_kernel("gather")
            >>> sevo_jax.spmm(graph, jnp.array([[1.0], [5.0]])).tolist()
            [[5.0], [1.0]]
        """
        if kernel is not None:
            check_choice("kernel", kernel, ("bcsr", "gather", "pallas"))
        if precision is not None:
            check_choice("precision", precision, ("bfloat16",))
        if precision is not None and kernel not in (None, "gather"):
            raise ValueError(f"precision 'bfloat16' needs the kernel 'gather', got {kernel!r}")
        return dataclasses.replace(self, kernel=kernel, precision=precision)

    def to_scipy(self, normalized: bool = True) -> Any:
        """``Ã`` (or ``W`` with ``normalized=False``) as a SciPy CSR array on the host.

        Raises:
            ValueError: ``normalized=False`` and the graph was made from an operator.

        Example:
            >>> import sevo_jax
            >>> sevo_jax.edge_graph([0], [1], 2).to_scipy(normalized=False).toarray().tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        if normalized:
            return _to_scipy(self.operator)
        if self.weights is None:
            raise ValueError("this graph was made from an operator and has no weights")
        return _to_scipy(self.weights)

    def save(self, path: str | Path) -> None:
        """Writes the graph to a file that `scipy.sparse.load_npz` can read too.

        It holds ``W``, or ``Ã`` where there is no ``W``.

        Args:
            path: the file; ``.npz`` is added if it is missing.

        Example:
            >>> import sevo_jax, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sevo_jax.edge_graph([0], [1], num_nodes=2).save(folder + "/graph.npz")
            ...     sevo_jax.Graph.load(folder + "/graph.npz")
            Graph(num_nodes=2, capacity=2, dtype=float32)
        """
        path = _npz(path)
        sp.save_npz(path, self.to_scipy(normalized=self.weights is None))
        meta = {"dtype": str(self.dtype), "capacity": self.capacity}
        meta["normalized"] = self.weights is None
        meta |= {"kernel": self.kernel, "precision": self.precision}
        with zipfile.ZipFile(path, "a") as archive, archive.open(_META + ".npy", "w") as file:
            np.save(file, np.array(json.dumps(meta)))

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Reads what `save` wrote, or the weights that `scipy.sparse.save_npz` did.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: it is no sparse matrix, or not one of a graph.

        Example:
            >>> import numpy as np, scipy.sparse as sp, sevo_jax, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sp.save_npz(folder + "/w.npz", sp.csr_array(np.array([[0.0, 2.0], [2.0, 0.0]])))
            ...     sevo_jax.Graph.load(folder + "/w.npz").to_scipy().toarray().tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        path = _npz(path)
        try:
            matrix = sp.load_npz(path)
            with np.load(path) as archive:
                meta = json.loads(str(archive[_META])) if _META in archive.files else {}
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no sparse matrix ({error})") from error
        dtype, capacity = meta.get("dtype"), meta.get("capacity")
        if meta.get("normalized", False):
            # Checked when it was made; in half precision its rounding would fail the check now.
            graph = cls.from_operator(matrix, check=False, dtype=dtype, capacity=capacity)
        else:
            graph = cls.from_weights(matrix, dtype, capacity=capacity)
        return graph.with_kernel(meta.get("kernel"), precision=meta.get("precision"))


_META = "sevo_jax"
_BLOCK = 2**15  # entries


def _npz(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")


def adjacency(
    senders: ArrayLike, receivers: ArrayLike, num_nodes: int, weights: ArrayLike | None
) -> tuple[Any, Any]:
    """``W`` of undirected edges as CSR in float64, and the dtype of the weights given."""
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
    """`adjacency` for edges that are known to be sound."""
    transposed = sp.coo_array((values, (receivers, senders)), shape=(num_nodes, num_nodes))
    # Not to be sorted row by row: transposing sorts too, in a single pass.
    transposed.has_canonical_format = True
    directed = transposed.tocsr().tocsc().T
    # Duplicates are summed before the transpose is added: w_ij and w_ji then round alike.
    directed.sum_duplicates()
    return (directed + directed.T).tocsr()


def as_graph(graph: Graph | Operator) -> Graph:
    """``graph`` itself, or `Graph.from_operator` of an operator."""
    return graph if isinstance(graph, Graph) else Graph.from_operator(graph)


def graph_of(weights: Any, dtype: Any, self_loops: SelfLoops, capacity: int | None) -> Graph:
    """`Graph.from_weights` for weights that are known to be sound: CSR and symmetric."""
    check_choice("self_loops", self_loops, ("none", "isolated", "all"))
    weights.sort_indices()
    if self_loops != "none":
        degrees = weights.sum(axis=1)
        loops = np.ones_like(degrees) if self_loops == "all" else np.equal(degrees, 0)
        weights = (weights + sp.diags_array(loops.astype(weights.dtype))).tocsr()
    weights.eliminate_zeros()
    operator = _to_bcsr(normalize(weights, dtype), dtype, capacity)
    return Graph(_to_bcsr(weights, dtype, capacity), operator, weights.shape[0])


def normalize(weights: Any, dtype: Any) -> Any:
    """``D^-1/2 W D^-1/2`` computed in float64, with zero rows for nodes of degree zero."""
    indptr, indices = weights.indptr, weights.indices
    counts, degrees = np.diff(indptr), np.zeros(indptr.size - 1)
    joined = counts > 0
    degrees[joined] = np.add.reduceat(weights.data, indptr[:-1][joined], dtype=np.float64)
    scale = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    data = np.empty(indices.size, np.float32 if dtype == np.float32 else np.float64)
    # A few rows after the other: what stays in the cache costs no memory.
    bounds = np.searchsorted(indptr, np.arange(0, indices.size, _BLOCK))
    for first, last in pairwise([*bounds.tolist(), scale.size]):
        entries = slice(indptr[first], indptr[last])
        # One product of two scales, so that entries (i, j) and (j, i) round alike.
        both = np.repeat(scale[first:last], counts[first:last])
        both *= scale[indices[entries]]
        data[entries] = both * weights.data[entries]
    return sp.csr_array((data, indices, indptr), shape=weights.shape)


def _to_scipy(matrix: Operator) -> Any:
    """Any supported matrix as canonical CSR on the host, in a dtype that SciPy can compute in."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(matrix)):
        raise TypeError(
            "a raw operator cannot be checked while it is traced: build the graph outside jit with "
            f"Graph.from_operator; {STATIC_ARGS_HINT}"
        )
    if isinstance(matrix, BCSR | BCOO) and (matrix.n_batch or matrix.n_dense or matrix.ndim != 2):
        raise ValueError(
            f"a graph's matrix must be square and have no batch or dense axes, got {matrix!r}"
        )
    if isinstance(matrix, BCSR):
        data, indices, indptr = (
            np.asarray(a) for a in (matrix.data, matrix.indices, matrix.indptr)
        )
        stored = indptr[-1]  # what follows pads
        parts = (_computable(data[:stored]), indices[:stored], indptr)
        csr: Any = sp.csr_array(parts, shape=matrix.shape, copy=True)
    elif isinstance(matrix, BCOO):
        data, indices = np.asarray(matrix.data), np.asarray(matrix.indices)
        # BCOO marks padding by an index one past the end.
        kept = (indices < np.array(matrix.shape)).all(axis=1)
        coordinates = (indices[kept, 0], indices[kept, 1])
        csr = sp.coo_array((_computable(data[kept]), coordinates), shape=matrix.shape).tocsr()
    elif sp.issparse(matrix):
        csr = sp.csr_array(matrix, copy=True)  # what follows works in place
    elif isinstance(matrix, np.ndarray | jax.Array) and matrix.ndim == 2:
        dense = np.asarray(matrix)
        csr = sp.csr_array(_computable(dense))
    else:
        shape = (
            f" of shape {np.shape(matrix)}" if isinstance(matrix, np.ndarray | jax.Array) else ""
        )
        raise TypeError(
            "a graph must be a sevo_jax.Graph or a square matrix (SciPy sparse, BCOO, BCSR or "
            f"dense), got {type(matrix).__name__}{shape}"
        )
    if csr.shape[0] != csr.shape[1]:
        raise ValueError(f"a graph's matrix must be square, got shape {csr.shape}")
    if np.issubdtype(csr.dtype, np.complexfloating):
        raise ValueError(f"a graph's matrix must be real, got dtype {csr.dtype}")
    csr.sum_duplicates()
    csr.sort_indices()
    return csr if np.issubdtype(csr.dtype, np.floating) else csr.astype(np.float64)


def _floating_dtype(matrix: Operator) -> Any:
    """The dtype of ``matrix`` if it is a floating one, else JAX's default float."""
    floating = jnp.issubdtype(matrix.dtype, jnp.floating)
    return matrix.dtype if floating else jax.dtypes.canonicalize_dtype(float)


def _computable(values: np.ndarray) -> np.ndarray:
    """bfloat16 and float16 as float32, which SciPy can add; the rest unchanged."""
    return values.astype(np.float32) if values.dtype.itemsize < 4 else values


def _to_bcsr(matrix: Any, dtype: Any, capacity: int | None) -> BCSR:
    """CSR on the host to `BCSR` on the device, float64 only where JAX has it enabled."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be a floating-point type, got {jnp.dtype(dtype)}")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    largest = max(matrix.data.max(initial=0.0), -matrix.data.min(initial=0.0))
    if largest > float(jnp.finfo(dtype).max):
        raise ValueError(f"weights must fit {dtype}, got {largest}")
    spare = 0
    if capacity is not None:
        spare = check_count("capacity", capacity, least=0) - matrix.nnz
        if spare < 0:
            raise ValueError(
                f"capacity must be at least the graph's {matrix.nnz} entries, got {capacity}"
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


def _check_operator(matrix: Any, dtype: Any) -> None:
    _check_values(matrix, "operator")
    _check_symmetric(matrix, "operator", dtype)
    radius = _spectral_radius(matrix)
    if radius > 1 + SPECTRAL_TOLERANCE:
        raise ValueError(
            f"operator must have a spectral radius of at most 1, got {radius:.6g}; an adjacency "
            "matrix must be normalised first, which Graph.from_weights does"
        )


def _check_values(matrix: Any, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(matrix.data))
    if bad.size:
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"{name} must be finite, got {matrix.data[bad[0]]} at ({row}, {matrix.indices[bad[0]]})"
        )


def _check_symmetric(matrix: Any, name: str, dtype: Any) -> None:
    difference = abs(matrix - matrix.T).tocoo()
    if difference.nnz == 0:
        return
    worst = int(difference.data.argmax())
    # A few roundings of the precision it has or will have, on the scale of the largest entry.
    stored = jax.dtypes.canonicalize_dtype(dtype)
    eps = max(np.finfo(matrix.dtype).eps, float(jnp.finfo(stored).eps))
    limit = 16 * eps * abs(matrix.data).max()
    if difference.data[worst] > limit:
        row, column = difference.coords[0][worst], difference.coords[1][worst]
        raise ValueError(
            f"{name} must be symmetric, got {matrix[row, column]} at ({row}, {column}) and "
            f"{matrix[column, row]} at ({column}, {row})"
        )


def _spectral_radius(matrix: Any) -> float:
    if matrix.nnz == 0:
        return 0.0
    # The largest row sum bounds the radius and is often enough.
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
