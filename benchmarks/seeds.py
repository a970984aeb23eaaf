"""``python -m benchmarks.seeds``: five seeds trained in one program against one seed."""

from __future__ import annotations

from benchmarks import report, workload
from experiments.training.timing import in_turn

SEEDS = 5


def measure(quick: bool) -> list[report.Case]:
    """Measures the seconds of an epoch; together, every product serves all seeds."""
    data = workload.dataset(quick)
    together, _ = workload.epoch_runner(data, "sevo-adamw", seeds=SEEDS)
    one, _ = workload.epoch_runner(data, "sevo-adamw")
    calls = {f"{SEEDS} seeds": together, "1 seed": one}
    seconds = in_turn(calls, rounds=1 if quick else 7)
    return [report.case(f"SASRec epoch, {data.name}", seconds, "s", 1)]


if __name__ == "__main__":
    report.command("seeds", measure)
