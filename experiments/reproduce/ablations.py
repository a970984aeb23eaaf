"""The pages of the ablations that `ablation_points` describes: a table and a picture each.

Runs that several of them have in common, above all those of the published settings, are trained
once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import paper
from experiments.data import NAMES
from experiments.files import read_lines
from experiments.paper import METRICS, SEVO, TABLE_2, TABLE_7, Scores
from experiments.reproduce import ablation_pictures
from experiments.reproduce.ablation_pictures import Drawn
from experiments.reproduce.ablation_points import ABLATIONS, Ablation, Point
from experiments.reproduce.cells import Cell, gain, mean, percent, score, score_over_seeds
from experiments.reproduce.documents import NONE, Document, Table
from experiments.reproduce.options import (
    Options,
    chosen,
    chosen_seeds,
    quick_look,
    refuse,
)
from experiments.reproduce.rows import (
    SCORES_HEADER,
    Row,
    cells_of,
    quick_row,
    row_json,
    runs_of,
    score_lines,
    trained_on,
)
from experiments.reproduce.runs import Outcomes, carry_out, folder_of, missing
from experiments.run import Run
from experiments.settings.published import MODELS, published
from experiments.training.loop import CRITERION

MODEL, DATASET = "sasrec", "beauty"
CURVE_EPOCHS = (5, 10, 20, 50, 100, 150, 200)
"""Where the tables of curves read them."""


def make(options: Options) -> int:
    """Runs what is missing of an ablation, and writes its table and its picture."""
    refuse(options, "optimizers")
    options = quick_look(options)
    ablation = ABLATIONS[options.table]
    models = chosen("model", options.models, MODELS, (MODEL,))
    datasets = chosen("dataset", options.datasets, NAMES, (DATASET,))
    points = [point for point in ablation.points if point.quick or not options.quick]
    places = [(model, dataset) for dataset in datasets for model in models]
    rows = [row_of(ablation, point, *p, quick=options.quick) for p in places for point in points]
    runs, order = runs_of(rows, chosen_seeds(options.seeds, (0,)), options.epochs)
    order = list(dict.fromkeys(order))

    def document(outcomes: Outcomes) -> Document:
        lines = cells_of(rows, runs, outcomes)
        curves = [curves_of(seeds, outcomes, options.runs) for seeds in runs]
        found = zip(points * len(places), lines, curves, strict=True)
        entries = [Entry(point, *line, own) for point, line, own in found]
        return compose(options.table, entries, missing(order, outcomes))

    return carry_out(order, options, document)


def row_of(ablation: Ablation, point: Point, model: str, dataset: str, *, quick: bool) -> Row:
    """The row of a point for a model on a data set."""
    held_against = papers_value(model, dataset, point.optimizer, point.settings)
    label = label_of(ablation, point)
    row = Row(dataset, model, label, model, point.optimizer, point.settings, held_against)
    return quick_row(row, quick)


def label_of(ablation: Ablation, point: Point) -> str:
    """The point in words, with what sets it apart from its alternatives."""
    words = [point.series]
    if point.x is not None:
        words.append(f"{ablation.symbol} = {point.x:g}" if ablation.symbol else str(point.x))
    others = [p for p in ablation.points if (p.series, p.x) == (point.series, point.x)]
    if len(others) > 1:
        words += [f"{name.replace('_', ' ')} {v:g}" for name, v in point.settings.items()]
    return ", ".join(words)


def papers_value(
    model: str, dataset: str, optimizer: str, settings: Mapping[str, Any]
) -> Scores | None:
    """What the paper's tables have of a run: with its published settings, or of L layers."""
    usual = published(model, dataset, optimizer).flat()
    changed = {k: v for k, v in settings.items() if usual[k] != v}
    if not changed:
        return TABLE_2.get((model, dataset, optimizer))
    if changed.keys() == {"num_layers"} and (model, optimizer) == (MODEL, SEVO):
        return TABLE_7.get((dataset, changed["num_layers"]))
    return None


Curve = list[dict[str, Any]]
"""The lines of a run's ``metrics.jsonl``."""


