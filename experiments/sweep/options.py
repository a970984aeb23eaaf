"""The options of a sweep, and what they come to: fields, runs, the number of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import train
from experiments.configs.base import option
from experiments.errors import UserError, check_name
from experiments.run import Run
from experiments.sweep.space import Field, grid_cells
from experiments.sweep.study import Sampler

TRIALS = 20

SEARCH_HELP = (
    "For each field FIELD=VALUE,VALUE,… or FIELD=LOW:HIGH[:log], such as beta=0.5,0.9,0.99 "
    "num_layers=1:5 learning_rate=1e-4:1e-2:log."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Searches for hyper-parameters by the best validation NDCG@10.

    Any setting below can be searched; those that are neither searched nor given are the published
    ones. The same command goes on with what was interrupted, and several at once share the work.
    """

    search: Annotated[tuple[str, ...], tyro.conf.arg(help=SEARCH_HELP)]
    model: str = "sasrec"
    """As in experiments.train."""
    dataset: str = "synthetic"
    """As in experiments.train."""
    optimizer: str = "sevo-adamw"
    """One of experiments.train's."""
    sampler: Sampler = "tpe"
    """grid (all combinations), random, or tpe (a model of what was good so far)."""
    trials: int | None = None
    """How many, of all processes and commands together; if not given, all of a grid, or 20."""
    seeds: tuple[int, ...] = (0,)
    """A trial trains a run for each of them, and its score is the mean."""
    seed: int = 0
    """Of the sampler."""
    axes: tuple[str, ...] = ()
    """One or two fields for the picture; the two most varied if not given."""
    together: bool | None = None
    """Train all seeds of a trial in one program; if not given, on accelerators alone."""
    out: Path | None = None
    """Where everything goes; sweeps/DATASET-MODEL-OPTIMIZER if not given."""
    data_dir: Path | None = None
    """Where to look for the files of named data sets; $SEVO_DATA or a cache if not given."""


Options = train.with_settings(Arguments)


def make_runs(options: Any, settings: dict[str, Any]) -> list[Run]:
    """A run for each seed, with the settings of a trial.

    Raises:
        UserError: as `train.make_runs`.
    """
    changed = {"optimizer": (options.optimizer,), **settings}
    return train.make_runs(dataclasses.replace(options, **changed))


def check_fields(options: Any, fields: Sequence[Field]) -> list[Run]:
    """Checks each value of the fields beside the first values of the others.

    Returns:
        Runs with those first values; then, one for each value of a field that takes names, runs
        that may not fit the model.

    Raises:
        UserError: a field that no run reads or that is given as an option too, or a value out of
            its range.
    """
    for field in fields:
        if getattr(options, field.name) is not None:
            raise UserError(f"--search: {field.name} is also given as {option(field.name)}")
    first = {field.name: field.ends()[0] for field in fields}
    runs = make_runs(options, first)[:1]
    for field in fields:
        for value in field.ends():
            try:
                run = make_runs(options, first | {field.name: value})[0]
            except UserError as error:
                raise UserError(f"--search {field.name}={field.text}: {error}") from error
            if field.is_choice:
                runs.append(run)
    return runs


def chosen_axes(options: Any, fields: Sequence[Field]) -> list[Field]:
    """The fields of ``--axes``; a `UserError` unless they are searched, and two at most."""
    named = {field.name: field for field in fields}
    names = [name.replace("-", "_") for name in options.axes]
    for name in names:
        check_name("field of the search", name, named)
    if len(set(names)) < len(names) or len(names) > 2:
        raise UserError(f"--axes: expected one or two different fields, got {names}")
    return [named[name] for name in names]


def check_numbers(options: Any) -> None:
    """A `UserError` unless the number of trials and the sampler's seed are in their range."""
    if options.trials is not None and options.trials < 1:
        raise UserError(f"--trials: must be at least 1, got {options.trials}")
    if options.seed < 0:
        raise UserError(f"--seed: must be at least 0, got {options.seed}")


def limit_of(options: Any, fields: Sequence[Field]) -> int:
    """How many trials there are to be: of a grid, its cells at most."""
    if options.sampler != "grid":
        return options.trials or TRIALS
    cells = len(grid_cells(fields))
    return min(options.trials or cells, cells)
