"""Optax's demands on an optimiser, checked for ours."""

from __future__ import annotations

import ast
import re
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.experimental.sparse import BCSR

import sevo_jax
from tests.sevo_jax.graphs import CAPACITY, NODES, random_graph

OPTIMIZERS = {
    "adamw": partial(sevo_jax.sevo_adamw, 1e-2),
    "adam": partial(sevo_jax.sevo_adam, 1e-2, weight_decay=1e-3),
    "sgd": partial(sevo_jax.sevo_sgd, 1e-2),
    "momentum": partial(sevo_jax.sevo_sgd, 1e-2, momentum=0.9, nesterov=True),
    "chain": lambda graph: optax.chain(
        optax.clip_by_global_norm(1.0),
        sevo_jax.scale_by_adam(),
        sevo_jax.sevo_smooth(graph),
        optax.scale_by_learning_rate(1e-2),
    ),
}
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def tree(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    x = np.random.default_rng(0).standard_normal((NODES, 3))
    return {"table": jnp.asarray(x, dtype), "kernel": jnp.ones((3, 2), dtype), "bias": jnp.ones(2)}


def make(name: str, seed: int = 0) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(OPTIMIZERS[name](random_graph(seed)))


@EVERY
def test_extra_arguments_are_accepted(name):
    tx, params = make(name), tree()
    tx.update(params, tx.init(params), params, value=jnp.zeros([]), anything=3)


@EVERY
def test_the_second_call_compiles_nothing(name):
    tx, params = make(name), tree()
    calls = []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        calls.append(1)
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state)
    assert len(calls) == 1


@EVERY
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_preserved(name, dtype):
    tx, params = make(name), tree(dtype)
    state = tx.init(params)
    for _ in range(2):
        updates, after = jax.jit(tx.update)(params, state, params)
        chex.assert_trees_all_equal_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after


@EVERY
def test_abstract_and_jitted_init(name):
    tx, params = make(name), tree()
    state = tx.init(params)
    chex.assert_trees_all_equal(state, jax.jit(tx.init)(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, params))


@EVERY
def test_map_params(name):
    tx, params = make(name), tree()
    state = tx.init(params)
    marked = optax.tree.map_params(
        tx, lambda leaf: leaf + 7, state, transform_non_params=lambda leaf: leaf
    )
    before, after = optax.tree.get_all_with_path(state, "graph"), jax.tree.leaves(marked)
    assert len(after) == len(jax.tree.leaves(state))
    for _, graph in before:
        for leaf in jax.tree.leaves(graph):
            assert any(x is leaf for x in after)
    for moment in ("mu", "nu", "trace"):
        for found in optax.tree.get_all_with_path(marked, moment):
            chex.assert_trees_all_equal(found[1], jax.tree.map(lambda x: 0 * x + 7, params))


@EVERY
def test_multi_steps_and_apply_if_finite(name):
    params = tree()
    one = make(name)
    wrapped = optax.apply_if_finite(optax.MultiSteps(make(name), 2).gradient_transformation(), 3)
    updates, _ = one.update(params, one.init(params), params)
    state = wrapped.init(params)
    step = jax.jit(wrapped.update)
    bad, state = step(jax.tree.map(lambda x: x * jnp.nan, params), state, params)
    zero, state = step(params, state, params)
    full, state = step(params, state, params)
    for nothing in (bad, zero):
        chex.assert_trees_all_equal(nothing, jax.tree.map(jnp.zeros_like, params))
    chex.assert_trees_all_close(full, updates, rtol=1e-5)


