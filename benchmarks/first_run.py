"""``python -m benchmarks.first_run``: the README's first command, after installation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import report


def main() -> None:
    """Measures and writes ``results/first_run-DEVICE.json``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.train", "--out", f"{folder}/run"]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = np.array([time.perf_counter() - start])
    cases = {"python -m experiments.train": seconds}
    report.write("first_run", [report.case("first command", cases, "s", 1)])


if __name__ == "__main__":
    main()
