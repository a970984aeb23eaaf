"""``python -m benchmarks.scaling``: traffic between devices, and a cost model of larger machines.

- Bytes that a device receives in a step, by how the table is split: as the compiled program moves
  them on simulated devices, beside what `communication` counts on the host; and the step's
  time, for which all of them share this machine's processors.
- The size of halos, for power-law graphs and for grids whose nodes are numbered at random.
- The product's time per entry, and the bandwidth of a copy, on one device.

The cost model of docs/scale.md is here too. Its predictions are printed; they are no measurements.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import sevo_jax
from benchmarks import report
from benchmarks.graphs import random_graph
from experiments.data.table1 import ZIPF_EXPONENT
from experiments.training.timing import in_turn
from sevo_jax.diagnostics import Way, communication, memory

DEVICES, QUICK_DEVICES = (1, 2, 4, 8), (2,)
SIDE, QUICK_SIDE = 256, 16  # of the grid that is split among them
DIM = 64
NODES, QUICK_NODES = (10**7, 10**6, 10**5, 10**4), (10**3,)  # the most memory first
EDGES_PER_NODE = 3
PARTS = (8, 256)

COLLECTIVE = re.compile(r"= (.+?) (all-gather|all-reduce|all-to-all|collective-permute)\(")
SHAPE = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")


def grid_graph(side: int, *, shuffled: bool = False) -> sevo_jax.Graph:
    """A square grid whose nodes are numbered row by row, or at random."""
    grid = np.arange(side * side)
    grid = (np.random.default_rng(0).permutation(grid) if shuffled else grid).reshape(side, side)
    senders = np.concatenate([grid[:-1].ravel(), grid[:, :-1].ravel()])
    receivers = np.concatenate([grid[1:].ravel(), grid[:, 1:].ravel()])
    return sevo_jax.edge_graph(senders, receivers, side * side)


def power_law_graph(nodes: int) -> sevo_jax.Graph:
    """Draws a graph with ends of edges by the power law, fast; edges drawn twice are heavier."""
    rng = np.random.default_rng(0)
    power = 1 - ZIPF_EXPONENT
    drawn = 1 + rng.random((2, EDGES_PER_NODE * nodes)) * ((nodes + 1) ** power - 1)
    ranks = np.minimum(drawn ** (1 / power) - 1, nodes - 1).astype(np.int32)  # the law's inverse
    senders, receivers = rng.permutation(nodes).astype(np.int32)[ranks]
    return sevo_jax.edge_graph(senders, receivers, nodes)


def received_bytes(program: str, devices: int) -> float:
    """Counts the bytes that a device receives in the collectives of a compiled program.

    Every collective must be over all devices.
    """
    shares = {"all-gather": 1 - 1 / devices, "all-reduce": 2 - 2 / devices, "all-to-all": 1.0}
    total = 0.0
    for shapes, name in COLLECTIVE.findall(program):
        for _, bits, sizes in SHAPE.findall(shapes):
            count = int(np.prod([int(size) for size in sizes.split(",") if size]))
            total += shares.get(name, 1.0) * count * (int(bits or 8) // 8)
    return total


def received_a_step(program: str, devices: int, every: int) -> float:
    """Counts the bytes that a device receives in a step, on average.

    What is not in the entry computation is in the branch of the smoothing, which every k-th step
    takes.
    """
    branch, entry = program.split("\nENTRY ")
    return received_bytes(entry, devices) + received_bytes(branch, devices) / every


def on_devices(devices: int, side: int, rounds: int, every: int = 1) -> list[report.Case]:
    """Measures steps on a grid's table, split in each way, in a process with so many devices."""
    graph = grid_graph(side)
    mesh = jax.make_mesh((devices,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    predicted = communication(graph, DIM, devices)
    features, rows = PartitionSpec(None, "model"), PartitionSpec("model")
    splits: dict[str, tuple[PartitionSpec, Way | None, int]] = {
        "features": (features, None, predicted.features),
        "rows, all-gather": (rows, "all_gather", predicted.all_gather),
        "rows, halo": (rows, "halo", predicted.halo),
    }
    gradient = np.random.default_rng(0).standard_normal((graph.num_nodes, DIM), np.float32)
    calls, more = {}, {}
    for name, (spec, exchange, counted) in splits.items():
        sharding = NamedSharding(mesh, spec)
        table = jax.device_put(gradient, sharding)
        optimizer = sevo_jax.sevo_adamw(1e-3, graph.shard(sharding, exchange=exchange), every=every)
        state = optimizer.init(table)
        compiled = jax.jit(optimizer.update).lower(table, state, table).compile()
        calls[name] = lambda step=compiled, given=(table, state, table): step(*given)
        memory: Any = compiled.memory_analysis()
        more[name] = {
            "devices": devices,
            "split": name,
            "received": received_a_step(compiled.as_text() or "", devices, every),
            "counted": counted,
            "held": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        }
    seconds = in_turn(calls, rounds)
    return [
        report.case(f"{devices} devices, {name}", {"": seconds[name]}, "ms", 1e3) | more[name]
        for name in splits
    ]


def simulated(devices: int, side: int, rounds: int, every: int = 1) -> list[report.Case]:
    """Calls `on_devices` in a process that simulates the devices."""
    code = "import json; from benchmarks.scaling import on_devices; "
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            code + f"print(json.dumps(on_devices({devices}, {side}, {rounds}, {every})))",
        ],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def halo_shares(kind: str, nodes: int) -> Iterator[report.Case]:
    """Measures the share of other devices' rows that a halo exchange brings to a device."""
    grid = kind == "grid"
    graph = grid_graph(round(nodes**0.5), shuffled=True) if grid else power_law_graph(nodes)
    for parts in PARTS:
        moved = communication(graph, 1, parts, 1)
        share = round(moved.halo / moved.all_gather, 6)
        yield {
            "case": f"halo share, {kind}, {graph.num_nodes} nodes in {parts} parts",
            "ours": share,
            "unit": "of all rows",
            "peers": {},
            "ratio": None,
            "spread": [share] * 2,
            "kind": kind,
            "nodes": graph.num_nodes,
            "parts": parts,
            "shifts": moved.shifts,
            "exchange": moved.exchange,
        }


def one_device(quick: bool) -> Iterator[report.Case]:
    """Measures the product's nanoseconds an entry, and a copy's gigabytes a second."""
    nodes, dim = (1_000, 16) if quick else (200_000, 128)
    graph = random_graph(nodes, 8 * nodes)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((nodes, dim), np.float32))
    copied = jnp.ones(2**20 if quick else 2**26)
    product = jax.jit(sevo_jax.spmm)
    # Ten copies in one program, so that memory for the result is not new every time.
    copy = jax.jit(lambda a: jax.lax.fori_loop(0, 10, lambda _, b: b + 1, a))
    calls = {"product": lambda: product(graph, x), "copy": lambda: copy(copied)}
    seconds = in_turn(calls, 3 if quick else 7)
    bandwidth = 10 * 2 * copied.nbytes / seconds["copy"]
    yield report.case("copy, one device", {"copy": bandwidth}, "GB/s", 1e-9)
    name, products = f"product, one device, {dim} features", {"product": seconds["product"]}
    case = report.case(name, products, "ns an entry", 1e9 / graph.capacity)
    moved = graph.capacity * (8 + 4 * dim) + 2 * x.nbytes
    efficiency = moved / seconds["product"] / bandwidth  # caches raise it; the model has none
    yield case | {"efficiency": round(float(np.median(efficiency)), 3)}