@EVERY
def test_checkpoint_round_trip(name, tmp_path):
    tx, params = make(name), tree()
    _, state = tx.update(params, tx.init(params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal(tx.update(params, restored, params)[0],
                                tx.update(params, state, params)[0])  # fmt: skip


def settle(tx: optax.GradientTransformation, params: Any, loss: Any, steps: int) -> Any:
    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, steps)[0][0]

    return train(params)


FAST = {
    "adamw": partial(sevo_jax.sevo_adamw, 1e-2, weight_decay=0.0),
    "adam": partial(sevo_jax.sevo_adam, 1e-2),
    "sgd": partial(sevo_jax.sevo_sgd, 1e-1),
    "momentum": partial(sevo_jax.sevo_sgd, 2e-2, momentum=0.9),
}


@pytest.mark.parametrize("name", FAST)
def test_convergence_on_parabolas(name):
    """A vector, a matrix and a mixed tree; the table's smoothing slows but does not stop it."""
    goal = jnp.asarray(np.random.default_rng(1).standard_normal(NODES), jnp.float32)
    tx = FAST[name](random_graph(0), beta=0.5)
    found = settle(tx, jnp.zeros(NODES), lambda x: ((x - goal) ** 2).sum(), 3000)
    np.testing.assert_allclose(found, goal, atol=1e-2)
    matrix = goal[:, None] * jnp.arange(1.0, 4.0)
    found = settle(tx, jnp.zeros((NODES, 3)), lambda x: ((x - matrix) ** 2).sum(), 3000)
    np.testing.assert_allclose(found, matrix, atol=1e-2)
    goals = {"table": matrix, "nested": {"kernel": jnp.ones((2, 2)), "bias": jnp.array(3.0)}}

    def loss(params: Any) -> jax.Array:
        return optax.tree.sum(jax.tree.map(lambda x, y: ((x - y) ** 2).sum(), params, goals))

    found = settle(tx, jax.tree.map(jnp.zeros_like, goals), loss, 3000)
    chex.assert_trees_all_close(found, goals, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "rate", "steps"), [("adamw", 2e-2, 6000), ("adam", 2e-2, 6000), ("sgd", 1e-3, 40000)]
)
def test_convergence_on_rosenbrock(name, rate, steps):
    optimizer = {
        "adamw": sevo_jax.sevo_adamw, "adam": sevo_jax.sevo_adam, "sgd": sevo_jax.sevo_sgd
    }[name]  # fmt: skip
    extra = {"weight_decay": 0.0}
    tx = optimizer(rate, sevo_jax.edge_graph([0], [1], 2), beta=0.3, **extra)
    found = settle(
        tx, jnp.array([-1.0, 1.0]), lambda p: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2, steps
    )
    np.testing.assert_allclose(found, jnp.ones(2), atol=2e-2)


STATIC = ("graph", "tables", "num_layers", "method", "every")


@pytest.mark.parametrize(
    "optimizer",
    [sevo_jax.sevo_adamw, sevo_jax.sevo_adam, sevo_jax.sevo_sgd],
    ids=lambda o: o.__name__,
)
def test_inject_hyperparams(optimizer):
    graph, params = random_graph(0), tree()
    injected = optax.inject_hyperparams(optimizer, static_args=STATIC)(
        learning_rate=1e-2, graph=graph, tables="table", beta=0.9, weight_decay=0.1
    )
    plain = optimizer(1e-2, graph, tables="table", beta=0.9, weight_decay=0.1)
    step, plain_step = jax.jit(injected.update), jax.jit(plain.update)
    state, plain_state = injected.init(params), plain.init(params)
    for _ in range(3):
        got, state = step(params, state, params)
        want, plain_state = plain_step(params, plain_state, params)
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-8)
    assert {"learning_rate", "beta", "weight_decay"} <= set(state.hyperparams)
    compiled = step._cache_size()
    changed = optax.tree.set(state, learning_rate=jnp.float32(0), beta=jnp.float32(0))
    got, _ = step(params, changed, params)
    chex.assert_trees_all_close(got, jax.tree.map(jnp.zeros_like, params), atol=1e-12)
    assert step._cache_size() == compiled


def test_inject_hyperparams_over_schedules():
    graph, params = random_graph(0), tree()
    injected = optax.inject_hyperparams(sevo_jax.sevo_adamw, static_args=STATIC)(
        learning_rate=optax.linear_schedule(1.0, 0.0, 4), graph=graph, tables="table",
        beta=optax.linear_schedule(0.0, 0.9, 4),
    )  # fmt: skip
    state = injected.init(params)
    for count in range(4):
        _, state = injected.update(params, state, params)
        assert float(state.hyperparams["beta"]) == pytest.approx(0.9 * count / 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"graph": random_graph(0), "num_layers": 2},
        {"graph": random_graph(0).to_scipy().toarray()},
        {"graph": random_graph(0), "tables": np.array(True)},
    ],
    ids=["num_layers", "raw operator", "tables"],
)
def test_traced_static_arguments_say_what_to_write(arguments):
    wrapped = optax.inject_hyperparams(sevo_jax.sevo_adamw)(1e-2, **arguments)
    with pytest.raises(TypeError) as caught:
        jax.jit(lambda x: wrapped.update(x, wrapped.init(x), x))(tree()["table"])
    line = 'optax.inject_hyperparams(sevo_adamw, static_args=("graph", "tables", "num_layers", "m'
    assert line in str(caught.value)


