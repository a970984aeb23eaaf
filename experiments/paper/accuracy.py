"""The one composer of accuracy tables: their rows, comparisons and notes are data.

A table that has a picture is an ablation: its rows are points of series, and its places are models
on data sets. The places of the others are data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import numbers
from experiments.errors import ArgumentError
from experiments.metrics import CRITERION
from experiments.numbers import METRICS
from experiments.pages.documents import Document, Table
from experiments.paper import points
from experiments.run import Run
from experiments.tables import panels, requests, rows, runs
from experiments.tables.rows import Comparison, Line, Row

MEASURED = (
    f"Test metrics at the epoch of the best validation {CRITERION}. Mean ± standard deviation over "
    "seeds"
)
PAPER = "*paper* is its mean of five seeds, *difference* is ours against it."
STOPPED = (
    "Rows of fewer epochs than {} were stopped early and cannot be held against the paper."
).format
P_VALUES = "p-values are of the two-sided paired t-test over the seeds that both rows have."
ABLATION = (
    f"{MEASURED}, which are error bars in the picture where there are two seeds or more; {PAPER} "
    f"{STOPPED('published')} Pictures have the rows of the most epochs; of curves, all."
)


class Versus(NamedTuple):
    """The rows of a table that are held against others.

    Attributes:
        title: of the tables of gains.
        others: picks the lines that a line is held against from those of its place.
        header: of the tables.
        written: the lines of a comparison under the header.
        key: of the list of comparisons in the JSON file.
        entry: the comparison there; the file has no such list if None.
    """

    title: str
    others: Callable[[Line, Sequence[Line]], Iterable[Line]]
    header: Sequence[str] = rows.GAINS_HEADER
    written: Callable[[Comparison], list[list[str]]] = rows.gain_lines
    key: str = "gains"
    entry: Callable[[Comparison], dict[str, Any]] | None = None


class Picture(NamedTuple):
    """The kind of an ablation's picture, and the label of its horizontal axis."""

    kind: Literal["lines", "bars", "curves"]
    x_label: str


class Drawing(NamedTuple):
    """A picture of comparisons: what it shows, and what writes it to a path."""

    alt: str
    write: Callable[[Sequence[Comparison], Path], None]


def nothing(*_: Any) -> list[Any]:
    """Stands for notes, tables or runs that a table does not have."""
    return []


class Accuracy(NamedTuple):
    """A table of accuracy.

    Attributes:
        title: the heading.
        text: paragraphs above the tables.
        choices: the options that it has; the argument tells whether it is a quick look.
        rows: the rows of a request that names its models, data sets and optimisers.
        notes: further paragraphs, from the rows.
        before: runs that come first, since those of the rows need them.
        versus: which rows are held against which.
        summary: tables below all others, from the comparisons.
        picture: of an ablation.
        draw: a picture of the comparisons, of a table that is no ablation.
        verdict: the first sentence of the page, from the comparisons.
    """

    title: str
    text: Sequence[str]
    choices: Callable[[bool], requests.Choices]
    rows: Callable[[requests.Request], Iterable[Row]]
    notes: Callable[[Sequence[Row]], Iterable[str]] = nothing
    before: Callable[[requests.Request, Sequence[Row]], list[Run]] = nothing
    versus: Versus | None = None
    summary: Callable[[Sequence[Comparison]], Iterable[Table]] = nothing
    picture: Picture | None = None
    draw: Drawing | None = None
    verdict: Callable[[Sequence[Comparison]], str] | None = None


def against(is_base: Callable[[Row], bool]) -> Callable[[Line, Sequence[Line]], list[Line]]:
    """Holds all lines of a place against the one whose row passes the test."""

    def others(line: Line, own: Sequence[Line]) -> list[Line]:
        return [] if is_base(line.row) else [other for other in own if is_base(other.row)]

    return others


def make(table: Accuracy, request: requests.Request) -> int:
    """Runs what is missing of a table, and writes it; the exit status."""
    choices = table.choices(request.quick)
    if choices.quick:
        request = requests.quick_look(request)
    asked = requests.choose(request, choices)
    wanted = [rows.quick_row(row) if asked.quick else row for row in table.rows(asked)]
    if not wanted:
        models, optimizers = map(", ".join, (asked.models, asked.optimizers))
        raise ArgumentError("optimizers", f"{asked.table} has no row of {models} with {optimizers}")
    plan = rows.make_plan(wanted, asked.seeds, asked.epochs, table.before(asked, wanted))
    return runs.carry_out(
        plan.order(),
        request,
        lambda outcomes: compose(request.table, table, *plan.read(outcomes, request.runs)),
    )


