"""Requests for a table or figure: a part of it, a quick look, and places for the files."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import numbers
from experiments.errors import ArgumentError, check_name
from experiments.options import check_seeds, check_values
from experiments.settings.published import reads


@dataclasses.dataclass(frozen=True)
class Request:
    """A table or figure to be made; what is empty, or None, is up to the table.

    Attributes:
        table: its name.
        models: a part of its models; of Table 5, of its methods.
        datasets: a part of its data sets.
        optimizers: a part of its optimisers.
        seeds: other seeds than the table's own.
    """

    table: str
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
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
    quick: bool = False


class Names(NamedTuple):
    """The names that an option takes, and those that it has if it is not given: all if None."""

    known: Iterable[str]
    default: Iterable[str] | None = None


class Choices(NamedTuple):
    """The options of a table, and what they take; one that is empty is refused."""

    models: Names | None = None
    datasets: Names | None = None
    optimizers: Names | None = None
    seeds: tuple[int, ...] = numbers.SEEDS
    epochs: bool = True
    quick: bool = False


def choose(request: Request, choices: Choices) -> Request:
    """The request with the table's own names and seeds where none are given.

    Raises:
        UserError: an option that the table does not have, a name that is unknown or given twice,
            or a seed out of range.
    """
    for option, taken in choices._asdict().items():
        given = getattr(request, option)
        if not taken and given not in (None, ()) and given is not False:
            raise ArgumentError(option, f"{request.table} does not have it; leave it out")
    if request.seeds:
        check_seeds(request.seeds)
    names = {
        option: _choose_names(option, getattr(request, option), getattr(choices, option))
        for option in ("models", "datasets", "optimizers")
    }
    return dataclasses.replace(request, seeds=request.seeds or choices.seeds, **names)


def _choose_names(option: str, given: tuple[str, ...], names: Names | None) -> tuple[str, ...]:
    if names is None:
        return ()
    known = tuple(names.known)
    if not given:
        return known if names.default is None else tuple(names.default)
    check_values(option, given)
    for name in given:
        check_name(option.removesuffix("s"), name, known)
    return given


def choose_one(request: Request, dataset: str, **choices: bool) -> tuple[str, int]:
    """The data set and the seed of a figure that takes one of each.

    Args:
        request: what is asked for.
        dataset: the data set if none is given; the seed is then 0.
        choices: the other fields of `Choices`.

    Raises:
        UserError: as `choose`; or several are given.
    """
    from experiments.data import NAMES  # after --help, since it takes long

    own = Choices(datasets=Names(NAMES, (dataset,)), seeds=(0,))._replace(**choices)
    asked = choose(request, own)
    for option in ("datasets", "seeds"):
        count = len(getattr(asked, option))
        if count != 1:
            raise ArgumentError(option, f"{request.table} takes one, got {count}")
    return asked.datasets[0], asked.seeds[0]


def command(table: str, **options: object) -> str:
    """The words of the command that makes a table.

    Examples:
        >>> command("table1", datasets="toys", quick=True)
        'python -m experiments.reproduce table1 --datasets toys --quick'
    """
    words = [f"python -m experiments.reproduce {table}"]
    for name, value in options.items():
        words.append(f"--{name}" if value is True else f"--{name} {value}")
    return " ".join(words)


QUICK_EPOCHS = 8
_QUICK = {
    # Not packed, so that all epochs are compiled once.
    "user_share": 0.1, "batch_size": 256, "max_len": 20, "num_blocks": 1, "packed": False,
    "eval_every": 2,
}  # fmt: skip
OF_CATEGORIES = ("figure6", "table4")
QUICK_NOTE = (
    "**A quick look**, to see the command work: a small model, trained on a tenth of the users for "
    "a few epochs. It says nothing of the paper's values, which are left out."
)


def quick_look(request: Request) -> Request:
    """The request with what a quick look has where nothing else is given.

    Few epochs, one seed, a new folder for all files; and the built-in data set, unless Beauty is at
    hand or the target needs categories, which that has not. A request that is not for a quick look
    stays as it is.
    """
    if not request.quick:
        return request
    from experiments.data import at_hand  # after --help, since it takes long

    changed: dict[str, Any] = {"epochs": QUICK_EPOCHS, "seeds": (0,)}
    if request.table not in OF_CATEGORIES and not at_hand("beauty", request.data_dir):
        changed["datasets"] = ("synthetic",)
    changed = {k: v for k, v in changed.items() if getattr(request, k) in (None, ())}
    places = {"runs": Path("runs"), "out": Path()}
    unnamed = [name for name in places if getattr(request, name) == getattr(Request, name)]
    if unnamed:
        folder = Path(tempfile.mkdtemp(prefix=f"sevo-{request.table}-"))
        changed |= {name: folder / places[name] for name in unnamed}
    return dataclasses.replace(request, **changed)


def quick_settings(model: str, optimizer: str, distill: str = "none") -> dict[str, Any]:
    """The settings of a quick look's runs, but for their epochs: those that the run reads."""
    given = {"distill": distill}
    return {name: value for name, value in _QUICK.items() if reads(model, optimizer, given, name)}
