"""Smoothing at every k-th step: the same tables as smoothing at every step, for fewer products."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

import sevo_jax
from sevo_jax import SevoSmoothState
from tests.programs import reached_at_every_step
from tests.sevo_jax.graphs import NODES, random_graph

D, SEEDS = 2, 3
JOINT = ("users", "items")
STATIC = ("graph", "tables", "num_layers", "method", "every")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Programs of this module run a few steps each."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def tree(seed: int = 0, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Two tables, of which the parts of one may be joint, and a bias; most rows are idle."""
    rng = np.random.default_rng(seed)

    def rows(count: int) -> np.ndarray:
        active = rng.random((count, 1)) < 0.4
        return (rng.standard_normal((count, D)) * active).astype(dtype)

    return {
        "table": rows(NODES),
        "users": rows(3),
        "items": rows(NODES - 3),
        "bias": rng.standard_normal(2).astype(dtype),
    }


def smoothings(state: Any) -> list[SevoSmoothState]:
    """The parts of a state that belong to smoothings."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, SevoSmoothState))
    return [leaf for leaf in leaves if isinstance(leaf, SevoSmoothState)]


def sgd(every: int = 3, seed: int = 0, **options: Any) -> Any:
    options = {"tables": "table", "beta": 0.8, "num_layers": 1} | options
    return sevo_jax.sevo_sgd(0.1, random_graph(seed), every=every, **options)


def trained(tx: Any, steps: int, params: Any = None, first: int = 1) -> tuple[Any, Any]:
    """Parameters and state after some steps, which compile once."""
    params = jax.tree.map(jnp.asarray, tree() if params is None else params)
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(steps):
        updates, state = update(tree(first + i), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def close(got: Any, want: Any, tolerance: float = 1e-6) -> None:
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance)


CASES = {
    "schedules, groups": (
        lambda graph, every: sevo_jax.sevo_adamw(
            optax.exponential_decay(0.1, 2, 0.7), graph, tables=[["users", "items"], ["table"]],
            beta=0.8, weight_decay=lambda count: 0.9 - count.astype(float) / 10, every=every,
            mask={"table": False, "users": True, "items": True, "bias": True},
        ),
        3,
    ),
    "joint, exact": (
        lambda graph, every: sevo_jax.sevo_adamw(
            0.1, graph, tables=JOINT, beta=0.5, method="exact", tol=1e-14, weight_decay=0.5,
            mask=lambda tree: {name: name != "table" for name in tree}, every=every,
        ),
        2,
    ),
    "adam": (
        lambda graph, every: sevo_jax.sevo_adam(
            0.1, graph, tables="table", beta=0.9, method="iterative", num_layers=2, every=every
        ),
        4,
    ),
    "sgd": (
        lambda graph, every: sevo_jax.sevo_sgd(
            optax.linear_schedule(0.2, 0.1, 5), graph, momentum=0.8, method="neumann_unscaled",
            tables={"table": True, "users": False, "items": False, "bias": False}, every=every,
        ),
        3,
    ),
}  # fmt: skip


@functools.cache
def trajectory(name: str, every: int) -> Any:
    """A compiled run: parameters after each step, the same settled, and the last state."""
    tx = CASES[name][0](random_graph(0, dtype=np.float64), every)

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, sevo_jax.settle(params, state))

    return tx, jax.jit(lambda params, state, g: jax.lax.scan(step, (params, state), g))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 999))
def test_the_tables_are_those_of_smoothing_at_every_step(name, seed):
    """After each k-th step, and settled after any; gradients are given in advance."""
    every = CASES[name][1]
    with jax.enable_x64(True):
        graph = random_graph(seed, dtype=np.float64)
        gradients = [tree(1 + seed + i, np.float64) for i in range(2 * every)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *gradients)
        params = jax.tree.map(jnp.asarray, tree(seed, np.float64))
        runs = []
        for k in (1, every):
            tx, run = trajectory(name, k)
            runs.append(run(params, sevo_jax.set_graph(tx.init(params), graph), stacked))
    (_, (want, same)), ((_, state), (got, settled)) = runs
    chex.assert_trees_all_equal(same, want)
    close(settled, want, 1e-11)
    close(*[jax.tree.map(lambda leaf: leaf[every - 1 :: every], x) for x in (got, want)], 1e-11)
    (own,) = smoothings(state)
    assert all(not leaf.any() for leaf in jax.tree.leaves(own.pending.steps))


def test_smoothing_at_every_step_is_as_it_was():
    """The default allocates nothing, and its steps are those of the chain without ``every``."""
    graph, params = random_graph(0), tree()
    smooth = sevo_jax.sevo_smooth(graph, tables="table")
    old = optax.chain(
        sevo_jax.scale_by_adam(moment_correction={**dict.fromkeys(params, False), "table": True}),
        smooth,
        optax.add_decayed_weights(0.0),
        optax.scale_by_learning_rate(0.1),
    )
    for extra in ({}, {"every": 1}, {"every": np.int32(1), "pending_dtype": "bfloat16"}):
        tx = sevo_jax.sevo_adamw(0.1, graph, tables="table", weight_decay=0.0, **extra)
        assert jax.tree.structure(tx.init(params)) == jax.tree.structure(old.init(params))
        chex.assert_trees_all_equal(trained(tx, 2), trained(old, 2))
    state = smooth.init(params)
    assert state.pending is None
    updates, _ = smooth.update(params, state)
    np.testing.assert_array_equal(updates["table"], sevo_jax.smooth(graph, params["table"]))


def seeds(tx: Any, axes: Any) -> tuple[Any, Any, Any, Any]:
    """A step for several seeds, their parameters, states and gradients."""
    params, gradients = (
        jax.tree.map(lambda *x: np.stack(x), *[tree(first + i) for i in range(SEEDS)])
        for first in (0, 50)
    )
    state = jax.vmap(tx.init, out_axes=axes)(params)
    step = jax.jit(jax.vmap(tx.update, in_axes=(0, axes, 0), out_axes=(0, axes)))
    return step, params, state, gradients


@pytest.mark.parametrize("way", ["jit", "scan", "seeds", "a graph a seed"])
def test_the_product_runs_in_the_kth_step_alone(way):
    """In the compiled program, it stands in a branch."""
    graph, params = random_graph(0).with_kernel("gather"), tree()

    def program(every: int) -> str:
        tx = sevo_jax.sevo_sgd(0.1, graph, tables="table", num_layers=1, every=every)
        state = tx.init(params)
        if way == "jit":
            step, given = jax.jit(tx.update), (params, state)
        elif way == "scan":
            step = jax.jit(
                lambda p, s: jax.lax.scan(lambda s, _: tx.update(p, s)[::-1], s, None, 9)
            )
            given = (params, state)
        else:
            axes = sevo_jax.seed_axes(tx, params) if way == "seeds" else 0
            step, stacked, state, gradients = seeds(tx, axes)
            given = (gradients, state, stacked)
        return step.lower(*given).compile().as_text()

    always, waiting = program(1), program(7)
    assert " gather(" in reached_at_every_step(always)
    assert " gather(" in waiting
    assert " conditional(" in waiting
    assert " gather(" not in reached_at_every_step(waiting)


@pytest.mark.parametrize("wrap", ["none", "steps", "finite"])
def test_seeds_wait_and_are_smoothed_as_each_on_its_own(wrap):
    """With ``apply_if_finite``, one seed that skips a step is smoothed in another step."""
    tx = sgd(2, momentum=0.9)
    if wrap == "steps":
        tx = optax.MultiSteps(tx, 2).gradient_transformation()
    if wrap == "finite":
        tx = optax.apply_if_finite(tx, 9)
    axes = sevo_jax.seed_axes(tx, tree()) if wrap == "finite" else 0
    step, params, state, gradients = seeds(tx, axes)
    states, update = [tx.init(tree(i)) for i in range(SEEDS)], jax.jit(tx.update)
    for count in range(4):
        if wrap == "finite":
            gradients["bias"][1] = np.nan if count == 1 else 1.0
        updates, state = step(gradients, state, params)
        for i in range(SEEDS):
            own, g = (jax.tree.map(lambda x, i=i: x[i], x) for x in (params, gradients))
            want, states[i] = update(g, states[i], own)
            close(jax.tree.map(lambda x, i=i: x[i], updates), want)


def test_settled_seeds():
    tx = sgd(5)
    axes = sevo_jax.seed_axes(tx, tree())
    step, params, state, gradients = seeds(tx, axes)
    updates, state = step(gradients, state, params)
    params = optax.apply_updates(params, updates)
    got = jax.vmap(sevo_jax.settle, in_axes=(0, axes))(params, state)
    raw = tree(50)["table"]
    want = tree()["table"] - 0.1 * sevo_jax.smooth(random_graph(0), raw, 0.8, 1)
    np.testing.assert_allclose(got["table"][0], want, atol=1e-6)
    with pytest.raises(ValueError, match=r"several seeds: .*jax\.vmap\(sevo_jax\.settle"):
        sevo_jax.settle(params, state)


def test_the_graph_is_no_constant_and_donation_copies_nothing():
    params = jax.tree.map(jnp.asarray, tree())
    sizes = []
    for capacity in (100, 5000):
        graph = random_graph(0).with_capacity(capacity)
        tx = sevo_jax.sevo_sgd(0.1, graph, tables="table", every=2)
        state = tx.init(params)
        step = jax.jit(lambda s, tx=tx: tx.update(params, s), donate_argnums=0)
        sizes.append(len(step.lower(state).as_text()))
    assert sizes[1] - sizes[0] < 1000
    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(smoothings(state)[0].graph)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Dd]onated")
        for _ in range(4):
            last = smoothings(state)[0].pending.steps["table"]
            _, state = step(state)
            assert last.is_deleted()
    after = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(smoothings(state)[0].graph)]
    assert after == before
    assert graph.to_scipy().nnz > 0


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("inject", [False, True])
def test_states_that_are_donated_hold_no_array_twice_or_of_another(every, inject):
    graph, params, beta = random_graph(0), jax.tree.map(jnp.asarray, tree()), jnp.float32(0.8)
    tol = jnp.float32(1e-5)
    make = sevo_jax.sevo_sgd
    if inject:
        make = optax.inject_hyperparams(make, static_args=STATIC)
    tx = make(0.1, graph, tables="table", beta=beta, tol=tol, every=every)

    def step(carry: Any, _: Any) -> Any:
        updates, state = tx.update(carry[0], carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    carry = params, tx.init(params)
    epoch = jax.jit(lambda carry: jax.lax.scan(step, carry, length=3)[0], donate_argnums=0)
    one = jax.jit(lambda carry: step(carry, None)[0], donate_argnums=0)
    for donating in (epoch, one, one, epoch):
        carry = donating(carry)
    if not inject:  # there Optax holds the caller's arrays
        assert not beta.is_deleted()
        assert not tol.is_deleted()
    assert graph.to_scipy().nnz > 0


def test_settled_parameters_outlive_those_that_a_step_donates():
    tx = sgd(3)
    params, state = trained(tx, 1, jax.tree.map(jnp.asarray, tree()))
    settled = sevo_jax.settle(params, state)
    want = jax.tree.map(np.array, settled)
    jax.jit(lambda p, s: tx.update(p, s, p)[0], donate_argnums=(0, 1))(params, state)
    chex.assert_trees_all_equal(settled, want)


@pytest.mark.parametrize("others", [{}, {"key": np.ones((NODES + 1, D), np.float32)}], ids=len)
@pytest.mark.parametrize("tables", ["memory", "memory/value"])
def test_tables_that_are_called_value(tables, others):
    """Flax adds that name to all leaves. Here it is the user's, with siblings or without."""
    params = {"memory": {"value": tree()["table"], **others}, "bias": np.ones(2, np.float32)}
    tx = sgd(2, tables=tables)
    if others and tables == "memory":
        with pytest.raises(ValueError, match="'memory' is a module of several leaves"):
            tx.init(params)
        return
    steps = jax.tree.map(np.ones_like, params)
    steps["memory"]["value"] = tree(1)["table"]
    _, state = tx.update(steps, tx.init(params), params)
    settled = sevo_jax.settle(params, state)
    step = 0.1 * steps["memory"]["value"]
    want = params["memory"]["value"] + step - sevo_jax.smooth(random_graph(0), step, 0.8, 1)
    np.testing.assert_allclose(settled["memory"]["value"], want, atol=1e-6)
    grown, larger = sevo_jax.grow(state, params, NODES + 1, tables=tables)
    assert larger["memory"]["value"].shape == (NODES + 1, D)
    assert smoothings(grown)[0].pending.steps["memory"]["value"].shape == (NODES + 1, D)


