"""Table 4: SASRec smoothed over the items' interactions and over their categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import paper
from experiments.data import NAMES
from experiments.data.categories import SOURCES
from experiments.paper import METRICS, SEVO, TABLE_4
from experiments.reproduce.cells import (
    Cell,
    common_seeds,
    gain,
    p_value,
    percent,
    probability,
    relative,
)
from experiments.reproduce.documents import Document, Table
from experiments.reproduce.options import (
    Options,
    chosen,
    chosen_seeds,
    quick_look,
    refuse,
)
from experiments.reproduce.rows import (
    SCORES_HEADER,
    SEEDS,
    Row,
    cells_of,
    quick_row,
    row_json,
    runs_of,
    score_lines,
    trained_on,
)
from experiments.reproduce.runs import Outcomes, carry_out, missing
from experiments.run import Run
from experiments.training.loop import CRITERION

MODEL = "sasrec"
DATASETS = ("ml-1m", "beauty")
UNSMOOTHED = ("item-item", 0.0)
CONDITIONS = (
    UNSMOOTHED,
    ("item-item", 0.5),
    ("item-item", 0.99),
    ("category", 0.5),
    ("category", 0.99),
)
"""Graph and β. Of β = 0 there is one: it smooths over no graph."""
GRAPHS = {"item-item": "Interactions", "category": "Categories"}
GAINS_HEADER = ("Model", "", *METRICS, "Seeds")


def make(options: Options) -> int:
    """Runs what is missing of the table, and writes it."""
    refuse(options, "optimizers", "models")
    options = quick_look(options)
    datasets = chosen("dataset", options.datasets, NAMES, DATASETS[options.quick :])
    rows = [row for dataset in datasets for row in make_rows(dataset, options.quick)]
    runs, order = runs_of(rows, chosen_seeds(options.seeds, SEEDS), options.epochs)
    return carry_out(order, options, lambda outcomes: compose(rows, runs, outcomes))


def make_rows(dataset: str, quick: bool = False) -> list[Row]:
    """SASRec under each of the `CONDITIONS`."""
    rows: list[Row] = []
    for graph, beta in CONDITIONS:
        settings: dict[str, Any] = {"graph": graph, "beta": beta}
        published = TABLE_4.get((dataset, graph, beta))
        label = f"{GRAPHS[graph]}, β = {beta:g}" if beta else "Not smoothed, β = 0"
        row = Row(dataset, MODEL, label, MODEL, SEVO, settings, published)
        rows.append(quick_row(row, quick))
    return rows


class Gain(NamedTuple):
    """A condition beside the one without smoothing."""

    row: Row
    cell: Cell
    unsmoothed: tuple[Row, Cell]

    @property
    def paper(self) -> list[float | None]:
        """The paper's gains; None where it leaves out a metric or all."""
        own, unsmoothed = self.row.paper, self.unsmoothed[0].paper
        if own is None or unsmoothed is None:
            return [None] * len(METRICS)
        return [relative(a, b) for a, b in zip(own, unsmoothed, strict=True)]

    def values(self) -> tuple[list[float | None], list[float | None]]:
        """Our gains and their p-values."""
        pair = self.cell, self.unsmoothed[1]
        return [gain(*pair, m) for m in METRICS], [p_value(*pair, m) for m in METRICS]

    def lines(self) -> list[list[str]]:
        """For reading."""
        gains, p_values = self.values()
        seeds = len(common_seeds(self.cell, self.unsmoothed[1]))
        lines = [[self.row.label, "gain", *map(percent, gains), str(seeds)]]
        lines.append(["", "p-value", *map(probability, p_values), ""])
        if self.row.paper is not None:
            lines.append(["", "paper's gain", *map(percent, self.paper), "5"])
        return lines

    def to_json(self) -> dict[str, Any]:
        """What the JSON file says of it."""
        gains, p_values = self.values()
        return {
            "dataset": self.row.dataset,
            **self.row.settings,
            "seeds": common_seeds(self.cell, self.unsmoothed[1]),
            "gain": dict(zip(METRICS, gains, strict=True)),
            "p_value": dict(zip(METRICS, p_values, strict=True)),
            "paper_gain": dict(zip(METRICS, self.paper, strict=True)),
        }


def compose(rows: Sequence[Row], runs: Sequence[Sequence[Run]], outcomes: Outcomes) -> Document:
    """The table from what there is of the runs of each row."""
    lines = cells_of(rows, runs, outcomes)
    tables: list[Table] = []
    gains: list[Gain] = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        name = paper.DATASETS.get(dataset, dataset)
        unsmoothed, *others = [(row, cell) for row, cell in lines if row.dataset == dataset]
        own = [Gain(row, cell, unsmoothed) for row, cell in others]
        scores = [line for row, cell in (unsmoothed, *others) for line in score_lines(row, cell)]
        over = [line for g in own for line in g.lines()]
        tables.append(Table(f"{name}: test metrics", SCORES_HEADER, scores, text_columns=3))
        title = f"{name}: gain over β = 0, over common seeds"
        tables.append(Table(title, GAINS_HEADER, over, text_columns=2))
        gains += own
    not_done = missing([run for seeds in runs for run in seeds], outcomes)
    return Document(
        name="table4",
        title="Table 4: smoothing over interactions and over categories",
        text=[
            "SASRec, whose items are smoothed over those that follow each other in the training "
            "sequences, or over those that share a category (weight 1 if they do, else 0). Test "
            f"metrics at the epoch of the best validation {CRITERION}; full ranking, "
            "leave-one-out. Mean ± standard deviation over seeds; *paper* is its mean of five "
            "seeds, *difference* is ours against it. Rows of fewer epochs than configured were "
            "stopped early and cannot be held against the paper. p-values are of the two-sided "
            "paired t-test over the seeds that both rows have.",
            "β = 0 is AdamW with the moment correction and no smoothing: one run, whatever the "
            "graph.",
            *(sentence for d in dict.fromkeys(r.dataset for r in rows) for sentence in _of(d)),
            trained_on(lines),
        ],
        tables=tables,
        missing=not_done,
        content={
            "table": "table4",
            "metrics": METRICS,
            "rows": [row_json(row, cell) for row, cell in lines],
            "gains": [g.to_json() for g in gains],
            "missing": not_done,
        },
    )


def _of(dataset: str) -> list[str]:
    """What is to be said of a data set's categories."""
    source = SOURCES.get(dataset)
    if source is None:
        return []
    name = paper.DATASETS[dataset]
    if source.max_size is None:
        return [f"{name}: every category makes edges."]
    return [
        f"{name}, which the paper's table lacks: the same experiment with the categories of "
        f"{source.file}. Those of more than {source.max_size} items make no edges: they are too "
        "broad to say much of any one item, and all of them would join a quarter of all pairs."
    ]
