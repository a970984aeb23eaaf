"""``python -m benchmarks.first_run``: the README's first command, after installation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import report


def measure(quick: bool) -> list[report.Case]:
    """Measures the seconds of the command, once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.train", "--out", f"{folder}/run"]
        start = time.perf_counter()
        subprocess.run(command + (["--epochs", "1"] if quick else []), check=True)
        seconds = np.array([time.perf_counter() - start])
    cases = {"python -m experiments.train": seconds}
    return [report.case("first command", cases, "s", 1)]


if __name__ == "__main__":
    report.command("first_run", measure)
