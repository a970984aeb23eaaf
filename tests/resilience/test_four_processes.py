"""One of four processes that train together is killed; the others stop, and a restart goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.runs import (
    NAME,
    REPOSITORY,
    TINY,
    during_write,
    environment,
    process_of,
    same_run,
    users_of_built_in_data,
)

pytestmark = pytest.mark.resilience

EPOCHS = 12
MINUTE = 60


class Launcher:
    """The command that starts four processes, on one folder."""

    def __init__(self, file: Path, cache: Path, out: Path) -> None:
        self.folder = out / NAME
        self._command = [sys.executable, "-m", "experiments.launch", "--processes", "4"]
        self._command += ["--dataset", str(file), "--optimizer", "sevo-adamw", *TINY]
        self._command += ["--eval-every=1", f"--epochs={EPOCHS}", "--out", str(out)]
        self._environ = environment(cache)

    @contextlib.contextmanager
    def started(self, *more: str) -> Generator[subprocess.Popen[str]]:
        launcher = subprocess.Popen(
            [*self._command, *more],
            cwd=REPOSITORY,
            env=self._environ,
            text=True,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with launcher:
            try:
                yield launcher
            finally:  # whatever hangs
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(launcher.pid, signal.SIGKILL)

    def run(self, *more: str) -> None:
        with self.started(*more) as launcher:
            _, errors = launcher.communicate(timeout=900)
        assert launcher.returncode == 0, errors


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return users_of_built_in_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(file, compilation_cache, tmp_path_factory) -> Launcher:
    launcher = Launcher(file, compilation_cache, tmp_path_factory.mktemp("undisturbed") / "out")
    launcher.run()
    return launcher


@pytest.mark.parametrize("number", [0, 3])
def test_one_of_four_is_killed(number, file, undisturbed, compilation_cache, tmp_path):
    command = Launcher(file, compilation_cache, tmp_path / "out")
    with command.started() as launcher:
        during_write(command.folder, epoch=4)
        os.kill(process_of(launcher, number), signal.SIGKILL)
        _, errors = launcher.communicate(timeout=MINUTE)  # all have stopped by then
    assert launcher.returncode != 0
    assert f"process {number} was ended by SIGKILL; go on with --resume" in errors
    for other in {0, 1, 2, 3} - {number}:
        assert f"process {other} stops, for process {number} has ended" in errors, errors
    assert not (command.folder / "result.json").exists()
    command.run("--resume")
    same_run(command.folder, undisturbed.folder)