def test_other_graphs_for_good_and_for_a_call():
    """The graph of the k-th step smooths the whole sum, and that of `settle` what waits."""
    other, start = random_graph(3), tree()["table"]
    total = sum(tree(i)["table"] for i in (1, 2, 3))
    want = {
        seed: start - 0.1 * np.asarray(sevo_jax.smooth(random_graph(seed), total, 0.8, 1))
        for seed in (0, 3)
    }
    tx = sgd(3)
    params, state = trained(tx, 2)
    for change, options, seed in (
        (lambda s: sevo_jax.set_graph(s, other), {}, 3),
        (lambda s: s, {"graph": other}, 3),
        (lambda s: s, {}, 0),
    ):
        updates, _ = tx.update(tree(3), change(state), params, **options)
        moved = optax.apply_updates(params, updates)["table"]
        np.testing.assert_allclose(moved, want[seed], atol=1e-6)
    waiting = sum(tree(i)["table"] for i in (1, 2))
    by_other = start - 0.1 * np.asarray(sevo_jax.smooth(other, waiting, 0.8, 1))
    got = sevo_jax.settle(params, state, graph=other.to_scipy())
    np.testing.assert_allclose(got["table"], by_other, atol=1e-6)


@pytest.mark.parametrize("scheduled", ["learning_rate", "weight_decay"])
def test_updates_keep_their_dtypes_beside_schedules(scheduled, x64):
    """Those of Optax do, and wrappers that choose between two updates need it."""
    options = {"learning_rate": 0.1, "weight_decay": 0.1} | {
        scheduled: lambda count: 0.1 / (1 + count)
    }
    rate = options.pop("learning_rate")
    graph = sevo_jax.edge_graph([0, 1], [1, 2], 4)
    params = {"t": jnp.ones((4, 2), jnp.float32), "b": jnp.ones(3, jnp.bfloat16)}
    make = functools.partial(sevo_jax.sevo_adamw, rate, graph, tables="t", **options)
    plain, wrapped = make(every=2), optax.apply_if_finite(make(every=2), 3)
    for tx in (plain, wrapped):
        updates, _ = tx.update(params, tx.init(params), params)
        assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)


