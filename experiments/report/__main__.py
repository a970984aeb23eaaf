"""``python -m experiments.report``: the command line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import tyro

from experiments.errors import UserError
from experiments.files import write_text
from experiments.report.gather import gather
from experiments.report.page import html, markdown


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes one page of all results, as HTML that needs no other file, and as Markdown."""

    results: Path = Path("results")
    """The folder into which experiments.reproduce has written."""
    benchmarks: Path = Path("benchmarks/results")
    """The folder into which the benchmarks have written."""
    out: Path = Path("results/report.html")
    """Where the page goes; the Markdown is beside it, with the suffix .md."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Options, args=argv, prog="python -m experiments.report")
    try:
        if options.out.suffix != ".html":
            raise UserError(f"--out: expected a file that ends in .html, got {options.out}")
        report = gather(options.results, options.benchmarks)
        paths = options.out, options.out.with_suffix(".md")
        try:
            options.out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out: {error.filename}: {error.strerror}") from error
        write_text(paths[0], html(report))
        write_text(paths[1], markdown(report, options.out.parent))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in report.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"written: {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
