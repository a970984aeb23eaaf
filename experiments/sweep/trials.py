"""A worker of a sweep: it asks for trials, trains their runs, and writes the documents."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import Trial, TrialState
from rich.progress import Progress

from experiments import runner
from experiments.bars import progress_bar
from experiments.console import say
from experiments.data import Interactions
from experiments.errors import ArgumentError, UserError
from experiments.options import HINTS
from experiments.pages import documents
from experiments.run import Run, read_result
from experiments.sweep.report import Frame, best_of, compose, in_words, is_over
from experiments.sweep.study import GRACE, HEARTBEAT, locked, number_of, trials_of
from experiments.training import loop

PATIENCE = GRACE + HEARTBEAT + 1
"""Seconds after which a trial without a failure must belong to a live process."""


class TrialFailed(Exception):  # noqa: N818, like Optuna's TrialPruned
    """A trial failed for good: trying again would fail again."""


class Worker(NamedTuple):
    """A process that works at a sweep.

    Attributes:
        study: the study.
        frame: the configuration, as tables show it.
        make_runs: makes a run for each seed with the settings of a trial, or raises a `UserError`.
        together: whether all seeds of a trial are trained in one program.
        data: the data set.
        out: the folder of the sweep.
    """

    study: optuna.Study
    frame: Frame
    make_runs: Callable[[dict[str, Any]], list[Run]]
    together: bool | None
    data: Interactions
    out: Path

    def work(self) -> None:
        """Works until no trial is left to begin or to resume; writes the documents after each.

        Raises:
            UserError: as `loop.train`. A run that diverges, or whose settings are refused, is no
                error: its trial has failed.
            Interrupted: a signal came; the current trial is saved.
        """
        with progress_bar() as bar, runner.stop_on_signal() as stop:
            while self._wait_for_work(stop):
                self._try_one(bar, stop)
            if stop.is_set():
                raise loop.Interrupted("between two trials")

    def write(self) -> list[Path]:
        """Writes the documents; returns their paths."""
        with locked(self.out):
            trials, tests = trials_of(self.study), []
            best = best_of(trials)
            if best is not None and is_over(trials, self.frame):
                twin = best.user_attrs["twin"]
                folders = [self._folder(twin, seed) for seed in self.frame.config["seeds"]]
                tests = [read_result(folder / "result.json") for folder in folders]
            return documents.write(compose(trials, self.frame, tests), self.out)

    def _wait_for_work(self, stop: threading.Event) -> bool:
        """Waits for a trial to begin or to resume; returns whether there is one.

        If other processes have all trials, one of them may just have died. Optuna notices this only
        after a while, so this waits for as long.
        """
        until = time.monotonic() + PATIENCE
        noted = False
        while not stop.is_set():
            fail_stale_trials(self.study)
            states = [trial.state for trial in trials_of(self.study)]
            if len(states) < self.frame.limit or TrialState.WAITING in states:
                return True
            if TrialState.RUNNING not in states or time.monotonic() > until:
                return False
            if not noted:
                say("all trials have been begun; waits a minute, for a process may have died")
                noted = True
            stop.wait(1)
        return False

    def _try_one(self, bar: Progress, stop: threading.Event) -> None:
        attempts: list[int] = []

        def objective(trial: Trial) -> float:
            attempts.append(trial.number)
            return self._run_trial(trial, bar, stop)

        try:
            self.study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        except BaseException as error:
            taken = any(self._leave(attempt) for attempt in attempts)
            with contextlib.suppress(UserError):  # the first error is the one to raise
                self.write()
            # Optuna raises these if another process has ended the trial.
            if not (taken and isinstance(error, ValueError | AssertionError)):
                raise
            say("another process went on with the trial, as when this machine was asleep")
            return
        self.write()
        trials = trials_of(self.study)
        for attempt in attempts:
            if (number := number_of(self.study, attempt)) < len(trials):
                say(in_words(trials[number], self.frame.fields))

    def _leave(self, attempt: int) -> bool:
        """Leaves an attempt to be resumed; returns whether another process already does."""
        retry, attempts = RetryHeartbeatStaleTrialCallback(), self.study.get_trials()
        if any(attempt in retry.retry_history(other) for other in attempts):
            return True
        if attempts[attempt].state == TrialState.FAIL:
            retry(self.study, attempts[attempt])
        return False

    def _folder(self, number: int, seed: int) -> Path:
        return self.out / "runs" / f"trial{number}-seed{seed}"

    def _run_trial(self, trial: Trial, bar: Progress, stop: threading.Event) -> float:
        """Trains the runs of a trial, or resumes them; returns the mean of their scores."""
        number = number_of(self.study, trial.number)
        if number >= self.frame.limit:  # two processes began the last trial
            raise optuna.TrialPruned
        for field in self.frame.fields:
            field.suggest(trial)
        # A trial with the settings of an earlier one finds its finished runs in that one's folders.
        done = [t for t in trials_of(self.study) if t.state == TrialState.COMPLETE]
        twin = min((t.number for t in done if t.params == trial.params), default=number)
        began, before = time.monotonic(), trial.user_attrs.get("seconds", 0.0)
        try:
            runs = self.make_runs(trial.params)
        except UserError as error:  # values that are allowed alone, but not together
            raise _failure(trial, number, error) from error
        folders = {run: self._folder(twin, run.seed) for run in runs}
        try:
            for group in runner.make_groups(runs, self.together):
                places = [folders[run] for run in group]
                runner.train_group(group, self.data, places, True, bar, stop)
        except UserError as error:
            if isinstance(error, loop.DivergedError) or _is_of_values(error):
                raise _failure(trial, number, error) from error
            raise
        finally:
            trial.set_user_attr("seconds", before + time.monotonic() - began)
            for task in bar.task_ids:  # the next trial has bars of its own
                bar.remove_task(task)
        results = [read_result(folder / "result.json") for folder in folders.values()]
        scores = [result["valid"][loop.CRITERION] for result in results]
        best_epochs = [result["best_epoch"] for result in results]
        entries = {"scores": scores, "best_epochs": best_epochs, "twin": twin}
        for key, value in entries.items():
            trial.set_user_attr(key, value)
        return float(np.mean(scores))


def _is_of_values(error: UserError) -> bool:
    """Tells whether an error is of the values of settings, and not of files, which may come back.

    Settings that are text name files or days. The epochs of a teacher are those of its folder.
    """
    if not isinstance(error, ArgumentError) or error.argument == "teacher_epochs":
        return False
    return HINTS.get(error.argument, str) is not str


def _failure(trial: Trial, number: int, error: UserError) -> TrialFailed:
    trial.set_user_attr("reason", " ".join(str(error).split()))
    say(f"trial {number} failed: {error}")
    return TrialFailed()