def test_what_the_message_on_static_arguments_says_is_enough():
    """No argument but numbers and schedules is left to `optax.inject_hyperparams`."""
    params = {"table": tree()["table"], "bias": jnp.ones(2)}
    arguments = {
        "learning_rate": 0.1, "graph": random_graph(0), "tables": "table", "weight_decay": 0.5,
        "mask": lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree),
    }  # fmt: skip
    traced = optax.inject_hyperparams(sevo_jax.sevo_adamw)(0.1, random_graph(0), num_layers=2)
    with pytest.raises(TypeError) as caught:
        jax.jit(traced.init)(params)
    told = re.search(r"static_args=(\(.*?\))\)", str(caught.value))
    assert told
    static = ast.literal_eval(told[1])
    plain = sevo_jax.sevo_adamw(**arguments)
    injected = optax.inject_hyperparams(sevo_jax.sevo_adamw, static_args=static)(**arguments)
    want, _ = plain.update(params, plain.init(params), params)
    got, _ = injected.update(params, injected.init(params), params)
    chex.assert_trees_all_close(got, want, rtol=1e-5)


@pytest.mark.parametrize("kind", ["float", "array", "schedule"])
def test_beta_and_rate_as_floats_arrays_and_schedules(kind):
    def as_kind(value: float) -> Any:
        return {"float": value, "array": jnp.array(value), "schedule": lambda count: value}[kind]

    params = tree()
    tx = sevo_jax.sevo_adamw(as_kind(1e-2), random_graph(0), beta=as_kind(0.9))
    plain = sevo_jax.sevo_adamw(1e-2, random_graph(0), beta=0.9)
    got, _ = jax.jit(tx.update)(params, tx.init(params), params)
    want, _ = plain.update(params, plain.init(params), params)
    chex.assert_trees_all_close(got, want, rtol=1e-5)


def test_a_schedule_of_beta_counts_steps():
    x = tree()["table"]
    graph = random_graph(0)
    tx = sevo_jax.sevo_smooth(graph, beta=optax.linear_schedule(0.0, 0.9, 3))
    state = tx.init(x)
    for beta in (0.0, 0.3, 0.6, 0.9, 0.9):
        got, state = tx.update(x, state)
        np.testing.assert_allclose(got, sevo_jax.smooth(graph, x, beta), rtol=1e-5, atol=1e-6)


def test_replacing_the_graph_compiles_nothing():
    params, calls = tree(), []
    tx = sevo_jax.sevo_adamw(0.1, random_graph(0))

    @jax.jit
    def step(grads: Any, state: Any, graph: Any = None) -> Any:
        calls.append(1)
        return tx.update(grads, state, params, graph=graph)

    for_good = sevo_jax.set_graph(tx.init(params), random_graph(1))
    got, state = step(params, tx.init(params))
    replaced, _ = step(params, for_good)
    assert len(calls) == 1
    other = sevo_jax.sevo_adamw(0.1, random_graph(1))
    chex.assert_trees_all_close(replaced, other.update(params, other.init(params), params)[0])
    assert not np.allclose(replaced["table"], got["table"])

    once, after = step(params, tx.init(params), random_graph(1))
    chex.assert_trees_all_close(once, replaced)
    own = optax.tree.get(tx.init(params), "graph")
    chex.assert_trees_all_equal(optax.tree.get(after, "graph"), own)
    step(params, state, random_graph(2))
    assert len(calls) == 2


