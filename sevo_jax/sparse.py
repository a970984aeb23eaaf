"""Sparse times dense: one function, and behind it a kernel for each platform.

- `sevo_jax.cpu_kernel`, the default on CPUs where installing the package found a compiler: a layer
  of a smoothing in one pass.
- ``"bcsr"``, the default on CPUs otherwise: JAX's own product of a `BCSR` matrix, there an order of
  magnitude faster than the gather and scatter that `BCOO` lowers to (and that `BCSR` itself lowers
  to elsewhere).
- ``"pallas"``, the default on NVIDIA GPUs from Ampere on: `sevo_jax.triton_kernel`, which makes a
  layer in one pass, too.
- ``"gather"``, the default elsewhere: sums of gathered rows, eight at a time. Without a scatter
  there are no atomic additions, whose order would change the last bits from run to run.

The kernels take two axes and equal dtypes. Everything else that users do (trailing axes, half
precision, gradients, ``vmap``) is turned into such a call here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.sparse import BCSR
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from sevo_jax import cpu_kernel
from sevo_jax.graph import Graph, Kernel, Precision, as_graph
from sevo_jax.matrices import Operator
from sevo_jax.sharding import Plan, mesh_size, varying_as


def spmm(graph: Graph | Operator, x: Float[Array, "nodes ..."]) -> Float[Array, "nodes ..."]:
    """``Ã x``: each node's weighted sum over its neighbours.

    It can be differentiated in reverse mode, any number of times, in ``x`` (``Ã`` being symmetric,
    that is one more product) and in the operator's values; not in forward mode. Under ``vmap`` over
    ``x``, the mapped axis joins the features: one product for all.

    Under ``jit`` a sharded ``x`` gives a product that is sharded alike. So do its gradient and
    ``vmap``. Axes of the mesh may be automatic or explicit; on a mesh that has both, every device
    along an automatic axis computes the same. `Graph.shard` says what a table that is split by rows
    makes devices exchange.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call; its values
            are cast to the compute dtype. `Graph.with_kernel` overrides the choice of the kernel.
        x: ``float[nodes, ...]``. Trailing axes, none or several, are features.

    Returns:
        The product, in the shape and dtype of ``x``. It is computed in the dtype of ``x``, or in
        float32 where that is narrower.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: the leading axis of ``x`` is not the number of nodes.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> sevo_jax.spmm(graph, jnp.array([[1.0], [5.0]])).tolist()
        [[5.0], [1.0]]
    """
    graph = as_graph(graph)
    rows, restore = operator_rows(graph, x)
    return restore(product(graph, rows))


def operator_rows(
    graph: Graph, x: Float[Array, "nodes ..."]
) -> tuple[Table, Callable[[Table], Float[Array, "nodes ..."]]]:
    """``x`` with two axes and in the compute dtype, and the way back.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: the leading axis of ``x`` is not the number of nodes.
    """
    x = check_rows(graph, x)
    rows, restore = _flattened(x)
    return rows.astype(compute_dtype(x)), lambda y: restore(y).astype(x.dtype)


def product(
    graph: Graph, rows: Table, scale: ArrayLike | None = None, base: Table | None = None
) -> Table:
    """``base + scale * (graph.operator @ rows)``: one layer of a smoothing.

    Without ``scale`` and ``base``, which are given together, it is the product alone.
    """
    operator, exchange = graph.operator, graph.exchange
    matrix = (operator.data.astype(rows.dtype), operator.indices, operator.indptr)
    if exchange is not None and exchange.send is not None:
        matrix = (*matrix, exchange.send)
    choice = Choice(graph.kernel, graph.precision, exchange.plan if exchange else None)
    if scale is not None and base is not None:
        scale, base = jnp.asarray(scale, rows.dtype), base.astype(rows.dtype)
    return _product(choice, matrix, rows, scale, base)


class Choice(NamedTuple):
    """What of a graph decides how its product is computed."""

    kernel: Kernel | None
    precision: Precision | None
    plan: Plan | None


Matrix = tuple[Array, ...]
"""Data, indices and pointers, as `BCSR` has them; of a graph that is split among devices those of
each, and the rows to send if there are any."""

Values = Float[Array, " entries"]
Indices = Int[Array, " entries"]
Pointers = Int[Array, " nodes_and_one"]
Table = Float[Array, "nodes dim"]
Scale = Float[Array, ""]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(
    choice: Choice, matrix: Matrix, x: Table, scale: Scale | None, base: Table | None
) -> Table:
    if scale is None or base is None:
        return _batched_kernel(choice)(*matrix, x)
    return _batched_layer(choice)(*matrix, x, scale, base)


def _product_forward(
    choice: Choice, matrix: Matrix, x: Table, scale: Scale | None, base: Table | None
) -> tuple[Any, Any]:
    # Not the kernel: the gradient of a gradient differentiates what stands here.
    return _product(choice, matrix, x, scale, base), (matrix, x, scale)


def _product_backward(choice: Choice, residuals: Any, g: Table) -> tuple[Any, ...]:
    matrix, x, scale = residuals
    of_values = _of_whole_values
    if choice.plan is not None:
        of_values = _on_parts(_of_values, choice.plan, is_product=False)
    of_data, others = of_values(*matrix, x, g), (None,) * (len(matrix) - 1)
    of_x = _product(choice, matrix, g, None, None)
    if scale is None:
        return (of_data, *others), of_x, None, None
    of_scale = (of_x * x).sum()  # Ã is symmetric
    return (scale * of_data, *others), scale * of_x, of_scale, g


def _of_values(data: Values, indices: Indices, indptr: Pointers, x: Table, g: Table) -> Values:
    """The gradient of the product in the operator's values."""
    rows = jnp.searchsorted(indptr, jnp.arange(data.size), side="right") - 1
    neighbours = (
        jnp.asarray(x).at[indices].get(mode="fill", fill_value=0)
    )  # columns past the end are padding
    return (g.at[rows].get(mode="fill", fill_value=0) * neighbours).sum(-1)


