"""A sweep on disk: an Optuna study that processes share, and its trials.

If a process dies, Optuna marks its trial as failed, and queues a new one with the same values and
another number. We count these attempts as one trial, numbered in the order of first attempts. So an
interruption changes no number, no folder and no value:

    Optuna's trials    0     1 (process died)    2     3 (retries 1)
    our trials         0     1                   2     1
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

from experiments.errors import ArgumentError, UserError
from experiments.run import differences
from experiments.sweep.arguments import Sampler
from experiments.sweep.space import Field

HEARTBEAT = 10
"""Seconds between two heartbeats of a trial."""
GRACE = 60
"""Seconds without a heartbeat after which a trial counts as dead; also the database's timeout."""


class _PerTrialSampler(BaseSampler):
    """An Optuna sampler that is made anew for each trial, from the trial's number.

    A sampler that serves several trials would draw the same values in every process of the sweep,
    and once more when the sweep is resumed.
    """

    def __init__(self, make: Callable[[int], BaseSampler]):
        self._make, self._own = make, make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        own = copy.copy(trial)
        own.number = number_of(study, trial.number)  # GridSampler takes the cell of this number
        self._own = self._make(own.number)
        self._own.before_trial(study, own)

    def infer_relative_search_space(self, *args: Any, **named: Any) -> dict[str, BaseDistribution]:
        return self._own.infer_relative_search_space(*args, **named)

    def sample_relative(self, *args: Any, **named: Any) -> dict[str, Any]:
        return self._own.sample_relative(*args, **named)

    def sample_independent(self, *args: Any, **named: Any) -> Any:
        return self._own.sample_independent(*args, **named)


def make_sampler(sampler: Sampler, fields: Sequence[Field], seed: int) -> BaseSampler:
    """Makes the sampler.

    Raises:
        UserError: the values of a grid cannot be listed.
    """
    if sampler == "grid":
        cells = {field.name: field.listed() for field in fields}
        return _PerTrialSampler(lambda number: GridSampler(cells, seed=seed))
    kind = RandomSampler if sampler == "random" else TPESampler
    return _PerTrialSampler(
        lambda number: kind(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
    )


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Locks the folder while documents are written, or while its database is made."""
    lock = JournalFileOpenLock(str(folder / "sweep"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ArgumentError("out", f"{folder} cannot be used ({error.strerror})") from error
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # another process broke a lock held for too long
            lock.release()


def open_study(folder: Path, config: dict[str, Any], sampler: BaseSampler) -> optuna.Study:
    """Opens the study in a folder, and makes it if it is missing.

    Raises:
        UserError: the folder cannot be used, or holds a study with another ``config``.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    database = folder.absolute() / "sweep.db"
    # A URL could not hold every path.
    engine = {
        "creator": lambda: sqlite3.connect(database, timeout=GRACE),
        "poolclass": sqlalchemy.NullPool,
    }
    with locked(folder):
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
                "it away, or name another folder"
            ) from error
        held = study.user_attrs.get("config")
        if held is None and study.trials:
            raise ArgumentError(
                "out", f"{folder} holds a study that this command did not make; name another"
            )
        if held is None:
            study.set_user_attr("config", config)
        elif changed := differences(held, config):
            words = "; ".join(changed)
            raise ArgumentError(
                "out", f"{folder} holds a sweep in which {words}; name another folder"
            )
    return study


def cause_of(error: BaseException) -> str:
    """Returns the first cause of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the last attempt at each trial, under our number of the trial."""
    attempts: dict[int, FrozenTrial] = {}
    for attempt in study.get_trials():
        if attempt.state != TrialState.PRUNED:  # two processes began the last trial at once
            attempts[_first_attempt(attempt)] = attempt
    for number, trial in enumerate(attempts.values()):
        trial.number = number
    return list(attempts.values())


def number_of(study: optuna.Study, attempt: int) -> int:
    """Returns our number of a trial from Optuna's number of an attempt at it."""
    attempts = study.get_trials(deepcopy=False)
    firsts = [_first_attempt(a) for a in attempts if a.state != TrialState.PRUNED]
    return list(dict.fromkeys(firsts)).index(_first_attempt(attempts[attempt]))


def _first_attempt(attempt: FrozenTrial) -> int:
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(attempt)
    return attempt.number if first is None else first