def curves_of(seeds: Sequence[Run], outcomes: Outcomes, runs: Path) -> list[Curve]:
    """The curves of those seeds that have a result."""
    files = [
        folder_of(run, runs) / "metrics.jsonl" for run in seeds if outcomes[run].result is not None
    ]
    return [read_lines(file) for file in files if file.exists()]


class Entry(NamedTuple):
    """A point with what there is of its runs."""

    point: Point
    row: Row
    cell: Cell
    curves: list[Curve]


def validation(cell: Cell) -> list[float]:
    """The criterion of each seed at its best epoch, by which alternatives are compared."""
    return [result["valid"][CRITERION] for result in cell.results.values()]


def best_of(entries: Sequence[Entry]) -> list[Entry]:
    """Of alternatives the best on validation, among those trained for the most epochs."""
    best: dict[Any, Entry] = {}
    for entry in entries:
        key = entry.row.model, entry.row.dataset, entry.point.series, entry.point.x
        best[key] = max(best.get(key, entry), entry, key=_rank)
    return list(best.values())


def _rank(entry: Entry) -> tuple[int, float]:
    return entry.cell.epochs, mean(validation(entry.cell)) or 0.0


def _listed(entries: Sequence[Entry]) -> str:
    """The series of a picture, in words."""
    return ", ".join(dict.fromkeys(entry.point.series for entry in entries))


def compose(name: str, entries: Sequence[Entry], not_done: list[str]) -> Document:
    """The page of an ablation from what there is of its points."""
    ablation = ABLATIONS[name]
    shown = best_of(entries)
    tables: list[Table] = []
    text: list[str] = []
    for (model, dataset), own in _by_place(entries).items():
        title = f"{paper.MODELS.get(model, model)} on {paper.DATASETS.get(dataset, dataset)}"
        best = [entry for entry in own if entry in shown]
        text.append(f"{title}: {verdict(best)}")
        scores = [line for entry in own for line in score_lines(entry.row, entry.cell)]
        # The label says all, and the optimiser's usual name is of its published settings.
        lines = [[label, *rest] for label, _, *rest in scores]
        header = ["Run", *SCORES_HEADER[2:]]
        tables.append(Table(f"{title}: test metrics", header, lines, text_columns=2))
        if len(best) < len(own):
            tables.append(_alternatives_table(title, own, best))
        if ablation.baseline is not None:
            tables.append(_gains_table(title, own, ablation.baseline))
        if ablation.kind == "curves":
            tables += [_curves_table(title, own, *column) for column in CURVES]
    panels = {
        f"{paper.MODELS.get(model, model)}, {paper.DATASETS.get(dataset, dataset)}": [
            # Curves can be held against each other as far as they go.
            drawn(entry)
            for entry in (own if ablation.kind == "curves" else longest_of(own))
        ]
        for (model, dataset), own in _by_place(shown).items()
    }
    return Document(
        name=name,
        title=ablation.title,
        text=[
            *ablation.text,
            f"Test metrics at the epoch of the best validation {CRITERION}; full ranking, "
            "leave-one-out. Mean ± standard deviation over seeds, which are error bars in the "
            "picture where there are two seeds or more; *paper* is its mean of five seeds, "
            "*difference* is ours against it. Rows of fewer epochs than published were stopped "
            "early and cannot be held against the paper. Pictures have the rows of the most "
            "epochs; of curves, all.",
            *text,
            trained_on([(entry.row, entry.cell) for entry in entries]),
        ],
        tables=tables,
        missing=not_done,
        content={
            "table": name,
            "metrics": METRICS,
            "points": [
                _entry_json(entry, entry in shown, ablation.kind == "curves") for entry in entries
            ],
            "missing": not_done,
        },
        draw=lambda path: DRAWING[ablation.kind](panels, ablation.x_label, path),
        alt=f"{ablation.title}; by {ablation.x_label}, {_listed(entries)}",
    )


def longest_of(entries: Sequence[Entry]) -> list[Entry]:
    """Without those that have fewer epochs than others, and cannot be held against them."""
    most = max((entry.cell.epochs for entry in entries), default=0)
    return [entry for entry in entries if entry.cell.epochs in (0, most)]