@functools.partial(jax.jit, inline=True)  # compiled once for calls outside jit
def _of_whole_values(*operands: Array) -> Values:
    """The same for a table whose type says how it is split."""
    mesh, (_, columns) = _explicit_sharding(operands[3])
    if mesh is None:
        return _of_values(*operands)

    def own(*operands: Array) -> Values:
        out = _of_values(*operands)
        return out if columns is None else jax.lax.psum(out, columns)

    whole, features = PartitionSpec(), PartitionSpec(None, columns)
    return _on_mesh(own, mesh, (whole, whole, whole, features, features), whole)(*operands)


_product.defvjp(_product_forward, _product_backward)


@functools.cache  # a new function at every call would compile anew outside jit
def _batched_kernel(choice: Choice) -> Callable[..., Table]:
    """The kernel with its rules for sharded tables and for ``vmap``."""

    def by_platform(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
        if data.size == 0 or x.shape[1] == 0:
            return jnp.zeros((indptr.size - 1, x.shape[1]), x.dtype)
        return jax.lax.platform_dependent(data, indices, indptr, x, **_kernels(choice))

    kernel = custom_vmap(_on_devices(by_platform, "e, e, p, n d -> n d", choice.plan))

    @kernel.def_vmap
    def _(  # pyright: ignore[reportUnusedFunction]
        axis_size: int, in_batched: list[bool], *arguments: Any
    ) -> tuple[Any, bool]:
        *graph_batched, x_batched = in_batched
        if any(graph_batched):  # a graph for each x: one product after the other
            return _one_by_one(kernel, axis_size, in_batched, arguments), True
        *matrix, x = arguments
        rows, restore = _joined(x)
        return restore(kernel(*matrix, rows)), x_batched

    return kernel


@functools.cache
def _batched_layer(choice: Choice) -> Callable[..., Table]:
    """``base + scale * product`` likewise: one pass where the kernel can, else two."""

    def by_platform(
        data: Values, indices: Indices, indptr: Pointers, x: Table, scale: Scale, base: Table
    ) -> Table:
        if data.size == 0 or x.shape[1] == 0:
            return base
        return jax.lax.platform_dependent(data, indices, indptr, x, scale, base, **_kernels(choice))

    layer = custom_vmap(_on_devices(by_platform, "e, e, p, n d, , n d -> n d", choice.plan))

    @layer.def_vmap
    def _(  # pyright: ignore[reportUnusedFunction]
        axis_size: int, in_batched: list[bool], *arguments: Any
    ) -> tuple[Any, bool]:
        *graph_batched, x_batched, scale_batched, base_batched = in_batched
        if any(graph_batched) or scale_batched:
            return _one_by_one(layer, axis_size, in_batched, arguments), True
        *matrix, x, scale, base = arguments
        if not x_batched:
            x = jnp.broadcast_to(x, (axis_size, *x.shape))
        if not base_batched:
            base = jnp.broadcast_to(base, (axis_size, *base.shape))
        rows, restore = _joined(x)
        return restore(layer(*matrix, rows, scale, _joined(_placed_as(x, base))[0])), True

    return layer


def _on_devices(kernel: Callable[..., Table], rule: str, plan: Plan | None) -> Callable[..., Table]:
    """The kernel for tables that are split among devices."""
    return _sharded(kernel, rule) if plan is None else _on_parts(kernel, plan)


def _on_parts(
    function: Callable[..., Array], plan: Plan, is_product: bool = True
) -> Callable[..., Array]:
    """A function of a matrix and tables for a graph whose entries are split as the rows are.

    Each device gives it its own part of the matrix, the rows that this refers to, and its own part
    of the other tables. What comes of it is a table, or else a sum over features for each entry.
    """

    @functools.partial(jax.jit, inline=True)  # compiled once for calls outside jit
    def call(*arguments: Array) -> Array:
        arrays = 4 if plan.shifts else 3
        part, table = PartitionSpec(plan.rows), plan.table(arguments[arrays].shape[1])

        def own(*arguments: Array) -> Array:
            data, indices, indptr, *send = (a[0] for a in arguments[:arrays])
            x, *more = arguments[arrays:]
            out = function(data, indices, indptr, _with_halo(plan, send, x), *more)
            if is_product:
                return out
            return (out if table[1] is None else jax.lax.psum(out, table[1]))[None]

        others = [table if a.ndim else PartitionSpec() for a in arguments[arrays:]]
        specs = (*[part] * arrays, *others)
        out = _on_mesh(own, plan.mesh, specs, table if is_product else part)(*arguments)
        return _placed_as(arguments[arrays], out) if is_product else out

    return call


def _with_halo(plan: Plan, send: list[Indices], x: Table) -> Table:
    """The rows that a device's entries refer to: all there are, or its own and then the halo."""
    if plan.shifts is None:
        return jax.lax.all_gather(x, plan.rows, tiled=True)
    parts, begin = [x], 0
    for distance, width in plan.shifts:
        rows = _take(x, send[0][begin : begin + width])
        pairs = [(part, (part + distance) % plan.num_parts) for part in range(plan.num_parts)]
        parts.append(jax.lax.ppermute(rows, plan.rows, pairs))
        begin += width
    return jnp.concatenate(parts)


def _sharded(kernel: Callable[..., Table], rule: str) -> Callable[..., Table]:
    """The kernel for tables that are split among devices, each of which has the whole graph.

    A device multiplies what it holds: of features it needs no other's; of rows it gathers the
    table's, and computes its own. Without the rule, every device would compute the whole product.
    """

    def partition(mesh: Mesh, operands: Sequence[Any], _: Any) -> tuple[Any, ...]:
        def sharding(*spec: Any) -> Any:
            return NamedSharding(mesh, PartitionSpec(*spec))

        x, rows = operands[3], None
        if isinstance(x.sharding, NamedSharding):
            rows, columns = (*x.sharding.spec, None, None)[:2]
            if rows is not None and x.shape[0] % mesh_size(mesh, rows):
                rows = None  # uneven parts: every device makes the whole product
            whole, own = sharding(None, columns), sharding(rows, columns)
        else:  # JAX cannot name the axes, such as where only `jax.set_mesh` has named a mesh
            has_rows = x.sharding.shard_shape(x.shape)[0] == x.shape[0]
            whole = own = x.sharding if has_rows else sharding()
        more = () if len(operands) == 4 else (sharding(), own)
        own_rows = _of_own_rows(kernel, mesh, rows)
        return mesh, own_rows, own, (sharding(), sharding(), sharding(), whole, *more)

    partitioned: Any = custom_partitioning(kernel)
    partitioned.def_partition(
        partition=partition, sharding_rule=rule, need_replication_factors=("e", "p")
    )

    @functools.partial(jax.jit, inline=True)  # compiled once for calls outside jit
    def call(*operands: Array) -> Table:
        if _explicit_sharding(operands[3])[0] is not None:
            return explicit(*operands)
        if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
            return kernel(*operands)  # of no sharding, where all shardings are in types
        return partitioned(*operands)

    @jax.jit
    def explicit(*operands: Array) -> Table:
        mesh, (rows, columns) = _explicit_sharding(operands[3])
        none, own = PartitionSpec(), PartitionSpec(rows, columns)
        more = () if len(operands) == 4 else (none, own)
        specs = (none, none, none, PartitionSpec(None, columns), *more)
        return _on_mesh(_of_own_rows(kernel, mesh, rows), mesh, specs, own)(*operands)

    return call


def _of_own_rows(kernel: Callable[..., Table], mesh: Mesh, rows: Any) -> Callable[..., Table]:
    """The kernel for the rows that a device has, of a table whose rows are split along ``rows``."""
    if rows is None:
        return kernel

    def own_rows(data: Values, indices: Indices, indptr: Pointers, x: Table, *more: Any) -> Table:
        count = x.shape[0] // mesh_size(mesh, rows)
        begin = jax.lax.axis_index(rows) * count
        indptr = jax.lax.dynamic_slice(indptr, (begin,), (count + 1,))
        return kernel(data, indices, indptr, x, *more)

    return own_rows


def _explicit_sharding(x: Array) -> tuple[Any, Any]:
    """The mesh, and the axes that split each axis of ``x``, where they are part of its type.

    Elsewhere ``None``, and no axes.
    """
    sharding: Any = jax.typeof(x).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        return sharding.mesh, tuple(sharding.spec)
    return None, (None,) * jnp.ndim(x)


def _on_mesh(
    function: Callable[..., Array],
    mesh: Any,
    in_specs: tuple[PartitionSpec, ...],
    out_spec: PartitionSpec,
) -> Callable[..., Array]:
    """`jax.shard_map` that moves operands whose types say that they are elsewhere."""

    def call(*operands: Array) -> Array:
        if AxisType.Explicit in mesh.axis_types:
            places = [NamedSharding(mesh, _explicit_axes(mesh, spec)) for spec in in_specs]
            operands = tuple(jax.sharding.reshard(list(operands), places))
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=in_specs,
            out_specs=out_spec,
            check_vma=False,  # Pallas does not say that its result varies
        )(*operands)

    return call


