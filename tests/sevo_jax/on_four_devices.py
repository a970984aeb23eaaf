"""Checks of sharded tables, run by `test_sharding` where there are four devices."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCSR
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import sevo_jax
from tests.programs import reached_at_every_step

NODES, DIM, STEPS = 80, 16, 3
COLLECTIVE = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\(")
SPECS = {
    "features": P(None, "model"),
    "rows": P("model", None),
    "both": P("data", "model"),
    "rows over all devices": P(("data", "model"), None),
    "whole": P(None, None),
}
every_kernel = pytest.mark.parametrize(
    "kernel", [pytest.param(None, id="default"), "bcsr", "gather", "pallas"]
)


KINDS = {
    "explicit axes": (AxisType.Explicit, AxisType.Explicit),
    "automatic axes": (AxisType.Auto, AxisType.Auto),
    "both kinds": (AxisType.Auto, AxisType.Explicit),
}


def mesh(*axis_types: AxisType) -> jax.sharding.Mesh:
    """Makes a mesh of one kind of axes, or with a kind for each axis."""
    kinds = axis_types if len(axis_types) == 2 else 2 * axis_types
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=kinds)


def graph(kernel: str | None = None) -> sevo_jax.Graph:
    """One hub, and an isolated node."""
    rng = np.random.default_rng(0)
    hub = np.arange(1, NODES - 1)
    ends = rng.integers(1, NODES - 1, size=(2, 2 * NODES))
    senders, receivers = np.concatenate([[0 * hub, hub], ends], axis=1)
    return sevo_jax.edge_graph(senders, receivers, NODES).with_kernel(kernel)


def chain() -> sevo_jax.Graph:
    """Each node beside the next, and the third after it: parts of rows refer to few others."""
    nodes = np.arange(NODES)
    ends = [np.concatenate([nodes[:-1], nodes[:-3]]), np.concatenate([nodes[1:], nodes[3:]])]
    return sevo_jax.edge_graph(*ends, NODES)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """A table, and a gradient in which most rows are idle."""
    rng = np.random.default_rng(1)
    touched = rng.random((NODES, 1)) < 0.3
    gradient = np.where(touched, rng.standard_normal((NODES, DIM)), 0)
    return rng.standard_normal((NODES, DIM), np.float32), gradient.astype(np.float32)


def train(make, placed):
    """Some steps with donated buffers; the table, the state and the compiled step."""
    table, gradient = map(placed, arrays())
    optimizer = make()
    params = {"table": table}
    state = optimizer.init(params)
    before = [leaf.sharding for leaf in jax.tree.leaves((params, state))]

    def step(params, state, gradient):
        updates, state = optimizer.update({"table": gradient}, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    text = compiled.lower(params, state, gradient).compile().as_text()
    for _ in range(STEPS):
        params, state = compiled(params, state, gradient)
    for leaf, sharding in zip(jax.tree.leaves((params, state)), before, strict=True):
        if isinstance(sharding, NamedSharding):  # not what was on one device, and now is on all
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.sharding, sharding)
    return params["table"], state, text


def collectives_of(program: str) -> Counter:
    """Counts the exchanges between devices in a compiled program, by their kinds."""
    return Counter(COLLECTIVE.findall(program))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("where", SPECS)
def test_a_sharded_table_trains_alike(where, axis_type):
    sharding = NamedSharding(mesh(axis_type), SPECS[where])

    def make():
        return sevo_jax.sevo_adamw(1e-2, graph(), weight_decay=0.1)

    expected, _, _ = train(make, jnp.asarray)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Dd]onated")
        got, state, program = train(make, lambda a: jax.device_put(a, sharding))
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-6)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (NODES, DIM)]
    assert len(moments) == 2
    for leaf in (got, *moments):
        assert leaf.sharding.is_equivalent_to(sharding, 2), leaf.sharding
    # Of rows, the table is gathered once a layer; of features, a flag a row is all that travels.
    rows = SPECS[where][0] is not None
    collectives = collectives_of(program)
    assert collectives["all-gather"] == (3 if rows else 0)
    assert collectives["all-reduce"] <= (0 if where in ("rows", "whole") else 1)
    assert collectives.keys() <= {"all-gather", "all-reduce"}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("exchange", ["halo", "all_gather"])
@pytest.mark.parametrize("where", ["both", "rows over all devices"])
def test_a_sharded_graph_trains_alike(where, exchange, axis_type):
    sharding = NamedSharding(mesh(axis_type), SPECS[where])
    split = chain().shard(sharding, exchange=None if exchange == "halo" else exchange)
    assert repr(split).endswith(f"exchange={exchange})")  # the halo is what is chosen

    expected, _, _ = train(lambda: sevo_jax.sevo_adamw(1e-2, chain()), jnp.asarray)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Dd]onated")
        got, state, program = train(
            lambda: sevo_jax.sevo_adamw(1e-2, split), lambda a: jax.device_put(a, sharding)
        )
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-6)
    leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert len(leaves) == 5 + (exchange == "halo")  # two moments, the graph's arrays
    parts = 2 if where == "both" else 4
    for leaf in (got, *leaves):
        assert leaf.addressable_shards[0].data.shape[0] == leaf.shape[0] // parts
    # A product shifts rows upwards and downwards, which is the same between two devices.
    shifts = 1 if where == "both" else 2
    moved = {"all-gather": 3} if exchange == "all_gather" else {"collective-permute": 3 * shifts}
    assert dict(collectives_of(program)) == moved | ({"all-reduce": 1} if where == "both" else {})


@pytest.mark.parametrize(
    ("kernel", "where", "exchange"),
    [
        ("bcsr", "both", "halo"),
        pytest.param(None, "both", "halo", id="default-both-halo"),
        pytest.param(None, "both", "all_gather", id="default-both-all_gather"),
        ("gather", "rows over all devices", "halo"),
        ("pallas", "rows over all devices", "halo"),
    ],
)
def test_a_sharded_graph_multiplies_as_the_whole_one(kernel, where, exchange):
    placed = NamedSharding(mesh(AxisType.Auto), SPECS[where])
    whole, (x, weights) = graph(kernel), arrays()
    split = whole.shard(placed, exchange=exchange)

    def value(graph, data, x):
        operator = graph.operator
        operator = BCSR((data, operator.indices, operator.indptr), shape=operator.shape)
        graph = dataclasses.replace(graph, operator=operator)
        return (sevo_jax.smooth(graph, x, 0.5, 2) * weights).sum()

    gradients = jax.jit(jax.grad(value, (1, 2)))
    expected = gradients(whole, whole.operator.data, x)
    got = gradients(split, split.operator.data, jax.device_put(x, placed))
    np.testing.assert_allclose(np.asarray(got[1]), expected[1], atol=1e-5)
    counts = np.asarray(split.operator.indptr)[:, -1]
    of_values = [row[:count] for row, count in zip(np.asarray(got[0]), counts, strict=True)]
    np.testing.assert_allclose(np.concatenate(of_values), expected[0], atol=1e-5)
    mapped = jax.jit(jax.vmap(lambda x: sevo_jax.spmm(split, x)))(np.stack([x, weights]))
    np.testing.assert_allclose(mapped, [whole.to_scipy() @ a for a in (x, weights)], atol=1e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("exchange", ["all_gather", "halo"])
@pytest.mark.parametrize("shape", [(2, 2), (4, 1), (1, 4)])
def test_rows_are_split_along_axes_in_any_order(shape, exchange, axis_type):
    """Devices that exchange rows are numbered in the mesh's order of axes."""
    axes = jax.make_mesh(shape, ("data", "model"), axis_types=2 * (axis_type,))
    placed = NamedSharding(axes, P(("model", "data"), None))
    split, table = chain().shard(placed, exchange=exchange), arrays()[0]
    found = sevo_jax.spmm(split, jax.device_put(table, placed))
    np.testing.assert_allclose(found, sevo_jax.spmm(chain(), table), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("exchange", ["all_gather", "halo"])
def test_tables_other_than_the_planned_one(exchange, axis_type):
    """The sums stay, up to rounding, whatever the sharding and the shape."""
    placed = NamedSharding(mesh(axis_type), SPECS["both"])
    x = arrays()[0]
    split = graph().shard(placed, exchange=exchange)
    smooth = jax.jit(sevo_jax.smooth)
    expected = np.asarray(smooth(graph(), x))
    for spec in SPECS.values():
        got = smooth(split, jax.device_put(x, NamedSharding(placed.mesh, spec)))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(smooth(split, x[:, :5]), expected[:, :5], rtol=0, atol=1e-6)
    np.testing.assert_allclose(smooth(split, x[:, 0]), expected[:, 0], rtol=0, atol=1e-6)


def test_seeds_share_a_sharded_graph():
    sharding = NamedSharding(mesh(AxisType.Auto), SPECS["rows"])
    table, gradient = arrays()
    params = np.stack([table, table + 1])
    results = []
    for g in (chain(), chain().shard(sharding)):
        tx = sevo_jax.sevo_adamw(1e-2, g)
        axes = sevo_jax.seed_axes(tx, params[0])
        state = jax.vmap(tx.init, out_axes=axes)(params)
        step = jax.jit(jax.vmap(tx.update, in_axes=(None, axes, 0), out_axes=(0, axes)))
        results.append(step(gradient, state, params)[0])
    np.testing.assert_allclose(*map(np.asarray, results), atol=1e-6)


def test_a_sharded_graph_is_replaced_without_compiling_anew():
    """The graphs have equal capacity, and rows are gathered or halos are as wide."""
    sharding = NamedSharding(mesh(AxisType.Auto), SPECS["rows"])
    step = jax.jit(lambda graph, x: sevo_jax.smooth(graph, x))
    x = jax.device_put(arrays()[0], sharding)
    graphs = [chain(), chain().add_edges([4], [6])]
    for exchange in ("halo", "all_gather"):
        for g in graphs:
            split = g.shard(sharding, exchange=exchange, capacity=200)
            np.testing.assert_allclose(step(split, x), sevo_jax.smooth(g, x), atol=1e-6)
    assert step._cache_size() == 2


def test_nodes_that_the_mesh_does_not_divide():
    sharding = NamedSharding(mesh(AxisType.Auto), SPECS["rows over all devices"])
    with pytest.raises(ValueError, match=r"4 parts, .* the graph's 81 nodes; .*num_nodes=84"):
        chain().add_edges([], [], num_nodes=NODES + 1).shard(sharding)


def test_a_table_split_by_features_needs_the_whole_graph():
    sharding = NamedSharding(mesh(AxisType.Auto), SPECS["features"])
    split = graph().shard(sharding, capacity=700)
    assert split.capacity == 700
    assert split.operator.data.sharding.is_fully_replicated
    got, _, program = train(
        lambda: sevo_jax.sevo_adamw(1e-2, split), lambda a: jax.device_put(a, sharding)
    )
    assert collectives_of(program).keys() <= {"all-reduce"}
    np.testing.assert_array_equal(got.shape, (NODES, DIM))


@every_kernel
@pytest.mark.parametrize("where", ["features", "rows", "both"])
def test_every_kernel_its_gradient_and_vmap(kernel, where):
    placed = NamedSharding(mesh(AxisType.Auto), SPECS[where])
    g, (x, weights) = graph(kernel), arrays()

    def value(x):
        return (sevo_jax.smooth(g, x, 0.5, 2) * weights).sum()

    expected = jax.grad(value)(jnp.asarray(x))
    got = jax.jit(jax.grad(value))(jax.device_put(x, placed))
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-5)
    several = jax.device_put(
        np.stack([x, weights]), NamedSharding(placed.mesh, P(None, *placed.spec))
    )
    mapped = jax.jit(jax.vmap(lambda x: sevo_jax.spmm(g, x)))(several)
    np.testing.assert_allclose(mapped, [g.to_scipy() @ a for a in (x, weights)], atol=1e-5)


