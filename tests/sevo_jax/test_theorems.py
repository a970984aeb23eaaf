"""The paper's theorems as properties of the code, in double precision."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sevo_jax
from sevo_jax import diagnostics
from tests.sevo_jax.graphs import CAPACITY, NODES, dense, dense_psi, graphs, random_graph

BETAS = st.floats(0, 0.999)
LAYERS = st.integers(0, 6)
SEEDS = st.integers(0, 2**32 - 1)

smooth = jax.jit(sevo_jax.smooth, static_argnames=("num_layers", "method", "tol"))
smoothness, structure = (
    jax.jit(diagnostics.smoothness),
    jax.jit(diagnostics.structure),
)

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def table(seed: int, *features: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((NODES, *features)))


@given(graphs(), SEEDS, BETAS, LAYERS, st.sampled_from(get_args(sevo_jax.Method)))
@settings(max_examples=150, deadline=None)
def test_definition_1_every_method_is_structure_aware(graph, seed, beta, layers, method):
    update = table(seed, 2)
    smoothed = smooth(graph, update, beta, layers, method, tol=1e-12)
    assert float(structure(graph, update, smoothed)) >= -1e-9


@given(graphs(), SEEDS, BETAS, LAYERS, st.sampled_from(["neumann", "neumann_unscaled", "exact"]))
@settings(max_examples=150, deadline=None)
def test_propositions_2_and_4_series_are_direction_aware(graph, seed, beta, layers, method):
    update = table(seed, 2)
    assert float(diagnostics.direction(update, smooth(graph, update, beta, layers, method))) > 0


@given(graphs(), SEEDS, st.floats(0, 0.499), LAYERS)
@settings(max_examples=100, deadline=None)
def test_proposition_3_iteration_is_direction_aware_below_one_half(graph, seed, beta, layers):
    update = table(seed, 2)
    assert (
        float(diagnostics.direction(update, smooth(graph, update, beta, layers, "iterative"))) > 0
    )


@given(graphs(), SEEDS, BETAS, st.sampled_from([0, 2, 4, 6]))
@settings(max_examples=100, deadline=None)
def test_iteration_of_even_layers_is_always_direction_aware(graph, seed, beta, layers):
    update = table(seed, 2)
    assert (
        float(diagnostics.direction(update, smooth(graph, update, beta, layers, "iterative"))) > 0
    )


@pytest.mark.parametrize("beta", [0.5, 0.6, 0.9, 0.99])
def test_theorem_1_counterexample_on_a_bipartite_graph(beta):
    graph = sevo_jax.bipartite_graph([0, 0, 1], [0, 1, 1], 2, 2)
    values, vectors = np.linalg.eigh(dense(graph))
    assert values[0] == pytest.approx(-1)
    update = jnp.asarray(vectors[:, :1])
    cosine = float(diagnostics.direction(update, smooth(graph, update, beta, 1, "iterative")))
    assert cosine == pytest.approx(1 - 2 * beta)
    assert cosine <= 1e-12


@given(graphs(), BETAS, LAYERS)
@settings(max_examples=100, deadline=None)
def test_lemma_1(graph, beta, layers):
    lower, upper = sevo_jax.diagnostics.spectral_bounds(beta, layers)
    columns = smooth(graph, jnp.eye(NODES), beta, layers, "neumann_unscaled")
    values = np.linalg.eigvalsh(np.asarray(columns))
    assert values.min() >= lower - 1e-12
    if graph.to_scipy().nnz:
        assert values.max() == pytest.approx(upper, rel=1e-6)
    else:
        assert values.max() <= upper + 1e-12
    scaled = sevo_jax.diagnostics.spectral_bounds(beta, layers, "neumann")
    values = np.linalg.eigvalsh(np.asarray(smooth(graph, jnp.eye(NODES), beta, layers)))
    assert scaled[0] - 1e-12 <= values.min()
    assert values.max() <= scaled[1] + 1e-6


@given(
    graphs(), SEEDS, st.floats(0.01, 0.99), st.integers(1, 5),
    st.sampled_from(["neumann", "neumann_unscaled"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_theorem_2_bound_on_quadratics(graph, seed, beta, layers, method):
    """Eq. 30, for f(z) = z'Hz / 2 - b'z of a smoothed block x and a plain block y."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((NODES + 3, NODES + 3))
    hessian = root @ root.T
    lipschitz = np.linalg.eigvalsh(hessian).max()
    b, z = hessian @ rng.standard_normal(NODES + 3), rng.standard_normal(NODES + 3)

    def f(z):
        return z @ hessian @ z / 2 - b @ z

    gap = f(z) - f(np.linalg.solve(hessian, b))
    psi = dense_psi(graph, beta, layers, method)
    np.testing.assert_allclose(smooth(graph, jnp.eye(NODES), beta, layers, method), psi, atol=1e-12)
    gamma = sevo_jax.diagnostics.convergence_factor(beta, layers, method)
    norms = []
    for step in range(60):
        gradient = hessian @ z - b
        norms.append(gradient @ gradient)
        assert min(norms) <= 2 * lipschitz * gap / (gamma * (step + 1)) * (1 + 1e-9)
        z = z - np.concatenate([psi @ gradient[:NODES], gradient[NODES:]]) / lipschitz


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("method", "order"), [("neumann_unscaled", 2), ("neumann", 1)])
def test_theorem_2_slowest_mode_on_a_bipartite_graph(layers, method, order):
    """The mode of eigenvalue -1 shrinks like (1-β)² without rescaling, (1-β) with it."""
    graph = sevo_jax.edge_graph([0, 1, 2], [1, 2, 3], 4)
    slowest = jnp.asarray(np.linalg.eigh(dense(graph))[1][:, :1])

    def speed(beta):
        return float(diagnostics.direction(slowest, smooth(graph, slowest, beta, layers, method)))

    slope = np.log(speed(1 - 1e-4) / speed(1 - 1e-3)) / np.log(0.1)
    assert slope == pytest.approx(order, abs=0.01)


