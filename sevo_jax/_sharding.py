"""Cuts a graph by rows for the devices of a mesh: the entries of each, and the rows it needs.

A device multiplies its own rows of the operator. Their entries refer to rows of the table, some of
them on other devices: the halo. An all-gather brings all rows to every device. A halo exchange
brings the halo, by one shift for each distance between devices in the mesh. All devices run one
program, so a shift is as wide as the widest halo at that distance::

    4 devices, 2 nodes each, the path 0 - 1 - … - 7
    device 1 has rows 2 and 3, and its entries refer to rows 1 and 4
    row 1 is on the device before it    distance 1
    row 4 is on the device after it     distance 3, counted around the mesh
    shifts ((1, 1), (3, 1)): one row over each distance

The host makes the plan; `sevo_jax._spmm.sharded` carries it out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sevo_jax._checks import check_count

Way = Literal["all_gather", "halo"]
"""A way to bring rows of a table to the devices that need them."""

Shifts = tuple[tuple[int, int], ...]
"""Pairs of a distance in the mesh and the number of rows that every device sends over it."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static part of an exchange of rows, which is compiled into the step.

    Attributes:
        mesh: the devices.
        rows: the axes of the mesh that split the table's rows.
        columns: the axes of the mesh that split its first features axis, or ``None``.
        shifts: the shifts of a halo exchange; ``None`` for an all-gather.
    """

    mesh: Mesh
    rows: str | tuple[str, ...]
    columns: str | tuple[str, ...] | None
    shifts: Shifts | None

    @property
    def num_parts(self) -> int:
        """The number of parts of the rows."""
        return mesh_size(self.mesh, self.rows)

    def ranks(self) -> tuple[tuple[str, ...], list[int]]:
        """Numbers the devices of the parts as `jax.lax.ppermute` does.

        It counts along the axes in the mesh's order. Parts count along ``rows``, which may name
        them in another.

        Returns:
            The axes in the mesh's order, and the number of each part's device among them.
        """
        rows = (self.rows,) if isinstance(self.rows, str) else self.rows
        axes = tuple(axis for axis in self.mesh.axis_names if axis in rows)
        numbers = np.arange(self.num_parts).reshape([self.mesh.shape[axis] for axis in axes])
        return axes, numbers.transpose([axes.index(axis) for axis in rows]).ravel().tolist()

    @property
    def way(self) -> Way:
        """The way in which rows travel."""
        return "all_gather" if self.shifts is None else "halo"

    def table(self, dim: int) -> PartitionSpec:
        """Returns the split of a table; features that the mesh does not divide stay whole."""
        split = self.columns is not None and dim % mesh_size(self.mesh, self.columns) == 0
        return PartitionSpec(self.rows, self.columns if split else None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Exchange:
    """The exchange of rows that a sharded graph's product needs, as a pytree.

    Attributes:
        send: ``int32[parts, sent]``, the rows of its own that each part sends, shift by shift;
            ``None`` where there are no shifts.
        plan: the static part.
    """

    send: jax.Array | None
    plan: Plan = dataclasses.field(metadata={"static": True})

    __no_type_check__ = True  # as in `Graph`


def mesh_size(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...]) -> int:
    """Counts the devices along some axes of a mesh."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def rows_and_columns(sharding: NamedSharding) -> tuple[Any, Any]:
    """Returns the mesh axes that split a table's rows and its first features axis, or ``None``."""
    rows, columns = (*sharding.spec, None, None)[:2]
    return rows or None, columns or None