@pytest.mark.parametrize("given_tx", [False, True])
def test_steps_wait_in_states_that_grow(given_tx):
    tx = sgd(3, momentum=0.9)
    params, state = trained(tx, 2)
    wide = random_graph(0).add_edges([0], [NODES], num_nodes=NODES + 1)
    new = sevo_jax.sevo_sgd(
        0.1, wide, tables="table", beta=0.8, num_layers=1, momentum=0.9, every=3
    )
    grown, wider = sevo_jax.grow(
        state, params, NODES + 1, tables="table", tx=new if given_tx else None
    )
    grown = sevo_jax.set_graph(grown, wide)
    chex.assert_trees_all_equal_shapes_and_dtypes(grown, new.init(wider))
    steps = smoothings(grown)[0].pending.steps["table"]
    held = smoothings(state)[0].pending.steps["table"]
    np.testing.assert_array_equal(steps, np.pad(held, ((0, 1), (0, 0))))
    g = {**tree(3), "table": np.ones((NODES + 1, D), np.float32)}
    updates, _ = new.update(g, grown, wider)
    total = steps - 0.1 * (0.9 * optax.tree.get(grown, "trace")["table"] + g["table"])
    want = sevo_jax.smooth(wide, total, 0.8, 1) - steps
    np.testing.assert_allclose(updates["table"], want, atol=1e-6)


