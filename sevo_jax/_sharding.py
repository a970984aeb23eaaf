"""A graph cut by rows for the devices of a mesh: what each holds, and the rows that it needs.

A device multiplies its own rows of the operator. The table's rows that these refer to lie partly on
other devices, and come from there in one of two ways: all rows of all devices by an all-gather, or
the halo alone, which is those that some entry names, by one shift for each distance between devices
in the mesh. A shift is as wide as the widest of its halos, since all devices run one program.

The plan is made on the host; `sevo_jax._spmm` carries it out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sevo_jax._checks import check_count

Way = Literal["all_gather", "halo"]
"""How rows of a table get to the devices whose part of the graph refers to them."""

Shifts = tuple[tuple[int, int], ...]
"""Distances in the mesh, and for each the rows that every device sends so far."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What of an exchange of rows is compiled into the step.

    Attributes:
        mesh: the devices.
        rows: the axes of the mesh along which the table's rows are split.
        columns: those along which its first features axis is, or ``None``.
        shifts: of a halo exchange; ``None`` for an all-gather.
    """

    mesh: Mesh
    rows: str | tuple[str, ...]
    columns: str | tuple[str, ...] | None
    shifts: Shifts | None

    @property
    def num_parts(self) -> int:
        """How many parts the rows are split into."""
        return mesh_size(self.mesh, self.rows)

    @property
    def way(self) -> Way:
        """How rows travel."""
        return "all_gather" if self.shifts is None else "halo"

    def table(self, dim: int) -> PartitionSpec:
        """How a table of ``dim`` features is split; features that do not divide are not."""
        split = self.columns is not None and dim % mesh_size(self.mesh, self.columns) == 0
        return PartitionSpec(self.rows, self.columns if split else None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Exchange:
    """The exchange of rows that a sharded graph's product needs, as a pytree.

    Attributes:
        send: ``int32[parts, sent]``, which of its own rows each part sends, shift by shift;
            ``None`` where there are no shifts.
        plan: the rest, static.
    """

    send: jax.Array | None
    plan: Plan = dataclasses.field(metadata={"static": True})


def mesh_size(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
    """The number of devices along some axes of a mesh."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def rows_and_columns(sharding: NamedSharding) -> tuple[Any, Any]:
    """The axes along which a table's rows and its first features axis are split, or ``None``."""
    rows, columns = (*sharding.spec, None, None)[:2]
    return rows or None, columns or None


def halos(matrix: Any, num_parts: int) -> list[np.ndarray]:
    """For each part of a CSR matrix the columns that it refers to in other parts, ascending."""
    count = part_size(matrix.shape[0], num_parts)
    bounds = matrix.indptr[np.minimum(count * np.arange(num_parts + 1), matrix.shape[0])]
    found: list[np.ndarray] = []
    for part in range(num_parts):
        columns = np.unique(matrix.indices[bounds[part] : bounds[part + 1]])
        found.append(columns[columns // count != part])
    return found


def shifts_of(found: list[np.ndarray], num_nodes: int) -> Shifts:
    """The shifts that bring all halos."""
    num_parts = len(found)
    count, widest = part_size(num_nodes, num_parts), np.zeros(num_parts, int)
    for part, halo in enumerate(found):
        widths = np.bincount((part - halo // count) % num_parts, minlength=num_parts)
        widest = np.maximum(widest, widths)
    return tuple((distance, width) for distance, width in enumerate(widest.tolist()) if width)


def received(shifts: Shifts | None, num_nodes: int, num_parts: int) -> int:
    """Rows that each part receives for a product, by these shifts or by an all-gather."""
    if shifts is None:
        return (num_parts - 1) * part_size(num_nodes, num_parts)
    return sum(width for _, width in shifts)


def best_way(shifts: Shifts, num_nodes: int, num_parts: int) -> Way:
    """The way by which fewer rows travel; all of them at once if it is the same."""
    fewer = received(shifts, num_nodes, num_parts) < received(None, num_nodes, num_parts)
    return "halo" if fewer else "all_gather"


def part_size(num_nodes: int, num_parts: int) -> int:
    """Rows of a part; the last ones of a table that does not divide are smaller."""
    return -(-num_nodes // num_parts)


class Parts(NamedTuple):
    """A square matrix in equal parts of its rows, on the host.

    The columns of a part count the rows that it has after the exchange: the whole table's, or its
    own and then its halo's, shift by shift. Entries keep their order, so that every sum is that of
    the matrix.

    Attributes:
        data: ``float[parts, capacity]``.
        indices: ``int32[parts, capacity]``; those of padding are one past the end.
        indptr: ``int32[parts, rows + 1]``, within each part.
        send: ``int32[parts, sent]``, which of its own rows each part sends, shift by shift;
            ``None`` where there are no shifts.
        shifts: of the halo exchange; ``None`` for an all-gather.
        width: rows that a part has after the exchange.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    send: np.ndarray | None
    shifts: Shifts | None
    width: int


def cut(matrix: Any, num_parts: int, way: Way | None, capacity: int | None) -> Parts:
    """The parts of a CSR matrix, for a way of exchanging rows or for the one that moves less.

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
    send = np.zeros((num_parts, sent), np.int32)  # where a halo is narrower than a shift: row 0
    for part, halo in enumerate(found):
        begin, end = bounds[part : part + 2]
        columns = matrix.indices[begin:end]
        if shifts is not None:
            distances = (part - halo // count) % num_parts
            places, first = np.empty(halo.size, int), 0
            for distance, rows in shifts:
                of_it = distances == distance
                places[of_it] = first + np.arange(np.count_nonzero(of_it))
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
