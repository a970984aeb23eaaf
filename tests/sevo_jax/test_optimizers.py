"""The optimisers against Algorithms 1 to 3 in NumPy, and Optax where they reduce to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import sevo_jax
from tests.sevo_jax.graphs import NODES, dense_psi, random_graph

D = 3
LR, B1, B2, DECAY = 0.01, 0.9, 0.98, 0.1


def gradients(steps: int, seed: int = 1, active: float = 0.4) -> np.ndarray:
    """``float32[steps, nodes, D]``: a row has a gradient in a share ``active`` of the steps."""
    rng = np.random.default_rng(seed)
    chosen = rng.random((steps, NODES, 1)) < active
    return (rng.standard_normal((steps, NODES, D)) * chosen).astype(np.float32)


def start(seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((NODES, D))


def algorithm_1(table: np.ndarray, steps: np.ndarray, psi: np.ndarray) -> np.ndarray:
    m, v = np.zeros_like(table), np.zeros_like(table)
    for t, g in enumerate(steps, 1):
        for i in range(NODES):
            before = max(1, t - 1)
            if (g[i] != 0).any():
                m[i] = B1 * m[i] + (1 - B1) * g[i]
                v[i] = B2 * v[i] + (1 - B2) * g[i] ** 2
            else:
                m[i] = B1 * m[i] + (1 - B1) / (1 - B1**before) * m[i]
                v[i] = B2 * v[i] + (1 - B2) / (1 - B2**before) * v[i]
        step = (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + 1e-8)
        table = table - LR * psi @ step - LR * DECAY * table
    return table


def algorithm_2(table: np.ndarray, steps: np.ndarray, psi: np.ndarray) -> np.ndarray:
    m, v = np.zeros_like(table), np.zeros_like(table)
    for t, g in enumerate(steps, 1):
        g = g + DECAY * table
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        step = (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + 1e-8)
        table = table - LR * psi @ step
    return table


def algorithm_3(
    table: np.ndarray, steps: np.ndarray, psi: np.ndarray, *, nesterov: bool = False
) -> np.ndarray:
    m = np.zeros_like(table)
    for g in steps:
        g = g + DECAY * table
        m = 0.8 * m + g
        table = table - LR * psi @ (g + 0.8 * m if nesterov else m)
    return table


ADAM = {"b1": B1, "b2": B2, "weight_decay": DECAY}
SGD = {"momentum": 0.8, "weight_decay": DECAY}
ALGORITHMS: list[tuple[Callable, dict, Callable]] = [
    (sevo_jax.sevo_adamw, ADAM, algorithm_1),
    (sevo_jax.sevo_adam, ADAM, algorithm_2),
    (sevo_jax.sevo_sgd, SGD, algorithm_3),
    (
        sevo_jax.sevo_sgd,
        SGD | {"nesterov": True},
        lambda *arguments: algorithm_3(*arguments, nesterov=True),
    ),
]
IDS = ["1", "2", "3", "3, Nesterov"]


def run(tx: optax.GradientTransformation, table: Any, steps: np.ndarray) -> Any:
    """The table after the steps, beside a bias that the optimiser moves too."""
    params = {"table": jnp.asarray(table), "bias": jnp.ones(2)}

    @jax.jit
    def train(params: Any, steps: jax.Array) -> Any:
        def step(carry: Any, g: jax.Array) -> Any:
            params, state = carry
            updates, state = tx.update({"table": g, "bias": jnp.ones(2)}, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), steps)[0][0]

    return train(params, jnp.asarray(steps))


@pytest.mark.parametrize(("optimizer", "settings", "algorithm"), ALGORITHMS, ids=IDS)
@pytest.mark.parametrize(
    ("beta", "layers", "method"),
    [(0.99, 3, "neumann"), (0.5, 1, "neumann_unscaled"), (0.4, 3, "iterative"), (0.9, 0, "exact")],
)
def test_trajectories(optimizer, settings, algorithm, beta, layers, method, x64):
    graph = random_graph(0, dtype=np.float64)
    steps = gradients(40).astype(np.float64)
    tx = optimizer(
        LR,
        graph,
        tables="table",
        beta=beta,
        num_layers=layers,
        method=method,
        tol=1e-13,
        **settings,
    )
    psi = dense_psi(graph, beta, layers, method)
    want = algorithm(start(), steps, psi)
    np.testing.assert_allclose(run(tx, start(), steps)["table"], want, atol=1e-10)


@pytest.mark.parametrize(("optimizer", "settings", "algorithm"), ALGORITHMS, ids=IDS)
def test_trajectories_in_single_precision(optimizer, settings, algorithm):
    graph, steps = random_graph(0), gradients(40)
    got = run(optimizer(LR, graph, **settings), start().astype(np.float32), steps)["table"]
    want = algorithm(start(), steps.astype(np.float64), dense_psi(graph, 0.99, 3, "neumann"))
    np.testing.assert_allclose(got, want, atol=2e-5)


REDUCTIONS = [
    (sevo_jax.sevo_adamw, {"weight_decay": 0.1}, lambda: optax.adamw(LR, weight_decay=0.1)),
    (sevo_jax.sevo_adam, {}, lambda: optax.adam(LR)),
    (
        sevo_jax.sevo_adam,
        {"weight_decay": 0.1},
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.adam(LR)),
    ),
    (sevo_jax.sevo_sgd, {}, lambda: optax.sgd(LR)),
    (sevo_jax.sevo_sgd, {"momentum": 0.9}, lambda: optax.sgd(LR, 0.9)),
    (
        sevo_jax.sevo_sgd,
        {"momentum": 0.9, "nesterov": True},
        lambda: optax.sgd(LR, 0.9, nesterov=True),
    ),
]


@pytest.mark.parametrize(("optimizer", "settings", "theirs"), REDUCTIONS, ids=range(6))
@pytest.mark.parametrize("plain", [{"beta": 0.0}, {"num_layers": 0}], ids=["beta", "L"])
@pytest.mark.parametrize("method", ["neumann", "iterative"])
def test_without_smoothing_they_are_optax(optimizer, settings, theirs, plain, method):
    steps = gradients(10, active=1.0)
    ours = run(optimizer(LR, random_graph(0), method=method, **plain, **settings), start(), steps)
    want = run(theirs(), start(), steps)
    chex.assert_trees_all_close(ours, want, rtol=1e-6)


def test_without_smoothing_the_unscaled_series_still_scales():
    steps = gradients(1, active=1.0)
    tx = sevo_jax.sevo_sgd(LR, random_graph(0), beta=0.75, num_layers=0, method="neumann_unscaled")
    moved = run(tx, start(), steps)["table"] - jnp.asarray(start(), jnp.float32)
    np.testing.assert_allclose(moved, -LR * 0.25 * steps[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "adam", [{}, {"nesterov": True}, {"eps_root": 1e-3}, {"mu_dtype": jnp.bfloat16}], ids=str
)
def test_scale_by_adam_without_correction_is_optax(adam):
    ours = sevo_jax.scale_by_adam(0.8, 0.9, **adam, moment_correction=False)
    theirs = optax.scale_by_adam(0.8, 0.9, **adam)
    a, b = ours.init(jnp.zeros((NODES, D))), theirs.init(jnp.zeros((NODES, D)))
    for g in gradients(10):
        x, a = ours.update(jnp.asarray(g), a)
        y, b = theirs.update(jnp.asarray(g), b)
        np.testing.assert_array_equal(x, y)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("adam", [{}, {"nesterov": True}, {"eps_root": 1e-3}], ids=str)
def test_rows_that_are_never_idle_are_optax(adam):
    ours, theirs = sevo_jax.scale_by_adam(**adam), optax.scale_by_adam(**adam)
    a, b = ours.init(jnp.zeros((NODES, D))), theirs.init(jnp.zeros((NODES, D)))
    for g in gradients(10, active=1.0):
        x, a = ours.update(jnp.asarray(g), a)
        y, b = theirs.update(jnp.asarray(g), b)
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize(
    ("correction", "rests"),
    [
        (True, {"table": True, "cube": True, "bias": False}),
        (False, {"table": False, "cube": False, "bias": False}),
        (
            {"table": True, "cube": False, "bias": True},
            {"table": True, "cube": False, "bias": True},
        ),
        (
            lambda tree: jax.tree.map(lambda leaf: leaf.ndim == 3, tree),
            {"table": False, "cube": True, "bias": False},
        ),
    ],
    ids=["all", "none", "mask", "callable"],
)
def test_moment_correction_takes_a_mask(correction, rests):
    """Idle rows keep their step exactly where the mask says so; a vector's rows are its entries."""
    tx = sevo_jax.scale_by_adam(moment_correction=correction)
    g = {"table": jnp.ones((2, 3)), "cube": jnp.ones((2, 3, 2)), "bias": jnp.ones(2)}
    state = tx.init(g)
    update = jax.jit(tx.update)
    first, state = update(g, state)
    idle = jax.tree.map(lambda leaf: leaf.at[1].set(0), g)
    for _ in range(30):
        later, state = update(idle, state)
    for name, resting in rests.items():
        assert np.allclose(later[name][1], first[name][1], rtol=1e-5) == resting, name


