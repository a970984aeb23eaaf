"""Table 2: the accuracy of every model, plain and with SEvo, and of AdamW with SEvo's settings.

The last kind of row is not in the paper: it tells what SEvo's settings do without smoothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import paper
from experiments.data import NAMES
from experiments.errors import UserError
from experiments.paper import METRICS, PLAIN, SEVO, TABLE_2, USER_ITEM_GRAPH, Scores
from experiments.reproduce.cells import Cell, mean, percent
from experiments.reproduce.documents import Document, Table
from experiments.reproduce.options import Options, chosen, chosen_seeds, refuse
from experiments.reproduce.rows import (
    SEEDS,
    UNSMOOTHED,
    Comparison,
    Row,
    cells_of,
    comparison_json,
    notes,
    plain_optimizer,
    row_json,
    runs_of,
    tables_of,
    trained_on,
)
from experiments.reproduce.runs import Outcomes, carry_out, missing
from experiments.run import Run
from experiments.settings import OPTIMIZERS
from experiments.settings.published import MODELS
from experiments.summary import LABELS
from experiments.training.loop import CRITERION

DATASETS = ("beauty", "toys", "tools", "ml-1m")


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
        Variant(
            "MF-BPR, user-item graph", "mf-bpr", {"graph": "user-item"}, (SEVO,), USER_ITEM_GRAPH
        ),
    ),
    "stosa": (Variant("STOSA, as published", "stosa", {"published": True}),),
}


def make(options: Options) -> int:
    """Runs what is missing of the table, and writes it."""
    refuse(options, "quick")
    models = chosen("model", options.models, (name for name in paper.MODELS if name in MODELS))
    datasets = chosen("dataset", options.datasets, NAMES, DATASETS)
    optimizers = chosen("optimizer", options.optimizers, OPTIMIZERS, (PLAIN, UNSMOOTHED, SEVO))
    seeds = chosen_seeds(options.seeds, SEEDS)
    rows = [row for d in datasets for m in models for row in make_rows(m, d, optimizers)]
    if not rows:
        raise UserError(
            f"--optimizers: table2 has no row of {', '.join(models)} with {', '.join(optimizers)}"
        )
    runs, order = runs_of(rows, seeds, options.epochs)
    return carry_out(order, options, lambda outcomes: compose(rows, runs, outcomes))


def make_rows(model: str, dataset: str, optimizers: Sequence[str]) -> list[Row]:
    """The rows of a model on a data set; those without SEvo in the paper have the plain one."""
    plain = plain_optimizer(model)
    optimizers = tuple(dict.fromkeys(plain if name == PLAIN else name for name in optimizers))
    usual = Variant(paper.MODELS[model], model, {}, optimizers)
    if model not in paper.BACKBONES:
        usual = usual._replace(optimizers=(plain,))
    return [
        Row(
            dataset,
            model,
            variant.label,
            variant.model,
            name,
            variant.settings,
            variant.paper[dataset] if variant.paper else published_scores(model, dataset, name),
        )
        for variant in (usual, *VARIANTS.get(model, ()))
        for name in optimizers
        if name in variant.optimizers and (variant.paper is None or dataset in variant.paper)
    ]


def published_scores(model: str, dataset: str, optimizer: str) -> Scores | None:
    """The value of Table 2; that of the plain run for whatever the plain run is trained by."""
    plain = model in paper.BASELINES and optimizer == plain_optimizer(model)
    return TABLE_2.get((model, dataset, PLAIN if plain else optimizer))


def compose(rows: Sequence[Row], runs: Sequence[Sequence[Run]], outcomes: Outcomes) -> Document:
    """The table from what there is of the runs of each row."""
    lines = cells_of(rows, runs, outcomes)
    comparisons = compare(lines)
    tables = tables_of(lines, comparisons)
    overall = _overall(comparisons)
    if overall is not None:
        tables.append(overall)
    absent = [label for model, label in paper.MODELS.items() if model not in MODELS]
    text = [
        f"Test metrics at the epoch of the best validation {CRITERION}; full ranking, "
        "leave-one-out. Mean ± standard deviation over seeds; *paper* is its mean of five seeds, "
        "*difference* is ours against it.",
        f"*{LABELS[PLAIN]}* is the plain baseline, tuned on its own; *{LABELS[UNSMOOTHED]}* is the "
        "run with SEvo less the smoothing, which the paper does not have. Rows of fewer epochs "
        "than published were stopped early and cannot be held against the paper. p-values are of "
        "the two-sided paired t-test over the seeds that both rows have.",
        *notes(list(dict.fromkeys(row.model for row in rows))),
        trained_on(lines) + (f" Not built yet: {', '.join(absent)}." if absent else ""),
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
            "rows": [row_json(row, cell) for row, cell in lines],
            "comparisons": [comparison_json(c) for c in comparisons],
            "missing": missing([run for seeds in runs for run in seeds], outcomes),
        },
    )


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
