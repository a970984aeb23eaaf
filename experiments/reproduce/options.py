"""The options that all tables share, and what a quick look is."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.errors import ArgumentError, check_name
from experiments.options import check_seeds, check_values
from experiments.settings.published import reads

# Longer than a line, where tyro would keep the breaks of a docstring.
TABLE_HELP = (
    "table1 (data sets), table2 (accuracy), table3 (large data sets), table4 (categories), table5 "
    "(distillation), table6 (graph neural networks with SEvo), table7 (number of layers), table8 "
    "(time), figure2a (convergence with and without rescaling), figure2b (smoothness during "
    "training), figure3a (other optimisers), figure3b (approximations over β), figure3c (moment "
    "correction), figure5a (first or last items in the graph), figure5b (walk length), figure6 "
    "(embeddings by category), figure7 (smoothness in the loss), accuracy-time (models by training "
    "time), when-it-helps (losses, data and popularity) or a4 (LightGCN as MF smoothed twice)."
)
QUICK_HELP = (
    "Figures, table4, table5 and table7: a quick look that says nothing of the paper's values, in "
    "minutes: a small model on a tenth of the users, few epochs, some of the points, in folders of "
    "its own."
)
SEEDS_DEFAULT = (
    "0 to 4 as in the paper, 0 alone for figures, table7, when-it-helps, a4 and a quick look"
)


def _default(text: str, default: str) -> Any:
    """What ``--help`` says of an option whose default depends on the table."""
    return tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})")


def _all(what: str) -> Any:
    return _default(f"Which {what}.", "all that the table has")


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes a table of the paper with our values beside the paper's.

    Runs what is missing, goes on with what was interrupted, and writes Markdown, JSON and LaTeX:
    after every run, so that nothing is lost.
    """

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=TABLE_HELP)]
    models: Annotated[tuple[str, ...], _all("models, for table5 methods")] = ()
    datasets: Annotated[tuple[str, ...], _all("data sets")] = ()
    optimizers: Annotated[tuple[str, ...], _all("optimisers")] = ()
    seeds: Annotated[tuple[int, ...], _default("Which seeds.", SEEDS_DEFAULT)] = ()
    epochs: int | None = None
    """Stop runs after so many epochs; the table says so. The published number if not given."""
    runs: Path = Path("results/runs")
    """Where the folders of the runs are: RUNS/DATASET/RUN."""
    out: Path = Path("results")
    """Where the table goes, in place of one that is there, even if it had more rows."""
    data_dir: Path | None = None
    """Where to look for the files of named data sets; $SEVO_DATA or a cache if not given."""
    train: bool = True
    """Whether to run what is missing, or write the table from what there is."""
    quick: Annotated[bool, tyro.conf.arg(help=QUICK_HELP)] = False
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""


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
    check_values(f"{option}s", names)
    for name in names:
        check_name(option, name, known)
    return names


def chosen_seeds(seeds: tuple[int, ...], default: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds given, or the default; a `UserError` unless they are different and in range."""
    if seeds:
        check_seeds(seeds)
    return seeds or default


def chosen_one(options: Options, default: str) -> tuple[str, int]:
    """The data set and the seed of what takes one of each, seed 0 if none is given.

    Raises:
        UserError: several are given, or one that is unknown or out of range.
    """
    from experiments.data import NAMES  # after --help, since it takes long

    datasets = chosen("dataset", options.datasets, NAMES, (default,))
    seeds = chosen_seeds(options.seeds, (0,))
    for option, values in (("datasets", datasets), ("seeds", seeds)):
        if len(values) != 1:
            raise ArgumentError(option, f"{options.table} takes one, got {len(values)}")
    return datasets[0], seeds[0]


def refuse(options: Options, *names: str) -> None:
    """A `UserError` if an option is given that the table cannot heed."""
    for name in names:
        value = getattr(options, name)
        if value not in (None, ()) and value is not False:
            raise ArgumentError(name, f"{options.table} does not have it; leave it out")


QUICK_EPOCHS = 8
_QUICK = {
    "user_share": 0.1,
    "batch_size": 256,
    "max_len": 20,
    "num_blocks": 1,
    "packed": False,  # compiles once for all epochs
    "eval_every": 2,
}
QUICK_NOTE = (
    "**A quick look**, to see the command work: a small model, trained on a tenth of the users for "
    "a few epochs. It says nothing of the paper's values, which are left out."
)


def quick_look(options: Options) -> Options:
    """The options with what ``--quick`` stands for where nothing else is given.

    Few epochs, one seed, a new folder for all files; and the built-in data set, unless Beauty is at
    hand. What is not ``--quick`` stays as it is.
    """
    if not options.quick:
        return options
    from experiments.data import at_hand  # after --help, since it takes long

    changed: dict[str, Any] = {"epochs": QUICK_EPOCHS, "seeds": (0,)}
    if not at_hand("beauty", options.data_dir):
        changed["datasets"] = ("synthetic",)
    changed = {k: v for k, v in changed.items() if getattr(options, k) in (None, ())}
    places = {"runs": Path("runs"), "out": Path()}
    unnamed = [name for name in places if getattr(options, name) == getattr(Options, name)]
    if unnamed:
        folder = Path(tempfile.mkdtemp(prefix=f"sevo-{options.table}-"))
        changed |= {name: folder / places[name] for name in unnamed}
    return dataclasses.replace(options, **changed)


def quick_settings(model: str, optimizer: str, distill: str = "none") -> dict[str, Any]:
    """The settings of a quick look's runs, but for their epochs: those that the run reads."""
    return {name: value for name, value in _QUICK.items() if reads(model, optimizer, distill, name)}
