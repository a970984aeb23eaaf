"""Runs that were trained before: their settings, their data and their best checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.data import NAMES, Interactions, find_path
from experiments.errors import ArgumentError, UserError, check_name
from experiments.files import read_json
from experiments.run import Run, check_files
from experiments.settings import OPTIMIZERS, is_file
from experiments.training.backbones import BUILDERS
from experiments.training.checkpoints import open_checkpoints, restore_checkpoint
from experiments.training.prepare import (
    Setup,
    initial_checkpoint,
    load_for,
    make_setup,
    used_users,
)
from experiments.training.state import Checkpoint


class Finished(NamedTuple):
    """A run that has been validated at least once, as it was left."""

    run: Run
    data: Interactions
    setup: Setup
    checkpoint: Checkpoint


def load_run(
    folder: Path,
    data_dir: Path | None = None,
    dataset: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> Finished:
    """Reads a run's folder, and its data.

    Args:
        folder: the run's folder.
        data_dir: the folder of the data set's file.
        dataset: the run's data set, if its file has moved.
        moved: the files of the settings ``teacher``, ``graph`` and ``categories`` that have moved,
            by the names of these settings.

    Raises:
        UserError: as `read_run`; or the run was stopped before its first validation.
    """
    run, data = read_run(folder, data_dir, dataset, moved)
    setup = make_setup(run, data)
    with open_checkpoints(folder) as saved:
        checkpoint = restore_checkpoint(saved, initial_checkpoint(run, setup, data))
    if checkpoint.best_score < 0:
        raise UserError(f"{folder}: was interrupted before its first validation; resume it first")
    return Finished(run, data, setup, checkpoint)


def read_run(
    folder: Path,
    data_dir: Path | None = None,
    dataset: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> tuple[Run, Interactions]:
    """Reads a run and its data; the arguments are those of `load_run`.

    Raises:
        UserError: the folder holds no run or no checkpoint, or the run's data or another of its
            files are missing or have changed.
    """
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{folder}: holds no config.json; expected the folder of a run")
    if not any((folder / "checkpoints").glob("*")):
        raise UserError(
            f"{folder}: holds no checkpoint (results that are shared often do not); train the run "
            "again, in another folder"
        )
    held = read_json(file)
    lacking = [
        name for name in ("model", "dataset", "optimizer", "seed", "data") if name not in held
    ]
    if lacking:
        raise UserError(f"{file}: is no run's configuration; it lacks {', '.join(lacking)}")
    check_name("model", held["model"], BUILDERS)
    check_name("optimizer", held["optimizer"], OPTIMIZERS)
    for name in moved or {}:
        kept = held[name]
        if not kept or (name == "graph" and not is_file(kept)):
            raise ArgumentError(
                name, f"{folder} was trained with {kept or 'none'}, which is no file; leave it out"
            )
    run = Run.from_json(held)
    run = dataclasses.replace(run, settings=run.settings.replace(**(moved or {})))
    run.settings.check()
    place = dataset or run.dataset
    if place not in NAMES and not find_path(place, data_dir).exists():
        raise ArgumentError(
            "dataset",
            f"{folder} was trained on {place}, and {Path.cwd()} has no such file; say where it is "
            "now, or name its folder as the data_dir",
        )
    data = load_for(run, place, data_dir)
    if data.fingerprint != held["data"]:
        raise ArgumentError(
            "dataset",
            f"{folder} was trained on other data than {place} now holds (fingerprint "
            f"{held['data']}, found {data.fingerprint}); say where the run's are now",
        )
    check_files(run, held, folder)
    return run, used_users(run, data)
