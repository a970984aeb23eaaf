"""A process's part in a sweep: it works at trials, and shows and writes what there is."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from optuna.trial import Trial
from rich.console import Console, Group
from rich.live import Live

from experiments import train, trainer
from experiments.console import say
from experiments.data import Interactions
from experiments.errors import UserError
from experiments.run import Run, read_result
from experiments.sweep.options import make_runs
from experiments.sweep.report import Frame, compose, grid, in_words, is_over
from experiments.sweep.study import Sweep
from experiments.tables import documents


class Session:
    """Works at the trials of a sweep that no other process has in hand.

    Args:
        sweep: where trials come from, and their scores go to.
        options: the command's.
        frame: of the tables.
        data: to train on.
        out: the folder that everything goes to.
    """

    def __init__(self, sweep: Sweep, options: Any, frame: Frame, data: Interactions, out: Path):
        self._sweep, self._options, self._frame = sweep, options, frame
        self._data, self._out = data, out
        self._bar = train.progress_bar()

    def work(self) -> None:
        """Works until all trials have been begun; writes the documents after each.

        Raises:
            UserError: as `trainer.train`, but for a trial that diverges: that one has failed.
            Interrupted: a signal came; the trial in hand is saved.
        """
        screen = Live(console=train.console, transient=True)
        with screen, train.stop_on_signal(self._bar) as stop:
            while not stop.is_set() and (trial := self._sweep.claim(self._frame.limit)):
                self._show(screen)
                try:
                    self._conduct(trial, stop)
                except BaseException:
                    with contextlib.suppress(UserError):  # the first error is the one to tell
                        self.write()
                    raise
                self.write()
                if not train.console.is_terminal:  # where there is no live table
                    (own,) = (t for t in self._sweep.tried() if t.number == trial.number)
                    say(f"{in_words(own, self._frame.fields)}, {own.seconds:.0f} s")
            if stop.is_set():
                raise trainer.Interrupted("between two trials")

    def write(self) -> list[Path]:
        """Writes the documents; their paths."""
        with self._sweep.alone():
            tried, tests = self._sweep.tried(), []
            if is_over(tried, self._frame) and tried[0].score is not None:
                tests = [
                    read_result(self._folder(tried[0].twin, seed) / "result.json")
                    for seed in self._options.seeds
                ]
            return documents.write(compose(tried, self._frame, tests), self._out)

    def tell(self) -> None:
        """Prints the table and the best trial."""
        tried = self._sweep.tried()
        Console().print(grid(tried, self._frame))
        if tried and tried[0].score is not None:
            say(f"best: {in_words(tried[0], self._frame.fields)}")

    def _show(self, screen: Live) -> None:
        screen.update(Group(self._bar, grid(self._sweep.tried(), self._frame)))

    def _folder(self, number: int, seed: int) -> Path:
        return self._out / "runs" / f"trial{number}-seed{seed}"

    def _conduct(self, trial: Trial, stop: threading.Event) -> None:
        """Trains what is missing of a trial's runs, and enters their score."""
        twin = self._sweep.twin_of(trial)
        try:
            runs = make_runs(self._options, trial.params)
        except UserError as error:  # values that are allowed, but not together
            self._fail(trial, error)
            return
        folders = {run: self._folder(twin, run.seed) for run in runs}
        try:
            self._train(trial, folders, stop)
        except trainer.DivergedError as error:
            self._fail(trial, error)
            return
        results = [read_result(folder / "result.json") for folder in folders.values()]
        self._sweep.finish(
            trial,
            scores=[result["valid"][trainer.CRITERION] for result in results],
            best_epochs=[result["best_epoch"] for result in results],
            twin=twin,
        )

    def _train(self, trial: Trial, folders: dict[Run, Path], stop: threading.Event) -> None:
        began, before = time.perf_counter(), trial.user_attrs.get("seconds", 0.0)
        try:
            for group in train.make_groups(list(folders), self._options.together):
                places = [folders[run] for run in group]
                train.train_group(group, self._data, places, True, self._bar, stop)
        finally:
            trial.set_user_attr("seconds", before + time.perf_counter() - began)
            for task in self._bar.task_ids:
                self._bar.remove_task(task)

    def _fail(self, trial: Trial, error: UserError) -> None:
        self._sweep.fail(trial, " ".join(str(error).split()))
        say(f"trial {trial.number} failed: {error}")