def adam_steps(correction: bool, active: int, idle: int, b1: float, b2: float) -> np.ndarray:
    """Steps of one row at eps = 0: ``active`` gradients and then ``idle`` zeros."""
    tx = sevo_jax.scale_by_adam(b1, b2, 0.0, moment_correction=correction)
    gradients = np.random.default_rng(0).standard_normal((active + idle, 1, 3)) + 2
    gradients[active:] = 0
    update = jax.jit(tx.update)
    state, steps = tx.init(jnp.zeros((1, 3))), []
    for gradient in gradients:
        step, state = update(jnp.asarray(gradient), state)
        steps.append(np.asarray(step[0]))
    return np.array(steps)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.9, 0.98), (0.5, 0.9)])
def test_proposition_1_decay_of_idle_rows(b1, b2):
    t = 5
    steps = adam_steps(False, t, 40, b1, b2)
    for p in range(1, 41):
        kappa = (1 - b1**t) * (1 - b2 ** (t + p)) ** 0.5
        kappa /= (1 - b1 ** (t + p)) * (1 - b2**t) ** 0.5
        want = kappa * b1**p / b2 ** (p / 2) * steps[t - 1]
        np.testing.assert_allclose(steps[t + p - 1], want, rtol=1e-9)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.9, 0.98), (0.5, 0.9)])
@pytest.mark.parametrize("active", [1, 5])
def test_theorem_3_idle_rows_rest(b1, b2, active):
    steps = adam_steps(True, active, 40, b1, b2)
    for step in steps[active:]:
        np.testing.assert_allclose(step, steps[active - 1], rtol=1e-9)


def test_theorem_3_is_eq_8():
    """The code joins Eq. 8's two terms; here they stand apart."""
    b1, b2 = 0.9, 0.98
    tx = sevo_jax.scale_by_adam(b1, b2)
    state = tx.init(jnp.zeros((1, 2)))
    m, v = np.zeros((1, 2)), np.zeros((1, 2))
    for t, g in enumerate([[1.0, -2.0], [0.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]], 1):
        gradient = np.array([g])
        guess_m, guess_v = gradient, gradient**2
        if not gradient.any():
            guess_m, guess_v = m / (1 - b1 ** (t - 1)), v / (1 - b2 ** (t - 1))
        m, v = b1 * m + (1 - b1) * guess_m, b2 * v + (1 - b2) * guess_v
        _, state = tx.update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(state.mu, m, rtol=1e-12)
        np.testing.assert_allclose(state.nu, v, rtol=1e-12)


@pytest.mark.parametrize(("beta", "layers"), [(0.5, 1), (0.9, 3), (0.99, 2)])
def test_a4_lightgcn_is_mf_smoothed_twice(beta, layers):
    """LightGCN by gradient descent on E equals MF on F = psi(E) whose step is smoothed twice."""
    graph, rate = random_graph(1, dtype=np.float64), 0.5
    users, items = jnp.arange(3), jnp.arange(3, NODES)
    labels = jnp.asarray(np.random.default_rng(2).integers(2, size=(3, NODES - 3)))

    def psi(x):
        weights = [(1 - beta) * beta**k / (1 - beta ** (layers + 1)) for k in range(layers + 1)]
        total, power = weights[0] * x, x
        for weight in weights[1:]:
            power = sevo_jax.spmm(graph, power)
            total = total + weight * power
        return total

    def loss(f):
        scores = f[users] @ f[items].T
        return (jax.nn.softplus(scores) - labels * scores).mean()

    smoothing = sevo_jax.sevo_smooth(graph, beta=beta, num_layers=layers)
    mf = optax.chain(smoothing, smoothing, optax.sgd(rate))

    @jax.jit
    def step(e, f, state):
        e = e - rate * jax.grad(lambda e: loss(psi(e)))(e)
        updates, state = mf.update(jax.grad(loss)(f), state)
        return e, optax.apply_updates(f, updates), state

    e = table(3, 4)
    f = psi(e)
    state = mf.init(f)
    for _ in range(100):
        e, f, state = step(e, f, state)
        np.testing.assert_allclose(f, psi(e), atol=1e-10)
    assert np.abs(e - table(3, 4)).max() > 0.1


def test_the_graphs_of_these_tests_share_one_capacity():
    assert random_graph(0).capacity == random_graph(1).capacity == CAPACITY
