"""The optimiser against plain NumPy: Algorithm 1, Eq. 7 and Eq. 8, idle rows included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sevo_jax

N, D = 12, 3


def random_graph(seed: int = 0) -> sevo_jax.Graph:
    rng = np.random.default_rng(seed)
    return sevo_jax.edge_graph(rng.integers(N - 1, size=20), rng.integers(N - 1, size=20), N)


def gradients(steps: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    active = rng.random((steps, N, 1)) < 0.4
    return (rng.standard_normal((steps, N, D)) * active).astype(np.float32)


def algorithm_1(table, steps, operator, lr, beta, layers, b1, b2, decay):
    m, v = np.zeros_like(table), np.zeros_like(table)
    for t, g in enumerate(steps, 1):
        idle = ~(g != 0).any(axis=1, keepdims=True)
        before = max(1, t - 1)
        m = b1 * m + (1 - b1) * np.where(idle, m / (1 - b1**before), g)
        v = b2 * v + (1 - b2) * np.where(idle, v / (1 - b2**before), g**2)
        x = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
        total, power = np.zeros_like(x), x
        for layer in range(layers + 1):
            total += beta**layer * power
            power = operator @ power
        step = (1 - beta) / (1 - beta ** (layers + 1)) * total
        table = table - lr * step - lr * decay * table
    return table


@pytest.mark.parametrize(("beta", "layers"), [(0.99, 3), (0.5, 1), (0.9, 0)])
def test_sevo_adamw_is_algorithm_1(beta: float, layers: int) -> None:
    graph, steps = random_graph(), gradients(40)
    tx = sevo_jax.sevo_adamw(0.01, graph, beta=beta, num_layers=layers, b2=0.98, weight_decay=0.1)
    start = np.random.default_rng(2).standard_normal((N, D))
    params = {"table": jnp.asarray(start, jnp.float32), "bias": jnp.ones(2)}

    @jax.jit
    def run(params, steps):
        def step(carry, g):
            params, state = carry
            updates, state = tx.update({"table": g, "bias": jnp.ones(2)}, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), steps)[0][0]

    ours = run(params, steps)["table"]
    operator = graph.to_scipy().astype(np.float64)
    want = algorithm_1(
        start, steps.astype(np.float64), operator, 0.01, beta, layers, 0.9, 0.98, 0.1
    )
    np.testing.assert_allclose(ours, want, atol=2e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_correction_it_is_optax(nesterov: bool) -> None:
    ours = sevo_jax.scale_by_adam(0.8, 0.9, nesterov=nesterov, moment_correction=False)
    theirs = optax.scale_by_adam(0.8, 0.9, nesterov=nesterov)
    a, b = ours.init(jnp.zeros((N, D))), theirs.init(jnp.zeros((N, D)))
    for g in gradients(10):
        x, a = ours.update(jnp.asarray(g), a)
        y, b = theirs.update(jnp.asarray(g), b)
        np.testing.assert_array_equal(x, y)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"num_layers": 0}])
def test_without_smoothing_it_is_adamw(settings: dict) -> None:
    ours = sevo_jax.sevo_adamw(1e-2, random_graph(), weight_decay=0.1, **settings)
    theirs = optax.adamw(1e-2, weight_decay=0.1)
    table = jnp.ones((N, D))
    a, b = ours.init(table), theirs.init(table)
    for g in gradients(5) + 0.1:
        x, a = ours.update(jnp.asarray(g), a, table)
        y, b = theirs.update(jnp.asarray(g), b, table)
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_idle_rows_keep_their_step() -> None:
    tx = sevo_jax.scale_by_adam(moment_correction=True)
    g = jnp.ones((2, D)).at[1].set(2.0)
    state = tx.init(g)
    first, state = tx.update(g, state)
    for _ in range(30):
        later, state = tx.update(g.at[1].set(0.0), state)
    np.testing.assert_allclose(later[1], first[1], rtol=1e-5)


@pytest.mark.parametrize("method", ["neumann", "neumann_unscaled"])
def test_smooth_is_eq_7(method: str) -> None:
    graph = random_graph()
    x = np.random.default_rng(3).standard_normal((N, 2, 2))
    dense = graph.to_scipy().toarray().astype(np.float64)
    powers = sum(0.7**k * np.linalg.matrix_power(dense, k) for k in range(4))
    scale = 0.3 if method == "neumann_unscaled" else 0.3 / (1 - 0.7**4)
    want = scale * np.einsum("ij,jab->iab", powers, x)
    ours = sevo_jax.smooth(graph, jnp.asarray(x, jnp.float32), 0.7, 3, method)
    np.testing.assert_allclose(ours, want, atol=1e-5)


def test_the_graph_is_state_and_replaced_without_compiling() -> None:
    graph = random_graph()
    tx = sevo_jax.sevo_adamw(0.1, graph)
    params = jnp.ones((N, D))
    state, compiled = tx.init(params), 0

    @jax.jit
    def step(g, state):
        nonlocal compiled
        compiled += 1
        return tx.update(g, state, params)

    first, _ = step(params.at[0].set(5.0), state)
    half = sevo_jax.Graph.from_operator(graph.to_scipy() * 0.5)
    half = sevo_jax.Graph(graph.weights, half.operator, N)
    other, _ = step(params.at[0].set(5.0), optax.tree.set(state, graph=half))
    assert compiled == 1
    assert not np.allclose(first, other)


def test_donating_the_state_spares_the_graph() -> None:
    graph = random_graph()
    tx = sevo_jax.sevo_adamw(0.1, graph)
    params = jnp.ones((N, D))
    step = jax.jit(lambda s: tx.update(params, s, params)[1], donate_argnums=0)
    step(step(tx.init(params)))
    assert np.isfinite(graph.to_scipy().toarray()).all()