def _explicit_axes(mesh: Any, spec: PartitionSpec) -> PartitionSpec:
    """The explicit axes alone, which are all that a type can name."""
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    named: list[list[str]] = [jax.tree.leaves(axes) for axes in spec]
    kept = ([axis for axis in axes if types[axis] == AxisType.Explicit] for axes in named)
    return PartitionSpec(*(tuple(axes) or None for axes in kept))


def _placed_as(x: Array, other: Array) -> Array:
    """``other`` on the devices where ``x`` is, if the type of ``x`` says so."""
    mesh, spec = _explicit_sharding(x)
    if mesh is None:
        return other
    return jax.sharding.reshard(other, NamedSharding(mesh, PartitionSpec(*spec)))


def _flattened(
    x: Float[Array, "nodes ..."],
) -> tuple[Table, Callable[[Table], Float[Array, "nodes ..."]]]:
    """``x`` with one axis of features, and the way back.

    Where types say how ``x`` is split, every device joins the features that it has, so that nothing
    moves. The order of features then is another, which is all the same to a product.
    """
    mesh, _ = _explicit_sharding(x)
    if mesh is None or x.ndim == 2:
        return x.reshape(x.shape[0], -1), lambda y: y.reshape(x.shape)
    return _flatten(x), lambda y: _unflatten(y, x.shape, jax.typeof(x).sharding)


