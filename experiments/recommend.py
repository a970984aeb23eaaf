"""``python -m experiments.recommend RUN_FOLDER``: recommends items to users by a trained run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE
from rich.table import Table

from experiments import console
from experiments.console import cell, in_words, say, show
from experiments.errors import UserError

if TYPE_CHECKING:
    import polars as pl

SHOWN_USERS = 20
MOVED = ("teacher", "graph", "categories")
"""Settings that name files. The files may have moved since the run was trained."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Recommends items that users have not met, by the best checkpoint of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of the run, which holds config.json and checkpoints."""
    users: tuple[str, ...] = ()
    """Users, by the data set's own ids; all users if not given."""
    top_k: int = 10
    """Items for each user."""
    out: Path | None = None
    """A .parquet or .csv file of user, rank, item and score; if not given, they are printed."""
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
    from experiments import recommendations  # takes long: only after --help
    from experiments.training.compilation import keep_programs

    out = arguments.out
    try:
        if out is not None and out.suffix not in (".parquet", ".csv"):
            raise UserError(f"--out: expected a name that ends in .parquet or .csv, got {out}")
        keep_programs(arguments.compilation_cache)
        frames = recommendations.recommendations(
            arguments.run,
            arguments.users or None,
            arguments.top_k,
            arguments.data_dir,
            arguments.dataset,
            {name: value for name in MOVED if (value := getattr(arguments, name)) is not None},
        )
        if out is None:
            table, more = first_users(frames)
            show(table)
            if more:
                show("and more users: name a file for all of them with --out")
        else:
            recommendations.write(frames, out)
            show(f"recommendations: {out}")
    except UserError as error:
        say(f"error: {in_words(error)}", "bold red")
        return 1
    return 0


if __name__ == "__main__":
    console.run(main)
