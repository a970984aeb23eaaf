"""Runs that are killed, stopped, starved or damaged, and go on to the undisturbed one's bits.

``python -m pytest -m resilience -n 0``; short versions are in
``tests/experiments/test_train.py`` and ``test_folders.py``, most of them in the default suite.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.runs import (
    NAME,
    TINY,
    checkpoint_of,
    damage,
    during_write,
    same_run,
    start,
    users_of_built_in_data,
)

pytestmark = pytest.mark.resilience

EPOCHS = 8
KILLS, KILLS_IN_WRITES = 14, 6


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """SEvo on 200 users of the built-in data, but for --out."""
    file = users_of_built_in_data(tmp_path_factory.mktemp("data"))
    options = ["--optimizer", "sevo-adamw", *TINY, "--eval-every=1", f"--epochs={EPOCHS}"]
    return ["--dataset", str(file), *options]


class Command:
    """The command on one folder."""

    def __init__(self, arguments: list[str], cache: Path, out: Path) -> None:
        self._arguments, self._cache, self.out = arguments, cache, out
        self._printed = out.with_name("printed")

    @property
    def folder(self) -> Path:
        return self.out / NAME

    def start(self, *more: str, limit: int = 0) -> BaseProcess:
        arguments = [*self._arguments, "--out", str(self.out), *more]
        return start(arguments, self._cache, self._printed, limit)

    def finish(self, process: BaseProcess) -> tuple[int, str]:
        """The exit status, and what was printed by the last one started, on one line."""
        process.join(900)
        return process.exitcode, " ".join(self._printed.read_text().split())

    def run(self, *more: str, limit: int = 0) -> tuple[int, str]:
        return self.finish(self.start(*more, limit=limit))

    def kill(self, process: BaseProcess) -> bool:
        """Kills a process; returns whether it had not ended before."""
        process.kill()
        return self.finish(process)[0] == -signal.SIGKILL

    def resume(self) -> str:
        status, printed = self.run("--resume")
        assert status == 0, printed
        return printed


@pytest.fixture
def command(arguments, compilation_cache, tmp_path) -> Command:
    return Command(arguments, compilation_cache, tmp_path / "out")


def wait_for(path: Path) -> None:
    until = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(scope="module")
def timed(arguments, compilation_cache, tmp_path_factory) -> tuple[Command, float]:
    """An undisturbed run, and the seconds from when it has its folder to its end."""
    commands = [
        Command(arguments, compilation_cache, tmp_path_factory.mktemp("undisturbed") / "out")
        for _ in range(2)
    ]
    status, printed = commands[0].run()  # and compiles
    assert status == 0, printed
    process = commands[1].start()
    wait_for(commands[1].folder / "config.json")
    began = time.monotonic()
    assert commands[1].finish(process)[0] == 0
    seconds = time.monotonic() - began
    same_run(*(command.folder for command in commands))
    return commands[1], seconds


@pytest.fixture
def undisturbed(timed) -> Command:
    return timed[0]


@pytest.mark.parametrize("number", range(KILLS))
def test_kill_at_a_random_moment(command, timed, number):
    undisturbed, seconds = timed
    share = 0.9 * random.Random(number).random()
    while True:
        process = command.start()
        wait_for(command.folder / "config.json")
        time.sleep(share * seconds)
        if command.kill(process):
            break
        shutil.rmtree(command.out)  # it had ended before
        share *= 0.7
    command.resume()
    same_run(command.folder, undisturbed.folder)


@pytest.mark.parametrize("number", range(KILLS_IN_WRITES))
def test_kill_while_a_checkpoint_is_written(command, undisturbed, number):
    drawn = random.Random(number)
    checkpoints = command.folder / "checkpoints"
    process, epoch = command.start(), drawn.randint(1, EPOCHS - 2)
    during_write(command.folder, epoch)
    time.sleep(drawn.random() * 0.02)
    assert command.kill(process)
    left = {path.name for path in checkpoints.iterdir()}
    print(f"killed in epoch {epoch}; left: {', '.join(sorted(left))}")
    command.resume()
    same_run(command.folder, undisturbed.folder)
    assert {path.name for path in checkpoints.iterdir()} == {str(EPOCHS - 1), str(EPOCHS)}


def test_killed_again_and_again(command, undisturbed):
    """And each time in the next write."""
    for epoch in (1, 2, 3, 4):
        process = command.start(*["--resume"] * (epoch > 1))
        during_write(command.folder, epoch)
        assert command.kill(process)
    command.resume()
    same_run(command.folder, undisturbed.folder)


@pytest.mark.parametrize("cut", [False, True], ids=["one bit", "cut off"])
def test_a_damaged_newest_checkpoint(command, undisturbed, cut):
    process, checkpoints = command.start(), command.folder / "checkpoints"
    wait_for(checkpoints / "3")
    process.terminate()
    assert command.finish(process)[0] == 130
    older, newest = sorted(int(path.name) for path in checkpoints.iterdir())
    damage(checkpoints / str(newest), cut=cut)
    printed = command.resume()
    assert f"the checkpoint of epoch {newest} cannot be read" in printed
    assert f"the one of epoch {older} is taken" in printed
    same_run(command.folder, undisturbed.folder)


def test_no_checkpoint_can_be_read(command, undisturbed):
    shutil.copytree(undisturbed.out, command.out)
    (command.folder / "result.json").unlink()
    for step in (command.folder / "checkpoints").iterdir():
        damage(step)
    status, printed = command.run("--resume")
    assert status == 1
    assert f"the checkpoint of epoch {EPOCHS} cannot be read" in printed
    assert "to start over, remove the folder" in printed
    assert "Traceback" not in printed


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Generator[None]:
    """A file system of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kib", [8, 60, 400])
