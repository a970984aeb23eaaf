"""Predicts the memory of an optimiser's update, before anything is allocated."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from sevo_jax._checks import (
    check_choice,
    check_count,
    check_every,
    check_floating,
    check_nodes,
    check_num_layers,
)
from sevo_jax._graph import Kernel
from sevo_jax._pending import check_precision
from sevo_jax._sharding import part_size
from sevo_jax._smoothing import Method


class Memory(NamedTuple):
    """The bytes that a device holds while an optimiser updates a table.

    Attributes:
        parameters: the table.
        gradient: its gradient.
        moments: those of Adam, or the momentum of SGD.
        graph: the operator in the optimiser's state, and the rows to send if rows are split.
        pending: the steps that wait, for ``every`` above 1.
        temporaries: what the update needs while it runs, at the most.
    """

    parameters: int
    gradient: int
    moments: int
    graph: int
    pending: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of them together: the update's peak."""
        return sum(self)


Rule = Literal["adamw", "adam", "sgd", "momentum"]


def memory(
    num_nodes: int,
    dim: int,
    entries: int,
    *,
    optimizer: Rule = "adamw",
    num_layers: int = 3,
    method: Method = "neumann",
    every: int = 1,
    pending_dtype: Any = None,
    mu_dtype: Any = None,
    dtype: Any = jnp.float32,
    row_parts: int = 1,
    column_parts: int = 1,
    received_rows: int | None = None,
    kernel: Kernel | None = None,
) -> Memory:
    """Predicts the bytes that each device holds while it updates a table, before any is made.

    It is the peak of a compiled step that takes a gradient, updates the table by `sevo_adamw`,
    `sevo_adam` or `sevo_sgd`, and to which parameters and state are donated. Neither the model and
    its activations nor other parameters are in it.

    Temporaries are what XLA plans. Plans were compared on CPUs with JAX 0.10.0, 0.10.2 and 0.12.0,
    whole and in 4 parts: with 1 to 3 layers and ``"exact"`` the total is right within 10%; with 4
    to 8, whole, it is so with 0.10.2 and 0.12.0. JAX 0.10.0 has a table more for ``"exact"``.
    ``"pallas"`` adds that kernel's sums of blocks, by the size of their array; no whole step was
    measured on a GPU.

    Args:
        num_nodes: rows of the table.
        dim: its features, all trailing axes together.
        entries: stored entries of the graph, both directions of an edge: `Graph.capacity`. Rows are
            split into parts of equally many entries.
        optimizer: ``"adamw"``, ``"adam"``, ``"sgd"``, or ``"momentum"`` for SGD with momentum.
        num_layers: ``L``, the sparse products of a smoothing.
        method: as in `smooth`.
        every: the steps between two smoothings.
        pending_dtype: as in `sevo_smooth`.
        mu_dtype: dtype of Adam's first moment; that of the table if ``None``.
        dtype: the table's dtype; narrower ones than float32 are smoothed in float32.
        row_parts: devices that split the rows, and with them the graph (`Graph.shard`).
        column_parts: devices that split the features.
        received_rows: rows that a device receives for a product by a halo exchange, as
            `communication` counts them (``halo_rows``). ``None``: by an all-gather, all others.
        kernel: the product's kernel. ``None`` and ``"bcsr"`` are for CPUs; ``"pallas"`` is the
            default of NVIDIA GPUs. ``"gather"`` cannot be predicted, since XLA's plans of it differ
            from version to version.

    Returns:
        The bytes of each kind, and their sum as ``total``.

    Raises:
        TypeError: a count that is no integer, or a dtype that is not floating.
        ValueError: a count or a choice out of its range, ``"gather"``, a table in half precision
            with ``every`` above 1, or ``received_rows`` where no rows are split.

    Examples:
        >>> import sevo_jax
        >>> held = sevo_jax.diagnostics.memory(1_000_000, 64, 20_000_000, every=100)
        >>> held.parameters, held.moments, held.pending, held.graph
        (256000000, 512000000, 256000000, 164000004)
        >>> f"{held.total / 1e9:.2f} GB"
        '2.47 GB'
    """
    nodes, entries = check_nodes("num_nodes", num_nodes), check_count("entries", entries, least=0)
    dim, layers, every = check_count("dim", dim), check_num_layers(num_layers), check_every(every)
    row_parts = check_count("row_parts", row_parts)
    column_parts = check_count("column_parts", column_parts)
    check_choice("optimizer", optimizer, Rule)
    check_choice("method", method, Method)
    if kernel == "gather":
        raise ValueError(
            "kernel 'gather' cannot be predicted: compile the update, and read memory_analysis()"
        )
    if kernel is not None:
        check_choice("kernel", kernel, Literal["bcsr", "pallas"])
    if received_rows is not None:
        check_count("received_rows", received_rows, least=0)
        if row_parts == 1:
            raise ValueError("received_rows is for rows that are split: give row_parts, too")
    own = check_floating("dtype", dtype)
    if every > 1:
        check_precision(own)
    first = own if mu_dtype is None else check_floating("mu_dtype", mu_dtype)
    waiting = own if pending_dtype is None else check_floating("pending_dtype", pending_dtype)
    wide = jnp.promote_types(own, jnp.float32)  # that of the smoothing

    rows, features = part_size(nodes, row_parts), part_size(dim, column_parts)
    entries = part_size(entries, row_parts)
    size = rows * features
    # The correction keeps the second moment of a narrow table in float32.
    second = wide if optimizer == "adamw" else own
    moments = {"sgd": 0, "momentum": own.itemsize}.get(optimizer, first.itemsize + second.itemsize)
    # SGD smooths the gradient where it lies. Other steps, and wide copies, are made first.
    in_place = optimizer in ("sgd", "momentum") and own == wide
    tables = _temporary_tables(method, layers, every > 1, in_place)
    more_rows = 0  # of a product
    if row_parts > 1 and (layers or method == "exact"):
        if received_rows is None:
            # The gathered table takes the place of what it was gathered from, if that is done with.
            last_use = method != "exact" and layers > 1
            more_rows = (row_parts - 1) * rows + (0 if last_use else rows)
        else:
            more_rows = 2 * received_rows  # as they arrive, and joined to the device's own
    if kernel == "pallas":
        from sevo_jax._spmm.triton import block_size  # importing Pallas takes long

        more_rows += entries // block_size(entries)
    graph = entries * (wide.itemsize + 4) + (rows + 1) * 4 + (received_rows or 0) * 4
    return Memory(
        parameters=size * own.itemsize,
        gradient=size * own.itemsize,
        moments=size * moments,
        graph=graph,
        pending=size * jnp.dtype(waiting).itemsize if every > 1 else 0,
        temporaries=(tables * rows + more_rows) * features * wide.itemsize,
    )


def _temporary_tables(method: Method, layers: int, waits: bool, in_place: bool) -> int:
    """Counts the tables that an update holds at once, but for rows from other devices.

    A layer reads its base and the layer before it, and writes a third table; the first layer reads
    one table as both. Waiting steps add themselves and their sum to these. Many layers take turns
    in two buffers, and XLA plans one more wherever the last of them is not the step's own.
    """
    if method == "exact":
        return 6 if waits else 4
    needed = min(layers, 2)
    scaled = method == "iterative" and layers > 0  # its base is a table of its own
    if waits:
        return 2 + needed + scaled + (layers >= 5 and layers % 2 == 1)
    if in_place and not scaled:
        return needed
    even = layers >= (6 if in_place or not scaled else 4) and layers % 2 == 0
    return min(needed + scaled + (not in_place), 3) + even if layers else 0
