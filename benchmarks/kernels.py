"""``python -m benchmarks.kernels``: the product ``Ã X`` beside the alternatives of a user.

The alternatives are SciPy, PyTorch (if it is installed), JAX's own formats, and a dense product if
it fits. The graphs have the six sizes of Table 1, and tables have 64 features. Beauty's graph is
the real one if the data is at hand. Beside the times stand the errors against float64, the bytes
that must move, and the bandwidth of a copy from memory. Small tables stay in the caches and may be
faster than that bandwidth allows.

On a GPU, JAX's formats are cuSPARSE. A call then multiplies several times in a row, in one program
or, for PyTorch, in one CUDA graph, so that launches by the host do not count. Our own kernels that
are not the default, and on CPUs other orders of the nodes, stand under ``others``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from scipy.sparse.csgraph import reverse_cuthill_mckee

import sevo_jax
from benchmarks import report, workload
from benchmarks.graphs import graph
from experiments.data import TABLE_1, load
from experiments.errors import UserError
from experiments.training.graphs import item_graph
from experiments.training.timing import in_turn

DIM = 64
IN_A_ROW = 20  # products of a call, on a GPU
DENSE_UP_TO = 13_000
LARGE = 10**6


def graphs(quick: bool) -> Iterator[tuple[str, sevo_jax.Graph]]:
    """Yields a graph for each row of Table 1."""
    for name in ["ml-1m"] if quick else TABLE_1:
        if name == "beauty":
            try:
                yield name, item_graph(load("beauty"), max_len=50)
                continue
            except UserError:
                print("Beauty is not at hand: a graph of its size stands in")
        yield name, graph(TABLE_1[name])


def to_numpy(array: Any) -> np.ndarray:
    """Copies a JAX, NumPy or PyTorch array to the host."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def on_gpu() -> bool:
    """Tells whether JAX works on a GPU."""
    return jax.default_backend() == "gpu"


def repeated(product: Callable[[Any, Any], Any], count: int) -> Callable[[Any, Any], Any]:
    """Compiles a program that multiplies ``count`` times by the same operator."""

    def run(operator: Any, x: Any) -> Any:
        for _ in range(count):
            x = product(operator, x)
        return x

    return jax.jit(run)


def torch_products(matrix: Any, x: np.ndarray, count: int) -> dict[str, Callable[[], Any]]:
    """Makes PyTorch's CSR and COO products, on JAX's kind of device; none without PyTorch."""
    csr = workload.torch_csr(matrix)
    if csr is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]

    coo, table = csr.to_sparse_coo().coalesce(), torch.from_numpy(x).to(csr.device)

    def call(operator: Any) -> Callable[[], Any]:
        def run() -> Any:
            y = table
            for _ in range(count):
                y = operator @ y
            return y

        if not on_gpu():
            return run
        run()  # allocates memory, which is not allowed while a CUDA graph is captured
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()

        def replay() -> Any:
            graph.replay()
            workload.torch_wait()
            return result

        return replay

    return {"torch CSR": call(csr), "torch COO": call(coo)}


def multiply(operator: Any, x: Any) -> Any:
    """Returns ``operator @ x``."""
    return operator @ x


def products(g: sevo_jax.Graph, x: np.ndarray, count: int) -> dict[str, Callable[[], Any]]:
    """Makes the products to compare: ours first, then the peers."""
    matrix, table = g.to_scipy(), jnp.asarray(x)
    bcoo = BCOO.from_scipy_sparse(matrix)
    ours, peer = repeated(sevo_jax.spmm, count), repeated(multiply, count)
    found: dict[str, Callable[[], Any]] = {
        "sevo_jax.spmm": lambda: ours(g, table),
        "BCSR": lambda: peer(g.operator, table),
        "BCOO": lambda: peer(bcoo, table),
    }
    if not on_gpu():
        found["SciPy CSR"] = lambda: matrix @ x
    found |= torch_products(matrix, x, count)
    if g.num_nodes <= DENSE_UP_TO:
        dense = jnp.asarray(matrix.toarray())
        found["dense"] = lambda: peer(dense, table)
    return found


def others(g: sevo_jax.Graph, x: np.ndarray, count: int) -> dict[str, Callable[[], Any]]:
    """Makes products that are not our default; nodes are put in another order beforehand."""
    ours, table, matrix = repeated(sevo_jax.spmm, count), jnp.asarray(x), g.to_scipy()
    gather, narrow = g.with_kernel("gather"), g.with_kernel(None, precision="bfloat16")

    def in_order(nodes: np.ndarray) -> Callable[[], Any]:
        permuted = sevo_jax.Graph.from_operator(matrix[nodes][:, nodes].tocsr(), check=False)
        return lambda: ours(permuted, table)

    found: dict[str, Callable[[], Any]] = {
        "sevo_jax.spmm": lambda: ours(g, table),
        "gather": lambda: ours(gather, table),
        "bfloat16": lambda: ours(narrow, table),
    }
    if not on_gpu():
        found |= {
            "by degree": in_order(np.argsort(-np.diff(matrix.indptr), kind="stable")),
            "reverse Cuthill-McKee": in_order(reverse_cuthill_mckee(matrix, symmetric_mode=True)),
        }
    return found


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures milliseconds a product."""
    jax.config.update("jax_bcoo_cusparse_lowering", True)  # has no effect on CPUs
    count = IN_A_ROW if on_gpu() else 1
    copied = jnp.ones(2**20 if quick else 2**26)  # 256 MB
    # Ten copies in one program, so that memory for the result is not new every time.
    copy = jax.jit(lambda a: jax.lax.fori_loop(0, 10, lambda _, b: b + 1, a))
    copying = in_turn({"copy": lambda: copy(copied)}, rounds=7)["copy"]
    bandwidth = 10 * 2 * copied.nbytes / float(np.median(copying))

    for name, g in graphs(quick):
        x = np.random.default_rng(0).standard_normal((g.num_nodes, DIM), np.float32)
        large = g.capacity > LARGE
        rounds = 3 if quick else 11 if large else 101
        seconds = in_turn(products(g, x, count), rounds)
        size = f"{name}: {g.num_nodes} nodes, {g.capacity} entries"
        case = report.case(size, seconds, "ms", 1e3 / count)
        more = in_turn(others(g, x, count), 3 if quick else 7 if large else 21)
        case["others"] = {k: round(1e3 * float(np.median(v)) / count, 4) for k, v in more.items()}
        exact = g.to_scipy().astype(np.float64) @ x.astype(np.float64)
        least = 8 * g.capacity + 4 * g.num_nodes + 2 * x.nbytes
        scale = float(np.abs(exact).max())
        case["errors"] = {
            name: float(np.abs(to_numpy(call()) - exact).max()) / scale
            for name, call in (products(g, x, 1) | others(g, x, 1)).items()
            if "degree" not in name and "Cuthill" not in name  # these permute the rows
        }
        case["entries"], case["bytes"] = g.capacity, least
        case["bandwidth"] = bandwidth
        case["memory_limit_ms"] = round(1e3 * least / bandwidth, 4)
        case["times_memory_limit"] = round(case["ours"] / case["memory_limit_ms"], 2)
        yield case


if __name__ == "__main__":
    report.command("kernels", measure)
