"""Accuracy against training time, of all models plain and with SEvo, from runs that are finished.

The paper lacks this figure; its Tables 2 and 8 have the numbers apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from experiments import paper
from experiments.data import NAMES
from experiments.files import read_json
from experiments.paper import SEVO
from experiments.reproduce import documents
from experiments.reproduce.cells import Cell, mean, progress_of, score_over_seeds
from experiments.reproduce.documents import Document, Table
from experiments.reproduce.options import Options, chosen, chosen_seeds, refuse
from experiments.reproduce.rows import (
    SEEDS,
    Row,
    cells_of,
    optimizer_label,
    plain_optimizer,
    runs_of,
)
from experiments.reproduce.runs import look_at_all, missing, say
from experiments.reproduce.table2 import DATASETS
from experiments.reproduce.table6 import TABLE_MODELS
from experiments.reproduce.table8 import ours_of
from experiments.settings.published import MODELS
from experiments.training.loop import CRITERION

QUIET, BESIDE = "quiet", "beside other jobs"
HEADER = (
    "Model",
    "Optimiser",
    CRITERION,
    "Seconds",
    "An epoch",
    "Measured",
    "Device",
    "Seeds",
    "Epochs",
    "Best epoch",
)
COLORS = dict(zip(paper.MODELS, mpl.color_sequences["tab10"], strict=False))
MARKERS = {False: "o", True: "^"}
"""Without SEvo and with it."""
FAINT = 0.4
"""Of seconds that were taken beside other jobs."""


class Point(NamedTuple):
    """The runs of a model on a data set, their seeds together.

    Attributes:
        row: what was trained.
        cell: the results.
        per_epoch: seconds of an epoch.
        seconds: of the training up to the best epoch, the mean over seeds.
        quiet: whether Table 8 measured them, alone on the machine.
    """

    row: Row
    cell: Cell
    per_epoch: float
    seconds: float
    quiet: bool

    @property
    def score(self) -> float:
        """The mean of the criterion."""
        return mean(self.cell.values(CRITERION)) or 0.0

    @property
    def device(self) -> str:
        """What the runs were trained on."""
        return ", ".join(sorted({r["device"] for r in self.cell.results.values()}))

    @property
    def stopped(self) -> bool:
        """Whether it has fewer epochs than published."""
        return self.cell.epochs < self.cell.published


def make(options: Options) -> int:
    """Writes the page from what there is; trains nothing, so that no look is quicker."""
    refuse(options, "optimizers", "epochs", "quick")
    models = chosen("model", options.models, (name for name in paper.MODELS if name in MODELS))
    datasets = chosen("dataset", options.datasets, NAMES, DATASETS)
    rows = [row for dataset in datasets for model in models for row in make_rows(model, dataset)]
    runs, order = runs_of(rows, chosen_seeds(options.seeds, SEEDS), None)
    outcomes = look_at_all(order, options.runs)
    table8 = options.out / "table8.json"
    timed = read_json(table8) if table8.exists() else {}
    points = [
        point
        for row, cell in cells_of(rows, runs, outcomes)
        if (point := make_point(row, cell, timed)) is not None
    ]
    document = compose(datasets, points, missing(order, outcomes))
    say(f"written: {', '.join(map(str, documents.write(document, options.out)))}")
    return 0


def make_rows(model: str, dataset: str) -> list[Row]:
    """A model plain and, if the paper has it so, with SEvo."""
    has_sevo = model in paper.BACKBONES or model in TABLE_MODELS
    optimizers = (plain_optimizer(model), *([SEVO] if has_sevo else []))
    label = paper.MODELS[model]
    return [Row(dataset, model, label, model, optimizer, {}, None) for optimizer in optimizers]


def make_point(row: Row, cell: Cell, timed: dict[str, Any]) -> Point | None:
    """Where a row is in the picture; None if it has no results.

    Table 8's seconds of an epoch are taken if it has the model, measured on the machine of the
    runs; else those of the runs themselves.
    """
    results = list(cell.results.values())
    if not results:
        return None
    per_epoch = float(np.median([r["seconds_per_epoch"] for r in results]))
    found = timed.get("measured", {}).get(row.dataset, {}).get(row.model)
    quiet = None
    if found is not None and {r["device"] for r in results} == {timed.get("device")}:
        quiet = ours_of(found)["epoch_sevo" if row.optimizer == SEVO else "epoch_plain"]
    best = float(np.mean([r["best_epoch"] for r in results]))
    seconds = per_epoch if quiet is None else quiet
    return Point(row, cell, seconds, seconds * best, quiet is not None)


def compose(datasets: Sequence[str], points: Sequence[Point], not_done: Sequence[str]) -> Document:
    """The page: a table for each data set that has results, and the picture."""
    tables: list[Table] = []
    for dataset in datasets:
        own = [point for point in points if point.row.dataset == dataset]
        if own:
            name = paper.DATASETS.get(dataset, dataset)
            title = f"{name}: test {CRITERION} and seconds of training up to the best epoch"
            tables.append(Table(title, HEADER, [_line(p) for p in own], text_columns=2))
    devices = sorted({point.device for point in points})
    return Document(
        name="accuracy-time",
        title="Accuracy against training time",
        text=[
            f"Test {CRITERION} of finished runs, the mean over seeds, against the seconds of "
            "training up to the epoch of the best validation: seconds of an epoch times that "
            "epoch, without validations. The paper has no such figure.",
            f"*{QUIET}*: Table 8 measured the epoch alone on the machine (for Adam, with AdamW and "
            f"SEvo's settings). *{BESIDE}*: the seconds are those of the runs, which shared the "
            "machine: they are inflated, by how much is not known, and only Table 8's can be held "
            "against each other. Runs that were stopped before the published number of epochs are "
            "hollow in the picture: they would take longer, and may not have reached their best. "
            f"Those timed {BESIDE} are faint. Every device has a panel of its own: seconds of one "
            "say nothing of another's.",
            f"Trained on: {'; '.join(devices) or 'nothing yet'}.",
        ],
        tables=tables,
        missing=not_done,
        content={
            "table": "accuracy-time",
            "metric": CRITERION,
            "points": [
                {
                    "dataset": point.row.dataset,
                    "model": point.row.model,
                    "optimizer": point.row.optimizer,
                    "score": point.score,
                    "scores": dict(
                        zip(map(str, point.cell.results), point.cell.values(CRITERION), strict=True)
                    ),
                    "seconds": point.seconds,
                    "seconds_per_epoch": point.per_epoch,
                    "quiet": point.quiet,
                    "epochs": point.cell.epochs,
                    "epochs_published": point.cell.published,
                    "device": point.device,
                }
                for point in points
            ],
            "missing": list(not_done),
        },
        draw=(lambda path: draw(datasets, points, path)) if points else None,
        alt=f"Test {CRITERION} of each model, plain and with SEvo, against the seconds of training "
        "up to its best epoch",
    )


def _line(point: Point) -> list[str]:
    return [
        point.row.label,
        optimizer_label(point.row.model, point.row.optimizer),
        score_over_seeds(point.cell.values(CRITERION)),
        f"{point.seconds:,.0f}",
        f"{point.per_epoch:.2f}",
        QUIET if point.quiet else BESIDE,
        point.device,
        *progress_of(point.cell),
    ]


def draw(datasets: Sequence[str], points: Sequence[Point], path: Path) -> None:
    """A panel for each data set and device: a colour for a model, a shape for SEvo."""
    mpl.use("agg")
    ordered = sorted(points, key=lambda p: datasets.index(p.row.dataset))
    shown = list(dict.fromkeys((p.row.dataset, p.device) for p in ordered))
    figure, panels = plt.subplots(
        1,
        len(shown),
        figsize=(2.5 + 4 * len(shown), 4.2),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for axes, (dataset, device) in zip(panels[0], shown, strict=True):
        own = [p for p in points if (p.row.dataset, p.device) == (dataset, device)]
        for point in own:
            color = COLORS[point.row.model]
            axes.scatter(
                point.seconds,
                point.score,
                s=70,
                marker=MARKERS[point.row.optimizer == SEVO],
                edgecolors=color,
                facecolors="none" if point.stopped else color,
                alpha=1 if point.quiet else FAINT,
                linewidths=1.5,
                zorder=3,
            )
        for model in dict.fromkeys(p.row.model for p in own):
            pair = [p for p in own if p.row.model == model]
            axes.plot(
                [p.seconds for p in pair], [p.score for p in pair], color=COLORS[model], lw=0.8
            )
        axes.set(xscale="log", title=f"{paper.DATASETS.get(dataset, dataset)}, {device}")
        axes.set(xlabel="seconds of training up to the best epoch")
        axes.margins(0.15)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set(ylabel=f"test {CRITERION}")
    _legend(figure, points)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _legend(figure: Any, points: Sequence[Point]) -> None:
    def sign(label: str, color: Any, marker: str, **look: Any) -> Any:
        return Line2D([], [], color=color, marker=marker, ls="", ms=8, label=label, **look)

    models = [m for m in paper.MODELS if any(p.row.model == m for p in points)]
    signs = [sign(paper.MODELS[m], COLORS[m], "s") for m in models]
    signs += [sign("plain", "black", MARKERS[False]), sign("with SEvo", "black", MARKERS[True])]
    if any(p.stopped for p in points):
        signs.append(sign("stopped early", "black", MARKERS[False], mfc="none"))
    if any(not p.quiet for p in points):
        signs.append(sign(f"timed {BESIDE}", "black", MARKERS[False], alpha=FAINT))
    figure.legend(handles=signs, loc="outside right upper", frameon=False, fontsize="small")
