"""Shared by tests of runs: a tiny model, what a run's folder holds, and the command in a process.

Runs are the same if their files are, but for the seconds, and the newest checkpoint bit for bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import console, train
from experiments.data.synthetic import synthetic
from experiments.options import parse
from experiments.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = ["--model=mf-bpr", "--dim=16", "--batch-size=64", "--eval-every=2"]  # quick to compile
NAME = "mf-bpr-sevo-adamw-seed0"


def users_of_built_in_data(folder: Path) -> Path:
    """A text file of 200 users."""
    data = synthetic()
    users = np.split(data.items, data.starts[1:])[:200]
    file = folder / "users.txt"
    file.write_text("".join(f"{i} {' '.join(map(str, u))}\n" for i, u in enumerate(users, 1)))
    return file


def runs_of(options: list[str]) -> list[Run]:
    """The runs that ``python -m experiments.train`` would do."""
    return train.runs_of(*parse(train.Arguments, options, "train"))


def records_of(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def scores_of(folder: Path) -> dict:
    result = json.loads((folder / "result.json").read_text())
    return {k: v for k, v in result.items() if not k.startswith("seconds")}


def checkpoint_of(folder: Path) -> tuple[int, list[np.ndarray]]:
    """The epoch of the last checkpoint and its leaves, but for the seconds."""
    with ocp.CheckpointManager((folder / "checkpoints").absolute()) as saved:
        epoch = saved.latest_step()
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # wherever it was written
        tree = saved.restore(epoch, args=ocp.args.StandardRestore(fallback_sharding=here))
    tree.pop("seconds")
    return epoch, [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same_run(one: Path, other: Path) -> None:
    assert records_of(one) == records_of(other)
    assert scores_of(one) == scores_of(other)
    (epoch, leaves), (other_epoch, other_leaves) = checkpoint_of(one), checkpoint_of(other)
    assert epoch == other_epoch
    for a, b in zip(leaves, other_leaves, strict=True):
        np.testing.assert_array_equal(a, b)


def error_of(capsys, argv: list[str]) -> str:
    """Runs the command, which must fail, and returns its error on one line."""
    assert train.main(argv) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return " ".join(printed[printed.index("error: ") :].split())


def damage(step: Path, *, cut: bool = False) -> None:
    """Changes one bit in the middle of a checkpoint's arrays, or cuts them off there."""
    file = max((f for f in step.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    file.write_bytes(content[:middle] if cut else content)


def during_write(folder: Path, epoch: int, timeout: float = 600) -> None:
    """Waits until the checkpoint of an epoch is being written, or is there."""
    until = time.monotonic() + timeout
    while not list((folder / "checkpoints").glob(f"{epoch}*")):
        assert time.monotonic() < until
        time.sleep(0.0005)


def start(arguments: list[str], cache: Path, printed: Path, limit: int = 0) -> BaseProcess:
    """The command in a process of its own.

    The processes are forked from one that has imported everything and done nothing, so that each
    starts at once.

    Args:
        arguments: of ``python -m experiments.train``.
        cache: of compiled programs.
        printed: the file that gets what is printed.
        limit: bytes that its files may have, or 0.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.runs"])
    with pytest.MonkeyPatch.context() as patch:  # for the first one started
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in this process
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        process = server.Process(target=_command, args=(arguments, printed, limit), daemon=True)
        process.start()
    return process


def environment(cache: Path) -> dict[str, str]:
    """For commands that start processes of their own."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(REPOSITORY),
    }


def process_of(launcher: subprocess.Popen[str], number: int) -> int:
    """The id of one of the processes that `experiments.launch` has started."""
    command = ["ps", "-ww", "-o", "pid,args", "--ppid", str(launcher.pid)]
    listed = subprocess.check_output(command, text=True).splitlines()
    (line,) = (each for each in listed if each.endswith(f"--process-id {number}"))
    return int(line.split()[0])


def _command(arguments: list[str], printed: Path, limit: int) -> None:
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.unraisablehook = console.ignore_closed_loop  # as where it is the main module
    sys.exit(train.main(arguments))
