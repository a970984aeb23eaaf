"""Table 6: SEvo on graph neural networks, which have the structure in their layers already."""

from __future__ import annotations

from collections.abc import Sequence

from experiments import paper
from experiments.data import NAMES
from experiments.paper import METRICS, PLAIN, SEVO, TABLE_6
from experiments.reproduce.documents import Document
from experiments.reproduce.options import Options, chosen, chosen_seeds, refuse
from experiments.reproduce.rows import (
    SEEDS,
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
from experiments.settings.published import MODELS
from experiments.training.loop import CRITERION

TABLE_MODELS = tuple(dict.fromkeys(model for model, _, _ in TABLE_6))
DATASETS = ("beauty",)


def make(options: Options) -> int:
    """Runs what is missing of the table, and writes it."""
    refuse(options, "optimizers", "quick")
    models = chosen("model", options.models, (name for name in TABLE_MODELS if name in MODELS))
    datasets = chosen("dataset", options.datasets, NAMES, DATASETS)
    rows = [row for dataset in datasets for model in models for row in make_rows(model, dataset)]
    runs, order = runs_of(rows, chosen_seeds(options.seeds, SEEDS), options.epochs)
    return carry_out(order, options, lambda outcomes: compose(rows, runs, outcomes))


def make_rows(model: str, dataset: str) -> list[Row]:
    """A model plain and with SEvo."""
    label = paper.MODELS[model]
    return [
        Row(dataset, model, name, model, optimizer, {}, TABLE_6.get((model, dataset, column)))
        for name, optimizer, column in (
            (label, plain_optimizer(model), PLAIN),
            (f"{label} + SEvo", SEVO, SEVO),
        )
    ]


def compose(rows: Sequence[Row], runs: Sequence[Sequence[Run]], outcomes: Outcomes) -> Document:
    """The table from what there is of the runs of each row."""
    lines = cells_of(rows, runs, outcomes)
    comparisons = [
        Comparison(sevo, plain) for plain, sevo in zip(lines[::2], lines[1::2], strict=True)
    ]
    not_done = missing([run for seeds in runs for run in seeds], outcomes)
    return Document(
        name="table6",
        title="Table 6: SEvo on graph neural networks",
        text=[
            f"Test metrics at the epoch of the best validation {CRITERION}; full ranking, "
            "leave-one-out. Mean ± standard deviation over seeds; *paper* is its mean of five "
            "seeds, *difference* is ours against it. Rows of fewer epochs than configured were "
            "stopped early and cannot be held against the paper. p-values are of the two-sided "
            "paired t-test over the seeds that both rows have.",
            *notes(list(dict.fromkeys(row.model for row in rows))),
            trained_on(lines),
        ],
        tables=tables_of(lines, comparisons),
        missing=not_done,
        content={
            "table": "table6",
            "metrics": METRICS,
            "rows": [row_json(row, cell) for row, cell in lines],
            "comparisons": [comparison_json(c) for c in comparisons],
            "missing": not_done,
        },
    )