class Problem(NamedTuple):
    """The sizes of a table and its graph, and the number of products of a smoothing."""

    nodes: float = 1e9
    degree: float = 20.0
    dim: int = 128
    layers: int = 3


class Accelerator(NamedTuple):
    """The assumptions about one accelerator; nothing here was measured.

    Attributes:
        memory: bytes that it holds.
        bandwidth: bytes a second of that memory.
        network: bytes a second that it receives from others.
        latency: seconds of a collective beside its bytes.
        sector: least bytes that a gathered row takes from memory.
        efficiency: share of the bandwidth that a product reaches.
    """

    memory: float = 80e9
    bandwidth: float = 3.35e12
    network: float = 50e9
    latency: float = 20e-6
    sector: float = 32.0
    efficiency: float = 0.5


class Cost(NamedTuple):
    """The cost of a step on a device: bytes held, received and moved in memory, flops, seconds."""

    held: float
    received: float
    moved: float
    flops: float
    seconds: float


ACCELERATORS = 256
SMALL_HALO = 0.01
"""The share of a graph whose nodes have a good order, as those of a grid have row by row."""


def cost(
    problem: Problem, device: Accelerator, row_parts: int, column_parts: int, halo_share: float = 1
) -> Cost:
    """Computes the cost model of docs/scale.md; a halo share of 1 is an all-gather."""
    nodes, dim = problem.nodes / row_parts, problem.dim / column_parts
    entries, row = problem.nodes * problem.degree / row_parts, 4 * dim
    foreign = halo_share * (problem.nodes - nodes)
    # Six tables (parameters, gradient, two moments, two temporaries), the graph, others' rows.
    held = 6 * nodes * row + 8 * entries + 4 * nodes + (nodes + foreign if foreign else 0) * row
    flags = 2 * (1 - 1 / column_parts) * nodes
    received = problem.layers * foreign * row + flags
    products = problem.layers * (entries * (8 + max(row, device.sector)) + 2 * nodes * row)
    adam = 8 * nodes * row  # reads parameters, gradient and moments; writes all but the gradient
    seconds = products / (device.efficiency * device.bandwidth) + adam / device.bandwidth
    transfers = 1 + problem.layers * (1 if halo_share == 1 else row_parts - 1)
    seconds += received / device.network + device.latency * transfers
    flops = 2 * problem.layers * entries * dim
    return Cost(held, received, products + adam, flops, seconds)


