"""Seeds under ``vmap``, and tables that grow."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sevo_jax
from tests.sevo_jax.graphs import NODES, random_graph

SEEDS = 3
ALIASES = {
    "adamw": lambda graph: sevo_jax.sevo_adamw(1e-2, graph, tables="table"),
    "adam": lambda graph: sevo_jax.sevo_adam(1e-2, graph, tables="table"),
    "sgd": lambda graph: sevo_jax.sevo_sgd(1e-2, graph, tables="table", momentum=0.9),
    "exact": lambda graph: sevo_jax.sevo_sgd(1e-2, graph, tables="table", method="exact"),
}


def tree(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((NODES, 4)) * (rng.random((NODES, 1)) < 0.6)
    return {"table": jnp.asarray(table, jnp.float32), "bias": jnp.ones(2)}


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("shared", [True, False], ids=["one graph", "a graph a seed"])
def test_seeds_under_vmap_equal_separate_runs(alias, shared):
    tx = ALIASES[alias](random_graph(0))
    params = [tree(seed) for seed in range(SEEDS)]
    axes = sevo_jax.seed_axes(tx, params[0]) if shared else 0
    together = stack(*params)
    state = jax.vmap(tx.init, out_axes=axes)(together)
    step = jax.jit(jax.vmap(tx.update, in_axes=(0, axes, 0), out_axes=(0, axes)))
    states = [tx.init(p) for p in params]
    for k in range(4):
        grads = [tree(10 * k + seed) for seed in range(SEEDS)]
        updates, state = step(stack(*grads), state, together)
        for i in range(SEEDS):
            want, states[i] = tx.update(grads[i], states[i], params[i])
            got = jax.tree.map(lambda leaf, i=i: leaf[i], updates)
            chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-7)
    graphs = [g for _, g in optax.tree.get_all_with_path(state, "graph")]
    size = graphs[0].operator.data.size
    assert size == random_graph(0).capacity * (1 if shared else SEEDS)


def test_seed_axes_are_none_for_graphs_only():
    tx = ALIASES["adamw"](random_graph(0))
    axes = sevo_jax.seed_axes(tx, tree(0))
    assert axes[1].graph is None
    assert set(jax.tree.leaves(axes)) == {0}
    assert len(jax.tree.leaves(axes)) == len(jax.tree.leaves(tx.init(tree(0)))) - 3


@pytest.mark.parametrize("alias", ALIASES)
def test_grown_states_go_on_as_before(alias):
    """Old rows move as they would have, new rows start from nothing, and a new graph fits."""
    graph = random_graph(0)
    tx, params = ALIASES[alias](graph), tree(0)
    state = tx.init(params)
    for seed in range(3):
        _, state = tx.update(tree(seed), state, params)
    grown_state, grown = sevo_jax.grow(state, params, NODES + 2, tables="table", initial=0.5)
    np.testing.assert_array_equal(grown["table"][:NODES], params["table"])
    np.testing.assert_array_equal(grown["table"][NODES:], 0.5)
    np.testing.assert_array_equal(grown["bias"], params["bias"])

    same = graph.add_edges([], [], num_nodes=NODES + 2)
    grown_tx = ALIASES[alias](same)
    fresh = grown_tx.init(grown)
    chex.assert_trees_all_equal_shapes_and_dtypes(grown_state, fresh)
    chex.assert_trees_all_equal(
        optax.tree.get(grown_state, "graph"), optax.tree.get(fresh, "graph")
    )

    grads = tree(7)
    wide = {"table": jnp.pad(grads["table"], ((0, 2), (0, 0))), "bias": grads["bias"]}
    want, _ = tx.update(grads, state, params)
    got, _ = grown_tx.update(wide, grown_state, grown)
    np.testing.assert_allclose(got["table"][:NODES], want["table"], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(got["bias"], want["bias"], rtol=1e-6)

    joined = graph.add_edges([0, 1], [NODES, NODES + 1], num_nodes=NODES + 2)
    assert joined.capacity == graph.capacity
    replaced = sevo_jax.set_graph(grown_state, joined)
    moved, _ = grown_tx.update(wide, replaced, grown)
    assert np.abs(moved["table"][NODES:]).max() > 0


def test_grow_inside_other_transformations():
    """Moments are found by path and shape, through partitions, masks and wrappers."""
    graph, params = random_graph(0), tree(0)
    labels = {"table": "sevo", "bias": "plain"}
    wraps = {
        "partition": lambda g: optax.partition(
            {"sevo": sevo_jax.sevo_adamw(0.1, g), "plain": optax.adam(0.1)}, labels
        ),
        "masked": lambda g: optax.masked(
            sevo_jax.sevo_adamw(0.1, g), {"table": True, "bias": False}
        ),
        "steps": lambda g: optax.MultiSteps(
            sevo_jax.sevo_adamw(0.1, g, tables="table"), 2
        ).gradient_transformation(),
    }
    for make in wraps.values():
        state, grown = sevo_jax.grow(make(graph).init(params), params, NODES + 2, tables="table")
        fresh = make(graph.add_edges([], [], num_nodes=NODES + 2))
        chex.assert_trees_all_equal_shapes_and_dtypes(state, fresh.init(grown))
        fresh.update(grown, state, grown)


def test_only_graphs_of_the_tables_size_grow():
    params = {"a": jnp.ones((NODES, 2)), "b": jnp.ones((3, 2))}
    tx = optax.chain(
        sevo_jax.sevo_smooth(random_graph(0), tables="a"),
        sevo_jax.sevo_smooth(sevo_jax.edge_graph([0], [1], 3), tables="b"),
    )
    with pytest.raises(ValueError, match=r"graphs of \[3, 7\] nodes; name the tables"):
        sevo_jax.grow(tx.init(params), params, 9)
    state, grown = sevo_jax.grow(tx.init(params), params, 5, tables="b")
    assert [s.graph.num_nodes for s in state] == [NODES, 5]
    assert grown["b"].shape == (5, 2)
    with pytest.raises(ValueError, match=r"got \[3, 7\] rows and graphs of \[3, 7\]"):
        sevo_jax.grow(tx.init(params), params, 9, tables=[["a"], ["b"]])


def test_factored_moments_are_refused():
    table = jnp.ones((NODES, NODES))
    tx = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=1), sevo_jax.sevo_smooth(random_graph(0))
    )
    with pytest.raises(ValueError, match=r"of shape \(7,\) belongs to the table .* make the state"):
        sevo_jax.grow(tx.init(table), table, 9)


def test_grow_from_the_example_without_tables():
    tx = sevo_jax.sevo_adamw(0.1, random_graph(0))
    table = tree(0)["table"]
    state, grown = sevo_jax.grow(tx.init(table), table, NODES + 1)
    assert grown.shape == (NODES + 1, 4)
    assert state[0].mu.shape == (NODES + 1, 4)


def test_growing_by_nothing_changes_nothing():
    tx, params = ALIASES["adamw"](random_graph(0)), tree(0)
    state = tx.init(params)
    chex.assert_trees_all_equal(
        sevo_jax.grow(state, params, NODES, tables="table"), (state, params)
    )


def test_what_cannot_grow():
    tx, params = ALIASES["adamw"](random_graph(0)), tree(0)
    with pytest.raises(ValueError, match="num_nodes must be at least the present 7, got 3"):
        sevo_jax.grow(tx.init(params), params, 3, tables="table")
    with pytest.raises(TypeError, match="num_nodes must be an integer"):
        sevo_jax.grow(tx.init(params), params, 9.0, tables="table")
    with pytest.raises(ValueError, match="state must hold a graph"):
        sevo_jax.grow(optax.adam(0.1).init(params), params, 9)
    joint = {"users": jnp.ones((3, 2)), "items": jnp.ones((NODES - 3, 2))}
    tx = sevo_jax.sevo_smooth(random_graph(0), tables=("users", "items"))
    with pytest.raises(ValueError, match="a joint table cannot grow"):
        sevo_jax.grow(tx.init(joint), joint, 9, tables=("users", "items"))
