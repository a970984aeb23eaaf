"""Every kernel behind `spmm` against float64 linear algebra, on shapes where they differ inside."""

from __future__ import annotations

import functools
import types

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sevo_jax
from sevo_jax import _spmm
from sevo_jax._spmm import cpu, triton
from tests.programs import on_a_gpu
from tests.sevo_jax.graphs import NODES, dense, graphs, random_graph

KERNELS = [None, "bcsr", "gather", "pallas"]  # None is the CPU's own, where it was compiled
needs_compiler = pytest.mark.skipif(
    cpu.missing() is not None, reason=f"no kernel for CPUs: {cpu.missing()}"
)


def hub_graph(nodes: int = 700, *, capacity: int | None = None) -> sevo_jax.Graph:
    """Node 0 is joined to all others but the last, which is isolated; the rest are sparse.

    The hub's row fills chunks of chunks of chunks of `gather`.
    """
    rng = np.random.default_rng(0)
    hub = np.arange(1, nodes - 1)
    senders, receivers = rng.integers(1, nodes - 1, size=(2, 2 * nodes))
    return sevo_jax.edge_graph(
        np.concatenate([np.zeros_like(hub), senders]),
        np.concatenate([hub, receivers]),
        nodes,
        capacity=capacity,
    )


def table(nodes: int, *trailing: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((nodes, *trailing), np.float32)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [0, 1, 3, 8, 33, 65])
def test_equals_the_dense_product(kernel, dim):
    graph = hub_graph(300 if kernel == "pallas" else 700).with_kernel(kernel)
    x = table(graph.num_nodes, dim)
    want = graph.to_scipy().astype(np.float64) @ x
    got = jax.jit(sevo_jax.spmm)(graph, x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(got[-1], 0)


@settings(max_examples=30, deadline=None)
@given(graph=graphs(dtype=np.float32), kernel=st.sampled_from([None, "gather", "bcsr"]))
def test_any_graph(graph, kernel):
    x = table(NODES, 2)
    got = sevo_jax.spmm(graph.with_kernel(kernel), jnp.asarray(x))
    np.testing.assert_allclose(got, dense(graph) @ x, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_double_precision(kernel, x64):
    graph = random_graph(0, dtype=np.float64).with_kernel(kernel)
    x = np.random.default_rng(1).standard_normal((NODES, 5))
    np.testing.assert_allclose(sevo_jax.spmm(graph, jnp.asarray(x)), dense(graph) @ x, atol=1e-14)


@pytest.mark.parametrize("kernel", [None, "gather", "pallas"])
def test_gradients_vmap_and_padding(kernel):
    """The rules around the kernels hold for every kernel."""
    graph = random_graph(0).with_kernel(kernel)  # padded to its capacity
    xs, psi = jnp.asarray(table(NODES, 4, 3)), dense(graph)
    got = jax.jit(jax.vmap(sevo_jax.spmm, (None, 2), 2))(graph, xs)
    np.testing.assert_allclose(got, np.tensordot(psi, xs, axes=1), atol=1e-5)

    def squared(x):
        return (sevo_jax.smooth(graph, x, 0.5, 1, "neumann_unscaled") ** 2).sum()

    p = 0.5 * (np.eye(NODES) + 0.5 * psi)
    want = 2 * p @ p @ np.asarray(xs[..., 0])
    np.testing.assert_allclose(jax.grad(squared)(xs[..., 0]), want, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_and_vmap_in_beta(kernel):
    """The factor and the summand of a layer, which some kernels take in one pass."""
    graph, x = random_graph(0).with_kernel(kernel), jnp.asarray(table(NODES, 3))
    psi = dense(graph).astype(np.float64)

    def layered(beta, x):
        return sevo_jax.smooth(graph, x, beta, 2, "neumann_unscaled")

    def want(beta):
        layers = np.eye(NODES) + beta * psi + beta**2 * psi @ psi
        return (1 - beta) * layers @ np.asarray(x, np.float64)

    betas = jnp.array([0.2, 0.9])
    got = jax.jit(jax.vmap(layered, (0, None)))(betas, x)
    np.testing.assert_allclose(got, [want(0.2), want(0.9)], atol=1e-5)
    slope = jax.jacrev(lambda beta: layered(beta, x).sum())(betas[0])
    step = 1e-6
    expected = (want(0.2 + step) - want(0.2 - step)).sum() / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_outside_jit_the_same_shapes_compile_once():
    compiled: list[str] = []
    x, listening = jnp.asarray(table(NODES, 2)), False

    def listen(event: str, _: float, **more: str) -> None:
        if listening and "backend_compile" in event:
            compiled.append(str(more))

    jax.monitoring.register_event_duration_secs_listener(listen)
    sevo_jax.smooth(random_graph(0), x, 0.9, 2)
    graph = random_graph(1)
    listening = True
    sevo_jax.smooth(graph, x, 0.9, 2)
    listening = False
    assert compiled == []
    jax.jit(lambda x: x * 3)(x)  # what would be heard, is heard
    listening = True
    jax.jit(lambda x: x * 5)(x)
    listening = False
    assert compiled


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_infinity_is_no_nan(kernel):
    graph = random_graph(0).with_kernel(kernel)
    for node in range(NODES):
        got = np.asarray(sevo_jax.spmm(graph, jnp.ones((NODES, 2)).at[node, 0].set(jnp.inf)))
        np.testing.assert_array_equal(np.isinf(got[:, 0]), dense(graph)[:, node] != 0)
        assert not np.isnan(got).any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_nan_stays_among_its_neighbours(kernel):
    graph = random_graph(0).with_kernel(kernel)
    for node in range(NODES):
        x = jnp.ones((NODES, 2)).at[node, 0].set(jnp.nan)
        got = np.asarray(sevo_jax.spmm(graph, x))
        np.testing.assert_array_equal(np.isnan(got[:, 0]), dense(graph)[:, node] != 0)
        assert np.isfinite(got[:, 1]).all()


@pytest.mark.parametrize("kernel", [None, "pallas"])
def test_bfloat16_gathers_sum_in_float32(kernel):
    graph, x = hub_graph(300), table(300, 16)
    narrow = graph.with_kernel(kernel, precision="bfloat16")
    got, want = sevo_jax.spmm(narrow, jnp.asarray(x)), graph.to_scipy() @ x
    chex.assert_type(got, jnp.float32)
    rounded = np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    np.testing.assert_allclose(got, graph.to_scipy().astype(np.float64) @ rounded, atol=1e-5)
    assert np.abs(got - want).max() > 1e-4  # or nothing was rounded


@needs_compiler
@pytest.mark.parametrize("dim", [1, 5, 16, 79])
def test_rows_are_dealt_to_threads(dim):
    """Enough work for all of them, and rows that have none of it or more than a thread's share."""
    rng, nodes = np.random.default_rng(0), 30_000
    hub = np.full(20_000, 7)
    senders = np.concatenate([hub, rng.integers(5_000, 9_000, 300_000 // dim + 200_000)])
    receivers = rng.integers(0, 25_000, len(senders))  # the last rows are empty
    graph = sevo_jax.edge_graph(senders, receivers, nodes)
    x = table(nodes, dim)
    got = sevo_jax.spmm(graph, jnp.asarray(x))
    np.testing.assert_allclose(got, graph.to_scipy().astype(np.float64) @ x, atol=1e-5)
    np.testing.assert_array_equal(got, sevo_jax.spmm(graph, jnp.asarray(x)))


@needs_compiler
@pytest.mark.parametrize("widest", [16, 32, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("narrow", [False, True])
def test_vectors_of_every_width(widest, dtype, narrow, x64):
    """CPUs without wider vectors get the same result, whether features fill vectors or not."""
    graph = hub_graph(100)
    m, matrix = graph.operator, graph.to_scipy().astype(np.float64)
    tables = [table(100, dim).astype(dtype) for dim in (1, 3, 4, 7, 16, 19, 33, 50, 64, 65, 130)]

    @jax.jit
    def layers(data, tables):
        multiply = functools.partial(
            cpu.product, data, m.indices, m.indptr, widest=widest, narrow=narrow
        )
        return [(multiply(x), multiply(x, jnp.asarray(0.5, dtype), x + 1)) for x in tables]

    for x, (got, layer) in zip(tables, layers(m.data.astype(dtype), tables), strict=True):
        read = np.asarray(jnp.asarray(x, jnp.bfloat16), dtype) if narrow else x
        want, tolerance = matrix @ read, 1e-5 if dtype == np.float32 else 1e-12
        chex.assert_type([got, layer], dtype)
        np.testing.assert_allclose(got, want, atol=tolerance)
        np.testing.assert_allclose(layer, x + 1 + 0.5 * want, atol=tolerance)


def test_operands_that_do_not_belong_together(monkeypatch, x64):
    monkeypatch.setattr(cpu, "missing", lambda: None)  # nothing is computed here
    data, x = jnp.ones(2), jnp.ones((2, 3))
    indices, indptr = jnp.array([1, 0]), jnp.array([0, 1, 2])
    shape = jax.eval_shape(cpu.product, data, indices, indptr, x, jnp.ones(()), x)
    assert (shape.shape, shape.dtype) == ((2, 3), np.float64)
    narrow = data.astype(np.float32)
    with pytest.raises(TypeError, match="all be float32 or all float64"):
        cpu.product(narrow, indices, indptr, x)
    with pytest.raises(TypeError, match="all be float32 or all float64"):
        cpu.product(narrow.astype(jnp.bfloat16), indices, indptr, x.astype(jnp.bfloat16))
    for bad in ((indices[:1], x, None), (indices, x[0], None), (indices, x, x[:1])):
        scale = None if bad[2] is None else jnp.ones(())
        with pytest.raises(ValueError, match="do not belong together"):
            cpu.product(data, bad[0], indptr, bad[1], scale, bad[2])


@pytest.mark.parametrize("kernel", [None, "bcsr", "gather"])
def test_inside_shard_map(kernel):
    """The user's own, of features, which checks what varies over devices."""
    graph, x = random_graph(0).with_kernel(kernel), jnp.asarray(table(NODES, 4))
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    features = PartitionSpec(None, "model")

    def smoothed(graph, x):
        return sevo_jax.smooth(graph, x, 0.5, 2) + sevo_jax.spmm(graph, x)

    mapped = jax.shard_map(
        smoothed, mesh=mesh, in_specs=(PartitionSpec(), features), out_specs=features
    )
    np.testing.assert_allclose(jax.jit(mapped)(graph, x), smoothed(graph, x), atol=1e-6)


@needs_compiler
def test_entries_that_refer_to_no_row_count_as_zero():
    """A wrong number beats a read beyond the table."""
    data, indptr = jnp.array([2.0, 3.0, 5.0]), jnp.array([0, 2, 3, 9])
    got = cpu.product(data, jnp.array([0, 7, -1]), indptr, jnp.ones((3, 20)))
    np.testing.assert_array_equal(got, np.array([[2.0], [0.0], [0.0]]) * np.ones((1, 20)))


def test_why_there_is_no_kernel(tmp_path, monkeypatch):
    look_again = cpu.missing.__wrapped__
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "cpu.py"))
    monkeypatch.setattr(cpu, "missing", look_again)
    with pytest.raises(RuntimeError, match=r"no kernel for CPUs: .* takes GCC or Clang"):
        cpu.product(jnp.ones(1), jnp.zeros(1, int), jnp.array([0, 1]), jnp.ones((1, 2)))
    (tmp_path / "_cpu_kernel.so").write_bytes(b"of another machine")
    assert "cannot be used" in (look_again() or "")


def test_without_a_kernel_of_our_own_the_product_is_jax(monkeypatch):
    graph, x = random_graph(0), jnp.asarray(table(NODES, 4))
    monkeypatch.setattr(cpu, "missing", lambda: "there was no compiler")
    monkeypatch.setattr(_spmm, "_kernels", _spmm._kernels.__wrapped__)
    monkeypatch.setattr(_spmm, "_batched", _spmm._batched.__wrapped__)
    program = jax.jit(lambda x: sevo_jax.spmm(graph, x)).lower(x)
    assert "cpu_csr_sparse_dense" in program.as_text()
    np.testing.assert_allclose(program.compile()(x), dense(graph) @ x, atol=1e-5)
    narrow = graph.with_kernel(None, precision="bfloat16")
    np.testing.assert_allclose(sevo_jax.spmm(narrow, x), dense(graph) @ x, atol=1e-2)


def test_gather_compiles_anew_only_for_another_capacity():
    multiply = jax.jit(lambda graph, x: sevo_jax.spmm(graph, x))  # a cache of its own
    x = table(NODES, 2)
    for seed in range(3):
        graph = random_graph(seed).with_kernel("gather")
        np.testing.assert_allclose(multiply(graph, x), dense(graph) @ x, atol=1e-5)
    assert multiply._cache_size() == 1


@pytest.mark.parametrize(
    ("platform", "kernel", "text", "there"),
    [
        ("tpu", None, "scatter", False),
        ("rocm", None, "scatter", False),
        ("cpu", "bcsr", "cpu_csr_sparse_dense_ffi", True),
        pytest.param("cpu", None, cpu.TARGET, True, marks=needs_compiler),
        ("cuda", None, "scatter", False),
    ],
)
def test_the_program_of_a_platform(platform, kernel, text, there):
    """The default on accelerators has no scatter, the one on CPUs is ours."""
    graph, x = hub_graph().with_kernel(kernel), table(700, 16)

    def smoothed(graph, x):
        return sevo_jax.smooth(graph, x)

    unchecked = [
        jax.export.DisabledSafetyCheck.custom_call(target)
        for target in ("cpu_csr_sparse_dense_ffi", cpu.TARGET)
    ]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (graph, x))
    exported = jax.export.export(
        jax.jit(smoothed), platforms=[platform], disabled_checks=unchecked
    )(*shapes)
    assert (text in exported.mlir_module()) == there


def test_triton_takes_a_whole_layer():
    """Its program for a GPU has no operation of XLA's behind the row sums."""
    graph, x = hub_graph(), table(700, 16)
    m = graph.operator
    arguments = m.data, m.indices, m.indptr, x, np.float32(0.5), x
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    with on_a_gpu():
        exported = jax.export.export(
            jax.jit(triton.product), platforms=["cuda"], disabled_checks=unchecked
        )(*arguments)
    text = exported.mlir_module()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 2  # of blocks, then of rows
    after = text[text.rindex("custom_call @__gpu$xla.gpu.triton") :].partition("return")[0]
    assert "stablehlo.add" not in after
    assert "stablehlo.multiply" not in after


@pytest.mark.parametrize(
    ("capability", "there"), [("8.0", True), ("9.0", True), ("7.5", False), ("gfx90a", False)]
)
def test_triton_is_for_gpus_that_have_it(monkeypatch, capability, there):
    """XLA has none for those before Ampere, and AMD's name their capability otherwise."""
    assert not _spmm._has_triton()  # on a CPU
    gpu = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda backend: [gpu])
    assert _spmm._has_triton() == there


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_one_device(axis_type):
    graph, x = random_graph(0), table(NODES, 4)
    mesh = jax.make_mesh((1,), ("model",), axis_types=(axis_type,))
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "model")))
    got = jax.jit(sevo_jax.smooth)(graph, placed)
    np.testing.assert_allclose(np.asarray(got), sevo_jax.smooth(graph, x), atol=1e-6)


def test_a_graph_keeps_its_kernel(tmp_path):
    graph = random_graph(0).with_kernel("gather", precision="bfloat16")
    graph.save(tmp_path / "graph.npz")
    kept = [
        sevo_jax.Graph.load(tmp_path / "graph.npz"),
        graph.with_capacity(60),
        graph.add_edges([0], [1], num_nodes=NODES + 1),
        jax.tree.map(jnp.copy, graph),
    ]
    for other in kept:
        assert (other.kernel, other.precision) == ("gather", "bfloat16")
    assert (random_graph(0).kernel, random_graph(0).precision) == (None, None)
    params = {"table": jnp.ones((NODES, 2))}
    state, _ = sevo_jax.grow(sevo_jax.sevo_smooth(graph).init(params), params, NODES + 2)
    assert state.graph.kernel == "gather"


@pytest.mark.parametrize(
    ("kernel", "precision", "words"),
    [
        ("cusparse", None, "kernel must be one of"),
        (None, "float16", "precision must be one of"),
        ("bcsr", "bfloat16", "'bcsr' has no precision 'bfloat16'"),
    ],
)
def test_bad_choices(kernel, precision, words):
    with pytest.raises(ValueError, match=words):
        random_graph(0).with_kernel(kernel, precision=precision)