def drawn(entry: Entry) -> Drawn:
    """What the picture shows of a point; not the paper's value if it was stopped early."""
    whole = entry.cell.epochs == entry.cell.published
    published = entry.row.paper[METRICS.index(CRITERION)] if entry.row.paper and whole else None
    series, x = entry.point.series, entry.point.x
    return Drawn(series, x, entry.cell.values(CRITERION), entry.curves, published)


DRAWING = {
    "lines": ablation_pictures.draw_lines,
    "bars": ablation_pictures.draw_bars,
    "curves": ablation_pictures.draw_curves,
}
CURVES = (("training loss", "train_loss"), (f"validation {CRITERION}", CRITERION))


def _by_place(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    places: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        places.setdefault((entry.row.model, entry.row.dataset), []).append(entry)
    return places


def verdict(entries: Sequence[Entry]) -> str:
    """Which point is the best and which the worst, whichever way they fall."""
    longest = [entry for entry in longest_of(entries) if entry.cell.results]
    if len(longest) < 2:
        return "fewer than two runs are done yet."
    ordered = sorted(longest, key=lambda entry: mean(entry.cell.values(CRITERION)) or 0.0)
    worst, best = (
        f"*{e.row.label}* ({score(mean(e.cell.values(CRITERION)))})"
        for e in ordered[:: len(ordered) - 1]
    )
    return (
        f"by test {CRITERION} after {longest[0].cell.epochs} epochs, the best of {len(longest)} is "
        f"{best} and the worst {worst}."
    )


def _alternatives_table(title: str, entries: Sequence[Entry], best: Sequence[Entry]) -> Table:
    rows = [
        [
            entry.row.label,
            "shown" if entry in best and entry.cell.results else "",
            score_over_seeds(validation(entry.cell)),
            score_over_seeds(entry.cell.values(CRITERION)),
        ]
        for entry in entries
    ]
    header = ("Run", "", f"Validation {CRITERION}", f"Test {CRITERION}")
    return Table(f"{title}: what was tuned on validation", header, rows, text_columns=2)


def _gains_table(title: str, entries: Sequence[Entry], baseline: str) -> Table:
    """Gains by metric and, as the paper has them, their average."""
    (base,) = (entry.cell for entry in entries if entry.point.series == baseline)
    rows: list[list[str]] = []
    for entry in entries:
        if entry.cell is not base:
            gains = [gain(entry.cell, base, metric) for metric in METRICS]
            average = mean([g for g in gains if g is not None])
            rows.append([entry.row.label, *map(percent, [*gains, average])])
    header = ("Run", *METRICS, "average")
    return Table(f"{title}: gain over {baseline}, over common seeds", header, rows)


def _curves_table(title: str, entries: Sequence[Entry], what: str, key: str) -> Table:
    """A curve at some epochs, the mean over seeds."""
    validated = {record["epoch"] for e in entries for curve in e.curves for record in curve}
    # Of a run that was stopped early, where it was, too.
    epochs = sorted(validated & {*CURVE_EPOCHS, max(validated, default=0)}) or CURVE_EPOCHS
    rows: list[list[str]] = []
    for entry in entries:
        at = [_values_at(entry.curves, key, epoch) for epoch in epochs]
        rows.append([entry.row.label, *(f"{mean(v):.4f}" if v else NONE for v in at)])
    header = ("Run", *(f"epoch {epoch}" for epoch in epochs))
    return Table(f"{title}: {what}", header, rows)


def _values_at(curves: Sequence[Curve], key: str, epoch: int) -> list[float]:
    records = [record for curve in curves for record in curve if record["epoch"] == epoch]
    return [(record | record["valid"])[key] for record in records]


def _entry_json(entry: Entry, shown: bool, with_curves: bool) -> dict[str, Any]:
    """What the JSON file says of a point."""
    content = {
        "series": entry.point.series,
        "x": entry.point.x,
        "shown": shown,
        **row_json(entry.row, entry.cell),
        f"validation {CRITERION}": mean(validation(entry.cell)),
    }
    return content | ({"curves": entry.curves} if with_curves else {})