def test_a_row_with_one_zero_entry_is_not_idle():
    tx = sevo_jax.scale_by_adam()
    state = tx.init(jnp.zeros((1, 2)))
    _, state = tx.update(jnp.ones((1, 2)), state)
    _, state = tx.update(jnp.array([[0.0, 1.0]]), state)
    assert float(state.mu[0, 0]) == pytest.approx(0.9 * 0.1)


def test_a_nan_gradient_is_not_idle():
    tx = sevo_jax.scale_by_adam()
    step, _ = tx.update(jnp.full((1, 2), jnp.nan), tx.init(jnp.zeros((1, 2))))
    assert np.isnan(step).all()


def test_correction_survives_a_bfloat16_first_moment():
    tx = sevo_jax.scale_by_adam(mu_dtype=jnp.bfloat16)
    state = tx.init(jnp.zeros((2, 3)))
    g = jnp.ones((2, 3))
    first, state = tx.update(g, state)
    for _ in range(5):
        later, state = tx.update(g.at[1].set(0), state)
    assert state.mu.dtype == jnp.bfloat16
    np.testing.assert_allclose(later[1], first[1], rtol=0.03)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_idle_rows_rest_for_thousands_of_steps(dtype):
    tx = sevo_jax.scale_by_adam()
    g = jnp.ones((2, 3), dtype)
    state = tx.init(g)
    assert state.nu.dtype == jnp.float32
    first, state = tx.update(g, state)

    def idle(state: Any, _: None) -> Any:
        step, state = tx.update(g.at[1].set(0), state)
        return state, step[1]

    _, steps = jax.jit(lambda state: jax.lax.scan(idle, state, None, 5000))(state)
    assert steps.dtype == dtype
    tolerance = 1e-3 if dtype == jnp.float32 else 0.05
    want = np.float32(first[1, 0])
    np.testing.assert_allclose(steps.astype(np.float32), want, rtol=tolerance)