WRAPPERS = {
    "inject": lambda every: optax.inject_hyperparams(sevo_jax.sevo_adamw, static_args=STATIC)(
        0.1, random_graph(0), tables="table", beta=0.8, weight_decay=0.5, every=every
    ),
    "partition": lambda every: optax.partition(
        {"sevo": sevo_jax.sevo_adamw(0.1, random_graph(0), beta=0.8, every=every),
         "plain": optax.sgd(0.1)},
        {"table": "sevo", "users": "plain", "items": "plain", "bias": "plain"},
    ),
    "two": lambda every: optax.chain(
        optax.scale(-0.1),
        sevo_jax.sevo_smooth(random_graph(0), tables="table", beta=0.8, every=every, decay=0.0),
        sevo_jax.sevo_smooth(random_graph(1), tables="table", beta=0.5, every=every, decay=0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_inside_other_transformations(name):
    one, several = WRAPPERS[name](1), WRAPPERS[name](2)
    want, _ = trained(one, 3)
    params, state = trained(several, 3)
    assert np.abs(params["table"] - want["table"]).max() > 1e-4
    close(sevo_jax.settle(params, state), want)
    updates, _ = several.update(tree(4), state, params)
    close(optax.apply_updates(params, updates), trained(one, 4)[0])


def test_gradients_that_multi_steps_adds_up():
    """The k-th step is the k-th of those that move something."""
    tx = optax.MultiSteps(sgd(2), 2).gradient_transformation()
    params, state = trained(tx, 4)
    sums = [sum(tree(i)["table"] for i in pair) / 2 for pair in ((1, 2), (3, 4))]
    want = tree()["table"] - 0.1 * sevo_jax.smooth(random_graph(0), sum(sums), 0.8, 1)
    np.testing.assert_allclose(params["table"], want, atol=1e-6)
    chex.assert_trees_all_equal(sevo_jax.settle(params, state)["bias"], params["bias"])


def test_every_may_be_left_out_of_static_args():
    injected = optax.inject_hyperparams(sevo_jax.sevo_sgd, static_args=STATIC[:-1])(
        0.1, random_graph(0), tables="table"
    )
    state = injected.init(tree())
    assert "every" not in state.hyperparams
    jax.jit(injected.update)(tree(), state, tree())


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.item_embedding = nnx.Embed(NODES, D, rngs=rngs)
        self.dense = nnx.Linear(D, 1, rngs=rngs)


def test_with_nnx():
    """Settled parameters of the model and of the optimiser's state as these are."""
    models = {every: Model(nnx.Rngs(0)) for every in (1, 3)}
    settled = {}
    for every, model in models.items():
        tx = sevo_jax.sevo_adamw(0.1, random_graph(0), tables="item_embedding", every=every)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
        step = nnx.jit(lambda model, optimizer, g: optimizer.update(model, g))
        for _ in range(2):
            step(model, optimizer, gradients)
        params = nnx.state(model, nnx.Param)
        settled[every] = sevo_jax.settle(params, optimizer.opt_state)
        chex.assert_trees_all_equal(nnx.state(model, nnx.Param), params)
    assert isinstance(settled[3], nnx.State)
    close(settled[3], settled[1])
    with pytest.raises(AssertionError):
        close(nnx.state(models[3], nnx.Param), settled[1])
    with pytest.raises(ValueError, match=r"give optimizer\.opt_state"):
        sevo_jax.settle(params, nnx.state(optimizer))


def test_with_equinox():
    model = eqx.nn.Embedding(weight=jnp.asarray(tree()["table"]))
    tx = sgd(4, tables=None)
    params = eqx.filter(model, eqx.is_inexact_array)
    state = tx.init(params)
    g = jax.tree.map(lambda x: jnp.asarray(tree(1)["table"]), params)
    updates, state = eqx.filter_jit(tx.update)(g, state, params)
    settled = sevo_jax.settle(eqx.apply_updates(model, updates), state)
    want = tree()["table"] - 0.1 * sevo_jax.smooth(random_graph(0), g.weight, 0.8, 1)
    np.testing.assert_allclose(settled.weight, want, atol=1e-6)


def test_states_are_saved_and_restored(tmp_path):
    tx = sgd(3, tables=JOINT)
    params, state = trained(tx, 2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        by_orbax = checkpointer.restore(tmp_path / "state", tx.init(params))
    by_flax = serialization.from_bytes(tx.init(params), serialization.to_bytes(state))
    want, _ = tx.update(tree(3), state, params)
    for restored in (by_orbax, by_flax):
        chex.assert_trees_all_equal(restored, state)
        chex.assert_trees_all_equal(tx.update(tree(3), restored, params)[0], want)
    target = sevo_jax.sevo_smooth(random_graph(0), tables=JOINT, every=3, decay=0.0).init(params)
    for other, told in ((2, "made with every=2, not every=3"), (1, "holds no steps that wait")):
        saved = sevo_jax.sevo_smooth(random_graph(0), tables=JOINT, every=other, decay=0.0).init(
            params
        )
        with pytest.raises(ValueError, match=told):
            serialization.from_state_dict(target, serialization.to_state_dict(saved))


def test_optax_finds_the_sums():
    tx, params = sgd(3), tree()
    state = tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, params))
    marked = optax.tree.map_params(tx, lambda leaf: leaf + 7, state)
    steps = optax.tree.get(marked, "pending").steps
    np.testing.assert_array_equal(steps["table"], np.full((NODES, D), 7))
    specs = optax.tree.map_params(
        tx, lambda _, spec: spec, state, dict.fromkeys(params, "spec"),
        transform_non_params=lambda _: None,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )  # fmt: skip
    assert optax.tree.get(specs, "pending").steps["table"] == "spec"
    assert len(jax.tree.leaves(smoothings(state)[0].pending.steps)) == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("options", [{}, {"pending_dtype": "float32"}], ids=str)
def test_tables_in_half_precision_do_not_wait(dtype, options):
    """They lose steps to rounding that their sum keeps, and smoothing would take those off."""
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), tree())
    for alias in (sevo_jax.sevo_adamw, sevo_jax.sevo_adam, sevo_jax.sevo_sgd):
        tx = alias(0.1, random_graph(0), tables="table", every=3, **options)
        with pytest.raises(ValueError, match="every above 1 needs tables of float32"):
            tx.init(params)
        state = tx.init(params | {"table": tree()["table"]})  # other leaves may be
        tx.update(params | {"table": tree()["table"]}, state, params)
    tx = sevo_jax.sevo_adamw(0.1, random_graph(0), tables="table")
    updates, after = tx.update(params, state := tx.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def rounding(every: int, kind: str, dtype: Any = jnp.bfloat16) -> float:
    """The relative error of the table's move against sums in float32."""
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((every, 200, 8)).astype(np.float32)
    if kind == "signed":
        steps = np.abs(steps)
    ends = rng.integers(200, size=(2, 800))
    graph, zeros = sevo_jax.edge_graph(*ends, 200), jnp.zeros((200, 8))
    moves = []
    for pending_dtype in (None, dtype):
        tx = sevo_jax.sevo_smooth(graph, every=every, decay=0.0, pending_dtype=pending_dtype)

        def step(carry: Any, u: jax.Array, tx: Any = tx) -> Any:
            table, state = carry
            updates, state = tx.update(u, state)
            return (table + updates, state), None

        run = jax.jit(lambda carry, steps, step=step: jax.lax.scan(step, carry, steps))
        moves.append(np.asarray(run((zeros, tx.init(zeros)), steps)[0][0]))
    return float(np.linalg.norm(moves[1] - moves[0]) / np.linalg.norm(moves[0]))


@pytest.mark.parametrize(("kind", "bound"), [("signed", 0.01), ("random", 0.04)])
def test_the_rounding_of_sums_in_bfloat16(kind, bound):
    assert 1e-4 < rounding(100, kind) < bound


def test_what_settle_refuses():
    tx = sgd(3)
    params, state = trained(tx, 1)
    for wrong in ({"other": params["table"]}, {"table": params["table"][1:]}):
        with pytest.raises(ValueError, match=r"must hold the table 'table' of shape \(7, 2\)"):
            sevo_jax.settle(wrong, state)
    with pytest.raises(ValueError, match="as many nodes as the state's, 7, got 2"):
        sevo_jax.settle(params, state, graph=sevo_jax.edge_graph([0], [1], 2))
    plain = optax.sgd(0.1).init(params)
    assert sevo_jax.settle(params, plain) is params
    assert sevo_jax.settle(params, sgd(1).init(params)) is params


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 2**31}, ValueError, r"every must be less than 2\^31"),
        ({"every": 2.0}, TypeError, "every must be an integer, got 2.0"),
        ({"every": True}, TypeError, "every must be an integer, got True"),
        ({"every": "3"}, TypeError, "every must be an integer"),
        (
            {"pending_dtype": "int8"},
            TypeError,
            "pending_dtype must be a floating dtype, got 'int8'",
        ),
        ({"pending_dtype": "half-ish"}, TypeError, "pending_dtype must be a floating dtype"),
    ],
)
@pytest.mark.parametrize(
    "alias", [sevo_jax.sevo_adamw, sevo_jax.sevo_adam, sevo_jax.sevo_sgd, None]
)
def test_bad_options(alias, options, error, told):
    with pytest.raises(error, match=told):
        alias(0.1, random_graph(0), **options) if alias else sevo_jax.sevo_smooth(
            random_graph(0), **options
        )