@jax.jit
def _flatten(x: Float[Array, "nodes ..."]) -> Table:
    mesh, spec = _explicit_sharding(x)
    apart = PartitionSpec(*spec)
    return _on_mesh(lambda part: part.reshape(part.shape[0], -1), mesh, (apart,), _flat(apart))(x)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _unflatten(
    x: Table, shape: tuple[int, ...], sharding: NamedSharding
) -> Float[Array, "nodes ..."]:
    part = sharding.shard_shape(shape)
    flat = _flat(sharding.spec)
    return _on_mesh(lambda x: x.reshape(part), sharding.mesh, (flat,), sharding.spec)(x)


def _flat(spec: PartitionSpec) -> PartitionSpec:
    """The axes that split rows, and those that split any features."""
    rows, *features = spec
    return PartitionSpec(rows, tuple(jax.tree.leaves(features)) or None)


def _joined(
    x: Float[Array, "batch nodes dim"],
) -> tuple[Table, Callable[[Table], Float[Array, "batch nodes dim"]]]:
    """The mapped axis as more features, and the way back."""
    rows, restore = _flattened(x.swapaxes(0, 1))
    return rows, lambda y: restore(y).swapaxes(0, 1)


def _one_by_one(
    function: Callable[..., Table], size: int, batched: list[bool], arguments: tuple[Any, ...]
) -> Any:
    mapped = (
        a if own else jnp.broadcast_to(a, (size, *a.shape))
        for a, own in zip(arguments, batched, strict=True)
    )
    return jax.lax.map(lambda a: function(*a), tuple(mapped))


