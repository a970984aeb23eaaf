"""Comparisons of runs, pair by pair: which to hold against which, by popularity, by epochs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.files import read_lines
from experiments.metrics import CRITERION
from experiments.numbers import MODELS, dataset_name
from experiments.pages.documents import NONE, Table
from experiments.paper import points
from experiments.tables import cells
from experiments.tables.rows import Comparison, Line, optimizer_label

QUINTILES = 5
HEADER = ("Run", "", "Q1, least popular", "Q2", "Q3", "Q4", "Q5, most popular")


def by_quintile(cell: cells.Cell, seeds: Iterable[int]) -> list[float | None]:
    """Returns the criterion by quintile, the least popular items first, as means over seeds.

    ``None`` where a quintile is empty, since equally popular items are together.
    """
    values = [cell.results[seed]["by_popularity"][CRITERION] for seed in seeds]
    columns = zip(*values, strict=True) if values else [()] * QUINTILES
    return [cells.mean([value for value in column if value is not None]) for column in columns]


def changes(pair: Comparison) -> list[float | None]:
    """Returns the one's criterion less the other's, by quintile, over the seeds of both."""
    both = (by_quintile(line.cell, pair.seeds) for line in pair)
    return [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]


def popularity_table(compared: Sequence[Comparison], title: str) -> Table:
    """Makes a table of the criterion by quintile; each of the others is written once."""
    written: list[list[str]] = []
    shown: list[cells.Cell] = []
    for pair in compared:
        one, other = (by_quintile(line.cell, line.cell.results) for line in pair)
        if not any(other.results is pair.other.cell.results for other in shown):
            label = f"{pair.other.row.label}, {optimizer_label(pair.other.row)}"
            written.append([label, "", *map(cells.score, other)])
            shown.append(pair.other.cell)
        written.append([f"{pair.one.row.label}", "", *map(cells.score, one)])
        difference = [NONE if change is None else f"{change:+.4f}" for change in changes(pair)]
        written.append(["", "difference", *difference])
    return Table(title, HEADER, written, text_columns=2)


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
    return max(own, key=lambda pair: cells.mean(points.validation(pair.one)) or 0.0)


def epochs_to_other(compared: Sequence[Comparison]) -> Table:
    """Makes the table of epochs and seconds after which rows validate as well as others.

    The score to reach is the mean over seeds of the other's best.
    """
    themselves = {id(pair.other): Comparison(pair.other, pair.other) for pair in compared}
    several = len({pair.one.row.model for pair in compared}) > 1
    written: list[list[str]] = []
    for one, base in (*themselves.values(), *compared):
        goal = cells.mean(points.validation(base))
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


def _first(records: points.Curve, goal: float) -> tuple[float, float] | None:
    """Returns epoch and seconds of the first record that reaches the goal."""
    return next(
        ((r["epoch"], r["seconds"]) for r in records if r["valid"][CRITERION] >= goal), None
    )
