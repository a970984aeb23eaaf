"""What a folder of runs shows: a table beside the paper's values, and the learning curves."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from experiments.errors import UserError
from experiments.trainer import CRITERION

METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
HEADER = ("Optimiser", *METRICS, "Seeds")
LABELS = {
    "adam": "Adam, as published",
    "adamw": "AdamW, SEvo's settings",
    "sevo-adamw": "SEvo-AdamW",
}
# Table 2 of the paper, means of five seeds; it has no AdamW without smoothing.
PAPER = {
    ("sasrec", "beauty", "adam"): (0.0120, 0.0404, 0.0634, 0.0262, 0.0336),
    ("sasrec", "beauty", "sevo-adamw"): (0.0154, 0.0499, 0.0759, 0.0328, 0.0411),
    ("sasrec", "toys", "adam"): (0.0172, 0.0506, 0.0727, 0.0342, 0.0413),
    ("sasrec", "toys", "sevo-adamw"): (0.0192, 0.0584, 0.0844, 0.0392, 0.0475),
    ("sasrec", "tools", "adam"): (0.0099, 0.0317, 0.0466, 0.0210, 0.0258),
    ("sasrec", "tools", "sevo-adamw"): (0.0108, 0.0337, 0.0497, 0.0223, 0.0274),
}

Results = dict[tuple[str, str, str], list[dict[str, Any]]]


def write(out: Path) -> None:
    """Prints the table of the runs finished in ``out``; writes ``summary.md``, ``curves.png``."""
    results: Results = defaultdict(list)
    curves: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for file in sorted(out.glob("*/result.json")):
        result = json.loads(file.read_text())
        results[result["model"], result["dataset"], result["optimizer"]].append(result)
        lines = (file.parent / "metrics.jsonl").read_text().splitlines()
        curves[result["optimizer"]].append([json.loads(line) for line in lines])

    rows = _rows(results)
    datasets = ", ".join(sorted({key[1] for key in results}))
    table = Table(
        *HEADER, title=f"{datasets}: test metrics at the best validation {CRITERION}", box=SIMPLE
    )
    for row in rows:
        table.add_row(*row, style=None if row[-1] else "dim")
    console = Console()
    console.print(table)
    try:
        (out / "summary.md").write_text(_markdown(rows, results, datasets))
        _draw(curves, out / "curves.png")
    except OSError as error:
        raise UserError(f"{out}: the summary cannot be written ({error.strerror})") from error
    console.print(f"table: {out / 'summary.md'}", soft_wrap=True)
    console.print(f"curves: {out / 'curves.png'}", soft_wrap=True)


def _rows(results: Results) -> list[list[str]]:
    """The cells: for each optimiser the mean, the deviation over seeds, the paper's value."""
    rows = []
    order = list(LABELS)
    for key in sorted(results, key=lambda k: (k[0], k[1], order.index(k[2]))):
        runs = results[key]
        values = np.array([[run["test"][m] for m in METRICS] for run in runs])
        mean = values.mean(axis=0)
        seeds = " ".join(str(run["seed"]) for run in runs)
        rows.append([LABELS[key[2]], *(f"{v:.4f}" for v in mean), seeds])
        if len(runs) > 1:
            deviation = values.std(axis=0, ddof=1)
            rows.append(["  ± over seeds", *(f"{v:.4f}" for v in deviation), ""])
        if key in PAPER:
            paper = np.array(PAPER[key])
            rows.append(["  paper, 5 seeds", *(f"{v:.4f}" for v in paper), ""])
            rows.append(["  ours against it", *(f"{v:+.1%}" for v in mean / paper - 1), ""])
    return rows


def _markdown(rows: list[list[str]], results: Results, datasets: str) -> str:
    lines = [list(HEADER), ["---"] * len(HEADER), *([c.strip() for c in row] for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    runs = [run for group in results.values() for run in group]
    devices = ", ".join(sorted({run["device"] for run in runs}))
    epochs = ", ".join(sorted({str(run["epochs"]) for run in runs}))
    return (
        f"{datasets}: test metrics at the epoch of the best validation {CRITERION}; full ranking, "
        f"leave-one-out.\nRuns of {epochs} epochs on: {devices}.\n\n{table}\n\n"
        "![Learning curves](curves.png)\n"
    )


def _draw(curves: dict[str, list[list[dict[str, Any]]]], path: Path) -> None:
    mpl.use("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for optimizer, color in zip(LABELS, ("tab:gray", "tab:blue", "tab:orange"), strict=True):
        for i, records in enumerate(curves.get(optimizer, [])):
            epochs = [r["epoch"] for r in records]
            style = {"color": color, "lw": 1.5, "label": None if i else LABELS[optimizer]}
            left.plot(epochs, [r["train_loss"] for r in records], **style)
            right.plot(epochs, [r["valid"]["NDCG@10"] for r in records], **style)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
