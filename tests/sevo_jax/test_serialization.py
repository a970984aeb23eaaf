"""Flax's state dicts, bytes and older checkpoints of states that hold a graph."""

from __future__ import annotations

import subprocess
import sys

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.training import checkpoints
from flax.training.train_state import TrainState

import sevo_jax
from tests.sevo_jax.graphs import CAPACITY, NODES, random_graph


def train_state(graph: sevo_jax.Graph, value: float = 1.0) -> TrainState:
    params = {"table": jnp.full((NODES, 2), value), "bias": jnp.full(3, value)}
    tx = optax.chain(optax.clip(1.0), sevo_jax.sevo_adamw(0.1, graph))
    return TrainState.create(apply_fn=None, params=params, tx=tx)


def test_bytes_of_a_train_state():
    state = train_state(random_graph(0), 0.5)
    again = serialization.from_bytes(train_state(random_graph(1)), serialization.to_bytes(state))
    for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, want)
    assert jax.tree.structure(again.opt_state) == jax.tree.structure(state.opt_state)


def test_state_dicts_of_graphs():
    """Both matrices, in any capacity; the kernel is that of the target."""
    graph = random_graph(0)
    state = serialization.to_state_dict(graph)
    assert set(state) == {"num_nodes", "operator", "weights"}
    assert set(state["operator"]) == {"data", "indices", "indptr"}
    target = random_graph(1).with_capacity(CAPACITY + 3).with_kernel("gather")
    again = serialization.from_state_dict(target, state)
    assert again.kernel == "gather"
    assert again.capacity == CAPACITY
    for normalized in (True, False):
        np.testing.assert_array_equal(
            again.to_scipy(normalized).toarray(), graph.to_scipy(normalized).toarray()
        )


@pytest.mark.parametrize("exchange", ["halo", "all_gather"])
def test_graphs_that_are_split_among_devices(exchange):
    mesh = jax.make_mesh((1,), ("model",))
    sharding = jax.NamedSharding(mesh, jax.P("model", None))
    graph, other = (random_graph(seed).shard(sharding, exchange=exchange) for seed in (0, 1))
    again = serialization.from_bytes(other, serialization.to_bytes(graph))
    assert repr(again) == repr(graph)
    chex.assert_trees_all_equal(again.operator.data, graph.operator.data)


def damage(**change):
    state = serialization.to_state_dict(random_graph(0))
    operator = {**state["operator"], **change}
    return {**state, "operator": operator}


DAMAGED = [
    (damage(indices=np.full(CAPACITY, 80_000_000, np.int32)), "column indices must lie"),
    (damage(indices=np.zeros(CAPACITY)), "column indices must be integers, got float64"),
    (damage(indices=np.zeros(CAPACITY - 1, np.int32)), "one index a value"),
    (damage(indptr=np.arange(NODES + 1)[::-1]), "pointers"),
    (damage(indptr=np.zeros(NODES + 1)), "must be 8 integers, got float64"),
    (damage(indptr=np.zeros(NODES, np.int32)), "pointers must be of shape"),
    ({**damage(), "num_nodes": NODES + 1}, "graph of 8 nodes, and the target one of 7"),
    (
        {"num_nodes": NODES, "operator": damage()["operator"]},
        r"must hold \['num_nodes', 'operator', 'weights'\]",
    ),
]


@pytest.mark.parametrize(("state", "told"), DAMAGED, ids=range(len(DAMAGED)))
def test_state_dicts_of_other_graphs_are_refused(state, told):
    with pytest.raises(ValueError, match=told):
        serialization.from_state_dict(random_graph(0), state)


def test_checkpoints_of_msgpack(tmp_path):
    with flax.config.temp_flip_flag("use_orbax_checkpointing", False):
        state = train_state(random_graph(0), 0.25)
        checkpoints.save_checkpoint(tmp_path, state, 7)
        again = checkpoints.restore_checkpoint(tmp_path, train_state(random_graph(1)))
    for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, want)


LATE = """
import sys
import jax.numpy as jnp, sevo_jax
assert not any(name.split(".")[0] == "flax" for name in sys.modules)
x = jnp.ones((3, 2))
tx = sevo_jax.sevo_sgd(0.1, sevo_jax.edge_graph([0], [1], 3))
state = tx.init(x)
from flax import serialization
again = serialization.from_bytes(tx.init(x), serialization.to_bytes(state))
print(again[2].graph)
"""


def test_flax_may_be_imported_last_and_is_not_imported_by_us():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    assert done.stdout == "Graph(num_nodes=3, capacity=2, dtype=float32)\n", done.stderr
