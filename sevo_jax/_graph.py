"""The graph: a normalised adjacency matrix, checked once on the host and carried as a pytree.

SEvo multiplies by the operator ``Ã = D^-1/2 W D^-1/2`` (Section 2.1). `Graph` holds it together
with the edge weights ``W``. Graphs are checked here, outside ``jit``, when they are made;
unflattening a `Graph` checks nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCSR
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from numpy.typing import ArrayLike

from sevo_jax import _graph_file
from sevo_jax._checks import check_choice, check_nodes, rounds_to_0
from sevo_jax._matrices import (
    Operator,
    adjacency,
    check_operator,
    check_symmetric,
    check_values,
    floating_dtype,
    normalize,
    to_bcsr,
    to_scipy,
)
from sevo_jax._sharding import Exchange, Plan, Way, cut, mesh_size, rows_and_columns

SelfLoops = Literal["none", "isolated", "all"]
"""The nodes that get an edge of weight 1 to themselves."""

Kernel = Literal["bcsr", "gather", "pallas"]
"""The name of a kernel that multiplies by the operator; see `Graph.with_kernel`."""

Precision = Literal["bfloat16"]
"""The dtype that a table's rows are rounded to as they are gathered."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """An undirected weighted graph over ``num_nodes`` nodes, as a pytree of device arrays.

    Make one with a builder (`sequence_graph`, `edge_graph`) or from an operator of your own
    (`Graph.from_operator`); the constructor itself checks nothing.

    Attributes:
        weights: ``W``, symmetric and non-negative, ``float[n, n]`` in `BCSR` form; ``None`` when
            only an operator was given, and in an optimiser's state.
        operator: ``Ã``, symmetric with spectral radius at most 1, up to rounding in its dtype,
            ``float[n, n]`` in `BCSR` form.
        num_nodes: ``n``, static.
        kernel: the kernel of products, static; ``None`` for the platform's default. See
            `with_kernel`.
        precision: the dtype to which gathered rows are rounded, static; ``None`` for no rounding.
        exchange: how rows travel between devices, if `shard` has split the operator among them.

    Examples:
        >>> import sevo_jax
        >>> sevo_jax.edge_graph([0, 1], [1, 2], num_nodes=4)
        Graph(num_nodes=4, capacity=4, dtype=float32)
    """

    weights: BCSR | None
    operator: BCSR
    num_nodes: int = dataclasses.field(metadata={"static": True})
    kernel: Kernel | None = dataclasses.field(default=None, metadata={"static": True})
    precision: Precision | None = dataclasses.field(default=None, metadata={"static": True})
    exchange: Exchange | None = None

    # For runtime type checkers: JAX and Orbax build graphs of shapes, axes or options, too.
    __no_type_check__ = True

    @property
    def capacity(self) -> int:
        """Stored entries of the operator: both directions of an edge, and padding.

        For a graph that is split among devices, it counts the entries of one device.

        Two graphs share a compiled step if they are equal in ``num_nodes``, ``capacity``, dtype,
        kernel and precision. If a function takes the graph itself as an argument, both must have
        weights or neither; an optimiser's state never holds weights.
        """
        return self.operator.nse

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the operator's values."""
        return self.operator.dtype

    def __repr__(self) -> str:
        text = f"num_nodes={self.num_nodes}"
        values = getattr(self.operator, "data", self.operator)
        if hasattr(values, "shape") and hasattr(values, "dtype"):
            text += f", capacity={self.capacity}, dtype={self.dtype}"
        else:  # a tree of shapes, shardings or axes
            text += f", leaves={type(values).__name__}"
        text += f", kernel={self.kernel}" if self.kernel else ""
        text += f", precision={self.precision}" if self.precision else ""
        if self.exchange is not None:
            text += f", parts={self.exchange.plan.num_parts}, exchange={self.exchange.plan.way}"
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
        """Makes a graph of an operator ``Ã``, used exactly as given.

        Args:
            operator: ``float[n, n]``: SciPy sparse, `BCOO`, `BCSR`, or dense.
            check: whether to verify that the operator is finite, symmetric to rounding, and of
                spectral radius at most 1 + 1e-5. With another operator, smoothing may diverge or
                point away from the update (Theorem 1). The shape is always checked.
            dtype: the dtype of the result; that of ``operator`` if ``None``.
            capacity: stored entries, zero-padded; as many as there are if ``None``.

        Raises:
            TypeError: the operator is traced, or no matrix.
            ValueError: it is not square, fails a check, or has more entries than the capacity.

        Examples:
            >>> import numpy as np, sevo_jax
            >>> sevo_jax.Graph.from_operator(np.array([[0.0, 1.0], [1.0, 0.0]]))
            Graph(num_nodes=2, capacity=2, dtype=float32)
        """
        matrix = to_scipy(operator)
        given = floating_dtype(operator)
        dtype = given if dtype is None else dtype
        if check:
            check_operator(matrix, given, dtype)
        return cls(None, to_bcsr(matrix, dtype, capacity), matrix.shape[0])

    @classmethod
    def from_weights(
        cls,
        weights: Operator,
        dtype: Any = None,
        *,
        self_loops: SelfLoops = "none",
        capacity: int | None = None,
    ) -> Graph:
        """Makes a graph of an adjacency matrix ``W``, normalised to ``Ã = D^-1/2 W D^-1/2``.

        A node without edges gets a zero row. Smoothing then scales its step by
        ``(1 - beta) / (1 - beta^(L+1))``, as the paper does. With ``self_loops="isolated"`` such
        nodes get an edge to themselves, and smoothing leaves their step alone. Degrees and products
        are computed in float64 and rounded once to ``dtype``.

        Args:
            weights: ``float[n, n]``, symmetric, finite, non-negative.
            dtype: the dtype of the result; that of ``weights`` if ``None``.
            self_loops: the nodes that get a self-edge of weight 1 on top of ``W``: ``"none"``, the
                ``"isolated"`` ones, or ``"all"``.
            capacity: stored entries, zero-padded; as many as there are if ``None``.

        Raises:
            TypeError: the weights are a traced array or not a matrix.
            ValueError: they are not square, symmetric, finite and non-negative, or have more
                entries than the capacity.

        Examples:
            >>> import numpy as np, sevo_jax
            >>> graph = sevo_jax.Graph.from_weights(np.array([[0.0, 3.0], [3.0, 0.0]]))
            >>> graph.to_scipy().toarray().tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        matrix = to_scipy(weights)
        check_values(matrix, "weights")
        if matrix.nnz and matrix.data.min() < 0:
            raise ValueError(f"weights must be non-negative, got a minimum of {matrix.data.min()}")
        given = floating_dtype(weights)
        dtype = given if dtype is None else dtype
        check_symmetric(matrix, "weights", matrix.sum(axis=1, dtype=np.float64), given, dtype)
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
        """Returns this graph with more edges, or more nodes, normalised anew.

        Args:
            senders: ``int[edges]``, as in `edge_graph`.
            receivers: ``int[edges]``.
            weights: ``float[edges]``; 1 for every edge if ``None``.
            num_nodes: the number of nodes of the result; as many as now if ``None``.
            self_loops: as in `Graph.from_weights`; self-edges that are there already stay.
            capacity: stored entries, zero-padded. ``None`` keeps the present capacity where the
                result fits, so that nothing compiles anew, and else stores as many as there are.

        Raises:
            TypeError: as `edge_graph`.
            ValueError: as `edge_graph`; fewer nodes than now; more entries than the capacity; or a
                graph without weights, made from an operator or taken from an optimiser's state.

        Examples:
            >>> import sevo_jax
            >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2).add_edges([1], [2], num_nodes=3)
            >>> graph.to_scipy(normalized=False).toarray()[1].tolist()
            [1.0, 0.0, 1.0]
        """
        before = self.to_scipy(normalized=False)
        n = self.num_nodes if num_nodes is None else check_nodes("num_nodes", num_nodes)
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
        """Returns this graph with another number of stored entries.

        Raises:
            ValueError: the graph has more entries.

        Examples:
            >>> import sevo_jax
            >>> sevo_jax.edge_graph([0], [1], num_nodes=2).with_capacity(8).capacity
            8
        """
        operator = to_bcsr(self.to_scipy(), self.dtype, capacity)
        weights = None
        if self.weights is not None:
            weights = to_bcsr(to_scipy(self.weights), self.dtype, capacity)
        return dataclasses.replace(self, weights=weights, operator=operator)

    def with_kernel(self, kernel: Kernel | None, *, precision: Precision | None = None) -> Graph:
        """Returns this graph with another kernel behind its product, wherever it is used.

        Graphs made from the result by `add_edges`, `with_capacity`, `save` and `load` keep it.

        Args:
            kernel: ``"bcsr"``, JAX's own product; ``"pallas"``, a Triton kernel, interpreted and
                slow on CPUs; or ``"gather"``, sums of gathered rows without a scatter. ``None``
                is the platform's default: a kernel in C++ on CPUs, ``"pallas"`` on NVIDIA GPUs
                from Ampere on, else ``"gather"``. Without a compiler at installation, CPUs use
                ``"bcsr"``, or ``"gather"`` with a precision; `sevo_jax._spmm.cpu.missing` then
                says why.
            precision: ``"bfloat16"`` rounds the rows that are gathered, which halves the bytes to
                read, and sums in float32 or more. ``"bcsr"`` cannot. The method ``"exact"`` then
                solves a rounded system, and may reach its bound of iterations before ``tol``.

        Raises:
            ValueError: an unknown name, or a precision that the kernel does not have.

        Examples:
            >>> import jax.numpy as jnp, sevo_jax
            >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2).with_kernel("gather")
            >>> sevo_jax.spmm(graph, jnp.array([[1.0], [5.0]])).tolist()
            [[5.0], [1.0]]
        """
        if kernel is not None:
            check_choice("kernel", kernel, Kernel)
        if precision is not None:
            check_choice("precision", precision, Precision)
        if precision is not None and kernel == "bcsr":
            raise ValueError("the kernel 'bcsr' has no precision 'bfloat16'; 'gather' has")
        return dataclasses.replace(self, kernel=kernel, precision=precision)

    def shard(
        self, sharding: Sharding, *, exchange: Way | None = None, capacity: int | None = None
    ) -> Graph:
        """Splits this graph for sharded tables: each device holds the entries of its rows alone.

        Without it, every device holds the whole graph and gathers all rows of the table in each
        product. With it, devices exchange only the rows that they need, by whichever way moves
        fewer bytes. Sums stay as they are, term by term. A table of another sharding on that mesh
        gives the same result, but moves to this sharding and back in every product. If the sharding
        splits no rows, every device gets the whole graph.

        The result holds the operator alone. Change the graph first, by `add_edges` and the like,
        and shard it then.

        Args:
            sharding: the table's. Its rows, the nodes, are split into equal parts.
            exchange: ``"all_gather"`` brings each device all rows; ``"halo"`` brings the rows that
                its entries refer to. ``None`` takes the one that moves fewer bytes;
                `sevo_jax.diagnostics.communication` prints both.
            capacity: stored entries of each device; those of the fullest part if ``None``. Graphs
                of equal capacity share a compiled step if both are gathered, or if both exchange
                the same numbers of rows.

        Raises:
            TypeError: the sharding is no `NamedSharding`.
            ValueError: the mesh does not divide the nodes (spare nodes, which stay isolated, mend
                that); an unknown exchange, or one for rows that are not split; more entries than
                the capacity; or a graph that is already split.

        Examples:
            >>> import jax, sevo_jax
            >>> graph = sevo_jax.edge_graph([0, 1], [1, 2], num_nodes=4)
            >>> mesh = jax.make_mesh((1,), ("model",))
            >>> sharding = jax.NamedSharding(mesh, jax.P("model", None))
            >>> graph.shard(sharding, exchange="halo")
            Graph(num_nodes=4, capacity=4, dtype=float32, parts=1, exchange=halo)
        """
        if not (isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)):
            raise TypeError(f"sharding must be a NamedSharding on a mesh, got {sharding!r}")
        if exchange is not None:
            check_choice("exchange", exchange, Way)
        matrix, mesh = self.to_scipy(), sharding.mesh
        rows, columns = rows_and_columns(sharding)
        if rows is None:
            if exchange is not None:
                raise ValueError(f"exchange: {sharding.spec} splits no rows that would travel")
            whole = self if capacity is None else self.with_capacity(capacity)
            return jax.device_put(whole, NamedSharding(mesh, PartitionSpec()))
        parts = cut(matrix, mesh_size(mesh, rows), exchange, capacity)
        arrays = (parts.data.astype(self.dtype), parts.indices, parts.indptr, parts.send)
        *own, send = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec(rows)))
        shape = (parts.indptr.shape[0], parts.indptr.shape[1] - 1, parts.width)
        return dataclasses.replace(
            self,
            weights=None,
            operator=BCSR(tuple(own), shape=shape, unique_indices=True),
            exchange=Exchange(send, Plan(mesh, rows, columns, parts.shifts)),
        )

    def to_scipy(self, normalized: bool = True) -> Any:
        """Copies ``Ã``, or ``W`` with ``normalized=False``, to a SciPy CSR array on the host.

        Raises:
            ValueError: ``normalized=False`` and the graph has no weights; or the graph is split
                among devices.

        Examples:
            >>> import sevo_jax
            >>> sevo_jax.edge_graph([0], [1], 2).to_scipy(normalized=False).toarray().tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        if self.exchange is not None:
            raise ValueError(
                "this graph is split among devices: use the graph it was made of, and shard the "
                "result"
            )
        if normalized:
            return to_scipy(self.operator)
        if self.weights is None:
            raise ValueError(
                "this graph has no weights: it was made from an operator, or it is an optimiser "
                "state's copy, which is the operator alone; keep the graph that a builder made, "
                "and change that one"
            )
        return to_scipy(self.weights)

    def save(self, path: str | Path) -> None:
        """Writes the graph to a file that `scipy.sparse.load_npz` can read too.

        It holds ``W``, or ``Ã`` where there is no ``W``. Reading computes ``Ã`` anew from ``W``,
        which may change its last bit if the dtype had rounded ``W``.

        Args:
            path: the file; ``.npz`` is added if it is missing.

        Examples:
            >>> import sevo_jax, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sevo_jax.edge_graph([0], [1], num_nodes=2).save(folder + "/graph.npz")
            ...     sevo_jax.Graph.load(folder + "/graph.npz")
            Graph(num_nodes=2, capacity=2, dtype=float32)
        """
        normalized = self.weights is None
        meta = _graph_file.Meta(
            str(self.dtype), self.capacity, normalized, self.kernel, self.precision
        )
        _graph_file.write(_graph_file.npz(path), self.to_scipy(normalized=normalized), meta)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Reads a file of `save`, or weights that `scipy.sparse.save_npz` wrote.

        Indices and pointers are checked, and nothing in the file is unpickled.

        Raises:
            OSError: the file is missing or cannot be read.
            ValueError: it holds no graph, or is damaged; the message names the file.

        Examples:
            >>> import numpy as np, scipy.sparse as sp, sevo_jax, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sp.save_npz(folder + "/w.npz", sp.csr_array(np.array([[0.0, 2.0], [2.0, 0.0]])))
            ...     sevo_jax.Graph.load(folder + "/w.npz").to_scipy().toarray().tolist()
            [[0.0, 1.0], [1.0, 0.0]]
        """
        path = _graph_file.npz(path)
        matrix, text = _graph_file.read(path)
        try:
            meta = _graph_file.Meta.parse(text)
            if meta.normalized:
                # It was checked when it was made. Rounded to half precision, it might fail now.
                graph = cls.from_operator(
                    matrix, check=False, dtype=meta.dtype, capacity=meta.capacity
                )
            else:
                graph = cls.from_weights(matrix, meta.dtype, capacity=meta.capacity)
            return graph.with_kernel(meta.kernel, precision=meta.precision)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def as_graph(graph: Graph | Operator) -> Graph:
    """Returns a `Graph` as it is, and makes one of an operator."""
    return graph if isinstance(graph, Graph) else Graph.from_operator(graph)


def graph_of(weights: Any, dtype: Any, self_loops: SelfLoops, capacity: int | None) -> Graph:
    """Makes a graph of weights that are already checked: CSR, symmetric and non-negative."""
    check_choice("self_loops", self_loops, SelfLoops)
    weights.sort_indices()
    if self_loops != "none":
        degrees = weights.sum(axis=1)
        loops = np.ones_like(degrees) if self_loops == "all" else np.equal(degrees, 0)
        weights = (weights + sp.diags_array(loops.astype(weights.dtype))).tocsr()
    weights.eliminate_zeros()
    kept = to_bcsr(weights, dtype, capacity)
    if rounds_to_0(weights.data, kept.dtype):
        # The operator has the edge, since ratios alone matter to it; what is saved would not.
        raise ValueError(
            f"weights must not round to 0 in {kept.dtype}, got {weights.data.min()}; only their "
            "ratios matter, so scale all of them up, or leave such edges out"
        )
    return Graph(kept, to_bcsr(normalize(weights, dtype), dtype, capacity), weights.shape[0])
