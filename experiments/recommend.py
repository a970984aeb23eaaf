"""``python -m experiments.recommend RUN_FOLDER``: recommends items to users by a trained run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.box import SIMPLE
from rich.progress import Progress
from rich.table import Table

from experiments import console
from experiments.console import cell, say, show
from experiments.errors import UserError
from experiments.options import FinishedRun

if TYPE_CHECKING:
    import polars as pl

SHOWN_USERS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(FinishedRun):
    """Recommends items to users of the data or to others, by the best checkpoint of a run."""

    users: tuple[str, ...] = ()
    """Users, by the data set's own ids; all users if not given."""
    history: Path | None = None
    """Other users and their histories: lines or a table, as data sets; the data set's ids."""
    candidates: Path | None = None
    """The only items to recommend: a file with an id a line, or a table with a column item."""
    include_seen: bool = False
    """Whether to recommend items of the user's history, too."""
    top_k: int = 10
    """Items for each user."""
    out: Path | None = None
    """A .parquet or .csv file of user, rank, item and score; if not given, they are printed."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""


def first_users(frames: Iterator[pl.DataFrame]) -> tuple[Table, bool]:
    """Makes a table with a line for each of the first users; also tells if there are more.

    Reads at most two frames, and expects at least one.
    """
    table = Table("User", "Items, best first", box=SIMPLE)
    first, more = next(frames), next(frames, None)
    users = first.group_by("user", maintain_order=True).agg("item")
    for user, items in users.head(SHOWN_USERS).iter_rows():
        table.add_row(cell(str(user)), cell(" ".join(map(str, items))))
    return table, users.height > SHOWN_USERS or more is not None


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m experiments.recommend")
    from experiments.data.histories import read_items
    from experiments.serving.recommender import Recommender, write  # takes long: only after --help
    from experiments.training.compilation import keep_programs

    out = arguments.out
    bar = Progress(console=console.error_console, transient=True)
    task = bar.add_task("users", total=None)
    try:
        if out is not None and out.suffix not in (".parquet", ".csv"):
            raise UserError(f"--out: expected a name that ends in .parquet or .csv, got {out}")
        keep_programs(arguments.compilation_cache)
        recommender = Recommender.load(
            arguments.run,
            arguments.data_dir,
            arguments.dataset,
            arguments.moved(),
        )
        frames = recommender.blocks(
            arguments.history,
            arguments.top_k,
            users=arguments.users or None,
            candidates=None if arguments.candidates is None else read_items(arguments.candidates),
            include_seen=arguments.include_seen,
            report=say,
            progress=lambda done, users: bar.update(task, completed=done, total=users),
        )
        if out is None:
            table, more = first_users(frames)
            show(table)
            if more:
                show("and more users: name a file for all of them with --out")
        else:
            with bar:
                write(frames, out)
            show(f"recommendations: {out}")
    except UserError as error:
        say(f"error: {error.as_option()}", "bold red")
        return 1
    return 0


if __name__ == "__main__":
    console.run(main)