def test_a_full_disk(command, undisturbed, kib):
    """From the very first file on, and later."""
    with small_disk(command.out, kib):
        status, printed = command.run()
        words = printed[printed.rindex("error: ") :]
        assert status == 1
        assert "No space left on device" in words
        assert len(words) < 1200, words
        assert "Traceback" not in printed
        subprocess.run(["mount", "-o", "remount,size=100m", str(command.out)], check=True)
        command.resume()
        same_run(command.folder, undisturbed.folder)


def test_files_that_may_not_grow(command, undisturbed):
    status, printed = command.run(limit=2**16)
    assert status == 1
    assert "the checkpoint of epoch 1 could not be written" in printed
    command.resume()
    same_run(command.folder, undisturbed.folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal(command, undisturbed, number):
    process = command.start()
    wait_for(command.folder / "metrics.jsonl")
    os.kill(process.pid, number)
    status, words = command.finish(process)
    assert status == 130, words
    assert "Traceback" not in words
    epoch = checkpoint_of(command.folder)[0]
    assert f"interrupted: {NAME}: saved after epoch {epoch} in" in words
    command.resume()
    same_run(command.folder, undisturbed.folder)


def test_two_runs_in_one_folder(command, undisturbed):
    """The second refuses and harms nothing; the lock of one that was killed is free at once."""
    first = command.start()
    wait_for(command.folder / "checkpoints")
    os.kill(first.pid, signal.SIGSTOP)  # so that it cannot end before the second has tried
    status, printed = command.run("--resume")
    assert status == 1
    assert f"{command.folder} is in use by process {first.pid}; wait until" in printed
    status, printed = command.run()
    assert status == 1
    assert "already holds a run" in printed
    os.kill(first.pid, signal.SIGCONT)
    assert command.finish(first)[0] == 0
    same_run(command.folder, undisturbed.folder)


def test_two_runs_of_seeds_together(command):
    seeds = ["--seeds", "0", "1", "--together", "True"]
    first = command.start(*seeds)
    other = command.out / NAME.replace("seed0", "seed1")
    wait_for(other / "checkpoints")
    os.kill(first.pid, signal.SIGSTOP)
    status, printed = command.run("--seeds", "1", "--resume")
    assert status == 1
    assert re.search(rf"{other} is in use by process {first.pid}", printed)
    assert command.kill(first)
    status, printed = command.run(*seeds, "--resume")
    assert status == 0, printed
    assert json.loads((other / "result.json").read_text())["epochs"] == EPOCHS
