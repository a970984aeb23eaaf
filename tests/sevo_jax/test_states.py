"""Graphs that are replaced, seeds under ``vmap``, and tables that grow."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

import sevo_jax
from tests.sevo_jax.graphs import CAPACITY, NODES, random_graph

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


@pytest.mark.parametrize("within", [False, True])
def test_seed_axes_in_multi_steps_are_refused_and_0_works(within):
    """Each seed chooses between two states, so each has a graph."""
    tx = optax.MultiSteps(ALIASES["adamw"](random_graph(0)), 2).gradient_transformation()
    tx = optax.chain(optax.clip(1.0), tx) if within else tx
    with pytest.raises(
        ValueError, match="MultiSteps keeps a graph for each seed: write the axis 0"
    ):
        sevo_jax.seed_axes(tx, tree(0))
    params = stack(tree(0), tree(1))
    state = jax.vmap(tx.init)(params)
    for _ in range(2):
        updates, state = jax.jit(jax.vmap(tx.update))(params, state, params)
    alone = tx.init(tree(1))
    for _ in range(2):
        want, alone = tx.update(tree(1), alone, tree(1))
    got = jax.tree.map(lambda x: x[1], updates)
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-7)
    plain = optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation()
    assert set(jax.tree.leaves(sevo_jax.seed_axes(plain, tree(0)))) == {0}


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


WRAPPERS = {
    "chain": lambda graph: sevo_jax.sevo_adamw(0.1, graph, tables="table"),
    "twice": lambda graph: optax.chain(
        sevo_jax.sevo_smooth(graph, tables="table"), sevo_jax.sevo_smooth(graph, tables="table")
    ),
    "partition": lambda graph: optax.partition(
        {"sevo": sevo_jax.sevo_sgd(0.1, graph), "plain": optax.adam(0.1)},
        {"table": "sevo", "bias": "plain"},
    ),
    "steps": lambda graph: optax.MultiSteps(
        sevo_jax.sevo_sgd(0.1, graph, tables="table"), 2
    ).gradient_transformation(),
    "finite": lambda graph: optax.apply_if_finite(
        sevo_jax.sevo_adam(0.1, graph, tables="table"), 3
    ),
    "inject": lambda graph: optax.inject_hyperparams(
        sevo_jax.sevo_sgd, static_args=("graph", "tables", "num_layers", "method")
    )(0.1, graph, tables="table"),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("kind", ["graph", "operator"])
def test_a_graph_that_is_set_stays_the_callers(name, kind):
    """Donation of the state leaves the caller's arrays alone."""
    graph, params = random_graph(1), tree(0)
    if kind == "operator":
        graph = sevo_jax.Graph.from_operator(graph.to_scipy(), capacity=graph.capacity)
    tx = WRAPPERS[name](random_graph(0))
    before = tx.init(params)
    state = sevo_jax.set_graph(before, graph)
    assert jax.tree.structure(state) == jax.tree.structure(before)
    held = [g for _, g in optax.tree.get_all_with_path(state, "graph")]
    assert len(held) == (2 if name == "twice" else 1)
    arrays = [leaf for g in held for leaf in jax.tree.leaves(g)]
    assert len({leaf.unsafe_buffer_pointer() for leaf in arrays}) == len(arrays)
    for g in held:
        np.testing.assert_array_equal(g.to_scipy().toarray(), graph.to_scipy().toarray())
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    assert graph.to_scipy().nnz > 0
    sevo_jax.set_graph(before, graph)


def test_set_graph_takes_matrices_and_trees_around_a_state():
    graph, params = random_graph(0), tree(0)
    tx = WRAPPERS["chain"](graph)
    outer = {"params": params, "step": 3, "optimizer": tx.init(params)}
    matrix = random_graph(2).to_scipy()
    state = sevo_jax.set_graph(outer, matrix)
    got = optax.tree.get(state["optimizer"], "graph")
    np.testing.assert_array_equal(got.to_scipy().toarray(), matrix.toarray())
    assert state["params"]["table"] is params["table"]
    assert state["step"] == 3
    with pytest.raises(TypeError, match="got NoneType"):
        sevo_jax.set_graph(outer, None)


