"""``python -m benchmarks.packing``: a SASRec epoch on packed rows against padded ones."""

from __future__ import annotations

from benchmarks import report, workload


def main() -> None:
    """Measures and writes ``results/packing-DEVICE.json``."""
    data = workload.dataset()
    packed, _ = workload.epoch_runner(data, "sevo-adamw")
    padded, _ = workload.epoch_runner(data, "sevo-adamw", packed=False)
    seconds = report.in_turn({"packed": packed, "padded": padded}, rounds=7)
    report.write("packing", [report.case(f"SASRec epoch, {data.name}", seconds, "s", 1)])


if __name__ == "__main__":
    main()