def halos(matrix: Any, num_parts: int) -> list[np.ndarray]:
    """Finds, for each part of a CSR matrix, the columns that it needs of other parts, ascending."""
    count = part_size(matrix.shape[0], num_parts)
    bounds = matrix.indptr[np.minimum(count * np.arange(num_parts + 1), matrix.shape[0])]
    found: list[np.ndarray] = []
    for part in range(num_parts):
        columns = np.unique(matrix.indices[bounds[part] : bounds[part + 1]])
        found.append(columns[columns // count != part])
    return found


def shifts_of(found: list[np.ndarray], num_nodes: int) -> Shifts:
    """Finds the shifts that bring all halos."""
    num_parts = len(found)
    count, widest = part_size(num_nodes, num_parts), np.zeros(num_parts, int)
    for part, halo in enumerate(found):
        widths = np.bincount((part - halo // count) % num_parts, minlength=num_parts)
        widest = np.maximum(widest, widths)
    return tuple((distance, width) for distance, width in enumerate(widest.tolist()) if width)


def received(shifts: Shifts | None, num_nodes: int, num_parts: int) -> int:
    """Counts the rows that each part receives for a product, by these shifts or an all-gather."""
    if shifts is None:
        return (num_parts - 1) * part_size(num_nodes, num_parts)
    return sum(width for _, width in shifts)


def best_way(shifts: Shifts, num_nodes: int, num_parts: int) -> Way:
    """Returns the way by which fewer rows travel; an all-gather if both move as many."""
    fewer = received(shifts, num_nodes, num_parts) < received(None, num_nodes, num_parts)
    return "halo" if fewer else "all_gather"


def part_size(num_nodes: int, num_parts: int) -> int:
    """Returns the rows of a part; if parts do not divide the nodes, the last one has fewer."""
    return -(-num_nodes // num_parts)


class Parts(NamedTuple):
    """A square matrix in equal parts of its rows, on the host.

    A part's columns are numbered as the rows that it has after the exchange: the whole table, or
    its own rows and then its halo, shift by shift. Entries keep their order, and so do sums.

    Attributes:
        data: ``float[parts, capacity]``.
        indices: ``int32[parts, capacity]``; padding refers to one past the end.
        indptr: ``int32[parts, rows + 1]``, within each part.
        send: ``int32[parts, sent]``, the rows of its own that each part sends, shift by shift;
            ``None`` where there are no shifts.
        shifts: the shifts of the halo exchange; ``None`` for an all-gather.
        width: rows that a part has after the exchange.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    send: np.ndarray | None
    shifts: Shifts | None
    width: int


def cut(matrix: Any, num_parts: int, way: Way | None, capacity: int | None) -> Parts:
    """Cuts a CSR matrix into parts for one way of exchanging rows; ``None`` takes the cheaper way.

    The path of the module's docstring in 4 parts, where part 1 renames columns 1 to 4::

        columns of rows 2 and 3    1 3, 2 4
        its rows                   2 3 | 1 | 4        own, by distance 1, by distance 3
        columns, renamed           2 1, 0 3

    Raises:
        ValueError: the parts do not divide the rows, or one has more entries than the capacity.
    """
    num_nodes = matrix.shape[0]
    if num_nodes % num_parts:
        padded = part_size(num_nodes, num_parts) * num_parts
        raise ValueError(
            f"sharding splits rows into {num_parts} parts, which do not divide the graph's "
            f"{num_nodes} nodes; give the graph and the table {padded} rows (num_nodes={padded}): "
            "the spare nodes are isolated"
        )
    count = num_nodes // num_parts
    bounds = matrix.indptr[::count]
    most = int(np.diff(bounds).max())
    entries = most if capacity is None else check_count("capacity", capacity, least=0)
    if entries < most:
        raise ValueError(
            f"capacity must be at least the {most} entries of the fullest part, got {capacity}"
        )
    found = halos(matrix, num_parts)
    shifts = shifts_of(found, num_nodes)
    if (way or best_way(shifts, num_nodes, num_parts)) == "all_gather":
        shifts = None
    sent = 0 if shifts is None else received(shifts, num_nodes, num_parts)
    width = num_nodes if shifts is None else count + sent

    data = np.zeros((num_parts, entries), matrix.dtype)
    indices = np.full((num_parts, entries), width, np.int32)
    indptr = np.zeros((num_parts, count + 1), np.int32)
    send = np.zeros((num_parts, sent), np.int32)  # a halo narrower than its shift repeats row 0
    for part, halo in enumerate(found):
        begin, end = bounds[part : part + 2]
        columns = matrix.indices[begin:end]
        if shifts is not None:
            distances = (part - halo // count) % num_parts
            places, first = np.empty(halo.size, int), 0
            for distance, rows in shifts:
                mine = distances == distance
                places[mine] = first + np.arange(np.count_nonzero(mine))
                first += rows
            send[(part - distances) % num_parts, places] = halo % count
            own = columns // count == part
            foreign = count + places[np.searchsorted(halo, columns[~own])]
            columns = columns - part * count
            columns[~own] = foreign
        data[part, : end - begin] = matrix.data[begin:end]
        indices[part, : end - begin] = columns
        indptr[part] = matrix.indptr[part * count : (part + 1) * count + 1] - begin
    return Parts(data, indices, indptr, send if shifts else None, shifts, width)