def test_set_graph_refuses_other_nodes_and_states_without_a_graph():
    params = tree(0)
    state = WRAPPERS["chain"](random_graph(0)).init(params)
    with pytest.raises(ValueError, match=r"as many nodes .*, 7, got 8; sevo_jax\.grow"):
        sevo_jax.set_graph(state, random_graph(0).add_edges([], [], num_nodes=NODES + 1))
    with pytest.raises(ValueError, match="state must hold a graph"):
        sevo_jax.set_graph(optax.adam(0.1).init(params), random_graph(0))
    small = sevo_jax.edge_graph([0], [1], 2)
    both = optax.chain(
        sevo_jax.sevo_smooth(random_graph(0), tables="table"),
        sevo_jax.sevo_smooth(small, tables="bias"),
    ).init(params)
    with pytest.raises(ValueError, match=r"graphs of \[2, 7\] nodes: set that of each part"):
        sevo_jax.set_graph(both, small)
    other = sevo_jax.edge_graph([], [], 2)
    parts = (both[0], sevo_jax.set_graph(both[1], other))
    assert [part.graph.to_scipy().nnz > 0 for part in parts] == [True, False]


def test_set_graph_for_seeds():
    """One graph for all seeds is replaced as one; of stacked graphs ``vmap`` replaces each."""
    params, graph = stack(tree(0), tree(1)), random_graph(1)
    tx = ALIASES["sgd"](random_graph(0))
    axes = sevo_jax.seed_axes(tx, tree(0))
    shared = sevo_jax.set_graph(jax.vmap(tx.init, out_axes=axes)(params), graph)
    stacked = jax.vmap(tx.init)(params)
    with pytest.raises(ValueError, match=r"one graph a seed: .*seed_axes"):
        sevo_jax.set_graph(stacked, graph)
    stacked = jax.vmap(sevo_jax.set_graph, in_axes=(0, None))(stacked, graph)
    for state, shape in ((shared, (CAPACITY,)), (stacked, (2, CAPACITY))):
        values = optax.tree.get(state, "graph").operator.data
        np.testing.assert_array_equal(values, np.broadcast_to(graph.operator.data, shape))


def test_set_graph_names_the_way_of_nnx():
    model = nnx.Embed(NODES, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, sevo_jax.sevo_sgd(0.1, random_graph(0)), wrt=nnx.Param)
    for state, error in ((optimizer.opt_state, TypeError), (nnx.state(optimizer), ValueError)):
        with pytest.raises(error, match=r"optimizer\.update\(model, grads, graph=graph\)"):
            sevo_jax.set_graph(state, random_graph(1))


def test_a_graph_that_is_set_lies_where_the_last_one_did():
    whole = jax.NamedSharding(jax.make_mesh((1,), ("data",)), jax.P())
    state = jax.device_put(ALIASES["adam"](random_graph(0)).init(tree(0)), whole)
    state = sevo_jax.set_graph(state, random_graph(1))
    assert {leaf.sharding for leaf in jax.tree.leaves(state)} == {whole}


def mean_of_params() -> optax.GradientTransformation:
    """Keeps a running mean of the parameters, and moves nothing."""

    def update(updates, state, params):
        return updates, jax.tree.map(lambda m, p: 0.9 * m + 0.1 * p, state, params)

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.copy, params), update)


def smoothed(*first: optax.GradientTransformation):
    """A chain that ends in a smoothing."""
    return lambda graph: optax.chain(
        *first, sevo_jax.sevo_smooth(graph, tables="table"), optax.scale(-0.1)
    )


FROM_ZERO = {
    "adamw": lambda graph: sevo_jax.sevo_adamw(0.1, graph, tables="table"),
    "lion": smoothed(optax.scale_by_lion()),
    "adadelta": smoothed(optax.scale_by_adadelta()),
    "two traces": smoothed(optax.trace(0.9), optax.ema(0.5)),
    "steps": lambda graph: optax.MultiSteps(
        smoothed(optax.scale_by_belief())(graph), 2
    ).gradient_transformation(),
}
FROM_ELSEWHERE = {
    "rmsprop": (smoothed(optax.scale_by_rms(initial_scale=0.3)), "nu/table"),
    "stddev": (smoothed(optax.scale_by_stddev(initial_scale=0.2)), "mu/table"),
    "adagrad": (smoothed(optax.scale_by_rss(0.7)), "sum_of_squares/table"),
    "mean": (smoothed(mean_of_params()), "0/table"),
    "schedule-free": (
        lambda graph: optax.contrib.schedule_free(
            sevo_jax.sevo_sgd(0.1, graph, tables="table"), learning_rate=0.1
        ),
        "z/table",
    ),
}


def used(state):
    """A state whose moments and counts are no longer those of a new one."""

    def moved(leaf):
        return leaf if isinstance(leaf, sevo_jax.Graph) else np.asarray(leaf) + np.ones_like(leaf)

    return jax.tree.map(moved, state, is_leaf=lambda leaf: isinstance(leaf, sevo_jax.Graph))


