"""Products on several devices: the device's side of tables and graphs that are split.

- `on_shards`: every device holds the whole graph, and the table is split in any way.
- `on_parts`: every device holds the graph's entries for its own rows, by the host's plan in
  `sevo_jax._sharding`.

Meshes come in two kinds. With automatic axes, XLA chooses where arrays lie, and asks
`custom_partitioning` how to split a product. With explicit axes, an array's type says where it
lies, and a product is a `jax.shard_map` over those axes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from sevo_jax._sharding import Plan, mesh_size, rows_and_columns
from sevo_jax._spmm.arrays import Columns, Matrix, Pointers, Rows, Table, Values
from sevo_jax._spmm.gather import take

Kernel = Callable[..., Rows]
"""A function of values, columns, pointers and a table; for a layer, of a scale and a base too."""

_RULE = "e, e, p, n d"
"""Shardy's names of the operands' axes; entries ``e`` and pointers ``p`` are never split."""


def on_shards(kernel: Kernel) -> Kernel:
    """The kernel for tables that are split, as a function of ``matrix, x`` and what a layer adds.

    Each device multiplies what it holds: it needs no other's features, and gathers all rows of the
    table to compute its own. Without this rule XLA would make every device compute everything.
    """

    def partition(mesh: Mesh, operands: Sequence[Any], _: Any) -> tuple[Any, ...]:
        def sharding(*spec: Any) -> Any:
            return NamedSharding(mesh, PartitionSpec(*spec))

        x, rows = operands[3], None
        if isinstance(x.sharding, NamedSharding):
            rows, columns = rows_and_columns(x.sharding)
            if rows is not None and x.shape[0] % mesh_size(mesh, rows):
                rows = None  # uneven parts: every device makes the whole product
            whole, own = sharding(None, columns), sharding(rows, columns)
        else:  # JAX cannot name the axes, for example where only `jax.set_mesh` has named a mesh
            has_rows = x.sharding.shard_shape(x.shape)[0] == x.shape[0]
            whole = own = x.sharding if has_rows else sharding()
        layer = (sharding(), own)[: len(operands) - 4]
        shardings = (sharding(), sharding(), sharding(), whole, *layer)
        return mesh, _for_own_rows(kernel, mesh, rows), own, shardings

    def partitioned(rule: str) -> Any:
        function: Any = custom_partitioning(kernel)
        function.def_partition(
            partition=partition, sharding_rule=rule, need_replication_factors=("e", "p")
        )
        return function

    product, layer = partitioned(f"{_RULE} -> n d"), partitioned(f"{_RULE}, , n d -> n d")

    @functools.partial(jax.jit, inline=True)  # compiled once for calls outside jit
    def call(matrix: Matrix, x: Table, *more: Array) -> Table:
        operands = (*matrix, x, *more)
        if explicit_sharding(x)[0] is not None:
            return explicit(*operands)
        if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
            return kernel(*operands)  # here types name every sharding, and x has none
        return (layer if more else product)(*operands)

    @jax.jit
    def explicit(*operands: Array) -> Table:
        mesh, (rows, columns) = explicit_sharding(operands[3])
        none, own = PartitionSpec(), PartitionSpec(rows, columns)
        layer = (none, own)[: len(operands) - 4]
        specs = (none, none, none, PartitionSpec(None, columns), *layer)
        return on_mesh(_for_own_rows(kernel, mesh, rows), mesh, specs, own)(*operands)

    return call


def _for_own_rows(kernel: Kernel, mesh: Mesh | AbstractMesh, rows: Any) -> Kernel:
    """The kernel that computes one device's rows of a table split along the axes ``rows``."""
    if rows is None:
        return kernel

    def own_rows(data: Values, indices: Columns, indptr: Pointers, x: Table, *more: Array) -> Array:
        count = x.shape[0] // mesh_size(mesh, rows)
        begin = jax.lax.axis_index(rows) * count
        indptr = jax.lax.dynamic_slice(indptr, (begin,), (count + 1,))
        return kernel(data, indices, indptr, x, *more)

    return own_rows


def on_parts(
    function: Callable[..., Array], plan: Plan, *, is_product: bool = True
) -> Callable[..., Array]:
    """A kernel for a graph whose entries are split among devices as the table's rows are.

    Each device calls ``function`` on its own part of the matrix, the rows that this part refers to,
    and its own part of whatever follows. The result is a table, or, if it is no product, a sum over
    features for each entry.
    """

    @functools.partial(jax.jit, inline=True)  # compiled once for calls outside jit
    def call(matrix: Matrix, x: Table, *more: Array) -> Array:
        part, table = PartitionSpec(plan.rows), plan.table(x.shape[1])

        def own(*operands: Array) -> Array:
            data, indices, indptr, *send = (a[0] for a in operands[: len(matrix)])
            x, *more = operands[len(matrix) :]
            out = function(data, indices, indptr, _with_halo(plan, send, x), *more)
            if is_product:
                return out
            return (out if table[1] is None else jax.lax.psum(out, table[1]))[None]

        specs = [part] * len(matrix) + [table if a.ndim else PartitionSpec() for a in (x, *more)]
        out_spec = table if is_product else part
        out = on_mesh(own, plan.mesh, tuple(specs), out_spec)(*matrix, x, *more)
        return placed_as(x, out) if is_product else out

    return call


