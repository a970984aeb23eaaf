"""``python -m experiments.export RUN_FOLDER --out FOLDER``: a run's vectors and its encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments import console
from experiments.console import say, show
from experiments.errors import UserError
from experiments.options import FinishedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FinishedRun):
    """Writes the item vectors of a finished run, and a program that encodes histories."""

    out: Path
    """The folder of the files."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m experiments.export")
    from experiments.serving.exported import export  # takes long: only after --help

    try:
        a = arguments
        for file in export(a.run, a.out, a.data_dir, a.dataset, a.moved()):
            show(f"{file.stem}: {file}")
    except UserError as error:
        say(f"error: {error.as_option()}", "bold red")
        return 1
    return 0


if __name__ == "__main__":
    console.run(main)
