"""Sharded tables and graphs: the host's plans, and `on_four_devices` in a process that has four."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import sevo_jax
from sevo_jax import diagnostics
from sevo_jax._sharding import cut
from tests.devices import check_on_devices

SOME = (
    "alike and Auto and not whole and not all_gather or default and (features or divide) "
    "or shard_map or planned and halo-Auto or default-both-halo or compiling_anew or mesh_does_not "
    "or mesh_of and both-True or automatic and rows-True or gradients_on and False-both-True "
    "or vmap_on and features-data-False or other_numbers and spec2 or mesh_that_is_set "
    "or wait and (rows-Explicit or features-Auto) or any_order and halo"
)


@pytest.mark.parametrize("chosen", [SOME, pytest.param("", marks=pytest.mark.slow)])
def test_on_four_devices(chosen):
    check_on_devices(4, Path(__file__).with_name("on_four_devices.py"), "-k", chosen)


def random_graph(nodes: int, edges: int, reach: int) -> sevo_jax.Graph:
    """Edges between nodes that are at most so far apart, and an isolated node."""
    rng = np.random.default_rng(nodes + reach)
    senders = rng.integers(nodes - 1, size=edges)
    receivers = (senders + rng.integers(reach + 1, size=edges)) % (nodes - 1)
    return sevo_jax.edge_graph(senders, receivers, nodes, rng.random(edges, np.float32))


def one_device(*spec: str | None) -> jax.NamedSharding:
    return jax.NamedSharding(jax.make_mesh((1,), ("model",)), jax.P(*spec))


@pytest.mark.parametrize("way", ["all_gather", "halo"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 8, 24])
@pytest.mark.parametrize("reach", [0, 2, 23])
def test_what_parts_hold_and_send_makes_up_the_product(reach, num_parts, way):
    """The exchange and the products of all parts, as devices would do them, one by one."""
    matrix = random_graph(24, 60, reach).to_scipy()
    x = np.random.default_rng(0).standard_normal((24, 3), np.float32)
    parts = cut(matrix, num_parts, way, None)
    own = x.reshape(num_parts, -1, 3)
    for part in range(num_parts):
        if way == "all_gather":
            rows = x
        else:
            rows, first = [own[part]], 0
            for distance, width in parts.shifts:
                sender = (part - distance) % num_parts
                rows.append(own[sender][parts.send[sender, first : first + width]])
                first += width
            rows = np.concatenate(rows)
        assert rows.shape[0] == parts.width
        stored = parts.indptr[part, -1]
        assert (parts.data[part, stored:] == 0).all()
        assert (parts.indices[part, stored:] == parts.width).all()
        csr = (parts.data[part, :stored], parts.indices[part, :stored], parts.indptr[part])
        got = sp.csr_array(csr, shape=(24 // num_parts, parts.width)) @ rows
        expected = (matrix @ x)[part * own.shape[1] : (part + 1) * own.shape[1]]
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("num_parts", [1, 2, 5, 7, 40])
@pytest.mark.parametrize("reach", [0, 1, 19])
def test_communication_counts_the_rows_that_travel(reach, num_parts):
    graph = random_graph(20, 80, reach)
    size = -(-20 // num_parts)
    needed = np.zeros((num_parts, num_parts), int)  # by part and distance
    for node, column in zip(*graph.to_scipy().nonzero(), strict=True):
        needed[node // size, (node // size - column // size) % num_parts] |= 1 << column
    widths = [max(map(int.bit_count, by_part)) for by_part in needed.T.tolist()[1:]]
    moved = diagnostics.communication(graph, 16, num_parts, num_layers=2, dtype=np.float64)
    assert moved.halo_rows == sum(widths)
    assert moved.shifts == np.count_nonzero(widths)
    assert moved.halo == 2 * 16 * 8 * sum(widths)
    assert moved.all_gather == 2 * 16 * 8 * size * (num_parts - 1)
    assert moved.features == 2 * size * (num_parts - 1)
    assert (moved.exchange == "halo") == (moved.halo < moved.all_gather)
    text = str(moved)
    assert f"'{moved.exchange}'" in text
    for value in (moved.features, moved.all_gather, moved.halo):
        assert f" {value:,} " in text
    assert ("isolated nodes must be added" in text) == (20 % num_parts > 0)


def test_the_way_that_moves_less_is_chosen_unless_another_is_named():
    near = sevo_jax.edge_graph(range(99), range(1, 100), 100).to_scipy()
    assert cut(near, 4, None, None).shifts == ((1, 1), (3, 1))
    assert cut(near, 4, "all_gather", None).shifts is None
    everywhere = sevo_jax.Graph.from_operator(np.full((8, 8), 1 / 8)).to_scipy()
    assert cut(everywhere, 4, None, None).shifts is None
    assert cut(everywhere, 4, "halo", None).shifts == ((1, 2), (2, 2), (3, 2))


def test_half_precision_is_smoothed_in_float32():
    graph = random_graph(20, 80, 2)
    narrow, wide = (
        diagnostics.communication(graph, 8, 2, dtype=d) for d in ("bfloat16", "float32")
    )
    assert narrow == wide


@pytest.mark.parametrize("exchange", [None, "halo"])
def test_on_a_mesh_of_one_device_nothing_changes(exchange):
    graph = random_graph(20, 80, 19)
    split = graph.shard(one_device("model"), exchange=exchange, capacity=200)
    assert repr(split).startswith("Graph(num_nodes=20, capacity=200, dtype=float32, parts=1")
    table, gradient = np.random.default_rng(0).standard_normal((2, 20, 3), np.float32)
    updates = []
    for g in (graph, split):
        tx = sevo_jax.sevo_adamw(1e-2, g)
        updates.append(tx.update(gradient, tx.init(table), table)[0])
    np.testing.assert_array_equal(*updates)
    whole = graph.shard(one_device(None, "model"), capacity=200)
    assert (whole.exchange, whole.capacity) == (None, 200)
    np.testing.assert_array_equal(whole.to_scipy(False).toarray(), graph.to_scipy(False).toarray())


def test_what_cannot_be_split():
    graph = random_graph(20, 80, 19)
    with pytest.raises(TypeError, match="NamedSharding on a mesh, got Single"):
        graph.shard(jax.numpy.ones(2).sharding)
    with pytest.raises(ValueError, match="did you mean 'halo'"):
        graph.shard(one_device("model"), exchange="hallo")
    with pytest.raises(ValueError, match="splits no rows"):
        graph.shard(one_device(None, "model"), exchange="halo")
    with pytest.raises(ValueError, match=r"capacity must be at least the .* fullest part, got 3"):
        graph.shard(one_device("model"), capacity=3)
    with pytest.raises(ValueError, match=r"3 parts, which do not divide .* 20 nodes; .* 21 rows"):
        cut(graph.to_scipy(), 3, None, None)
    with pytest.raises(ValueError, match="num_parts must be at least 1, got 0"):
        diagnostics.communication(graph, 8, 0)


def test_what_a_split_graph_refuses(tmp_path):
    split = random_graph(20, 80, 19).shard(one_device("model"))
    for change in (
        lambda: split.add_edges([0], [1]),
        lambda: split.with_capacity(500),
        lambda: split.to_scipy(),
        lambda: split.shard(one_device("model")),
        lambda: split.save(tmp_path / "graph"),
        lambda: sevo_jax.combine_graphs([split], [1.0]),
        lambda: diagnostics.communication(split, 8, 2),
    ):
        with pytest.raises(ValueError, match="split among devices: use the graph it was made of"):
            change()
    table = np.ones((20, 3), np.float32)
    state = sevo_jax.sevo_adamw(1e-2, split).init(table)
    with pytest.raises(ValueError, match="split among devices: give grow"):
        sevo_jax.grow(state, table, 22)
    assert split.with_kernel("gather").exchange is split.exchange
