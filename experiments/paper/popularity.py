"""The criterion by the popularity of the target item, in quintiles of users."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.evaluation import CRITERION
from experiments.tables.cells import Cell, mean, score
from experiments.tables.documents import NONE, Table
from experiments.tables.rows import Comparison, optimizer_label

QUINTILES = 5
HEADER = ("Run", "", "Q1, least popular", "Q2", "Q3", "Q4", "Q5, most popular")


def by_quintile(cell: Cell) -> list[float | None]:
    """Returns the criterion by quintile, the least popular items first.

    The mean over seeds; ``None`` where a quintile is empty, since equally popular items are
    together.
    """
    values = [result["by_popularity"][CRITERION] for result in cell.results.values()]
    columns = zip(*values, strict=True) if values else [()] * QUINTILES
    return [mean([value for value in column if value is not None]) for column in columns]


def changes(pair: Comparison) -> list[float | None]:
    """Returns the one's criterion less the other's, by quintile."""
    both = (by_quintile(line.cell) for line in pair)
    return [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]


def popularity_table(compared: Sequence[Comparison], title: str) -> Table:
    """Makes a table of the criterion by quintile; each of the others is written once."""
    written: list[list[str]] = []
    shown: list[Cell] = []
    for pair in compared:
        one, other = (by_quintile(line.cell) for line in pair)
        if not any(other.results is pair.other.cell.results for other in shown):
            label = f"{pair.other.row.label}, {optimizer_label(pair.other.row)}"
            written.append([label, "", *map(score, other)])
            shown.append(pair.other.cell)
        written.append([f"{pair.one.row.label}", "", *map(score, one)])
        difference = [NONE if change is None else f"{change:+.4f}" for change in changes(pair)]
        written.append(["", "difference", *difference])
    return Table(title, HEADER, written, text_columns=2)
