"""``python -m benchmarks.packing``: a SASRec epoch on packed rows against padded ones."""

from __future__ import annotations

from benchmarks import report, workload
from experiments.training.timing import in_turn


def measure(quick: bool, dataset: str = "beauty") -> list[report.Case]:
    """Measures the seconds of an epoch; on short histories a padded one computes empty cells."""
    data = workload.dataset(quick, dataset)
    packed, _ = workload.epoch_runner(data, "sevo-adamw")
    padded, _ = workload.epoch_runner(data, "sevo-adamw", packed=False)
    calls = {"packed": packed, "padded": padded}
    seconds = in_turn(calls, rounds=1 if quick else 7)
    return [report.case(f"SASRec epoch, {data.name}", seconds, "s", 1)]


if __name__ == "__main__":
    report.command("packing", measure, workload.Options)
