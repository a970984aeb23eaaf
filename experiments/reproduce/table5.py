"""Table 5: SEvo on a teacher's graph beside four methods of knowledge distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import paper
from experiments.data import NAMES
from experiments.paper import METRICS, PLAIN, TABLE_5
from experiments.reproduce.cells import gain, percent
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
    run_of,
    runs_of,
    score_lines,
    trained_on,
)
from experiments.reproduce.runs import Outcomes, carry_out, folder_of, missing
from experiments.run import Run
from experiments.students import METHODS, TEACHER_SEED, student_settings, teacher_settings
from experiments.training.loop import CRITERION

DATASETS = ("beauty",)
QUICK = ("plain", "dkd", "sevo")
"""The methods of a quick look."""
GAINS_HEADER = ("Model", "", *METRICS)


def make(options: Options) -> int:
    """Runs what is missing of the table, and writes it."""
    refuse(options, "optimizers")
    options = quick_look(options)
    methods = chosen("model", options.models, METHODS, QUICK if options.quick else METHODS)
    datasets = chosen("dataset", options.datasets, NAMES, DATASETS)
    seeds = chosen_seeds(options.seeds, SEEDS)
    rows: list[Row] = []
    teachers: list[Run] = []
    for dataset in datasets:
        row = quick_row(teacher_row(dataset, options.epochs), options.quick)
        teacher = run_of(row, TEACHER_SEED, options.epochs)
        folder = folder_of(teacher, options.runs)
        students = [student_row(method, dataset, folder, teacher) for method in methods]
        rows += [row, *(quick_row(student, options.quick) for student in students)]
        teachers.append(teacher)
    runs, order = runs_of(rows, seeds, options.epochs)
    order = list(dict.fromkeys([*teachers, *order]))  # students need theirs
    return carry_out(order, options, lambda outcomes: compose(rows, runs, teachers, outcomes))


def teacher_row(dataset: str, epochs: int | None) -> Row:
    """The teacher, plain."""
    settings = teacher_settings(dataset, epochs=epochs)
    return Row(dataset, "sasrec", "Teacher", "sasrec", PLAIN, settings, _paper("teacher", dataset))


def student_row(method: str, dataset: str, folder: Path, teacher: Run) -> Row:
    """A student of the teacher's run in ``folder``, or on its own."""
    own = METHODS[method]
    settings = student_settings(method, dataset, folder, teacher.settings.training.epochs)
    return Row(
        dataset, "sasrec", own.label, "sasrec", own.optimizer, settings, _paper(method, dataset)
    )


def _paper(method: str, dataset: str) -> paper.Scores | None:
    return TABLE_5[method] if dataset in DATASETS else None


def compose(
    rows: Sequence[Row], runs: Sequence[Sequence[Run]], teachers: Sequence[Run], outcomes: Outcomes
) -> Document:
    """The table from what there is of the runs of each row."""
    lines = cells_of(rows, runs, outcomes)
    tables: list[Table] = []
    gains: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        name = paper.DATASETS.get(dataset, dataset)
        own = [(row, cell) for row, cell in lines if row.dataset == dataset]
        scores = [line for row, cell in own for line in score_lines(row, cell)]
        tables.append(Table(f"{name}: test metrics", SCORES_HEADER, scores, text_columns=3))
        plain = next((cell for row, cell in own if row.label == METHODS["plain"].label), None)
        if plain is None:
            continue
        over: list[list[str]] = []
        for row, cell in own:
            if cell is not plain:
                found = [gain(cell, plain, metric) for metric in METRICS]
                named = dict(zip(METRICS, found, strict=True))
                gains.append({"dataset": dataset, "label": row.label, "gain": named})
                over.append([row.label, "gain", *map(percent, found)])
        title = f"{name}: gain over the student on its own, over common seeds"
        tables.append(Table(title, GAINS_HEADER, over, text_columns=2))
    every = dict.fromkeys([*teachers, *(run for seeds in runs for run in seeds)])
    not_done = missing(every, outcomes)
    return Document(
        name="table5",
        title="Table 5: knowledge distillation",
        text=[
            "A SASRec of width 20 that learns from one of width 200. Test metrics at the epoch of "
            f"the best validation {CRITERION}; full ranking, leave-one-out. Mean ± standard "
            "deviation over seeds; *paper* is its mean of five seeds, *difference* is ours against "
            "it. Rows of fewer epochs than configured were stopped early and cannot be held "
            f"against the paper. All students learn from the teacher of seed {TEACHER_SEED}.",
            "The paper gives neither the losses nor their weights, nor τ and β of the rows with "
            "SEvo: ours are in `models/distillation.py` and in the variants of "
            "`experiments/settings/sasrec.toml`. Rows with SEvo smooth over the ten "
            "nearest neighbours in the teacher's table.",
            trained_on(lines),
        ],
        tables=tables,
        missing=not_done,
        content={
            "table": "table5",
            "metrics": METRICS,
            "rows": [row_json(row, cell) for row, cell in lines],
            "gains": gains,
            "missing": not_done,
        },
    )
