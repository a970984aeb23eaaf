"""``python -m benchmarks.import_time``: the time of ``import sevo_jax`` after JAX and Optax."""

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


def measure(quick: bool) -> list[report.Case]:
    """Measures the seconds, in a process of its own each time."""
    command, rounds = [sys.executable, "-c", PROGRAM], 1 if quick else 7
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True)
        for _ in range(1 + rounds)
    ]
    seconds = np.array([float(run.stdout) for run in runs[1:]])
    return [report.case("import sevo_jax", {"sevo_jax": seconds}, "s", 1)]


if __name__ == "__main__":
    report.command("import_time", measure)
