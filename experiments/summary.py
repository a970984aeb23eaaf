"""The summary of a folder of runs: tables, beside the paper's values, and learning curves."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from experiments.console import cell, markdown_text, plain, show
from experiments.data import NAMES
from experiments.errors import UserError
from experiments.files import read_json, replaced, write_text
from experiments.metrics import CRITERION
from experiments.numbers import LABELS, METRICS, MODELS, TABLE_2
from experiments.pages import plots
from experiments.protocol import Measured, protocol
from experiments.run import changes, read_records, read_result

HEADER = ("Model", "Optimiser", *METRICS, "Seeds")
Key = tuple[str, str, str]
"""Data set, model, and optimiser with its changed settings."""
Results = dict[Key, list[dict[str, Any]]]
"""The results of each row of the table, one for each seed, with their configurations."""
Curves = dict[Key, list[list[dict[str, Any]]]]


class Written(NamedTuple):
    """A table as it is read."""

    header: tuple[str, ...]
    rows: list[list[str]]


def write(out: Path) -> None:
    """Writes ``summary.md`` and ``curves.png`` of the runs finished in ``out``; prints the tables.

    Nothing is written where no run is finished.

    Raises:
        UserError: a run's file cannot be read, or the summary cannot be written.
    """
    results, curves, _ = _finished(out)
    if not results:
        return
    tables, text = _write(out, results, curves, [], [])
    # Output comes last: a closed pipe ends the command.
    show(text[1])
    for header, rows in tables:
        table = Table(*header, title=cell(text[0]) if header == HEADER else None, box=SIMPLE)
        for row in rows:
            table.add_row(*map(cell, row), style=None if row[-1] else "dim")
        show(table)
    for what, name in (("table", "summary.md"), ("curves", "curves.png")):
        show(f"{what}: {out / name}")


def update(out: Path) -> None:
    """Writes what `write` does and prints nothing; runs in training have curves and a table, too.

    Raises:
        UserError: as `write`.
    """
    results, curves, names = _finished(out)
    done = {str(run["config"]): run for runs in results.values() for run in runs}
    rows: list[list[str]] = []
    begun: list[Measured] = []
    for file in sorted(out.glob("*/metrics.jsonl")):
        config, records = read_json(file.parent / "config.json"), read_records(file, sys.maxsize)
        if str(config) in done or not records:
            continue
        best = max(records, key=lambda record: record["valid"][CRITERION])
        key = _dataset(config, names), config["model"], _label(config)
        curves[key].append(records)
        begun.append(Measured(key[0], config, {}))
        name = MODELS.get(config["model"], config["model"])
        values = [f"{best['valid'][metric]:.4f}" for metric in METRICS]
        epochs = f"{best['epoch']}, at {records[-1]['epoch']} of {config['epochs']}"
        rows.append([f"{name}, seed {config['seed']}", key[2], *values, epochs])
    if curves:
        header = ("In training", "Optimiser", *(f"Valid {m}" for m in METRICS), "Best epoch")
        _write(out, results, curves, [Written(header, rows)] if rows else [], begun)


def _finished(out: Path) -> tuple[Results, Curves, dict[str, str]]:
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
    return results, curves, names


def _write(
    out: Path,
    results: Results,
    curves: Curves,
    running: list[Written],
    begun: list[Measured],
) -> tuple[list[Written], list[str]]:
    """Writes the files; returns the tables and the sentences above them."""
    datasets = ", ".join(sorted({dataset for dataset, _, _ in curves}))
    how = f"{datasets}: test metrics at the epoch of the best validation {CRITERION}."
    finished = [
        Measured(dataset, run["config"], run)
        for (dataset, _, _), runs in results.items()
        for run in runs
    ]
    how_measured = protocol([*finished, *begun])
    tables = [Written(HEADER, _rows(results)), *_others(results)] if results else []
    tables += running
    write_text(out / "summary.md", _markdown(tables, results, [how, how_measured]))
    try:
        with replaced(out / "curves.png") as draft:
            _draw(curves, draft)
    except OSError as error:
        raise UserError(f"{out / 'curves.png'}: cannot be written ({error.strerror})") from error
    return tables, [how, how_measured]


def _dataset(config: dict[str, Any], names: dict[str, str]) -> str:
    """Returns the data set's name; of a file that was named in several ways, the first.

    If the file has changed between two runs, it is two data sets.
    """
    dataset = config["dataset"]
    if dataset in NAMES:
        return dataset
    content = config.get("data", dataset)
    if content not in names:
        labels = chain([dataset], (f"{dataset} (content {n})" for n in count(2)))
        names[content] = next(label for label in labels if label not in names.values())
    return names[content]


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
    for name, label, key in _named(results):
        runs, (dataset, model, _) = results[key], key
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


def _named(results: Results) -> list[tuple[str, str, Key]]:
    """Returns name, optimiser and key of each row, in the order of optimisers."""
    labels = [label.partition(",")[0] for label in LABELS.values()]
    order = {key: labels.index(re.split(r",| \[", key[2])[0]) for key in results}
    several = len({dataset for dataset, _, _ in results}) > 1
    return [
        (MODELS.get(key[1], key[1]) + (f", {key[0]}" if several else ""), key[2], key)
        for key in sorted(results, key=lambda k: (*k[:2], order[k]))
    ]


def _others(results: Results) -> list[Written]:
    """Makes the table of all other numbers, as means over seeds: a line each, a column for a row.

    There is none if the results are older than these numbers.
    """
    found: dict[str, dict[Key, list[float | None]]] = {}
    for key, runs in results.items():
        for run in runs:
            numbers = run["test"] | run.get("recommended", {}) | _ends_of_groups(run)
            for name, value in numbers.items():
                if name not in METRICS:
                    found.setdefault(name, {}).setdefault(key, []).append(value)
    if not found:
        return []
    named = _named(results)
    heads = [f"{name}, {label.partition(' [')[0]}" for name, label, _ in named]
    if len({name for name, _, _ in named}) == 1:
        heads = [head.partition(", ")[2] for head in heads]
    if len(set(heads)) < len(heads):
        heads = [f"{name}, {label}" for name, label, _ in named]
    rows = [[name, *(_mean(own.get(key, ())) for *_, key in named)] for name, own in found.items()]
    return [Written(("", *heads), rows)]


def _ends_of_groups(run: dict[str, Any]) -> dict[str, float | None]:
    ends = {
        "by_popularity": ("rarest fifth of test items", "most popular fifth"),
        "by_history": ("shortest fifth of histories", "longest fifth"),
    }
    return {
        f"{CRITERION}, {words}": run[kind][CRITERION][place]
        for kind, both in ends.items()
        for place, words in zip((0, -1), both, strict=True)
        if kind in run
    }


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.4g}" if known else "–"


def _markdown(tables: list[Written], results: Results, text: list[str]) -> str:
    paragraphs = [*map(markdown_text, text)]
    for header, rows in tables:
        cells = [[markdown_text(name), *(c.strip() for c in row)] for name, *row in rows]
        lines = [list(header), ["---"] * len(header), *cells]
        paragraphs.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    runs = [run for group in results.values() for run in group]
    devices = ", ".join(sorted({run["device"] for run in runs}))
    epochs = ", ".join(sorted({str(run["epochs"]) for run in runs}))
    if runs:
        paragraphs.insert(len(text), f"Runs of {epochs} epochs on: {devices}.")
    return "\n\n".join([*paragraphs, "![Learning curves](curves.png)\n"])


@mpl.rc_context({"text.parse_math": False})  # names of files may have dollars
def _draw(curves: Curves, path: Path) -> None:
    # Data set and model are in the legend only if there are several.
    varied = [len({key[i] for key in curves}) > 1 for i in range(2)]
    lines: list[tuple[Any, str]] = []
    with plots.picture(path, (9, 3.6), columns=2) as (figure, grid):
        left, right = grid[0]
        for key, color in zip(curves, plots.COLORS * len(curves), strict=False):
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
        # The legend is below the curves, where long labels take no room from them. Labels are
        # passed as a list: Matplotlib hides a line whose own label begins with an underscore.
        handles, labels = zip(*lines, strict=True)
        figure.legend(handles, labels, loc="outside lower center")