@EVERY
def test_the_state_holds_the_operator_alone(name):
    """Twice the bytes would be the graph's weights, which no step reads."""
    graph, params = random_graph(0), tree()
    assert graph.weights is not None
    bare = sevo_jax.Graph.from_operator(graph.to_scipy(), capacity=CAPACITY)
    tx = optax.with_extra_args_support(OPTIMIZERS[name](graph))
    state = tx.init(params)
    held = optax.tree.get(state, "graph")
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(held)) == sum(
        leaf.nbytes for leaf in jax.tree.leaves(graph.operator)
    )
    same = OPTIMIZERS[name](bare).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(same)
    for other in (graph, bare):
        once = jax.eval_shape(lambda g: tx.update(params, state, params, graph=g), other)
        assert jax.tree.structure(once[1]) == jax.tree.structure(state)
        replaced = sevo_jax.set_graph(state, other)
        assert jax.tree.structure(replaced) == jax.tree.structure(state)
    with pytest.raises(ValueError, match=r"optimiser state's copy.*keep the graph that a builder"):
        held.add_edges([0], [1])


@EVERY
def test_states_of_graphs_without_edges_can_be_saved(name, tmp_path):
    """Orbax refuses arrays of no elements."""
    params, empty = tree(), sevo_jax.edge_graph([], [], NODES)
    mesh = jax.make_mesh((1,), ("model",))
    split = empty.shard(jax.NamedSharding(mesh, jax.P("model", None)))
    tx = OPTIMIZERS[name](empty)
    for state in (
        tx.init(params),
        sevo_jax.set_graph(make(name).init(params), empty),
        OPTIMIZERS[name](split).init(params),
    ):
        assert all(leaf.size for leaf in jax.tree.leaves(state))
    state = tx.init(params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params))
    chex.assert_trees_all_equal(restored, state)


def test_a_graph_without_edges_scales_every_step():
    empty, x = sevo_jax.edge_graph([], [], NODES), tree()["table"]
    tx = sevo_jax.sevo_smooth(empty, beta=0.5, num_layers=1)
    got, state = tx.update(x, tx.init(x))
    assert state.graph.capacity == 1
    np.testing.assert_allclose(got, x / 1.5, rtol=1e-6)


LEAVING = {
    "at once": (lambda count: 1.0 + 0 * count, 0),
    "up": (optax.linear_schedule(0.5, 1.25, 3000), 2048),
    "down": (optax.linear_schedule(0.9, -0.1, 100_000), 131_072),
    "one step": (lambda count: jnp.where(count == 4, jnp.nan, 0.9), 4),
    "late": (optax.piecewise_constant_schedule(0.6, {4_000_000: 2.0}), 4_194_304),
}


@pytest.mark.parametrize("kind", LEAVING)
def test_schedules_that_leave_the_range_are_refused_by_init(kind):
    schedule, step = LEAVING[kind]
    tx, params = sevo_jax.sevo_adamw(0.1, random_graph(0), beta=schedule), tree()
    for init in (tx.init, jax.jit(tx.init), lambda p: jax.eval_shape(tx.init, p)):
        with pytest.raises(ValueError, match=rf"beta must lie in \[0, 1\).*at step {step} of"):
            init(params)


def test_schedules_that_stay_in_the_range_are_taken():
    params = tree()
    for schedule in (
        optax.cosine_decay_schedule(0.99, 10_000),
        optax.linear_schedule(0.0, 0.999, 100),
        lambda count: 1 - 1 / (count + 2),
        lambda count: 0.5 if count < 10 else 0.9,
    ):
        sevo_jax.sevo_smooth(random_graph(0), beta=schedule).init(params)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("inject", [False, True])
@pytest.mark.parametrize("end", [-5e-8, np.float32(-5e-8), jnp.float32(-5e-8)], ids=type)
def test_what_rounding_leaves_just_below_0_is_0(every, compiled, inject, end):
    """Compiled, `optax.linear_schedule` may end there; so may an array, or a schedule begin."""
    graph, params = random_graph(0), tree()
    make = sevo_jax.sevo_sgd
    if inject:
        make = optax.inject_hyperparams(make, static_args=STATIC)
    for beta in (end, lambda count: end):
        tx = make(0.1, graph, tables="table", beta=beta, every=every)
        state = tx.init(params)
        update = jax.jit(tx.update) if compiled else tx.update
        for _ in range(2):
            sevo_jax.settle(params, state)
            updates, state = update(params, state, params)
            np.testing.assert_allclose(updates["table"], -0.1 * params["table"], rtol=1e-5)
    for method in ("neumann", "exact"):
        smooth = partial(sevo_jax.smooth, method=method)
        got = (jax.jit(smooth) if compiled else smooth)(graph, params["table"], end)
        np.testing.assert_allclose(got, params["table"], rtol=1e-5)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\), got -2e-06"):
        sevo_jax.sevo_sgd(0.1, graph, beta=-2e-6)


