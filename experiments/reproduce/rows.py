"""Rows of a table of accuracy: what is trained, and its lines beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper import DATASETS, METRICS, PLAIN, Scores
from experiments.reproduce.cells import (
    Cell,
    cell_json,
    common_seeds,
    gain,
    make_cell,
    mean,
    p_value,
    percent,
    probability,
    progress_of,
    relative,
    score,
    score_over_seeds,
)
from experiments.reproduce.documents import Table
from experiments.reproduce.options import quick_settings
from experiments.reproduce.runs import Outcomes
from experiments.run import Run, make_run
from experiments.settings.published import published
from experiments.summary import LABELS

UNSMOOTHED = "adamw"
SEEDS = (0, 1, 2, 3, 4)
NOTES = {
    "sr-gnn": "The published SR-GNN lacks a transpose: both halves of its graph network read the "
    "items that come after, none those before, and the last item gets biases alone. It was "
    "probably trained by BPR with one negative. Ours reads both directions, and is trained by "
    "cross-entropy, as its authors' is; but at the constant rate of 5e-3 that its published run "
    "has, where its authors divide 1e-3 by ten every three epochs.",
    "lessr": "The published LESSR sends messages along the wrong edges where a session's edges are "
    "not sorted, feeds zeros to its recurrent layers, drops the self-connection out, has "
    "consecutive items in place of all shortcuts and keys in place of values there, reads the last "
    "item's raw features out, and was probably trained by BPR with one negative, in four layers. "
    "Ours is as its authors define it, trained by cross-entropy, with the rate of dropout and the "
    "decay that were tuned for the published one; a last batch that is not full counts, too.",
    "maerec": "The published MAERec adds the two ids of a removed edge up where the next seeds of "
    "its mask are drawn. Ours draws from both ends.",
}
"""Where the runs behind the paper's values probably differ from the models as they are defined."""


class Row(NamedTuple):
    """A line of the table: what is trained, and the paper's value if it has one."""

    dataset: str
    backbone: str
    label: str
    model: str
    optimizer: str
    settings: Mapping[str, Any]
    paper: Scores | None


def plain_optimizer(model: str) -> str:
    """What the model is trained by without SEvo: LESSR's authors decouple its decay."""
    return UNSMOOTHED if model == "lessr" else PLAIN


def optimizer_label(model: str, optimizer: str) -> str:
    """The name of a row's optimiser."""
    if optimizer == plain_optimizer(model) != PLAIN:
        return "AdamW, as published"
    return LABELS.get(optimizer, optimizer)


def notes(models: Sequence[str]) -> list[str]:
    """A paragraph on the models whose published runs had defects, if there are any."""
    found = [NOTES[model] for model in models if model in NOTES]
    return [" ".join([*found, "These rows need not agree with the paper's."])] if found else []


def run_of(row: Row, seed: int, epochs: int | None) -> Run:
    """A seed of a row, stopped early if ``epochs`` are given."""
    values = dict(row.settings)
    if epochs is not None:
        values["epochs"] = epochs
    return make_run(row.model, row.dataset, row.optimizer, seed, **values)


def published_epochs(row: Row) -> int:
    """The epochs of the row's published runs."""
    kinds = {k: v for k, v in row.settings.items() if k in ("distill", "graph")}
    return published(row.model, row.dataset, row.optimizer, **kinds).training.epochs


def quick_row(row: Row, quick: bool) -> Row:
    """The row; of a quick look with its settings, and without the paper's value."""
    if not quick:
        return row
    distill = row.settings.get("distill", "none")
    settings = {**row.settings, **quick_settings(row.model, row.optimizer, distill)}
    return row._replace(settings=settings, paper=None)


def runs_of(
    rows: Sequence[Row], seeds: Sequence[int], epochs: int | None
) -> tuple[list[list[Run]], list[Run]]:
    """The seeds of each row; and all of them in order, the first of every row first."""
    runs = [[run_of(row, seed, epochs) for seed in seeds] for row in rows]
    return runs, [run for seed in zip(*runs, strict=True) for run in seed]


def cells_of(
    rows: Sequence[Row], runs: Sequence[Sequence[Run]], outcomes: Outcomes
) -> list[tuple[Row, Cell]]:
    """The rows with what there is of their runs."""
    return [
        (
            row,
            make_cell(
                [outcomes[run].result for run in seeds],
                published=published_epochs(row),
            ),
        )
        for row, seeds in zip(rows, runs, strict=True)
    ]


