"""Accuracy against training time, of all models plain and with SEvo, from runs that are finished.

The paper lacks this figure; its Tables 2 and 8 have the numbers apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments import data, numbers
from experiments.console import say
from experiments.files import read_json
from experiments.metrics import CRITERION
from experiments.numbers import SEVO
from experiments.pages import plots
from experiments.pages.documents import Document, Table
from experiments.paper import accuracy_tables, table8
from experiments.tables import cells, requests, rows, runs
from experiments.tables.cells import Cell
from experiments.tables.rows import Line, Row

QUIET, BESIDE = "quiet", "beside other jobs"
HEADER = (
    "Model", "Optimiser", CRITERION, "Seconds", "An epoch", "Measured", "Device", "Seeds", "Epochs",
    "Best epoch",
)  # fmt: skip
COLORS = dict(zip(numbers.MODELS, plots.COLORS, strict=False))
MARKERS = {False: "o", True: "^"}
"""Without SEvo and with it."""
FAINT = 0.4
"""The opacity of seconds that were taken beside other jobs."""


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
        return cells.mean(self.cell.values(CRITERION)) or 0.0

    @property
    def device(self) -> str:
        """The machines of the runs."""
        return ", ".join(rows.devices([self.cell]))

    @property
    def stopped(self) -> bool:
        """Tells whether it has fewer epochs than published."""
        return self.cell.epochs < self.cell.published


def make(request: requests.Request) -> int:
    """Writes the page from what there is; trains nothing, so that no look is quicker."""
    choices = requests.Choices(
        models=requests.Names(accuracy_tables.known_models()),
        datasets=requests.Names(data.NAMES, numbers.TABLE_2_DATASETS),
        epochs=False,
    )
    asked = requests.choose(request, choices)
    wanted = [
        row for name in asked.datasets for model in asked.models for row in make_rows(model, name)
    ]
    plan = rows.make_plan(wanted, asked.seeds, None)
    outcomes = runs.look_at_all(plan.order(), request.runs)
    lines, _ = plan.read(outcomes, request.runs)
    file = request.out / "table8.json"
    timed = read_json(file) if file.exists() else {}
    points = [make_point(line, timed) for line in lines if line.cell.results]
    document = compose(asked.datasets, points, runs.missing(plan.order(), outcomes))
    say(f"written: {runs.publish(document, request)}")
    return 0


def make_rows(model: str, dataset: str) -> list[Row]:
    """A model plain and, if the paper has it so, with SEvo."""
    has_sevo = model in numbers.BACKBONES or model in numbers.TABLE_6_MODELS
    optimizers = (rows.plain_optimizer(model), *([SEVO] if has_sevo else []))
    return [Row(dataset, model, numbers.MODELS[model], optimizer) for optimizer in optimizers]


def make_point(line: Line, timed: dict[str, Any]) -> Point:
    """The place in the picture of a row that has results.

    Table 8's seconds of an epoch are taken if it has the model, measured on the machine of the
    runs; else those of the runs themselves.
    """
    row, cell, _ = line
    results = list(cell.results.values())
    per_epoch = float(np.median([r["seconds_per_epoch"] for r in results]))
    found = timed.get("measured", {}).get(row.dataset, {}).get(row.model)
    quiet = None
    if found is not None and rows.devices([cell]) == [timed.get("device")]:
        quiet = table8.ours_of(found)["epoch_sevo" if row.optimizer == SEVO else "epoch_plain"]
    best = float(np.mean([r["best_epoch"] for r in results]))
    seconds = per_epoch if quiet is None else quiet
    return Point(row, cell, seconds, seconds * best, quiet is not None)


def compose(datasets: Sequence[str], points: Sequence[Point], not_done: Sequence[str]) -> Document:
    """The page: a table for each data set that has results, and the picture."""
    tables: list[Table] = []
    for dataset in datasets:
        own = [point for point in points if point.row.dataset == dataset]
        if own:
            name = numbers.dataset_name(dataset)
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
            rows.protocol_of(Line(p.row, p.cell, ()) for p in points),
            rows.trained_on(devices, "; "),
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
        rows.optimizer_label(point.row),
        cells.score_over_seeds(point.cell.values(CRITERION)),
        f"{point.seconds:,.0f}",
        f"{point.per_epoch:.2f}",
        QUIET if point.quiet else BESIDE,
        point.device,
        *cells.progress_of(point.cell),
    ]


def draw(datasets: Sequence[str], points: Sequence[Point], path: Path) -> None:
    """A panel for each data set and device: a colour for a model, a shape for SEvo."""
    ordered = sorted(points, key=lambda p: datasets.index(p.row.dataset))
    shown = list(dict.fromkeys((p.row.dataset, p.device) for p in ordered))
    size = 2.5 + 4 * len(shown), 4.2
    with plots.picture(path, size, 1, len(shown), sharex=True) as (figure, (panels,)):
        for axes, (dataset, device) in zip(panels, shown, strict=True):
            own = [p for p in points if (p.row.dataset, p.device) == (dataset, device)]
            _draw_points(axes, own)
            axes.set(xscale="log", title=f"{numbers.dataset_name(dataset)}, {device}")
            axes.set(xlabel="seconds of training up to the best epoch")
            axes.margins(x=0.15)
            axes.set_ylim(0, 1.15 * max(p.score for p in own))
        panels[0].set(ylabel=f"test {CRITERION}")
        _legend(figure, points)


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    """The points of a panel, those of a model joined by a line."""
    for point in points:
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
    for model in dict.fromkeys(p.row.model for p in points):
        pair = [p for p in points if p.row.model == model]
        axes.plot([p.seconds for p in pair], [p.score for p in pair], color=COLORS[model], lw=0.8)


def _legend(figure: Any, points: Sequence[Point]) -> None:
    def sign(label: str, color: Any, marker: str, **look: Any) -> Any:
        return Line2D([], [], color=color, marker=marker, ls="", ms=8, label=label, **look)

    models = [m for m in numbers.MODELS if any(p.row.model == m for p in points)]
    signs = [sign(numbers.MODELS[m], COLORS[m], "s") for m in models]
    signs += [sign("plain", "black", MARKERS[False]), sign("with SEvo", "black", MARKERS[True])]
    if any(p.stopped for p in points):
        signs.append(sign("stopped early", "black", MARKERS[False], mfc="none"))
    if any(not p.quiet for p in points):
        signs.append(sign(f"timed {BESIDE}", "black", MARKERS[False], alpha=FAINT))
    figure.legend(handles=signs, loc="outside right upper")
