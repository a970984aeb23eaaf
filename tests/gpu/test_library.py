"""Products, gradients and updates on a GPU, beside dense linear algebra in float64 on the host."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sevo_jax
from sevo_jax import _spmm, diagnostics
from tests.gpu.conftest import REHEARSAL
from tests.sevo_jax.test_memory import planned

NODES, DIM = (150, 5) if REHEARSAL else (3_000, 64)
BETA, LAYERS = 0.9, 3
RELATIVE = 1e-5  # float32 rounds to 6e-8, TF32 to 5e-4


def graph(kernel: str | None = None) -> sevo_jax.Graph:
    """A hub that is joined to all but the last node, which is isolated, and random edges."""
    rng = np.random.default_rng(0)
    hub = np.arange(1, NODES - 1)
    ends = np.concatenate([[0 * hub, hub], rng.integers(1, NODES - 1, (2, 5 * NODES))], axis=1)
    return sevo_jax.edge_graph(*ends, NODES).with_kernel(kernel)


def table(seed: int = 1, idle: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.random((NODES, 1)) >= idle
    return np.where(rows, rng.standard_normal((NODES, DIM)), 0).astype(np.float32)


def dense(g: sevo_jax.Graph) -> np.ndarray:
    return g.to_scipy().toarray().astype(np.float64)


def psi(g: sevo_jax.Graph, x: np.ndarray, layers: int = LAYERS) -> np.ndarray:
    """Eq. 7 in float64."""
    term = total = x.astype(np.float64)
    matrix = dense(g)
    for _ in range(layers):
        term = BETA * matrix @ term
        total = total + term
    return total / sum(BETA**power for power in range(layers + 1))


def check(got, want: np.ndarray, terms: np.ndarray | None = None) -> None:
    """Errors are relative to the sizes of the terms of each sum, or of the largest result."""
    size = np.abs(want).max() if terms is None else terms
    assert np.asarray(got).dtype == np.float32
    assert (np.abs(np.asarray(got, np.float64) - want) <= RELATIVE * size + 1e-30).all()


def in_tf32(x: np.ndarray) -> np.ndarray:
    """Cuts ten of 23 bits behind the point: at least as exact as TF32's rounding."""
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def test_products_to_five_digits_and_always_the_same(kernel):
    g, x = graph(kernel), table()
    multiply = jax.jit(sevo_jax.spmm)
    got = multiply(g, jnp.asarray(x))
    matrix = dense(g)
    terms = np.abs(matrix) @ np.abs(x.astype(np.float64))
    check(got, matrix @ x.astype(np.float64), terms)
    with pytest.raises(AssertionError):  # the check sees TF32
        check((matrix @ in_tf32(x)).astype(np.float32), matrix @ x.astype(np.float64), terms)
    if kernel != "bcsr":  # it scatters on GPUs, in any order
        np.testing.assert_array_equal(got, multiply(g, jnp.asarray(x)))


def test_large_blocks():
    """A graph of more than 2^20 entries, whose blocks are larger, with hubs."""
    nodes, edges = (60, 300) if REHEARSAL else (40_000, 800_000)
    rng = np.random.default_rng(0)
    ends = (nodes * rng.random((2, edges)) ** 3).astype(int)
    g = sevo_jax.edge_graph(*ends, nodes).with_kernel("pallas" if REHEARSAL else None)
    x = rng.standard_normal((nodes, 33), np.float32)
    matrix = g.to_scipy().astype(np.float64)
    got = jax.jit(sevo_jax.spmm)(g, jnp.asarray(x))
    check(got, matrix @ x.astype(np.float64), abs(matrix) @ np.abs(x.astype(np.float64)))


def test_a_layer_and_a_smoothing(kernel):
    g, x = graph(kernel), table()
    layer = jax.jit(lambda g, x: sevo_jax.smooth(g, x, BETA, 1, "neumann_unscaled"))
    wide = x.astype(np.float64)
    check(layer(g, jnp.asarray(x)), (1 - BETA) * (wide + BETA * dense(g) @ wide))
    smooth = jax.jit(lambda g, x: sevo_jax.smooth(g, x, BETA, LAYERS))
    check(smooth(g, jnp.asarray(x)), psi(g, x))


def test_gradients(kernel):
    """In the table, and in a batch of tables under ``vmap``."""
    g, x, weights = graph(kernel), table(), table(2)

    def value(x, weights):
        return (sevo_jax.smooth(g, x, BETA, LAYERS) * weights).sum()

    check(jax.jit(jax.grad(value))(x, weights), psi(g, weights))
    stacked = jax.jit(jax.vmap(jax.grad(value)))(np.stack([x, x]), np.stack([weights, x]))
    check(stacked[0], psi(g, weights))
    check(stacked[1], psi(g, x))


