"""``python -m benchmarks.first_run``: the README's first command, after installation."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from benchmarks import report


def main() -> None:
    """Measures and writes ``results/first_run-DEVICE.json``."""

    def command() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/run"
            subprocess.run([sys.executable, "-m", "experiments.train", "--out", out], check=True)

    seconds = report.in_turn({"python -m experiments.train": command}, rounds=1)
    report.write("first_run", [report.case("first command", seconds, "s", 1)])


if __name__ == "__main__":
    main()
