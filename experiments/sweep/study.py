"""A sweep on disk: Optuna's study of it, shared by processes, and which trial each has in hand.

A trial in hand is a lock that the operating system takes back when its process ends, however that
happens. So a trial without one was interrupted, and the next process that asks goes on with it. A
clock could not tell a dead process from one whose machine was asleep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from experiments.errors import UserError
from experiments.run import differences
from experiments.sweep.space import Field, grid_cells

Sampler = Literal["grid", "random", "tpe"]

NAME = "sweep"
CONFIG = "config"
"""The study's attribute that says what it is a study of."""
PATIENCE = 60
"""Seconds to wait for a process that writes to the database."""


State = Literal["done", "failed", "begun"]
STATES: dict[TrialState, State] = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}


class Tried(NamedTuple):
    """A trial, as plain data.

    Attributes:
        number: in the order of their beginnings.
        settings: the values of the fields that are searched.
        state: ``done``, ``failed`` or ``begun``.
        score: the mean over seeds of the best validation criterion, if it is done.
        scores: that of each seed.
        best_epochs: their epochs.
        seconds: of training, interruptions left out; those of a process that was killed are lost.
        twin: the number of the trial whose runs these are: another's, if that had these settings.
        reason: why it failed.
    """

    number: int
    settings: dict[str, Any]
    state: State
    score: float | None
    scores: list[float]
    best_epochs: list[int]
    seconds: float
    twin: int
    reason: str


class Locks:
    """Numbered locks on a file, held by processes and given back at their end."""

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, number: int) -> bool:
        """Takes a lock, unless another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number + 1)
        except OSError:
            return False
        return True

    def give_back(self, number: int) -> None:
        """Gives a lock back that this process has."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number + 1)

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Waits until no other process is within."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, 0)

    def close(self) -> None:
        """Gives all locks back."""
        os.close(self._descriptor)


class Sweep:
    """An open sweep; a context in which trials are begun and finished.

    Args:
        folder: where it is kept, created if missing.
        config: what determines its results; a folder that holds another's is refused.
        fields: what is searched.
        sampler: how.
        seed: of the sampler.

    Raises:
        UserError: the folder cannot be used, holds another sweep, or a database that is none.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        fields: Sequence[Field],
        sampler: Sampler,
        seed: int,
    ):
        self._database = folder / "sweep.db"
        self._fields, self._sampler, self._seed = fields, sampler, seed
        self._cells = grid_cells(fields) if sampler == "grid" else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._locks = Locks(folder / "sweep.lock")
        except OSError as error:
            raise UserError(f"--out: {folder} cannot be used ({error.strerror})") from error
        try:
            with self._locks.alone():
                self._study = _open_study(self._database)
                _check_config(self._study, config, folder)
        except BaseException:
            self._locks.close()
            raise

    def __enter__(self) -> Sweep:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locks.close()
        if isinstance(error, optuna.exceptions.StorageInternalError | SQLAlchemyError):
            raise UserError(f"{self._database}: cannot be used ({_cause(error)})") from error

    def claim(self, limit: int) -> Trial | None:
        """A trial to work at, with its settings: one that was interrupted, or else a new one.

        Args:
            limit: trials of all processes together.

        Returns:
            None if all have been begun, and those that are not finished are in other hands.
        """
        study = self._study
        with self._locks.alone():
            trials = study.get_trials()
            for held in trials:
                if held.state == TrialState.RUNNING and self._locks.take(held.number):
                    study.sampler = self._make_sampler(held.number)
                    # Optuna has no public name for it.
                    own = held._trial_id  # pyright: ignore[reportPrivateUsage]
                    return self._with_settings(Trial(study, own))
            waiting = sum(held.state == TrialState.WAITING for held in trials)
            number = len(trials) - waiting
            if number >= limit:
                return None
            study.sampler = self._make_sampler(number)
            if self._cells is not None and not waiting:
                study.enqueue_trial(self._cells[number])
            trial = study.ask()
            self._locks.take(trial.number)
            return self._with_settings(trial)

    def twin_of(self, trial: Trial) -> int:
        """The number of the first trial that is done and had the same settings, or its own."""
        done = self._study.get_trials(states=(TrialState.COMPLETE,))
        return min((t.number for t in done if t.params == trial.params), default=trial.number)

    def finish(self, trial: Trial, scores: list[float], best_epochs: list[int], twin: int) -> None:
        """Enters a trial's scores and their epochs, one of each seed, and lets go of it."""
        trial.set_user_attr("scores", scores)
        trial.set_user_attr("best_epochs", best_epochs)
        trial.set_user_attr("twin", twin)
        self._study.tell(trial, float(np.mean(scores)))
        self._locks.give_back(trial.number)

    def fail(self, trial: Trial, reason: str) -> None:
        """Enters that a trial has no score, and lets go of it."""
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)
        self._locks.give_back(trial.number)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Waits until no other process writes."""
        return self._locks.alone()

    def tried(self) -> list[Tried]:
        """All trials, the best first, those without a score last."""
        found = [_tried(t) for t in self._study.get_trials() if t.state != TrialState.WAITING]
        return sorted(found, key=lambda t: (t.score is None, -(t.score or 0.0), t.number))

    def _make_sampler(self, number: int) -> BaseSampler:
        """A sampler of the trial's own: what it draws is the same in whichever process."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        if self._sampler == "tpe":
            return TPESampler(seed=seed)
        return RandomSampler(seed=seed)

    def _with_settings(self, trial: Trial) -> Trial:
        for field in self._fields:
            field.suggest(trial)
        return trial


def _open_study(database: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{database.absolute()}",
            engine_kwargs={"connect_args": {"timeout": PATIENCE}},
        )
        return optuna.create_study(
            storage=storage, study_name=NAME, direction="maximize", load_if_exists=True
        )
    except (optuna.exceptions.OptunaError, SQLAlchemyError, RuntimeError) as error:
        raise UserError(
            f"{database}: is no database of a sweep that can be used ({_cause(error)}); move it "
            "away, or name another folder by --out"
        ) from error


def _check_config(study: optuna.Study, config: dict[str, Any], folder: Path) -> None:
    held = study.user_attrs.get(CONFIG)
    if held is None:
        if study.trials:
            raise UserError(
                f"--out: {folder} holds a study that this command did not make; name another"
            )
        study.set_user_attr(CONFIG, config)
        return
    changed = differences(held, config)
    if changed:
        raise UserError(
            f"--out: {folder} holds a sweep in which {'; '.join(changed)}; name another folder"
        )


def _cause(error: BaseException | None) -> str:
    """The first cause of an error, on one line."""
    cause = error
    while error is not None:
        cause, error = error, error.__cause__
    return str(cause).strip().partition("\n")[0]


def _tried(trial: FrozenTrial) -> Tried:
    attributes = trial.user_attrs
    return Tried(
        trial.number,
        trial.params,
        STATES.get(trial.state, "begun"),
        trial.value if trial.state == TrialState.COMPLETE else None,
        attributes.get("scores", []),
        attributes.get("best_epochs", []),
        attributes.get("seconds", 0.0),
        attributes.get("twin", trial.number),
        attributes.get("reason", ""),
    )