@every_kernel
def test_rows_that_do_not_divide(kernel):
    nodes = NODES + 1
    g = graph(kernel).add_edges([0], [nodes - 1], num_nodes=nodes)
    x = np.random.default_rng(2).standard_normal((nodes, DIM), np.float32)
    rows = NamedSharding(mesh(AxisType.Auto), SPECS["rows over all devices"])

    def split(x):
        return sevo_jax.smooth(g, jax.lax.with_sharding_constraint(x, rows), 0.5, 2)

    np.testing.assert_allclose(jax.jit(split)(x), sevo_jax.smooth(g, x, 0.5, 2), atol=1e-5)


def test_inside_shard_map():
    """The product multiplies each part if the user has split the features."""
    g, (x, _) = graph(), arrays()
    split = P(None, ("data", "model"))
    part = jax.shard_map(
        lambda x: sevo_jax.spmm(g, x),
        mesh=mesh(AxisType.Auto),
        in_specs=split,
        out_specs=split,
        check_vma=False,  # JAX's own kernel does not say that its result varies
    )
    np.testing.assert_allclose(jax.jit(part)(x), g.to_scipy() @ x, atol=1e-5)


def context(mesh, is_set: bool):
    return jax.set_mesh(mesh) if is_set else contextlib.nullcontext()


