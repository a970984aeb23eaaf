"""Table 2: the accuracy of every model, plain and with SEvo, and of AdamW with SEvo's settings.

The last kind of row is not in the paper: it tells what SEvo's settings do without smoothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import paper
from experiments.configs import MODELS, OPTIMIZERS
from experiments.data import NAMES
from experiments.folders import Run
from experiments.paper import METRICS, PLAIN, SEVO, TABLE_2, USER_ITEM_GRAPH, Scores
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
from experiments.reproduce.documents import Document, Table
from experiments.reproduce.options import Options, chosen, chosen_seeds
from experiments.reproduce.runs import Outcomes, carry_out, missing
from experiments.summary import LABELS
from experiments.trainer import CRITERION

DATASETS = ("beauty", "toys", "tools", "ml-1m")
UNSMOOTHED = "adamw"
SEEDS = (0, 1, 2, 3, 4)


class Variant(NamedTuple):
    """Rows of a model beside its usual ones.

    Attributes:
        label: the rows' name.
        model: the configuration that they have.
        settings: what is changed in it.
        optimizers: which rows there are.
        paper: values by data set, if they are not those of Table 2; no rows on others.
    """

    label: str
    model: str
    settings: Mapping[str, Any]
    optimizers: tuple[str, ...] = (PLAIN, UNSMOOTHED, SEVO)
    paper: Mapping[str, Scores] | None = None


VARIANTS = {
    "mf-bpr": (
        Variant("MF-BPR, user-item graph", "mf-bpr-user-item", {}, (SEVO,), USER_ITEM_GRAPH),
    ),
    "stosa": (Variant("STOSA, as published", "stosa", {"published": True}),),
}


class Row(NamedTuple):
    """A line of the table: what is trained, and the paper's value if it has one."""

    dataset: str
    backbone: str
    label: str
    model: str
    optimizer: str
    settings: Mapping[str, Any]
    paper: Scores | None


def make(options: Options) -> int:
    """Runs what is missing of the table, and writes it."""
    models = chosen("model", options.models, (name for name in paper.MODELS if name in MODELS))
    datasets = chosen("dataset", options.datasets, NAMES, DATASETS)
    optimizers = chosen("optimizer", options.optimizers, OPTIMIZERS, (PLAIN, UNSMOOTHED, SEVO))
    seeds = chosen_seeds(options.seeds, SEEDS)
    rows = [row for d in datasets for m in models for row in make_rows(m, d, optimizers)]
    runs = [[run_of(row, seed, options.epochs) for seed in seeds] for row in rows]
    # The first seed of every row before the second of any.
    order = [run for seed in zip(*runs, strict=True) for run in seed]
    return carry_out(order, options, lambda outcomes: compose(rows, runs, outcomes))


def make_rows(model: str, dataset: str, optimizers: Sequence[str]) -> list[Row]:
    """The rows of a model on a data set; those without SEvo in the paper have the plain one."""
    usual = Variant(paper.MODELS[model], model, {}, tuple(optimizers))
    if model not in paper.BACKBONES:
        usual = usual._replace(optimizers=(PLAIN,))
    return [
        Row(
            dataset,
            model,
            variant.label,
            variant.model,
            name,
            variant.settings,
            variant.paper[dataset] if variant.paper else TABLE_2.get((model, dataset, name)),
        )
        for variant in (usual, *VARIANTS.get(model, ()))
        for name in optimizers
        if name in variant.optimizers and (variant.paper is None or dataset in variant.paper)
    ]


def run_of(row: Row, seed: int, epochs: int | None) -> Run:
    """A seed of a row, stopped early if ``epochs`` are given."""
    settings = MODELS[row.model](row.dataset, row.optimizer)
    settings = dataclasses.replace(settings, **row.settings)
    if epochs is not None:
        settings = dataclasses.replace(settings, epochs=epochs)
    return Run(row.model, row.dataset, row.optimizer, seed, settings)