def layouts(problem: Problem) -> list[tuple[int, int]]:
    """Lists the parts of rows and features that use the accelerators; features alone first."""
    powers = [2**k for k in range(ACCELERATORS.bit_length())]
    two = [(rows, ACCELERATORS // rows) for rows in powers]
    return [(1, problem.dim)] + [pair for pair in two if problem.dim % pair[1] == 0]


def random_order_share(problem: Problem, row_parts: int) -> float:
    """Computes the halo's share for nodes in random order: the chance that a part needs a row.

    All nodes have the same degree here. Nodes of few entries would lower it; hubs would raise it,
    since shifts are as wide as the widest halo.
    """
    return 1 - (1 - 1 / row_parts) ** problem.degree


def prediction_table() -> list[str]:
    """Makes the table of predictions in docs/scale.md."""
    problem, device = Problem(), Accelerator()

    def seconds(c: Cost) -> str:
        return (
            f"{c.seconds:.2f}" if c.held <= device.memory else f"{c.held / 1e9:.0f} GB do not fit"
        )

    lines = [
        "| rows in | features in | held, GB | received, GB | seconds | s, random order, halo | "
        f"s, halo of {SMALL_HALO:.0%} |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows, columns in layouts(problem):
        shares = (1, random_order_share(problem, rows), SMALL_HALO)
        costs = [cost(problem, device, rows, columns, share) for share in shares]
        cells = [str(rows), str(columns)]
        cells += [f"{costs[0].held / 1e9:.0f}", f"{costs[0].received / 1e9:.1f}"]
        lines.append(f"| {' | '.join(cells + [seconds(c) for c in costs])} |")
    return lines


DEGREE = 20
"""Entries a node of the catalogues below."""
MEMORIES = {"24 GiB": 24 * 2**30, "80 GB": 80 * 10**9, "141 GB": 141 * 10**9}
"""Devices' memory in bytes."""


def largest_catalogue(limit: int, dim: int, every: int) -> int:
    """Finds the most items whose update by `sevo_adamw` takes no more bytes on a GPU."""
    low, high = 1, limit // (4 * dim)  # an item takes at least its row
    while high - low > 1:
        items = (low + high) // 2
        held = memory(items, dim, DEGREE * items, every=every, kernel="pallas")
        low, high = (items, high) if held.total <= limit else (low, items)
    return low


def catalogue_table() -> list[str]:
    """Makes the table of the largest catalogues in docs/scale.md."""
    lines = [f"| d | every | {' | '.join(MEMORIES)} |", f"|---|---|{'---|' * len(MEMORIES)}"]
    for dim in (64, 128):
        for every, name in ((1, "1"), (100, "2 or more")):
            sizes = [largest_catalogue(limit, dim, every) for limit in MEMORIES.values()]
            cells = [f"{items / 1e6:.1f} million" for items in sizes]
            lines.append(f"| {' | '.join([str(dim), name, *cells])} |")
    return lines


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures everything, the figures of one device first."""
    yield from one_device(quick)
    for devices in QUICK_DEVICES if quick else DEVICES:
        yield from simulated(devices, QUICK_SIDE if quick else SIDE, 3 if quick else 11)
    for nodes in QUICK_NODES if quick else NODES:
        for kind in ("power law", "grid"):
            yield from halo_shares(kind, nodes)


if __name__ == "__main__":
    report.command("scaling", measure)
    print("predicted, of docs/scale.md:", *prediction_table(), sep="\n")
    print("the largest catalogues, of docs/scale.md:", *catalogue_table(), sep="\n")