def test_other_mistakes():
    graph, params = random_graph(0), tree()
    for decay, error in ((-0.1, ValueError), (np.ones(2), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error, match="decay must be"):
            sevo_jax.sevo_smooth(graph, every=2, decay=decay)
    with pytest.raises(ValueError, match=r"put sevo_smooth after the learning rate.*decay=0\.0"):
        sevo_jax.sevo_smooth(graph, every=2)
    made = {every: sgd(every).init(params) for every in (1, 2)}
    for every, other in ((1, 2), (2, 1), (3, 2)):
        with pytest.raises(ValueError, match=rf"(not|sevo_smooth with) every={every}"):
            sgd(every).update(params, made[other], params)
    for every, other in ((1, 2), (2, 1), (3, 2)):
        tx, old = (
            sevo_jax.sevo_smooth(graph, every=k, decay=0.0, tables="table") for k in (every, other)
        )
        with pytest.raises(ValueError, match=f"made with every={other}, not every={every}"):
            tx.update(params, old.init(params))
    injected = optax.inject_hyperparams(sevo_jax.sevo_sgd, static_args=STATIC[:-1])(
        0.1, graph, tables="table", every=2
    )
    with pytest.raises(TypeError, match=r'every must be a static .*"method", "every", "mask"\)\)'):
        jax.jit(injected.update)(params, injected.init(params), params)
    halved = {"table": True, "users": True, "items": False, "bias": True}
    tx = sevo_jax.sevo_adamw(0.1, graph, tables=JOINT, mask=halved, every=2)
    with pytest.raises(ValueError, match="all parts of a joint table must decay or none"):
        tx.init(params)