def check_new_rows(state, grown, fresh, rows=2):
    """Old rows are those of ``state``, and new ones those of ``fresh``."""
    chex.assert_trees_all_equal_shapes_and_dtypes(grown, fresh)
    for before, now, anew in zip(*map(jax.tree.leaves, (state, grown, fresh)), strict=True):
        if before.shape == now.shape:
            continue
        if now.ndim == 1 and now.dtype == jnp.int32:
            continue  # the graph's pointers
        np.testing.assert_array_equal(now[:NODES], before)
        np.testing.assert_array_equal(now[NODES:], anew[NODES : NODES + rows])


@pytest.mark.parametrize("name", [*FROM_ZERO, *FROM_ELSEWHERE])
def test_new_rows_are_those_of_a_state_made_anew(name):
    make = FROM_ZERO[name] if name in FROM_ZERO else FROM_ELSEWHERE[name][0]
    params, initial = tree(0), jnp.array([[1.0], [-2.0]])
    state = used(make(random_graph(0)).init(params))
    graph = random_graph(0).add_edges([0], [NODES], num_nodes=NODES + 2)
    tx = make(graph)
    grown, wide = sevo_jax.grow(state, params, NODES + 2, tables="table", initial=initial, tx=tx)
    fresh = tx.init(wide)
    check_new_rows(state, grown, fresh)
    own = optax.tree.get(grown, "graph")
    np.testing.assert_array_equal(own.to_scipy().toarray(), graph.to_scipy().toarray())
    if name in FROM_ZERO:
        alone, _ = sevo_jax.grow(state, params, NODES + 2, tables="table", initial=initial)
        check_new_rows(state, sevo_jax.set_graph(alone, graph), fresh)


@pytest.mark.parametrize("name", FROM_ELSEWHERE)
def test_rows_that_cannot_be_known_are_refused_by_name(name):
    make, leaf = FROM_ELSEWHERE[name]
    params = tree(0)
    state = make(random_graph(0)).init(params)
    with pytest.raises(ValueError, match=f"{leaf} of shape .* not known: give grow.*tx="):
        sevo_jax.grow(state, params, NODES + 1, tables="table")


def test_slow_and_fast_weights_grow():
    """The state of the fast ones knows the table by another path than the parameters do."""
    params = optax.LookaheadParams.init_synced(tree(0))
    tables = [["fast/table"], ["slow/table"]]

    def make(graph):
        return optax.lookahead(sevo_jax.sevo_adamw(0.1, graph, tables="table"), 2, 0.5)

    state = make(random_graph(0)).init(params)
    with pytest.raises(ValueError, match=r"mu/table .* not known"):
        sevo_jax.grow(state, params, NODES + 2, tables=tables)
    tx = make(random_graph(0).add_edges([], [], num_nodes=NODES + 2))
    grown, wide = sevo_jax.grow(state, params, NODES + 2, tables=tables, tx=tx)
    assert wide.fast["table"].shape == wide.slow["table"].shape == (NODES + 2, 4)
    check_new_rows(state, grown, tx.init(wide))


def test_factored_moments_grow_where_rows_and_columns_differ():
    def make(graph):
        return smoothed(optax.scale_by_factored_rms(min_dim_size_to_factor=1))(graph)

    params = {"table": tree(0)["table"], "bias": jnp.ones(2)}
    tx = make(random_graph(0).add_edges([], [], num_nodes=NODES + 2))
    state = make(random_graph(0)).init(params)
    grown, wide = sevo_jax.grow(state, params, NODES + 2, tables="table", tx=tx)
    check_new_rows(state, grown, tx.init(wide))
    square = {"table": jnp.ones((NODES, NODES)), "bias": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"of shape \(7,\) belongs to the table 'table'.* anew"):
        sevo_jax.grow(make(random_graph(0)).init(square), square, 9, tables="table", tx=tx)


def test_grow_by_another_optimiser_is_refused():
    params = tree(0)
    state = ALIASES["adamw"](random_graph(0)).init(params)
    with pytest.raises(ValueError, match=r"graph of 9 nodes: .* got 9 rows for a graph of 7"):
        sevo_jax.grow(state, params, 9, tables="table", tx=ALIASES["adamw"](random_graph(0)))
    wide = random_graph(0).add_edges([], [], num_nodes=9)
    with pytest.raises(ValueError, match=r"tx must be the optimiser of this state.*nnx\.as_pure"):
        sevo_jax.grow(state, params, 9, tables="table", tx=ALIASES["sgd"](wide))


def test_grow_with_an_optimiser_of_as_many_nodes_sets_its_graph():
    params = tree(0)
    state = ALIASES["adamw"](random_graph(0)).init(params)
    tx = ALIASES["adamw"](random_graph(1))
    grown, same = sevo_jax.grow(state, params, NODES, tables="table", tx=tx)
    chex.assert_trees_all_equal((grown, same), (tx.init(params), params))