def differences(cell: Cell, metrics: Sequence[str], paper: Scores) -> list[str]:
    """How far the means are above the paper's, for reading.

    A run that was stopped early says nothing of the paper's.
    """
    values = [cell.values(metric) for metric in metrics]
    ours = [mean(v) if cell.epochs == cell.published else None for v in values]
    return [percent(relative(a, b)) for a, b in zip(ours, paper, strict=True)]


SCORES_HEADER = ("Model", "Optimiser", "", *METRICS, "Seeds", "Epochs", "Best epoch")
GAINS_HEADER = ("Model", "Against", "", *METRICS, "Seeds")


def score_lines(row: Row, cell: Cell) -> list[list[str]]:
    """Ours, the paper's value and the difference, a line each."""
    values = [cell.values(metric) for metric in METRICS]
    label = optimizer_label(row.model, row.optimizer)
    lines = [[row.label, label, "ours", *map(score_over_seeds, values), *progress_of(cell)]]
    if row.paper is not None:
        lines.append(["", "", "paper", *map(score, row.paper), "5", "", ""])
        lines.append(["", "", "difference", *differences(cell, METRICS, row.paper), "", "", ""])
    return lines


class Comparison(NamedTuple):
    """A row with SEvo beside one without."""

    sevo: tuple[Row, Cell]
    other: tuple[Row, Cell]

    @property
    def gains(self) -> list[float | None]:
        """Ours, for each metric."""
        return [gain(self.sevo[1], self.other[1], metric) for metric in METRICS]

    @property
    def p_values(self) -> list[float | None]:
        """For each metric."""
        return [p_value(self.sevo[1], self.other[1], metric) for metric in METRICS]

    @property
    def paper_gains(self) -> list[float | None]:
        """The paper's, for each metric; all None where it lacks a row."""
        sevo, other = self.sevo[0].paper, self.other[0].paper
        if sevo is None or other is None:
            return [None] * len(METRICS)
        return [relative(a, b) for a, b in zip(sevo, other, strict=True)]


def gain_lines(comparison: Comparison) -> list[list[str]]:
    """The gain, its p-value and the paper's gain, a line each."""
    row, cell = comparison.sevo
    other = comparison.other[0]
    seeds = len(common_seeds(cell, comparison.other[1]))
    label = optimizer_label(other.model, other.optimizer)
    lines = [
        [row.label, label, "gain", *map(percent, comparison.gains), str(seeds)],
        ["", "", "p-value", *map(probability, comparison.p_values), ""],
    ]
    if any(g is not None for g in comparison.paper_gains):
        lines.append(["", "", "paper's gain", *map(percent, comparison.paper_gains), "5"])
    return lines


def tables_of(lines: Sequence[tuple[Row, Cell]], comparisons: Sequence[Comparison]) -> list[Table]:
    """For each data set, the scores of its rows, and the gains if there are comparisons."""
    tables: list[Table] = []
    for dataset in dict.fromkeys(row.dataset for row, _ in lines):
        name = DATASETS.get(dataset, dataset)
        scores = [
            line for row, cell in lines if row.dataset == dataset for line in score_lines(row, cell)
        ]
        tables.append(Table(f"{name}: test metrics", SCORES_HEADER, scores, text_columns=3))
        gains = [
            line for c in comparisons if c.sevo[0].dataset == dataset for line in gain_lines(c)
        ]
        if gains:
            title = f"{name}: gain of SEvo, over common seeds"
            tables.append(Table(title, GAINS_HEADER, gains, text_columns=3))
    return tables


def trained_on(lines: Sequence[tuple[Row, Cell]]) -> str:
    """The machines of the runs, as a sentence."""
    devices = sorted({r["device"] for _, cell in lines for r in cell.results.values()})
    return f"Trained on: {', '.join(devices) or 'nothing yet'}."


def row_json(row: Row, cell: Cell) -> dict[str, Any]:
    """What the JSON file says of a row."""
    return row._asdict() | cell_json(cell, METRICS, row.paper)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """What the JSON file says of a comparison."""
    (row, cell), (other, other_cell) = comparison
    return {
        "dataset": row.dataset,
        "model": row.model,
        "label": row.label,
        "sevo": row.optimizer,
        "against": other.optimizer,
        "seeds": common_seeds(cell, other_cell),
        "gain": dict(zip(METRICS, comparison.gains, strict=True)),
        "p_value": dict(zip(METRICS, comparison.p_values, strict=True)),
        "paper_gain": dict(zip(METRICS, comparison.paper_gains, strict=True)),
    }
