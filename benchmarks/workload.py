"""The workload of the benchmarks: SASRec's epochs on Beauty, or on the built-in data without it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import report
from experiments.data import Interactions, load
from experiments.errors import UserError
from experiments.run import Run
from experiments.settings import Settings
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


@dataclasses.dataclass(frozen=True)
class Options(report.Options):
    """Options of a benchmark that takes a data set."""

    dataset: str = report.DATASET
    """A registered data set, which is measured with its published settings."""


def dataset(quick: bool = False, name: str = "beauty") -> Interactions:
    """Loads a data set; the built-in one if ``quick`` is set, or if Beauty cannot be had."""
    if quick:
        return load("synthetic")
    try:
        return load(name)
    except UserError as error:
        if name != "beauty":
            raise
        print(f"Beauty is not at hand, so on synthetic data: {error}")
        return load("synthetic")


def settings_for(data: Interactions, optimizer: str) -> Settings:
    """Returns SASRec's published settings; on the built-in data those of Beauty, as it is small."""
    name = "beauty" if data.name == "synthetic" else data.name
    return published("sasrec", name, optimizer)


def epoch_runner(
    data: Interactions, optimizer: str, *, seeds: int = 1, **changes: Any
) -> tuple[Callable[[], jax.Array], int]:
    """Returns a call that trains SASRec's next epoch, and the number of its steps.

    Several seeds are trained in one program.
    """
    settings = settings_for(data, optimizer).replace(**changes)
    runs = [Run("sasrec", data.name, optimizer, seed, settings) for seed in range(seeds)]
    return timing.epoch_runner(runs, make_setup(runs[0], data), data)
