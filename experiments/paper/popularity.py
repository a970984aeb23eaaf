"""The criterion by the popularity of the target item, in quintiles of users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.metrics import CRITERION
from experiments.tables.cells import Cell, mean, score
from experiments.tables.documents import NONE, Table
from experiments.tables.rows import Comparison, optimizer_label

QUINTILES = 5
HEADER = ("Run", "", "Q1, least popular", "Q2", "Q3", "Q4", "Q5, most popular")


def by_quintile(cell: Cell, seeds: Iterable[int]) -> list[float | None]:
    """Returns the criterion by quintile, the least popular items first, as means over seeds.

    ``None`` where a quintile is empty, since equally popular items are together.
    """
    values = [cell.results[seed]["by_popularity"][CRITERION] for seed in seeds]
    columns = zip(*values, strict=True) if values else [()] * QUINTILES
    return [mean([value for value in column if value is not None]) for column in columns]


def changes(pair: Comparison) -> list[float | None]:
    """Returns the one's criterion less the other's, by quintile, over the seeds of both."""
    both = (by_quintile(line.cell, pair.seeds) for line in pair)
    return [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]


def popularity_table(compared: Sequence[Comparison], title: str) -> Table:
    """Makes a table of the criterion by quintile; each of the others is written once."""
    written: list[list[str]] = []
    shown: list[Cell] = []
    for pair in compared:
        one, other = (by_quintile(line.cell, line.cell.results) for line in pair)
        if not any(other.results is pair.other.cell.results for other in shown):
            label = f"{pair.other.row.label}, {optimizer_label(pair.other.row)}"
            written.append([label, "", *map(score, other)])
            shown.append(pair.other.cell)
        written.append([f"{pair.one.row.label}", "", *map(score, one)])
        difference = [NONE if change is None else f"{change:+.4f}" for change in changes(pair)]
        written.append(["", "difference", *difference])
    return Table(title, HEADER, written, text_columns=2)
