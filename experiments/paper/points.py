"""The points of an ablation: the best of alternatives, their pictures, and tables of curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.files import read_lines
from experiments.metrics import CRITERION
from experiments.numbers import METRICS
from experiments.pages.documents import NONE, Table
from experiments.tables import cells, panels, rows
from experiments.tables.rows import Line

CURVE_EPOCHS = (5, 10, 20, 50, 100, 150, 200)
"""The epochs at which tables read curves."""
Curve = list[dict[str, Any]]
"""The lines of a run's ``metrics.jsonl``."""


def validation(line: Line) -> list[float]:
    """Returns the criterion on validation for each seed, at its best epoch."""
    return [result["valid"][CRITERION] for result in line.cell.results.values()]


def best_of(lines: Sequence[Line]) -> list[Line]:
    """Returns the alternatives that are best on validation, among those of the most epochs.

    Lines of one series at one place are alternatives.
    """
    best: dict[Any, Line] = {}
    for line in lines:
        key = line.row.model, line.row.dataset, line.row.series, line.row.x
        best[key] = max(best.get(key, line), line, key=_rank)
    return list(best.values())


def _rank(line: Line) -> tuple[int, float]:
    return line.cell.epochs, cells.mean(validation(line)) or 0.0


def longest_of(lines: Sequence[Line]) -> list[Line]:
    """Returns the lines of the most epochs, which can be compared, and those without a run."""
    most = max((line.cell.epochs for line in lines), default=0)
    return [line for line in lines if line.cell.epochs in (0, most)]


def verdict(lines: Sequence[Line]) -> str:
    """Names the best point and the worst one."""
    longest = [line for line in longest_of(lines) if line.cell.results]
    if len(longest) < 2:
        return "fewer than two runs are done yet."
    means = [(cells.mean(own.cell.values(CRITERION)) or 0.0, own.row.label) for own in longest]
    means.sort(key=lambda own: own[0])
    (low, worst), (high, best) = means[0], means[-1]
    return (
        f"by test {CRITERION} after {longest[0].cell.epochs} epochs, the best of {len(longest)} is "
        f"*{best}* ({cells.score(high)}) and the worst *{worst}* ({cells.score(low)})."
    )


def alternatives(place: str, lines: Sequence[Line]) -> list[Table]:
    """Makes a table of the alternatives at a place, if it has any."""
    best = best_of(lines)
    if len(best) == len(lines):
        return []
    written = [
        [
            line.row.label,
            "shown" if line in best and line.cell.results else "",
            cells.score_over_seeds(validation(line)),
            cells.score_over_seeds(line.cell.values(CRITERION)),
        ]
        for line in lines
    ]
    header = ("Run", "", f"Validation {CRITERION}", f"Test {CRITERION}")
    return [Table(f"{place}: what was tuned on validation", header, written, text_columns=2)]


def curves(place: str, lines: Sequence[Line]) -> list[Table]:
    """Makes tables of the training loss and the criterion at some epochs, as means over seeds."""
    read = {line.row.label: _read(line) for line in lines}
    validated = {record["epoch"] for own in read.values() for curve in own for record in curve}
    # The last epoch is shown too: a run may have been stopped between two of ours.
    epochs = sorted(validated & {*CURVE_EPOCHS, max(validated, default=0)}) or CURVE_EPOCHS
    header = ("Run", *(f"epoch {epoch}" for epoch in epochs))
    tables: list[Table] = []
    for name, key in (("training loss", "train_loss"), (f"validation {CRITERION}", CRITERION)):
        written: list[list[str]] = []
        for label, own in read.items():
            means = [cells.mean(_values_at(own, key, epoch)) for epoch in epochs]
            written.append([label, *(NONE if m is None else f"{m:.4f}" for m in means)])
        tables.append(Table(f"{place}: {name}", header, written))
    return tables


def _read(line: Line) -> list[Curve]:
    return [read_lines(file) for file in line.curves]


def _values_at(own: Sequence[Curve], key: str, epoch: int) -> list[float]:
    records = [record for curve in own for record in curve if record["epoch"] == epoch]
    return [(record | record["valid"])[key] for record in records]


def drawn(lines: Sequence[Line], with_curves: bool) -> list[panels.Drawn]:
    """Makes the points of a panel, from all lines with curves, else from those of most epochs."""
    return [
        panels.Drawn(
            line.row.series,
            line.row.x,
            line.cell.values(CRITERION),
            _read(line) if with_curves else (),
            # A run that was stopped early cannot be compared with the paper.
            line.row.paper[METRICS.index(CRITERION)]
            if line.row.paper and line.cell.epochs == line.cell.published
            else None,
        )
        for line in (lines if with_curves else longest_of(lines))
    ]


def to_json(lines: Sequence[Line], with_curves: bool) -> list[dict[str, Any]]:
    """Makes the entries of the points in the JSON file."""
    best = best_of(lines)
    return [
        {
            "series": line.row.series,
            "x": line.row.x,
            "shown": line in best,
            **rows.row_json(line),
            f"validation {CRITERION}": cells.mean(validation(line)),
        }
        | ({"curves": _read(line)} if with_curves else {})
        for line in lines
    ]
