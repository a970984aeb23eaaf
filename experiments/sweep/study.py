"""A sweep on disk: Optuna's study of it, which processes share, and the trials in it.

Optuna fails the trial of a process that died, and queues another one with its values and a new
number. Here such attempts are one trial, numbered in the order of the first attempts. So an
interruption changes no number, no folder and no value.
"""

from __future__ import annotations

import contextlib
import copy
import sqlite3
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from experiments.errors import UserError
from experiments.run import differences
from experiments.sweep.arguments import Sampler
from experiments.sweep.space import Field

HEARTBEAT = 10
"""Seconds between two signs of life of a trial."""
GRACE = 60
"""Seconds without one after which a trial is taken for dead; and to wait for the database."""


class _PerTrialSampler(BaseSampler):
    """A sampler of Optuna's, made anew for each trial from the trial's number.

    One that lives longer draws the same values in each process that shares the sweep, and draws
    them once more when the sweep is resumed.
    """

    def __init__(self, make: Callable[[int], BaseSampler]):
        self._make, self._own = make, make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        own = copy.copy(trial)
        own.number = number_of(study, trial.number)  # decides the cell of a grid
        self._own = self._make(own.number)
        self._own.before_trial(study, own)

    def infer_relative_search_space(self, *args: Any, **named: Any) -> dict[str, BaseDistribution]:
        return self._own.infer_relative_search_space(*args, **named)

    def sample_relative(self, *args: Any, **named: Any) -> dict[str, Any]:
        return self._own.sample_relative(*args, **named)

    def sample_independent(self, *args: Any, **named: Any) -> Any:
        return self._own.sample_independent(*args, **named)


def make_sampler(sampler: Sampler, fields: Sequence[Field], seed: int) -> BaseSampler:
    """Makes the sampler; a `UserError` if the values of a grid cannot be listed."""
    if sampler == "grid":
        cells = {field.name: field.listed() for field in fields}
        return _PerTrialSampler(lambda number: GridSampler(cells, seed=seed))
    kind = RandomSampler if sampler == "random" else TPESampler
    return _PerTrialSampler(
        lambda number: kind(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    )


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None]:
    """Keeps other processes from the documents, and from a database that is being made."""
    lock = JournalFileOpenLock(str(folder / "sweep"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be used ({error.strerror})") from error
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # held for so long that another has broken it
            lock.release()


def open_study(folder: Path, config: dict[str, Any], sampler: BaseSampler) -> optuna.Study:
    """Opens the study in a folder, and makes it if it is missing.

    Raises:
        UserError: the folder cannot be used, or holds a study with another ``config``.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    database = folder.absolute() / "sweep.db"
    # The path is in no URL, so it may have any characters.
    engine = {
        "creator": lambda: sqlite3.connect(database, timeout=GRACE),
        "poolclass": sqlalchemy.NullPool,
    }
    with alone(folder):
        try:
            storage = RDBStorage(
                "sqlite://",
                engine_kwargs=engine,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
            study = optuna.create_study(
                storage=storage,
                sampler=sampler,
                study_name="sweep",
                direction="maximize",
                load_if_exists=True,
            )
        except (optuna.exceptions.OptunaError, SQLAlchemyError, RuntimeError) as error:
            raise UserError(
                f"{database}: is no database of a sweep that can be used ({cause_of(error)}); move "
                "it away, or name another folder by --out"
            ) from error
        held = study.user_attrs.get("config")
        if held is None and study.trials:
            raise UserError(
                f"--out: {folder} holds a study that this command did not make; name another"
            )
        if held is None:
            study.set_user_attr("config", config)
        elif changed := differences(held, config):
            raise UserError(
                f"--out: {folder} holds a sweep in which {'; '.join(changed)}; name another folder"
            )
    return study


def cause_of(error: BaseException) -> str:
    """The first cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """The last attempt at each trial, under the trial's number."""
    attempts: dict[int, FrozenTrial] = {}
    for attempt in study.get_trials():
        if attempt.state != TrialState.PRUNED:  # a trial too many
            attempts[_first(attempt)] = attempt
    for number, trial in enumerate(attempts.values()):
        trial.number = number
    return list(attempts.values())


def number_of(study: optuna.Study, attempt: int) -> int:
    """The number of the trial that Optuna's trial ``attempt`` is an attempt at."""
    attempts = study.get_trials(deepcopy=False)
    firsts = [_first(a) for a in attempts if a.state != TrialState.PRUNED]
    return list(dict.fromkeys(firsts)).index(_first(attempts[attempt]))


def _first(attempt: FrozenTrial) -> int:
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(attempt)
    return attempt.number if first is None else first