@pytest.mark.parametrize("alias", [sevo_jax.sevo_adam, sevo_jax.sevo_sgd])
def test_without_decay_no_parameters_are_needed(alias):
    tx = alias(LR, random_graph(0))
    table = jnp.asarray(start(), jnp.float32)
    updates, _ = tx.update(table, tx.init(table))
    assert updates.shape == table.shape


OTHERS = {
    "lion": (optax.scale_by_lion(), optax.scale(-LR)),
    "adafactor": (optax.scale_by_factored_rms(), optax.scale(-LR)),
    "muon": (optax.contrib.scale_by_muon(), optax.scale(-LR)),
    "rmsprop": (optax.scale_by_rms(), optax.scale(-LR)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_chain_is_smoothed_too(name):
    before, after = OTHERS[name]
    graph, steps = random_graph(0), gradients(5, active=1.0)
    table = jnp.asarray(start(), jnp.float32)
    tx = optax.chain(before, sevo_jax.sevo_smooth(graph, beta=0.9), after)
    plain = optax.chain(before, after)
    psi = dense_psi(graph, 0.9, 3, "neumann")
    state, plain_state = tx.init(table), plain.init(table)
    for g in steps:
        got, state = jax.jit(tx.update)(jnp.asarray(g), state, table)
        want, plain_state = plain.update(jnp.asarray(g), plain_state, table)
        np.testing.assert_allclose(got, psi @ np.asarray(want), atol=1e-6)


def test_exact_reports_iterations_in_the_state():
    for method in ("exact", "neumann"):
        tx = sevo_jax.sevo_smooth(random_graph(0), method=method)
        state = tx.init(jnp.ones((NODES, D)))
        assert int(state.iterations) == 0
        _, state = tx.update(jnp.asarray(start(), jnp.float32), state)
        assert (int(state.iterations) > 0) == (method == "exact")


def test_joint_tables_are_smoothed_as_one():
    graph = sevo_jax.bipartite_graph([0, 0, 1, 2], [0, 1, 2, 3], 3, NODES - 3)
    x = jnp.asarray(start(), jnp.float32)
    tree = {"users": x[:3], "items": x[3:], "bias": jnp.ones(3)}
    tx = sevo_jax.sevo_smooth(graph, tables=("users", "items"))
    got, _ = tx.update(tree, tx.init(tree))
    want = sevo_jax.smooth(graph, x)
    np.testing.assert_array_equal(got["users"], want[:3])
    np.testing.assert_array_equal(got["items"], want[3:])
    np.testing.assert_array_equal(got["bias"], tree["bias"])


def test_groups_are_smoothed_apart():
    graph, x = random_graph(0), jnp.asarray(start(), jnp.float32)
    tree = {"mean": x, "cov": 2 * x, "other": 3 * x}
    tx = sevo_jax.sevo_smooth(graph, tables=[["mean"], ["cov"]])
    got, _ = tx.update(tree, tx.init(tree))
    np.testing.assert_allclose(got["mean"], sevo_jax.smooth(graph, x), rtol=1e-6)
    np.testing.assert_allclose(got["cov"], sevo_jax.smooth(graph, 2 * x), rtol=1e-6)
    np.testing.assert_array_equal(got["other"], 3 * x)


def test_the_aliases_correct_exactly_the_smoothed_tables():
    graph = random_graph(0)
    tree = {"table": jnp.ones((NODES, D)), "kernel": jnp.ones((NODES, D))}
    tx = sevo_jax.sevo_adamw(1.0, graph, tables="table", beta=0.0, weight_decay=0.0)
    state = tx.init(tree)
    first, state = tx.update(tree, state, tree)
    for _ in range(20):
        later, state = tx.update(jax.tree.map(lambda x: x.at[1].set(0), tree), state, tree)
    np.testing.assert_allclose(later["table"][1], first["table"][1], rtol=1e-5)
    assert float(jnp.abs(later["kernel"][1]).max()) < 0.5
