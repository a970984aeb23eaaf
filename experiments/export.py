"""``python -m experiments.export RUN_FOLDER --out FOLDER``: a run's vectors and its encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments import console
from experiments.console import in_words, say, show
from experiments.errors import UserError
from experiments.options import moved_files


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Writes the item vectors of a finished run, and a program that encodes histories."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of the run, which holds config.json and checkpoints."""
    out: Path
    """The folder of the files."""
    dataset: str | None = None
    """The run's data set, if its file has moved."""
    data_dir: Path | None = None
    """Folder of the data set's file; $SEVO_DATA or, for named data sets, a cache if not given."""
    teacher: str | None = None
    """The folder of the run's teacher, if it has moved."""
    graph: str | None = None
    """The run's --graph FILE.npz, if it has moved."""
    categories: str | None = None
    """The run's --categories FILE, if it has moved."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m experiments.export")
    from experiments.serving.exported import export  # takes long: only after --help

    try:
        a = arguments
        for file in export(a.run, a.out, a.data_dir, a.dataset, moved_files(a)):
            show(f"{file.stem}: {file}")
    except UserError as error:
        say(f"error: {in_words(error)}", "bold red")
        return 1
    return 0


if __name__ == "__main__":
    console.run(main)
