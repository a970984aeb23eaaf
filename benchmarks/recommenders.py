"""``python -m benchmarks.recommenders``: SASRec's training and recommendations beside other tools.

All train a model of the same size on the same interactions, and recommend ten items to all users.
Each has a process of its own, in turns. RecTools (on Python 3.11 and 3.12) and RecBole want
NumPy 1, which this project does not take, so each may have a Python of its own.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import report, workload
from experiments.data import Interactions

ROUNDS = {"bce": 2, "softmax": 1}
"""The losses, and how often each is measured: an epoch of others with softmax takes minutes."""
UNABLE = 3
"""The exit status of a candidate whose package is not installed, or that lacks the loss."""
SHARED = (
    "dim",
    "num_blocks",
    "num_heads",
    "max_len",
    "batch_size",
    "dropout_rate",
    "learning_rate",
)
"""The settings that all candidates share."""
PEERS = Path(__file__).parent / "peers"
MEASURED = (
    ("an epoch", "epoch", "s", 1),
    ("the first epoch, with what is prepared and compiled", "first", "s", 1),
    ("ten items for all users", "recommend", "s", 1),
    ("peak memory", "memory", "GiB", 2**-20),
)


@dataclasses.dataclass(frozen=True)
class Options(workload.Options):
    """Options of the benchmark."""

    rectools_python: str = sys.executable
    """A Python with RecTools."""
    recbole_python: str = sys.executable
    """A Python with RecBole."""


def write_interactions(data: Interactions, file: Path) -> None:
    """Writes users, items, times, and which interactions are held out, for a peer to read."""
    times = np.arange(data.num_interactions) - np.repeat(data.starts, data.lengths)
    columns = {"user": data.owners, "item": data.items, "time": times}
    columns["held_out"] = ~data.training_part()
    pl.DataFrame(columns).write_csv(file)


def ask(command: list[str], job: dict[str, Any]) -> dict[str, Any] | None:
    """Runs a candidate, which prints what it measured; ``None`` if it cannot do the job."""
    process = subprocess.run([*command, json.dumps(job)], stdout=subprocess.PIPE, text=True)
    if process.returncode == UNABLE:
        return None
    process.check_returncode()
    return json.loads(process.stdout.splitlines()[-1])


def measure(
    quick: bool,
    dataset: str = "beauty",
    rectools_python: str = sys.executable,
    recbole_python: str = sys.executable,
) -> Iterator[report.Case]:
    """Measures all candidates with each loss."""
    data = workload.dataset(quick, dataset)
    settings = workload.settings_for(data, "adamw").flat()
    job = {name: settings[name] for name in SHARED} | {"dataset": data.name}
    candidates = {
        "sevo-jax": [sys.executable, "-m", "benchmarks.peers.ours"],
        "RecTools": [rectools_python, str(PEERS / "with_rectools.py")],
        "RecBole, a row for each prefix": [recbole_python, str(PEERS / "with_recbole.py")],
    }
    for loss, rounds in ROUNDS.items():
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "interactions.csv"
            write_interactions(data, file)
            for _ in range(1 if quick else rounds):
                for name, command in candidates.items():
                    answer = ask(command, job | {"loss": loss, "file": str(file)})
                    found[name] += [] if answer is None else [answer]
        for what, key, unit, scale in MEASURED:
            values = {name: np.array([a[key] for a in own]) for name, own in found.items() if own}
            case = report.case(f"{what}, {loss}, {data.name}", values, unit, scale)
            versions = {f"{n} version": a[0].get("version") for n, a in found.items() if a}
            yield case | {name: version for name, version in versions.items() if version}


if __name__ == "__main__":
    report.command("recommenders", measure, Options)