def compose(rows: Sequence[Row], runs: Sequence[Sequence[Run]], outcomes: Outcomes) -> Document:
    """The table from what there is of the runs of each row."""
    cells = [
        make_cell(
            [outcomes[run].result for run in seeds],
            published=MODELS[row.model](row.dataset, row.optimizer).epochs,
        )
        for row, seeds in zip(rows, runs, strict=True)
    ]
    lines = list(zip(rows, cells, strict=True))
    comparisons = compare(lines)
    tables: list[Table] = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        name = paper.DATASETS.get(dataset, dataset)
        scores = [
            line for row, cell in lines if row.dataset == dataset for line in _lines(row, cell)
        ]
        tables.append(Table(f"{name}: test metrics", SCORES_HEADER, scores, text_columns=3))
        gains = [line for c in comparisons if c.sevo[0].dataset == dataset for line in _gains(c)]
        if gains:
            title = f"{name}: gain of SEvo, over common seeds"
            tables.append(Table(title, GAINS_HEADER, gains, text_columns=3))
    overall = _overall(comparisons)
    if overall is not None:
        tables.append(overall)
    absent = [label for model, label in paper.MODELS.items() if model not in MODELS]
    devices = sorted({r["device"] for cell in cells for r in cell.results.values()})
    text = [
        f"Test metrics at the epoch of the best validation {CRITERION}; full ranking, "
        "leave-one-out. Mean ± standard deviation over seeds; *paper* is its mean of five seeds, "
        "*difference* is ours against it.",
        f"*{LABELS[PLAIN]}* is the plain baseline, tuned on its own; *{LABELS[UNSMOOTHED]}* is the "
        "run with SEvo less the smoothing, which the paper does not have. Rows of fewer epochs "
        "than published were stopped early and cannot be held against the paper. p-values are of "
        "the two-sided paired t-test over the seeds that both rows have.",
        f"Trained on: {', '.join(devices) or 'nothing yet'}."
        + (f" Not built yet: {', '.join(absent)}." if absent else ""),
    ]
    return Document(
        name="table2",
        title="Table 2: accuracy",
        text=text,
        tables=tables,
        missing=missing([run for seeds in runs for run in seeds], outcomes),
        content={
            "table": "table2",
            "metrics": METRICS,
            "rows": [row._asdict() | cell_json(cell, METRICS, row.paper) for row, cell in lines],
            "comparisons": [_comparison_json(c) for c in comparisons],
            "missing": missing([run for seeds in runs for run in seeds], outcomes),
        },
    )


SCORES_HEADER = ("Model", "Optimiser", "", *METRICS, "Seeds", "Epochs", "Best epoch")
GAINS_HEADER = ("Model", "Against", "", *METRICS, "Seeds")


def _lines(row: Row, cell: Cell) -> list[list[str]]:
    """Ours, the paper's value and the difference, a line each."""
    values = [cell.values(metric) for metric in METRICS]
    label = LABELS.get(row.optimizer, row.optimizer)
    lines = [[row.label, label, "ours", *map(score_over_seeds, values), *progress_of(cell)]]
    if row.paper is not None:
        # A run that was stopped early says nothing of the paper's.
        ours = [mean(v) if cell.epochs == cell.published else None for v in values]
        differences = [relative(a, b) for a, b in zip(ours, row.paper, strict=True)]
        lines.append(["", "", "paper", *map(score, row.paper), "5", "", ""])
        lines.append(["", "", "difference", *map(percent, differences), "", "", ""])
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


def compare(lines: Sequence[tuple[Row, Cell]]) -> list[Comparison]:
    """Every row with SEvo against the plain one and the unsmoothed one of its model.

    A variant without such rows of its own is held against those of the model.
    """
    at = {(row.dataset, row.label, row.optimizer): (row, cell) for row, cell in lines}
    comparisons: list[Comparison] = []
    for row, cell in lines:
        if row.optimizer != SEVO:
            continue
        for optimizer in (PLAIN, UNSMOOTHED):
            own = at.get((row.dataset, row.label, optimizer))
            other = own or at.get((row.dataset, paper.MODELS[row.backbone], optimizer))
            if other is not None:
                comparisons.append(Comparison((row, cell), other))
    return comparisons


def _gains(comparison: Comparison) -> list[list[str]]:
    row, cell = comparison.sevo
    optimizer = comparison.other[0].optimizer
    seeds = len(common_seeds(cell, comparison.other[1]))
    label = LABELS.get(optimizer, optimizer)
    lines = [
        [row.label, label, "gain", *map(percent, comparison.gains), str(seeds)],
        ["", "", "p-value", *map(probability, comparison.p_values), ""],
    ]
    if any(g is not None for g in comparison.paper_gains):
        lines.append(["", "", "paper's gain", *map(percent, comparison.paper_gains), "5"])
    return lines


def _overall(comparisons: Sequence[Comparison]) -> Table | None:
    """The gain over the plain row, averaged over the metrics, beside the paper's."""
    plain = [c for c in comparisons if c.other[0].optimizer == PLAIN]
    datasets = list(dict.fromkeys(c.sevo[0].dataset for c in plain))
    if not plain:
        return None
    rows: list[list[str]] = []
    for label in dict.fromkeys(c.sevo[0].label for c in plain):
        own = {c.sevo[0].dataset: c for c in plain if c.sevo[0].label == label}
        ours = [_average(own[d].gains) if d in own else None for d in datasets]
        theirs = [_average(own[d].paper_gains) if d in own else None for d in datasets]
        rows.append([label, "ours", *map(percent, ours)])
        rows.append(["", "paper", *map(percent, theirs)])
    names = [paper.DATASETS.get(dataset, dataset) for dataset in datasets]
    title = "Gain of SEvo over the plain baseline, mean of the five metrics"
    return Table(title, ("Model", "", *names), rows, text_columns=2)


def _average(values: Sequence[float | None]) -> float | None:
    """The mean, if none is missing."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
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
