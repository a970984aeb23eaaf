"""The summary of a folder of runs: a table beside the paper's values, and learning curves."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from experiments.console import cell, markdown_text, plain, show
from experiments.data import NAMES
from experiments.errors import UserError
from experiments.evaluation import CRITERION
from experiments.files import read_json, replaced, write_text
from experiments.paper.numbers import METRICS, MODELS, TABLE_2
from experiments.run import changes, read_records, read_result

HEADER = ("Model", "Optimiser", *METRICS, "Seeds")
LABELS = {
    "adam": "Adam, as published",
    "adamw": "AdamW, SEvo's settings",
    "sevo-adamw": "SEvo-AdamW",
    "sevo-adam": "SEvo-Adam",
    "sgd": "SGD",
    "sevo-sgd": "SEvo-SGD",
}

Key = tuple[str, str, str]
"""Data set, model, and optimiser with its changed settings."""
Results = dict[Key, list[dict[str, Any]]]
"""The results of each row of the table, one for each seed, with their configurations."""
Curves = dict[Key, list[list[dict[str, Any]]]]


def write(out: Path) -> None:
    """Writes ``summary.md`` and ``curves.png`` of the runs finished in ``out``; prints the table.

    Nothing is written where no run is finished.

    Raises:
        UserError: a run's file cannot be read, or the summary cannot be written.
    """
    results: Results = defaultdict(list)
    curves: Curves = defaultdict(list)
    names: dict[str, str] = {}
    for file in sorted(out.glob("*/result.json")):
        result = read_result(file)
        # The configuration of a run that goes on for more epochs already has the new number.
        config = read_json(file.parent / "config.json") | {"epochs": result["epochs"]}
        key = _dataset(config, names), config["model"], _label(config)
        results[key].append(result | {"config": config})
        curves[key].append(read_records(file.parent / "metrics.jsonl", result["epochs"]))
    if not results:
        return
    rows = _rows(results)
    datasets = ", ".join(sorted({dataset for dataset, _, _ in results}))
    write_text(out / "summary.md", _markdown(rows, results, datasets))
    try:
        with replaced(out / "curves.png") as draft:
            _draw(curves, draft)
    except OSError as error:
        raise UserError(f"{out / 'curves.png'}: cannot be written ({error.strerror})") from error
    # Output comes last: a closed pipe ends the command.
    title = cell(f"{datasets}: test metrics at the best validation {CRITERION}")
    table = Table(*HEADER, title=title, box=SIMPLE)
    for row in rows:
        table.add_row(*map(cell, row), style=None if row[-1] else "dim")
    show(table)
    for what, name in (("table", "summary.md"), ("curves", "curves.png")):
        show(f"{what}: {out / name}")


def _dataset(config: dict[str, Any], names: dict[str, str]) -> str:
    """Returns the data set's name; of a file that was named in several ways, the first."""
    dataset = config["dataset"]
    if dataset in NAMES:
        return dataset
    return names.setdefault(config.get("data", dataset), dataset)


def _label(config: dict[str, Any]) -> str:
    """Returns the optimiser's name and, in brackets, the changed settings."""
    label = LABELS[config["optimizer"]]
    if config["dataset"] not in NAMES:  # nothing is published on a file of one's own
        label = label.partition(",")[0]
    changed = [f"{name} {value}" for name, value in changes(config).items()]
    return label + (f" [{', '.join(changed)}]" if changed else "")


def _rows(results: Results) -> list[list[str]]:
    """Makes the cells: for each optimiser the mean, the deviation over seeds, the paper's value."""
    rows = []
    labels = [label.partition(",")[0] for label in LABELS.values()]
    order = {key: labels.index(re.split(r",| \[", key[2])[0]) for key in results}
    for key in sorted(results, key=lambda k: (*k[:2], order[k])):
        runs, (dataset, model, label) = results[key], key
        name = MODELS.get(model, model)
        if len({dataset for dataset, _, _ in results}) > 1:
            name += f", {dataset}"
        values = np.array([[run["test"][m] for m in METRICS] for run in runs])
        mean = values.mean(axis=0)
        seeds = " ".join(str(run["seed"]) for run in runs)
        rows.append([name, label, *(f"{v:.4f}" for v in mean), seeds])
        if len(runs) > 1:
            deviation = values.std(axis=0, ddof=1)
            rows.append(["", "  ± over seeds", *(f"{v:.4f}" for v in deviation), ""])
        config = runs[0]["config"]
        published = model, dataset, config["optimizer"]
        if published in TABLE_2 and not changes(config):
            paper = np.array(TABLE_2[published])
            rows.append(["", "  paper, 5 seeds", *(f"{v:.4f}" for v in paper), ""])
            rows.append(["", "  ours against it", *(f"{v:+.1%}" for v in mean / paper - 1), ""])
    return rows


def _markdown(rows: list[list[str]], results: Results, datasets: str) -> str:
    cells = [[markdown_text(name), *(c.strip() for c in row)] for name, *row in rows]
    lines = [list(HEADER), ["---"] * len(HEADER), *cells]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    runs = [run for group in results.values() for run in group]
    devices = ", ".join(sorted({run["device"] for run in runs}))
    epochs = ", ".join(sorted({str(run["epochs"]) for run in runs}))
    return (
        f"{markdown_text(datasets)}: test metrics at the epoch of the best validation {CRITERION}; "
        f"full ranking, leave-one-out.\nRuns of {epochs} epochs on: {devices}.\n\n{table}\n\n"
        "![Learning curves](curves.png)\n"
    )


@mpl.rc_context({"text.parse_math": False})  # names of files may have dollars
def _draw(curves: Curves, path: Path) -> None:
    mpl.use("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    # Data set and model are in the legend only if there are several.
    varied = [len({key[i] for key in curves}) > 1 for i in range(2)]
    lines: list[tuple[Any, str]] = []
    for key, color in zip(curves, mpl.color_sequences["tab10"] * len(curves), strict=False):
        names = (plain(Path(key[0]).name), key[1])
        label = ", ".join([n for n, v in zip(names, varied, strict=True) if v] + [key[2]])
        for i, records in enumerate(curves[key]):
            epochs = [r["epoch"] for r in records]
            style = {"color": color, "lw": 1.5}
            left.plot(epochs, [r["train_loss"] for r in records], **style)
            (line,) = right.plot(epochs, [r["valid"][CRITERION] for r in records], **style)
            lines += [(line, label)] if i == 0 else []
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel=f"validation {CRITERION}", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    # The legend is below the curves, where long labels take no room from them. Labels are passed
    # as a list, since Matplotlib hides a line whose own label begins with an underscore.
    handles, labels = zip(*lines, strict=True)
    figure.legend(handles, labels, frameon=False, loc="outside lower center")
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