def check(got, expected, sharding=None):
    """Explicit shardings are checked; of the others, XLA may choose what it likes."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-5)
    if sharding is not None and AxisType.Auto not in sharding.mesh.axis_types:
        assert got.sharding.is_equivalent_to(sharding, got.ndim), (got.sharding, sharding)


@pytest.mark.parametrize("is_set", [True, False])
@pytest.mark.parametrize("where", ["features", "rows", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_ways_to_smooth_on_a_mesh_of(kind, where, is_set):
    sharding = NamedSharding(mesh(*KINDS[kind]), SPECS[where])
    g, x = graph(), arrays()[0]
    expected = sevo_jax.smooth(g, x, num_layers=2)

    def closed_over(x):
        return sevo_jax.smooth(g, x, num_layers=2)

    def argument(graph, x):
        return sevo_jax.smooth(graph, x, num_layers=2)

    with context(sharding.mesh, is_set):
        placed = jax.device_put(x, sharding)
        everywhere = jax.device_put(g, NamedSharding(sharding.mesh, P()))
        check(jax.jit(closed_over)(placed), expected, sharding)
        check(jax.jit(argument)(g, placed), expected, sharding)
        check(jax.jit(argument)(everywhere, placed), expected, sharding)
        check(jax.jit(argument)(g.shard(sharding), placed), expected, sharding)
        check(closed_over(placed), expected, sharding)
        check(jax.jit(closed_over)(x), expected)
        check(closed_over(jnp.asarray(x)), expected)


@pytest.mark.parametrize("is_set", [True, False])
@pytest.mark.parametrize("where", ["features", "rows", "both", "rows over all devices"])
@pytest.mark.parametrize("split", [False, True])
def test_gradients_on_an_explicit_mesh(split, where, is_set):
    sharding = NamedSharding(mesh(AxisType.Explicit), SPECS[where])
    g, (x, weights) = chain(), arrays()

    def value(data, x, weights, beta, graph):
        operator = graph.operator
        operator = BCSR((data, operator.indices, operator.indptr), shape=operator.shape)
        graph = dataclasses.replace(graph, operator=operator)
        return (sevo_jax.smooth(graph, x, beta, 1) * weights).sum()

    gradients = jax.grad(value, (0, 1, 3))
    expected = gradients(g.operator.data, x, weights, 0.5, g)
    with context(sharding.mesh, is_set):
        used = g.shard(sharding) if split else g
        placed = jax.device_put((x, weights), sharding)
        got = jax.jit(gradients)(used.operator.data, *placed, 0.5, used)
        stored = np.asarray(got[0])
        if used.exchange is not None:
            counts = np.asarray(used.operator.indptr)[:, -1]
            stored = np.concatenate([a[:n] for a, n in zip(stored, counts, strict=True)])
        check(stored, expected[0])
        check(got[1], expected[1], sharding)
        check(got[2], expected[2])
        if is_set:  # without, JAX itself has no gradients outside jit
            check(gradients(used.operator.data, *placed, 0.5, used)[1], expected[1], sharding)


@pytest.mark.parametrize("is_set", [True, False])
@pytest.mark.parametrize("batch", [None, "data"])
@pytest.mark.parametrize("where", ["features", "rows", "whole"])
def test_vmap_on_an_explicit_mesh(where, batch, is_set):
    sharding = NamedSharding(mesh(AxisType.Explicit), P(batch, *SPECS[where]))
    g, several = graph(), np.stack(arrays())

    def value(x):
        return (sevo_jax.smooth(g, x, 0.5, 1) ** 2).sum()

    with context(sharding.mesh, is_set):
        placed = jax.device_put(several, sharding)
        check(
            jax.jit(jax.vmap(lambda x: sevo_jax.spmm(g, x)))(placed),
            jax.vmap(lambda x: sevo_jax.spmm(g, x))(several),
            sharding,
        )
        check(
            jax.jit(jax.vmap(jax.grad(value)))(placed), jax.vmap(jax.grad(value))(several), sharding
        )


@pytest.mark.parametrize(
    "spec",
    [
        P("data", "model", None),
        P(None, None, ("data", "model")),
        P("data", None, "model"),
        P("model"),
    ],
)
def test_other_numbers_of_axes_on_an_explicit_mesh(spec):
    """Trailing axes however they are split, and none."""
    x = arrays()[0].reshape(NODES, 4, 4)[(...,) + (0,) * (2 - 2 * (len(spec) == 3))]
    sharding = NamedSharding(mesh(AxisType.Explicit), spec)

    def smoothed(x):
        return sevo_jax.smooth(graph(), x, 0.5, 2)

    placed = jax.device_put(x, sharding)
    check(jax.jit(smoothed)(placed), smoothed(x), sharding)
    check(smoothed(placed), smoothed(x), sharding)


def test_training_on_an_explicit_mesh_that_is_set():
    sharding = NamedSharding(mesh(AxisType.Explicit), SPECS["both"])

    def make():
        return sevo_jax.sevo_adamw(1e-2, graph(), beta=0.5, method="exact", weight_decay=0.1)

    expected, _, _ = train(make, jnp.asarray)
    with jax.set_mesh(sharding.mesh):
        got, _, _ = train(make, lambda a: jax.device_put(a, sharding))
    check(got, expected, sharding)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("where", ["rows", "features"])
def test_steps_that_wait_lie_as_the_table_does(where, axis_type):
    """They travel in the branch of the k-th step alone, here the third of three."""
    sharding = NamedSharding(mesh(axis_type), SPECS[where])

    def make(graph):
        return sevo_jax.sevo_sgd(1e-2, graph, momentum=0.5, every=3, pending_dtype="float32")

    whole = chain() if where == "rows" else graph()
    split = whole.shard(sharding) if where == "rows" else whole
    expected, _, _ = train(lambda: make(whole), jnp.asarray)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Dd]onated")
        got, state, program = train(lambda: make(split), lambda a: jax.device_put(a, sharding))
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-6)
    steps = optax.tree.get(state, "pending").steps["table"]
    for leaf in (got, steps):
        assert leaf.sharding.is_equivalent_to(sharding, 2), leaf.sharding
    np.testing.assert_array_equal(steps, 0)
    assert set(collectives_of(program)) == ({"collective-permute"} if where == "rows" else set())
    assert not collectives_of(reached_at_every_step(program))