def _bcsr_kernel(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    shape = (indptr.size - 1, x.shape[0])  # fewer rows than columns where rows are sharded
    matrix = BCSR((data, indices, indptr), shape=shape, indices_sorted=True, unique_indices=True)
    return varying_as(matrix @ x, data, indices, indptr, x)


def _bcsr_kernel_cpu(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    # Below 8 columns the CPU kernel takes another path, four times slower than 8 columns are.
    spare = max(0, 8 - x.shape[1])
    padded = jnp.pad(x, ((0, 0), (0, spare))) if spare else x
    return _bcsr_kernel(data, indices, indptr, padded)[:, : x.shape[1]]


CHUNK = 8
"""Entries that ``"gather"`` sums at once."""


@functools.partial(
    jax.jit, static_argnames="narrow", inline=True
)  # the layers of a smoothing trace it once
def _gather_kernel(
    data: Values, indices: Indices, indptr: Pointers, x: Table, narrow: bool = False
) -> Table:
    """Cuts rows into chunks of at most `CHUNK` entries, sums each, then sums the chunks likewise.

    Shapes depend on the numbers of rows and entries alone: ``n`` rows of ``m`` entries make at most
    ``(m + (CHUNK - 1) n) / CHUNK`` chunks.
    """
    source = x.astype(jnp.bfloat16) if narrow else x
    begin, end, entries, most = indptr[:-1], indptr[1:], data.size, x.shape[0]

    def entry(position: Indices, valid: Array) -> Table:
        row = _take(source, _take(indices, position)).astype(x.dtype)
        return jnp.where(valid[:, None], _take(data, position)[:, None] * row, 0)

    def chunk_sum(sums: Table, position: Indices, valid: Array) -> Table:
        return jnp.where(valid[:, None], _take(sums, position), 0)

    term = entry
    while most > CHUNK:
        counts = -(-(end - begin) // CHUNK)
        chunk_end = jnp.cumsum(counts, dtype=jnp.int32)
        chunk_begin = chunk_end - counts
        chunk = jnp.arange((entries + (CHUNK - 1) * begin.size) // CHUNK, dtype=jnp.int32)
        row = jnp.searchsorted(chunk_end, chunk, side="right").astype(jnp.int32)
        row = jnp.minimum(row, begin.size - 1)  # of spare chunks, which nothing reads
        first = _take(begin, row) + CHUNK * (chunk - _take(chunk_begin, row))
        term = functools.partial(chunk_sum, _sum_terms(term, first, _take(end, row)))
        begin, end, entries, most = chunk_begin, chunk_end, chunk.size, -(-most // CHUNK)
    return jnp.where((end > begin)[:, None], _sum_terms(term, begin, end), 0)


def _take(array: Array, positions: Indices) -> Array:
    """``array[positions]``, which traces many times slower; a kernel takes some sixty of them."""
    dimensions = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(1, array.ndim)), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    row = (1, *array.shape[1:])
    return jax.lax.gather(array, positions[:, None], dimensions, row, mode="clip")


def _sum_terms(term: Callable[[Indices, Array], Table], begin: Indices, end: Indices) -> Table:
    """``sum(term(p) for p in range(begin, end))``, at most `CHUNK` terms for each pair.

    Past the end the last position stands in, and is marked invalid.
    """
    last = jnp.maximum(end - 1, 0)
    positions = [begin + offset for offset in range(CHUNK)]
    first, *others = [term(jnp.minimum(p, last), p < end) for p in positions]
    return sum(others, first)


def _gather_kernel_narrow(data: Values, indices: Indices, indptr: Pointers, x: Table) -> Table:
    return _gather_kernel(data, indices, indptr, x, narrow=True)


def _triton_kernel(narrow: bool, interpret: bool) -> Callable[..., Table]:
    from sevo_jax import triton_kernel

    return functools.partial(triton_kernel.product, narrow=narrow, interpret=interpret)


@functools.cache
def _kernels(choice: Choice) -> dict[str, Callable[..., Table]]:
    """The kernel of a choice on each platform.

    It makes the product, and given two more operands ``base + scale * product``.
    """
    kernel, narrow = choice.kernel, choice.precision is not None
    if kernel == "pallas":
        return {"cpu": _triton_kernel(narrow, True), "default": _triton_kernel(narrow, False)}
    if kernel == "bcsr":
        return {"cpu": _in_two_passes(_bcsr_kernel_cpu), "default": _in_two_passes(_bcsr_kernel)}
    gather = _gather_kernel_narrow if narrow else _gather_kernel
    found: dict[str, Callable[..., Table]] = {"default": _in_two_passes(gather)}
    if kernel == "gather":
        return found
    if cpu_kernel.missing() is None:
        found["cpu"] = functools.partial(cpu_kernel.product, narrow=narrow)
    elif not narrow:
        found["cpu"] = _in_two_passes(_bcsr_kernel_cpu)
    if _has_triton():  # all are traced, wherever they run
        with contextlib.suppress(ImportError):  # JAX has deprecated its Triton backend
            found["cuda"] = _triton_kernel(narrow, False)
    return found


def _in_two_passes(kernel: Callable[..., Table]) -> Callable[..., Table]:
    def product_or_layer(
        data: Values,
        indices: Indices,
        indptr: Pointers,
        x: Table,
        scale: Scale | None = None,
        base: Table | None = None,
    ) -> Table:
        out = kernel(data, indices, indptr, x)
        return out if scale is None or base is None else base + scale * out

    return product_or_layer


def _has_triton() -> bool:
    """Whether there are GPUs, and all are NVIDIA's from Ampere on, which XLA has Triton for."""
    if jax.default_backend() != "gpu":
        return False
    try:
        return all(float(d.compute_capability) >= 8 for d in jax.local_devices(backend="gpu"))
    except (AttributeError, ValueError):  # AMD's are called otherwise
        return False


def compute_dtype(x: Array) -> jnp.dtype:
    """The dtype in which ``x`` is smoothed: its own, float32 for the half precisions."""
    return jnp.promote_types(x.dtype, jnp.float32)


def check_rows(graph: Graph, x: ArrayLike) -> Array:
    """``x`` as an array of JAX; errors unless it is floating, with one row a node."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must be a floating-point array, got dtype {x.dtype}")
    if x.ndim == 0 or x.shape[0] != graph.num_nodes:
        raise ValueError(
            f"x must have one row for each of the graph's {graph.num_nodes} nodes, "
            f"got shape {x.shape}"
        )
    return x