def test_exact_smoothing(kernel):
    g, x = graph(kernel), table()
    got = jax.jit(lambda g, x: sevo_jax.smooth(g, x, BETA, method="exact", tol=1e-7))(g, x)
    want = (1 - BETA) * np.linalg.solve(np.eye(NODES) - BETA * dense(g), x.astype(np.float64))
    check(got, want)


def test_bfloat16_gathers():
    g, x = graph("pallas" if REHEARSAL else None), table()
    narrow = g.with_kernel(g.kernel, precision="bfloat16")
    rounded = np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    check(jax.jit(sevo_jax.spmm)(narrow, jnp.asarray(x)), dense(g) @ rounded)


def test_the_default_kernel_is_triton(device):
    program = jax.jit(sevo_jax.spmm).lower(graph(), jnp.asarray(table())).as_text()
    assert ("xla.gpu.triton" in program) == _spmm._has_triton()
    assert device.platform == "cpu" or "scatter" not in program.partition("@main")[0]


def adamw(g: sevo_jax.Graph, start: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Algorithm 1 in float64; idle rows keep their corrected moments."""
    m = v = np.zeros((NODES, DIM))
    e = start.astype(np.float64)
    for t, g_t in enumerate(gradients, 1):
        idle = ~g_t.any(axis=1, keepdims=True)
        before, wide = max(1, t - 1), g_t.astype(np.float64)
        rest_m, rest_v = ((1 - b**t) / (1 - b**before) for b in (0.9, 0.999))
        m = np.where(idle, rest_m * m, 0.9 * m + 0.1 * wide)
        v = np.where(idle, rest_v * v, 0.999 * v + 0.001 * wide**2)
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        e = e - 1e-2 * psi(g, step) - 1e-2 * 0.1 * e
    return e


def sgd(g: sevo_jax.Graph, start: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Algorithm 3 with momentum, in float64."""
    m, e = np.zeros((NODES, DIM)), start.astype(np.float64)
    for g_t in gradients:
        m = 0.9 * m + g_t
        e = e - 1e-2 * psi(g, m)
    return e


MAKERS = {
    "adamw": (lambda g, **o: sevo_jax.sevo_adamw(1e-2, g, weight_decay=0.1, **o), adamw),
    "sgd": (lambda g, **o: sevo_jax.sevo_sgd(1e-2, g, momentum=0.9, **o), sgd),
}


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("name", MAKERS)
def test_donated_updates(name, every):
    """Ten steps end where the algorithm does, whether each is smoothed or their sum."""
    make, algorithm = MAKERS[name]
    g, start = graph("pallas" if REHEARSAL else None), table()
    gradients = [table(seed, idle=0.5) for seed in range(2, 12)]
    tx = make(g, every=every, beta=BETA, num_layers=LAYERS)
    params = jnp.asarray(start)
    state = tx.init(params)

    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Dd]onated")
        for gradient in gradients:
            given = jax.tree.leaves((params, state))
            params, state = step(params, state, jnp.asarray(gradient))
            assert all(leaf.is_deleted() for leaf in given if leaf.ndim)
    check(params, algorithm(g, start, gradients))
    want = g.to_scipy()
    kept = next(iter(optax.tree.get_all_with_path(state, "graph")))[1]
    np.testing.assert_array_equal(np.asarray(kept.operator.data)[: want.nnz], want.data)


@pytest.mark.parametrize("every", [1, 10])
def test_seeds_together(every):
    """Ten steps of two seeds under ``vmap`` are those of each seed alone."""
    g = graph("pallas" if REHEARSAL else None)
    tx = MAKERS["adamw"][0](g, every=every, beta=BETA, num_layers=LAYERS)
    starts, gradients = (
        [table(1), table(2)],
        [[table(s, 0.5) for s in (3 + i, 20 + i)] for i in range(10)],
    )
    axes = sevo_jax.seed_axes(tx, jnp.asarray(starts[0]))
    params = jnp.stack(starts)
    state = jax.vmap(tx.init, out_axes=axes)(params)

    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    together = jax.jit(jax.vmap(step, in_axes=(0, axes, 0), out_axes=(0, axes)))
    for pair in gradients:
        params, state = together(params, state, jnp.stack(pair))
    for seed, start in enumerate(starts):
        check(params[seed], adamw(g, start, [pair[seed] for pair in gradients]))


@pytest.mark.parametrize("every", [1, 10])
def test_predicted_memory(every):
    g = graph("pallas" if not REHEARSAL else "bcsr")
    _, peak = planned(g, DIM, "adamw", every=every)
    predicted = diagnostics.memory(NODES, DIM, g.capacity, every=every, kernel=g.kernel)
    assert predicted.total == pytest.approx(peak, rel=0.1, abs=300)
