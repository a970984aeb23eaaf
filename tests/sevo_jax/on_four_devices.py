"""Checks of sharded tables, run by `test_sharding` where there are four devices."""

from __future__ import annotations

import re
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import sevo_jax

NODES, DIM, STEPS = 80, 16, 3
COLLECTIVE = re.compile(r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\(")
SPECS = {
    "features": P(None, "model"),
    "rows": P("model", None),
    "both": P("data", "model"),
    "rows over all devices": P(("data", "model"), None),
    "whole": P(None, None),
}


def mesh(axis_type: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(axis_type,) * 2)


def graph(kernel: str | None = None) -> sevo_jax.Graph:
    """One hub, and an isolated node."""
    rng = np.random.default_rng(0)
    hub = np.arange(1, NODES - 1)
    ends = rng.integers(1, NODES - 1, size=(2, 2 * NODES))
    senders, receivers = np.concatenate([[0 * hub, hub], ends], axis=1)
    return sevo_jax.edge_graph(senders, receivers, NODES).with_kernel(kernel)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """A table, and a gradient in which most rows are idle."""
    rng = np.random.default_rng(1)
    touched = rng.random((NODES, 1)) < 0.3
    gradient = np.where(touched, rng.standard_normal((NODES, DIM)), 0)
    return rng.standard_normal((NODES, DIM), np.float32), gradient.astype(np.float32)


def train(make, placed):
    """Some steps with donated buffers; the table, the state and the step's collectives."""
    table, gradient = map(placed, arrays())
    optimizer = make()
    params = {"table": table}
    state = optimizer.init(params)

    def step(params, state, gradient):
        updates, state = optimizer.update({"table": gradient}, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    text = compiled.lower(params, state, gradient).compile().as_text()
    for _ in range(STEPS):
        params, state = compiled(params, state, gradient)
    return params["table"], state, Counter(COLLECTIVE.findall(text))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("where", SPECS)
def test_a_sharded_table_trains_alike(where, axis_type):
    sharding = NamedSharding(mesh(axis_type), SPECS[where])

    def make():
        return sevo_jax.sevo_adamw(1e-2, graph(), weight_decay=0.1)

    expected, _, _ = train(make, jnp.asarray)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Dd]onated")
        got, state, collectives = train(make, lambda a: jax.device_put(a, sharding))
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=1e-6)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (NODES, DIM)]
    assert len(moments) == 2
    for leaf in (got, *moments):
        assert leaf.sharding.is_equivalent_to(sharding, 2), leaf.sharding
    # Of rows, the table is gathered once a layer; of features, a flag a row is all that travels.
    rows = SPECS[where][0] is not None
    assert collectives["all-gather"] == (3 if rows else 0)
    assert collectives["all-reduce"] <= (0 if where in ("rows", "whole") else 1)
    assert collectives.keys() <= {"all-gather", "all-reduce"}


@pytest.mark.parametrize("kernel", ["bcsr", "gather", "pallas"])
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


@pytest.mark.parametrize("kernel", ["bcsr", "gather", "pallas"])
def test_rows_that_do_not_divide(kernel):
    nodes = NODES + 1
    g = graph(kernel).add_edges([0], [nodes - 1], num_nodes=nodes)
    x = np.random.default_rng(2).standard_normal((nodes, DIM), np.float32)
    rows = NamedSharding(mesh(AxisType.Auto), SPECS["rows over all devices"])

    def split(x):
        return sevo_jax.smooth(g, jax.lax.with_sharding_constraint(x, rows), 0.5, 2)

    np.testing.assert_allclose(jax.jit(split)(x), sevo_jax.smooth(g, x, 0.5, 2), atol=1e-5)


def test_inside_shard_map():
    """Where the user has split the features himself, the product is that of each part."""
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
