"""A process's work at a sweep, from its options to its exit status."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.exc import SQLAlchemyError

from experiments.console import say, show
from experiments.errors import ArgumentError, UserError, check_name, option
from experiments.options import Given, make_runs
from experiments.run import FILES, Run, checksum, files_of
from experiments.sweep.arguments import Arguments
from experiments.sweep.report import Frame, best_of, in_words, make_grid
from experiments.sweep.space import Field, parse_search
from experiments.sweep.study import cause_of, make_sampler, open_study, trials_of
from experiments.sweep.trials import Worker
from experiments.training import loop, prepare
from experiments.training.compilation import keep_programs


def run(options: Arguments, given: Given) -> int:
    """Works at the sweep that the options ask for, and prints errors.

    Returns:
        The exit status: 1 after an error or if no trial has a score, 130 after an interruption.
    """
    keep_programs(options.compilation_cache)
    try:
        with warnings.catch_warnings():
            # Optuna warns that heartbeats, retries and plots may change.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return sweep(options, given)
    except loop.Interrupted as interruption:
        say(f"interrupted: {interruption}; the same command goes on")
        return 130
    except KeyboardInterrupt:
        say("interrupted; what is done is kept: the same command goes on")
        return 130
    except UserError as error:
        say(f"error: {error.as_option()}")
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        say(f"error: the database of the sweep cannot be used ({cause_of(error)})")
    return 1


def sweep(options: Arguments, given: Given) -> int:
    """Works at the sweep that the options ask for; returns 1 if no trial has a score, else 0.

    Raises:
        UserError: bad options, data or folder, or a run that cannot go on.
        Interrupted: a signal came; the current trial is saved.
    """
    if options.trials is not None and options.trials < 1:
        raise ArgumentError("trials", f"must be at least 1, got {options.trials}")
    if options.seed < 0:
        raise ArgumentError("seed", f"must be at least 0, got {options.seed}")
    fields = parse_search(options.search)
    checked = check_fields(options, given, fields)
    first = next(iter(checked))
    axes = choose_axes(options.axes, fields)
    sampler = make_sampler(options.sampler, fields, options.seed)
    limit = options.trials or 20
    if options.sampler == "grid":
        cells = math.prod(len(field.listed()) for field in fields)
        limit = min(options.trials or cells, cells)
    data = prepare.load_for(first, options.dataset, options.data_dir)
    for note in prepare.used_users(first, data).notes:
        say(note)
    for run, text in checked.items():  # values that do not go with model or data
        with refused(text):
            prepare.make_setup(run, prepare.used_users(run, data))
    config = first.to_json() | {field.name: field.text for field in fields}
    config |= {"seeds": list(options.seeds), "sampler": options.sampler, "seed": options.seed}
    config["data"] = data.fingerprint
    if files := checksums(checked):
        config[FILES] = files
    name = f"{Path(options.dataset).stem}-{options.model}-{options.optimizer}"
    out: Path = options.out or Path("sweeps") / name
    frame = Frame(config, fields, axes, limit)
    study = open_study(out, config, sampler)

    def make_trial(settings: dict[str, Any]) -> list[Run]:
        return runs_of(options, given, settings)

    worker = Worker(study, frame, make_trial, options.together, data, out)
    try:
        worker.work()
        say(f"written: {', '.join(map(str, worker.write()))}")
    finally:
        trials = trials_of(study)
        best = best_of(trials)
        if best:
            say(f"best: {in_words(best, fields)}")
        show(make_grid(trials, frame))  # comes last: a closed pipe ends the command
    return 0 if best else 1


def runs_of(options: Arguments, given: Given, settings: dict[str, Any]) -> list[Run]:
    """Makes a run for each seed with a trial's settings; a `UserError` as `make_runs`."""
    values = {**given, **settings}
    return make_runs(options.model, options.dataset, [options.optimizer], options.seeds, values)


@contextlib.contextmanager
def refused(text: str) -> Generator[None]:
    """Raises a `UserError` as one of the searched field that is written as ``text``, if any."""
    try:
        yield
    except UserError as error:
        if not text:
            raise
        raise ArgumentError("search", error.as_option(), text) from error


def check_fields(options: Arguments, given: Given, fields: Sequence[Field]) -> dict[Run, str]:
    """Checks each value of a field together with the first values of the other fields.

    Returns:
        A run with all first values, of no field; then a run for each other value, with its field as
        it was written.

    Raises:
        UserError: no run reads a field, a field is also given as an option, or a value is out of
            its range.
    """
    for field in fields:
        if field.name in given:
            raise ArgumentError("search", f"{field.name} is also given as {option(field.name)}")
    first = {field.name: field.values[0] for field in fields}
    runs = {runs_of(options, given, first)[0]: ""}
    for field in fields:
        text = f"{field.name}={field.text}"
        for value in field.values:
            with refused(text):
                runs.setdefault(runs_of(options, given, first | {field.name: value})[0], text)
    return runs


def checksums(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Lists the checksums of the files that runs read, by the names of the settings."""
    found: dict[str, dict[tuple[Path, ...], None]] = {}
    for run in runs:
        for name, paths in files_of(run).items():
            found.setdefault(name, {})[tuple(paths)] = None
    return {name: list(dict.fromkeys(map(checksum, own))) for name, own in found.items()}


def choose_axes(axes: Sequence[str], fields: Sequence[Field]) -> list[Field]:
    """Returns the fields that ``axes`` names.

    Raises:
        UserError: a field is not searched, or there are more than two.
    """
    named = {field.name: field for field in fields}
    names = [name.replace("-", "_") for name in axes]
    for name in names:
        check_name("field of the search", name, named)
    if len(set(names)) < len(names) or len(names) > 2:
        raise ArgumentError("axes", f"expected one or two different fields, got {names}")
    return [named[name] for name in names]
