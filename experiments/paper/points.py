"""The points of an ablation: the best of alternatives, their pictures, and tables of curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.files import read_lines
from experiments.metrics import CRITERION
from experiments.numbers import METRICS, MODELS, dataset_name
from experiments.tables import cells, panels, rows
from experiments.tables.documents import NONE, Table
from experiments.tables.rows import Comparison, Line

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


def better(one: Line, other: Line) -> Line:
    """Returns the line that validates better over the seeds of both; never one of fewer seeds."""
    more = max(one, other, key=lambda line: len(line.cell.results))
    seeds = cells.common_seeds(one.cell, other.cell)

    def score(line: Line) -> float:
        return cells.mean([line.cell.results[seed]["valid"][CRITERION] for seed in seeds]) or 0.0

    best = max(one, other, key=score)
    return best if seeds and best.cell.results.keys() >= more.cell.results.keys() else more


def chosen(pairs: Sequence[Comparison]) -> Comparison:
    """Returns the pair whose one validates best, of those of the most seeds.

    The best on the test, or one of fewer seeds, may be so by chance.
    """
    most = max(len(pair.seeds) for pair in pairs)
    own = [pair for pair in pairs if len(pair.seeds) == most]
    return max(own, key=lambda pair: cells.mean(validation(pair.one)) or 0.0)


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


def epochs_to_other(compared: Sequence[Comparison]) -> Table:
    """Makes the table of epochs and seconds after which rows validate as well as others.

    The score to reach is the mean over seeds of the other's best.
    """
    themselves = {id(pair.other): Comparison(pair.other, pair.other) for pair in compared}
    several = len({pair.one.row.model for pair in compared}) > 1
    written: list[list[str]] = []
    for one, base in (*themselves.values(), *compared):
        goal = cells.mean(validation(base))
        if goal is None or not one.curves:
            continue
        reached = [_first(read_lines(file), goal) for file in one.curves]
        found = [own for own in reached if own is not None]
        epochs, seconds = (cells.mean([own[i] for own in found]) for i in range(2))
        place = dataset_name(one.row.dataset)
        if several:
            place = f"{MODELS[one.row.model]} on {place}"
        written.append(
            [
                f"{place}: {one.row.label}",
                base.row.label,
                f"{len(found)} of {len(reached)}",
                NONE if epochs is None else f"{epochs:.0f}",
                NONE if seconds is None else f"{seconds:,.0f}",
            ]
        )
    title = f"Until another's best validation {CRITERION}, its mean over seeds"
    header = ("Run", "As well as", "Seeds that reach it", "Their epochs", "Seconds, beside jobs")
    return Table(title, header, written, text_columns=2)


def _first(records: Curve, goal: float) -> tuple[float, float] | None:
    """Returns epoch and seconds of the first record that reaches the goal."""
    return next(
        ((r["epoch"], r["seconds"]) for r in records if r["valid"][CRITERION] >= goal), None
    )
