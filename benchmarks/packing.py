"""``python -m benchmarks.packing``: a SASRec epoch on packed rows against padded ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks import report, workload
from experiments.training.timing import in_turn


def measure(quick: bool, dataset: Sequence[str] = ("beauty",)) -> Iterable[report.Case]:
    """Measures the seconds of an epoch; a padded one computes mostly empty cells."""
    for name in dataset:
        data = workload.dataset(quick, name)
        packed, _ = workload.epoch_runner(data, "sevo-adamw")
        padded, _ = workload.epoch_runner(data, "sevo-adamw", packed=False)
        calls = {"packed": packed, "padded": padded}
        seconds = in_turn(calls, rounds=1 if quick else 7)
        yield report.case(f"SASRec epoch, {data.name}", seconds, "s", 1)


if __name__ == "__main__":
    report.command("packing", measure, workload.Options)
