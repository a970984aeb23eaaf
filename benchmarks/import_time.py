"""``python -m benchmarks.import_time``: what ``import sevo_jax`` adds to JAX and Optax."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from benchmarks import report

PROGRAM = """
import time, jax, optax
start = time.perf_counter()
import sevo_jax
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measures and writes ``results/import_time-DEVICE.json``."""
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(8)]
    seconds = np.array([float(run.stdout) for run in runs[1:]])
    report.write("import_time", [report.case("import sevo_jax", {"sevo_jax": seconds}, "s", 1)])


if __name__ == "__main__":
    main()
