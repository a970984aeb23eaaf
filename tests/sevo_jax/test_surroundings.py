"""The library in programs that debug, run in several threads, or are saved for elsewhere."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sevo_jax
from sevo_jax._spmm import cpu
from tests.sevo_jax.graphs import NODES, random_graph

needs_compiler = pytest.mark.skipif(
    cpu.missing() is not None, reason=f"no kernel for CPUs: {cpu.missing()}"
)


def table(seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((NODES, 4), np.float32))


@pytest.mark.parametrize(
    ("kernel", "method"), [(None, "neumann"), (None, "exact"), ("gather", "neumann")]
)
def test_training_where_nans_are_hunted(kernel, method):
    """Rows without neighbours and without gradients divide nothing by zero."""
    graph = random_graph(0).add_edges([], [], num_nodes=NODES + 1).with_kernel(kernel)
    params = {"table": jnp.ones((NODES + 1, 2)), "bias": jnp.zeros(2)}
    gradients = {"table": jnp.zeros((NODES + 1, 2)).at[1].set(1.0), "bias": jnp.zeros(2)}
    tx = sevo_jax.sevo_adamw(1e-2, graph, tables="table", beta=0.5, method=method)
    with jax.debug_nans(True):
        state = tx.init(params)
        for step in (tx.update, jax.jit(tx.update)):
            updates, state = step(gradients, state, params)
            params = optax.apply_updates(params, updates)
        with pytest.raises(FloatingPointError):
            sevo_jax.spmm(graph, params["table"].at[0].set(jnp.nan))
    assert np.isfinite(params["table"]).all()


@pytest.mark.parametrize("kernel", [None, "gather"])
def test_threads_do_not_disturb_each_other(kernel):
    """They trace, compile and run at once, each for a graph of its own."""
    graphs = [random_graph(seed).with_kernel(kernel) for seed in range(3)]
    expected = [sevo_jax.smooth(g, table(i), 0.5) for i, g in enumerate(graphs)]
    start = threading.Barrier(len(graphs))

    def work(number: int) -> list[jax.Array]:
        graph, x = graphs[number], table(number)
        tx = sevo_jax.sevo_smooth(graph, beta=0.5)
        state = tx.init(x)
        start.wait(60)
        compiled = jax.jit(lambda graph, x: sevo_jax.smooth(graph, x, 0.5))
        found = [sevo_jax.smooth(graph, x, 0.5), tx.update(x, state)[0]]
        return found + [compiled(graph, x) for _ in range(10)]

    with ThreadPoolExecutor(len(graphs)) as pool:
        for results, want in zip(pool.map(work, range(len(graphs))), expected, strict=True):
            for got in results:
                np.testing.assert_allclose(got, want, atol=1e-6)


def export(graph: sevo_jax.Graph, *permissions: str, platforms: list[str] | None = None):
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in permissions]
    smoothed = jax.jit(lambda graph, x: sevo_jax.smooth(graph, x, 0.5))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (graph, table()))
    # A graph is no type that JAX knows how to save: its arrays are the program's arguments.
    leaves, structure = jax.tree.flatten(shapes)
    program = jax.jit(lambda *leaves: smoothed(*jax.tree.unflatten(structure, leaves)))
    return jax.export.export(program, platforms=platforms, disabled_checks=allowed)(*leaves)


@needs_compiler
def test_a_saved_program_runs_in_another_process(tmp_path):
    """With the permission that the guide names, and what it says to import."""
    pytest.importorskip("flatbuffers", reason="jax.export saves nothing without flatbuffers")
    guide = Path(__file__).parents[2].joinpath("docs/guides.md").read_text()
    assert f'DisabledSafetyCheck.custom_call("{cpu.TARGET}")' in guide
    graph = random_graph(0)
    with pytest.raises(ValueError, match=cpu.TARGET):
        export(graph).serialize()
    tmp_path.joinpath("program").write_bytes(export(graph, cpu.TARGET).serialize())
    np.savez(tmp_path / "arguments", *jax.tree.leaves((graph, table())))
    program = """
import sys, jax.export, numpy as np, sevo_jax
arguments = np.load(sys.argv[1] + "/arguments.npz")
program = jax.export.deserialize(open(sys.argv[1] + "/program", "rb").read())
np.save(sys.argv[1] + "/result", program.call(*arguments.values()))
"""
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=600)
    expected = sevo_jax.smooth(graph, table(), 0.5)
    np.testing.assert_allclose(np.load(tmp_path / "result.npy"), expected, atol=1e-6)


def test_a_program_for_every_platform_needs_no_permission_with_gather():
    pytest.importorskip("flatbuffers", reason="jax.export saves nothing without flatbuffers")
    graph = random_graph(0).with_kernel("gather")
    saved = export(graph, platforms=["cpu", "cuda", "rocm", "tpu"]).serialize()
    got = jax.export.deserialize(saved).call(*jax.tree.leaves((graph, table())))
    np.testing.assert_allclose(got, sevo_jax.smooth(graph, table(), 0.5), atol=1e-6)
