"""Checks of predicted bytes on each device, run by `test_memory` where there are four devices."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sevo_jax import diagnostics
from tests.sevo_jax.test_memory import check, exact, planned, random_graph

NODES, DIM, DEGREE = 2_000, 16, 6


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adamw", {}),
        ("sgd", {"num_layers": 2}),
        ("momentum", {"num_layers": 1}),
        pytest.param("adam", {"method": "exact"}, marks=exact),
    ],
)
@pytest.mark.parametrize("split", ["features", "all_gather", "halo", "both"])
def test_each_device(split, optimizer, options, every):
    shape = {"features": (1, 4), "both": (2, 2)}.get(split, (4, 1))
    mesh = jax.make_mesh(shape, ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    spec = P(*(name if size > 1 else None for name, size in mesh.shape.items()))
    whole, sharding = random_graph(NODES, DEGREE), NamedSharding(mesh, spec)
    exchange = split if split in ("all_gather", "halo") else None
    graph = whole.shard(sharding, exchange=exchange)
    received = None
    if graph.exchange is not None and graph.exchange.plan.way == "halo":
        received = diagnostics.communication(whole, DIM, shape[0]).halo_rows
    predicted = diagnostics.memory(
        NODES,
        DIM,
        shape[0] * graph.capacity if split != "features" else graph.capacity,
        optimizer=optimizer,
        every=every,
        row_parts=shape[0],
        column_parts=shape[1],
        received_rows=received,
        **options,
    )
    check(predicted, *planned(graph, DIM, optimizer, sharding=sharding, every=every, **options))
