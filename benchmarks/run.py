"""``python -m benchmarks.run``: runs every benchmark, then writes the page of all results.

Each benchmark has a process of its own, so that none inherits memory or compiled programs.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import tyro
from rich.console import Console

from benchmarks import page, report
from experiments.errors import UserError

BENCHMARKS = (
    "import_time",
    "kernels",
    "smoothing",
    "waiting",
    "growth",
    "scaling",
    "packing",
    "softmax",
    "session_graphs",
    "seeds",
    "evaluation",
    "memory",
    "compiling",
    "graph_building",
    "out_of_core",
    "loading",
    "first_run",
    "recommenders",
)
console = Console(stderr=True)


@dataclasses.dataclass(frozen=True)
class Options(report.Options):
    """Runs the benchmarks one after the other, and writes the page of all results."""

    only: tuple[str, ...] = BENCHMARKS
    """Names of benchmarks; --only without names runs none and writes the page."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status, 1 if a benchmark failed."""
    options = tyro.cli(Options, args=argv)
    unknown = sorted(set(options.only) - set(BENCHMARKS))
    if unknown:
        console.print(f"error: --only: no benchmark {unknown[0]!r}; there are {BENCHMARKS}")
        return 1
    failed: list[str] = []
    folder = options.folder
    for name in options.only:
        console.rule(name)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(folder)]
        command += ["--quick"] if options.quick else []
        if subprocess.run(command).returncode:
            failed.append(name)
    try:
        print(f"page: {page.write(folder)}")
    except UserError as error:
        console.print(f"error: {error}", markup=False)
        return 1
    if failed:
        console.print(f"error: failed: {', '.join(failed)}; their results, if any, are old ones")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
