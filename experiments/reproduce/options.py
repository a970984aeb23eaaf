"""The options that all tables share."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from experiments.errors import UserError, check_name
from experiments.train import check_seeds, check_values


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes a table of the paper with our values beside the paper's.

    Runs what is missing, goes on with what was interrupted, and writes Markdown, JSON and LaTeX:
    after every run, so that nothing is lost.
    """

    table: tyro.conf.Positional[str]
    """table1 (data sets), table2 (accuracy), table3 (large data sets), table4 (categories), table5
    (distillation), table6 (graph neural networks with SEvo), table8 (time), figure2b (smoothness
    during training), figure6 (embeddings by category), accuracy-time (models by training time),
    when-it-helps (losses, data and popularity) or a4 (LightGCN as MF smoothed twice)."""
    models: tuple[str, ...] = ()
    """Which models, for table5 methods; all that the table has, if not given."""
    datasets: tuple[str, ...] = ()
    """Which data sets; all that the table has, if not given."""
    optimizers: tuple[str, ...] = ()
    """Which optimisers; all that the table has, if not given."""
    seeds: tuple[int, ...] = ()
    """Which seeds; if not given, 0 to 4 as in the paper, 0 alone for figure2b, figure6,
    when-it-helps, a4 and a quick look."""
    epochs: int | None = None
    """Stop runs after so many epochs; the table says so. The published number if not given."""
    runs: Path = Path("results/runs")
    """Where the folders of the runs are: RUNS/DATASET/RUN."""
    out: Path = Path("results")
    """Where the table goes."""
    data_dir: Path | None = None
    """Where to look for the files of named data sets; $SEVO_DATA or a cache if not given."""
    train: bool = True
    """Whether to run what is missing, or write the table from what there is."""
    quick: bool = False
    """A quick look: a small slice of the data and few epochs, in folders of their own."""


QUICK_SHARE, QUICK_EPOCHS = 0.1, 5
QUICK_SETTINGS: dict[str, Any] = {"user_share": QUICK_SHARE, "batch_size": 64}
"""Of a quick look: few users, and small batches, so that few epochs have some hundred steps."""


def with_own_folders(options: Options) -> Options:
    """For a quick look, the folders that are not given in a new temporary one."""
    if not options.quick:
        return options
    new = Path(tempfile.mkdtemp(prefix=f"sevo-{options.table}-"))
    return dataclasses.replace(
        options,
        runs=new / "runs" if options.runs == Options.runs else options.runs,
        out=new if options.out == Options.out else options.out,
    )


def titled(title: str, quick: bool) -> str:
    """The heading of a page, which tells a quick look."""
    return f"{title} (quick look: {QUICK_SHARE:.0%} of the users)" if quick else title


def chosen(
    option: str, names: tuple[str, ...], known: Iterable[str], default: Iterable[str] | None = None
) -> tuple[str, ...]:
    """The names given, or the default: all that are known, if it is not given.

    Raises:
        UserError: a name is unknown or given twice.
    """
    known = tuple(known)
    if not names:
        return known if default is None else tuple(default)
    check_values(f"--{option}s", names)
    for name in names:
        check_name(option, name, known)
    return names


def chosen_seeds(seeds: tuple[int, ...], default: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds given, or the default; a `UserError` unless they are different and in range."""
    if seeds:
        check_seeds(seeds)
    return seeds or default


def refuse(options: Options, *names: str) -> None:
    """A `UserError` if an option is given that the table cannot heed."""
    for name in names:
        if getattr(options, name) not in (None, ()):
            raise UserError(f"--{name}: {options.table} does not have it; leave it out")
