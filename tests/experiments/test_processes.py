"""Several processes: how they meet, that they agree, and what the others do when one is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from experiments import train
from experiments.training import processes
from tests.devices import check_on_processes, free_address
from tests.runs import REPOSITORY, environment, process_of, records_of

TINY = [
    *("--dim", "8", "--num-blocks", "1", "--max-len", "12", "--batch-size", "16"),
    *("--eval-every", "2", "--optimizer", "sevo-adamw"),
]
NAME = "sasrec-sevo-adamw-seed0"


@pytest.fixture
def port(monkeypatch) -> int:
    """A free one; and nobody waits long."""
    monkeypatch.setattr(processes, "MEETING_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-processes", "2"], "--coordinator: goes with 2 processes and more"),
        (["--coordinator", "HERE"], "--coordinator: goes with 2 processes and more"),
        (["--coordinator", "HERE", "--num-processes", "2", "--process-id", "2"], "from 0 to 1"),
        (["--coordinator", "here", "--num-processes", "2"], "expected host:port, got 'here'"),
        (
            ["--coordinator", "HERE", "--num-processes", "2", "--process-id", "1"],
            "HERE could not be reached within 0.5 s (Connection refused)",
        ),
        (
            ["--coordinator", "HERE", "--num-processes", "3"],
            "of 3, [1, 2] did not come to HERE within 0.5 s",
        ),
    ],
)
def test_who_does_not_meet(options, message, port, tmp_path, capsys):
    here = f"127.0.0.1:{port}"
    options = [option.replace("HERE", here) for option in options]
    assert train.main([*options, "--out", str(tmp_path / "out")]) == 1
    assert message.replace("HERE", here) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_processes_need_one_folder(port, capsys):
    options = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    assert train.main(options) == 1
    assert "--out: several processes write to one folder" in capsys.readouterr().err


def test_a_process_of_another_number(port, tmp_path, capsys):
    """Whoever comes with other numbers stops both, at once."""
    options = ["--coordinator", f"127.0.0.1:{port}", "--out", str(tmp_path / "out")]
    options += ["--num-processes", "2"]

    def knock() -> None:
        with pytest.raises(processes.UserError, match="process 0 says why"):
            processes.join(f"127.0.0.1:{port}", 3, 2)

    visitor = threading.Thread(target=knock)
    visitor.start()
    assert train.main(options) == 1
    visitor.join()
    assert "process 2 of 3 came to" in capsys.readouterr().err


def wait_together(address: str, number: int, met: Any, said: Path) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    processes.join(address, 2, number)
    try:
        while not processes.any_process(False):
            met.set()
    except Exception:  # as the command does
        processes.stop_if_another_ended()
        raise


@pytest.mark.parametrize("number", [0, 1])
def test_one_of_two_is_killed(number, tmp_path):
    """The other stops by itself, and says why."""
    address = free_address()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.runs"])
    met = forks.Event()
    said = [tmp_path / "0", tmp_path / "1"]
    both = [
        forks.Process(target=wait_together, args=(address, i, met, said[i]), daemon=True)
        for i in range(2)
    ]
    for process in both:
        process.start()
    assert met.wait(60)
    both[number].kill()
    other = 1 - number
    both[other].join(60)
    assert both[other].exitcode == 1
    why = f"process {other} stops, for process {number} has ended; start all"
    assert why in said[other].read_text()


@pytest.mark.slow
def test_what_each_of_two_holds():
    check_on_processes(2, Path(__file__).with_name("on_two_processes.py"))


@pytest.mark.slow
def test_one_is_killed_and_all_go_on(users_file, tmp_path, compilation_cache):
    """Two processes; the second is killed after an epoch or more, and all are started again."""
    options = ["--dataset", str(users_file), *TINY, "--epochs", "40"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    command = [sys.executable, "-m", "experiments.launch", "--processes", "2", *options]
    command += ["--out", str(together)]
    environ = environment(compilation_cache)
    started = {"cwd": REPOSITORY, "env": environ, "text": True, "stderr": subprocess.PIPE}

    with subprocess.Popen(command, **started) as launcher:
        records = together / NAME / "metrics.jsonl"
        deadline = time.monotonic() + 600
        while not records.exists() and time.monotonic() < deadline and launcher.poll() is None:
            time.sleep(0.05)
        assert launcher.poll() is None, launcher.communicate()[1]
        os.kill(process_of(launcher, 1), signal.SIGKILL)
        _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert "process 0 stops, for process 1 has ended" in errors
    assert "process 1 was ended by SIGKILL" in errors
    assert not (together / NAME / "result.json").exists()

    subprocess.run([*command, "--resume"], check=True, timeout=600, **started)
    assert train.main([*options, "--out", str(alone)]) == 0
    for got, wanted in zip(records_of(together / NAME), records_of(alone / NAME), strict=True):
        assert got["train_loss"] == pytest.approx(wanted["train_loss"], abs=1e-5)
        assert got["valid"] == pytest.approx(wanted["valid"], abs=1e-5)
    results = [json.loads((out / NAME / "result.json").read_text()) for out in (together, alone)]
    assert results[0]["test"] == pytest.approx(results[1]["test"], abs=1e-5)
    assert results[0]["device"].startswith("2 x ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            [["--dropout-rate", "0.1"], ["--dropout-rate", "0.2"]],
            f"processes 0 and 1 differ: dropout_rate of {NAME} is 0.1 and 0.2",
        ),
        ([["--mesh", "data=1"]] * 2, "data=1 takes 1 devices, and the 2 processes have 2"),
    ],
)
def test_what_processes_disagree_on(own, message, users_file, tmp_path, compilation_cache):
    address = free_address()
    command = [sys.executable, "-m", "experiments.train", "--dataset", str(users_file), *TINY]
    command += ["--epochs", "1", "--out", str(tmp_path / "out"), "--coordinator", address]
    command += ["--num-processes", "2", "--process-id"]
    both = [
        subprocess.Popen(
            [*command, str(i), *options],
            cwd=REPOSITORY,
            env=environment(compilation_cache),
            text=True,
            stderr=subprocess.PIPE,
        )
        for i, options in enumerate(own)
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    assert all(message in error for error in errors), errors
    assert not (tmp_path / "out").exists()