def compose(name: str, table: Accuracy, lines: Sequence[Line], missing: Sequence[str]) -> Document:
    """The document of a table from what there is of its runs."""
    tables: list[Table] = []
    text = [*table.text]
    compared: list[Comparison] = []
    for place, own in by_place(lines, " on " if table.picture else None).items():
        own = [line for line in own if line.cell.results or line.row.paper]
        if not own:  # the page lists it as missing
            continue
        found = compare(table.versus, own)
        tables.append(_scores(place, own, labelled=table.picture is None))
        if table.picture:
            text.append(f"{place}: {points.verdict(points.best_of(own))}")
            tables += points.alternatives(place, own)
        if table.versus and found:
            title = f"{place}: {table.versus.title}, over common seeds"
            gains = [line for comparison in found for line in table.versus.written(comparison)]
            tables.append(_table(title, table.versus.header, gains))
        if table.picture and table.picture.kind == "curves":
            tables += points.curves(place, own)
        compared += found
    tables += table.summary(compared)
    if table.verdict:
        text.insert(0, table.verdict(compared))
    machines = rows.devices(line.cell for line in lines)
    text += [*table.notes([line.row for line in lines]), rows.protocol_of(lines)]
    text.append(rows.trained_on(machines))
    content: dict[str, Any] = {"table": name, "metrics": METRICS}
    if table.picture:
        content["points"] = points.to_json(lines, table.picture.kind == "curves")
    else:
        content["rows"] = [rows.row_json(line) for line in lines]
    if table.versus and table.versus.entry:
        content[table.versus.key] = [table.versus.entry(own) for own in compared]
    content["missing"] = missing
    document = Document(name, table.title, text, tables, missing, content)
    if table.draw:
        drawing = table.draw
        return document._replace(alt=drawing.alt, draw=lambda path: drawing.write(compared, path))
    return _with_picture(document, table.picture, lines) if table.picture else document


def by_place(lines: Iterable[Line], joint: str | None) -> dict[str, list[Line]]:
    """The lines of each data set; with a joint, of each model on each data set."""
    places: dict[str, list[Line]] = {}
    for line in lines:
        row = line.row
        place = numbers.dataset_name(row.dataset)
        if joint is not None:
            place = f"{numbers.MODELS.get(row.model, row.model)}{joint}{place}"
        places.setdefault(place, []).append(line)
    return places


def compare(versus: Versus | None, lines: Sequence[Line]) -> list[Comparison]:
    """The comparisons of the lines of a place."""
    if versus is None:
        return []
    pairs = [Comparison(one, other) for one in lines for other in versus.others(one, lines)]
    return [pair for pair in pairs if pair.seeds or any(pair.paper_gains)]


def _scores(place: str, lines: Sequence[Line], labelled: bool) -> Table:
    """The scores of a place, without the optimisers unless they are ``labelled``.

    The label of an ablation's row says all, and the optimiser's usual name is of its published
    settings.
    """
    scores = [line for own in lines for line in rows.score_lines(own)]
    title = f"{place}: test metrics"
    if labelled:
        return _table(title, rows.SCORES_HEADER, scores)
    header = ["Run", *rows.SCORES_HEADER[2:]]
    return _table(title, header, [[label, *rest] for label, _, *rest in scores])


def _table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table in which numbers begin with the metrics."""
    return Table(title, header, lines, text_columns=list(header).index(METRICS[0]))


def _with_picture(document: Document, picture: Picture, lines: Sequence[Line]) -> Document:
    shown = points.best_of(lines)
    drawn = {
        place: points.drawn(own, with_curves=picture.kind == "curves")
        for place, own in by_place(shown, ", ").items()
    }
    series = ", ".join(dict.fromkeys(line.row.series for line in shown))
    return document._replace(
        draw=lambda path: panels.DRAWING[picture.kind](drawn, picture.x_label, path),
        alt=f"{document.title}; by {picture.x_label}, {series}",
    )