def _with_halo(plan: Plan, send: list[Columns], x: Table) -> Float[Array, "reached dim"]:
    """The rows that a device's entries refer to: its own, then those that other devices send.

    An all-gather brings every row. A halo exchange takes one shift for each distance. Four devices
    with two rows each, and shifts ``((1, 1), (3, 1))``, one row over a distance of 1 and of 3::

        device 1 has               2 3
        a shift by 1 adds row 1    2 3 1      each device sends to the next
        a shift by 3 adds row 4    2 3 1 4    each device sends to the one before
    """
    if plan.shifts is None:
        return jax.lax.all_gather(x, plan.rows, tiled=True)
    parts, begin = [x], 0
    axes, ranks = plan.ranks()
    for distance, width in plan.shifts:
        rows = take(x, send[0][begin : begin + width])
        pairs = list(zip(ranks, ranks[distance:] + ranks[:distance], strict=True))
        parts.append(jax.lax.ppermute(rows, axes, pairs))
        begin += width
    return jnp.concatenate(parts)


def explicit_sharding(x: Array) -> tuple[Any, Any]:
    """The mesh, and the mesh axes that split each axis of ``x``, where its type says so.

    Elsewhere the mesh is ``None``, and so is every entry.
    """
    sharding: Any = jax.typeof(x).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        return sharding.mesh, tuple(sharding.spec)
    return None, (None,) * jnp.ndim(x)


def on_mesh(
    function: Callable[..., Array],
    mesh: Any,
    in_specs: tuple[PartitionSpec, ...],
    out_spec: PartitionSpec,
) -> Callable[..., Array]:
    """`jax.shard_map`, which first moves operands whose types say that they lie elsewhere."""

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
    """The explicit axes of ``spec``; a type can name no others."""
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    named: list[list[str]] = [jax.tree.leaves(axes) for axes in spec]
    kept = ([axis for axis in axes if types[axis] == AxisType.Explicit] for axes in named)
    return PartitionSpec(*(tuple(axes) or None for axes in kept))


def placed_as(x: Array, other: Array) -> Array:
    """``other`` on the devices where ``x`` is, if the type of ``x`` names them."""
    mesh, spec = explicit_sharding(x)
    if mesh is None:
        return other
    return jax.sharding.reshard(other, NamedSharding(mesh, PartitionSpec(*spec)))


def varying_as(out: Array, *operands: Array) -> Array:
    """``out``, marked within `jax.shard_map` as varying over the axes that its operands vary over.

    JAX infers that for its own operations, but not for other kernels.
    """
    varying = [jax.typeof(a).manual_axis_type.varying for a in (out, *operands)]
    missing = frozenset().union(*varying) - varying[0]
    return jax.lax.pcast(out, tuple(missing), to="varying") if missing else out


def flattened(
    x: Float[Array, "nodes ..."],
) -> tuple[Table, Callable[[Table], Float[Array, "nodes ..."]]]:
    """``x`` with one axis of features, and the function that undoes it.

    Where types say how ``x`` is split, every device joins the features that it holds, so that
    nothing moves. Features then come in another order, which a product does not notice.
    """
    mesh, _ = explicit_sharding(x)
    if mesh is None or x.ndim == 2:
        return x.reshape(x.shape[0], -1), lambda y: y.reshape(x.shape)
    return _flatten(x), lambda y: _unflatten(y, x.shape, jax.typeof(x).sharding)


@jax.jit
def _flatten(x: Float[Array, "nodes ..."]) -> Table:
    mesh, spec = explicit_sharding(x)
    apart = PartitionSpec(*spec)
    return on_mesh(lambda part: part.reshape(part.shape[0], -1), mesh, (apart,), _flat(apart))(x)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _unflatten(
    x: Table, shape: tuple[int, ...], sharding: NamedSharding
) -> Float[Array, "nodes ..."]:
    part = sharding.shard_shape(shape)
    flat = _flat(sharding.spec)
    return on_mesh(lambda x: x.reshape(part), sharding.mesh, (flat,), sharding.spec)(x)


def _flat(spec: PartitionSpec) -> PartitionSpec:
    """The axes that split rows, then all those that split features."""
    rows, *features = spec
    return PartitionSpec(rows, tuple(jax.tree.leaves(features)) or None)
