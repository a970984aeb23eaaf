"""The workload of the benchmarks: SASRec's epochs on Beauty, or on the built-in data without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.data import Interactions, load
from experiments.errors import UserError
from experiments.run import Run
from experiments.settings.published import published
from experiments.training import timing
from experiments.training.prepare import make_setup


def cores() -> int:
    """Counts the processors that this process may use."""
    return len(os.sched_getaffinity(0))


def torch_csr(matrix: Any) -> Any:
    """Converts a SciPy CSR matrix to PyTorch, on JAX's kind of device; ``None`` without PyTorch."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    torch.set_num_threads(cores())
    csr = torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(np.int64)),
        torch.from_numpy(matrix.data),
        size=matrix.shape,
    )
    return csr.to("cuda" if jax.default_backend() == "gpu" else "cpu")


def torch_wait() -> None:
    """Waits for PyTorch's GPU, if it uses one."""
    import torch  # pyright: ignore[reportMissingImports]

    if jax.default_backend() == "gpu":
        torch.cuda.synchronize()


def dataset(quick: bool = False) -> Interactions:
    """Loads Beauty; the built-in data set if Beauty cannot be had, or if ``quick`` is set."""
    if quick:
        return load("synthetic")
    try:
        return load("beauty")
    except UserError as error:
        print(f"Beauty is not at hand, so on synthetic data: {error}")
        return load("synthetic")


def epoch_runner(
    data: Interactions, optimizer: str, *, seeds: int = 1, **changes: Any
) -> tuple[Callable[[], jax.Array], int]:
    """Returns a call that trains SASRec's next epoch, and the number of its steps.

    Several seeds are trained in one program.
    """
    settings = published("sasrec", "beauty", optimizer).replace(**changes)
    runs = [Run("sasrec", data.name, optimizer, seed, settings) for seed in range(seeds)]
    return timing.epoch_runner(runs, make_setup(runs[0], data), data)