@pytest.mark.parametrize("method", ["neumann", "exact"])
def test_a_compiled_step_out_of_range_is_nan_and_no_other_is(method):
    schedule = lambda count: jnp.where(count == 3, 1.5, 0.5)  # noqa: E731
    tx = sevo_jax.sevo_smooth(random_graph(0), beta=schedule, method=method)
    x = {"table": tree()["table"], "bias": jnp.ones(2)}
    state, step = tx.init(x), jax.jit(tx.update)
    for count in range(5):
        updates, state = step(x, state)
        wrong = np.isnan(updates["table"])
        assert wrong.all() if count == 3 else not wrong.any()
        np.testing.assert_array_equal(updates["bias"], x["bias"])


def test_donation_copies_nothing_and_spares_the_callers_graph():
    graph, params = random_graph(0), tree()
    tx = sevo_jax.sevo_adamw(0.1, graph)
    step = jax.jit(lambda params, state: tx.update(params, state, params), donate_argnums=1)
    state = tx.init(params)

    def buffers() -> list[int]:
        held = optax.tree.get(state, "graph")
        return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(held)]

    before = buffers()
    for _ in range(3):
        _, state = step(params, state)
    assert buffers() == before
    assert not set(before) & {x.unsafe_buffer_pointer() for x in jax.tree.leaves(graph)}
    assert np.isfinite(graph.to_scipy().toarray()).all()


def test_two_transformations_on_one_graph_in_one_donated_state():
    graph, x = random_graph(0), tree()["table"]
    tx = optax.chain(sevo_jax.sevo_smooth(graph), sevo_jax.sevo_smooth(graph))
    step = jax.jit(tx.update, donate_argnums=1)
    state = tx.init(x)
    for _ in range(2):
        twice, state = step(x, state)
    want = sevo_jax.smooth(graph, sevo_jax.smooth(graph, x))
    np.testing.assert_allclose(twice, want, rtol=1e-5, atol=1e-6)


def test_partition_between_optimisers():
    graph, params = random_graph(0), tree()
    tx = optax.partition(
        {"sevo": sevo_jax.sevo_sgd(1.0, graph), "plain": optax.sgd(1.0)},
        {"table": "sevo", "kernel": "plain", "bias": "plain"},
    )
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_allclose(
        updates["table"], -sevo_jax.smooth(graph, params["table"]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(updates["kernel"], -params["kernel"])


def large_graph(edges: int) -> sevo_jax.Graph:
    """A graph of 20,000 nodes and about this many stored entries, unchecked."""
    nodes = 20_000
    rows = np.repeat(np.arange(nodes), -(-edges // nodes))
    indices = np.random.default_rng(0).integers(nodes, size=rows.size)
    indptr = np.searchsorted(rows, np.arange(nodes + 1))
    parts = (
        jnp.full(rows.size, 1e-3),
        jnp.asarray(indices, jnp.int32),
        jnp.asarray(indptr, jnp.int32),
    )
    return sevo_jax.Graph(None, BCSR(parts, shape=(nodes, nodes)), nodes)


def program(function: Any, *arguments: Any) -> int:
    """Characters of the program, constants written out."""
    return len(jax.jit(function).lower(*arguments).as_text())


def step_program(edges: int) -> int:
    graph = large_graph(edges)
    tx, params = sevo_jax.sevo_adamw(0.1, graph), jnp.ones((graph.num_nodes, 4))
    return program(tx.update, params, tx.init(params), params)


def test_the_compiled_step_does_not_hold_the_graph():
    assert step_program(10**7) == pytest.approx(step_program(10**4), rel=0.02)


def test_a_program_that_does_hold_the_graph_is_told_apart():
    x = jnp.ones((20_000, 4))
    small, large = (
        program(partial(sevo_jax.smooth, large_graph(edges)), x) for edges in (10**4, 10**5)
    )
    assert large > 2 * small


def test_capacity_of_these_graphs():
    assert random_graph(0).capacity == random_graph(1).capacity == CAPACITY
