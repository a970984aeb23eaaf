"""Table 3: SASRec on two large data sets.

Their files take gigabytes. Where one is not at hand, a synthetic data set of its size, which is
named so, tells how much time and memory an epoch takes; it says nothing of accuracy.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import paper
from experiments.data import at_hand, load
from experiments.errors import UserError
from experiments.files import read_json
from experiments.paper import PLAIN, SEVO, TABLE_3
from experiments.reproduce import documents
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
from experiments.reproduce.documents import NONE, Document, Table
from experiments.reproduce.options import Options, chosen, chosen_seeds, refuse
from experiments.reproduce.rows import SEEDS, UNSMOOTHED, differences
from experiments.reproduce.runs import Outcomes, carry_out, load_all, look_at_all, missing, say
from experiments.run import Run, make_run
from experiments.settings import OPTIMIZERS
from experiments.settings.published import published
from experiments.summary import LABELS
from experiments.training.loop import CRITERION, device, make_setup
from experiments.training.timing import in_turn, steps_runner

MODEL = "sasrec"
METRICS = ("HR@1", "HR@10", "NDCG@10")
DATASETS = tuple(dict.fromkeys(dataset for dataset, _ in TABLE_3))
STEPS, ROUNDS = 10, 5
"""Of a measurement on synthetic data: an epoch may take a quarter of an hour."""
HEADER = ("Optimiser", "", *METRICS, "Seconds/epoch", "Seeds", "Epochs", "Best epoch")
SYNTHETIC_HEADER = ("Optimiser", "Seconds/epoch", "Overhead", "Peak memory (GiB)", "Steps/epoch")
NOT_THERE = (
    "no file of it in --data-dir, $SEVO_DATA or the cache, and this command downloads none of such "
    "size; python -m experiments.reproduce table1 --datasets {} does"
)
Measured = dict[str, dict[str, Any]]
"""What was measured on synthetic data, by data set and optimiser."""


class Row(NamedTuple):
    """A line of the table."""

    dataset: str
    optimizer: str
    published: int
    paper: paper.LargeScale | None


def make(options: Options) -> int:
    """Runs what is missing on the files at hand, measures on synthetic data for the others."""
    refuse(options, "models", "quick")
    datasets = chosen("dataset", options.datasets, DATASETS)
    optimizers = chosen("optimizer", options.optimizers, OPTIMIZERS, (PLAIN, SEVO))
    seeds = chosen_seeds(options.seeds, SEEDS)
    rows = [make_row(dataset, optimizer) for dataset in datasets for optimizer in optimizers]
    runs = [[run_of(row, seed, options.epochs) for seed in seeds] for row in rows]
    order = [run for seed in zip(*runs, strict=True) for run in seed]
    for run in order:  # before anything is measured
        run.settings.check()
    outcomes = look_at_all(order, options.runs)
    file = options.out / "table3.json"
    measured: Measured = read_json(file).get("synthetic", {}) if file.exists() else {}
    if options.train:  # what another machine has measured cannot stand beside what this one does
        for by_optimizer in measured.values():
            for optimizer in [o for o, f in by_optimizer.items() if f["device"] != device()]:
                del by_optimizer[optimizer]
    there = [name for name in datasets if at_hand(name, options.data_dir)]
    data, reasons = load_all(there if options.train else [], options.data_dir)
    for reason in reasons.values():
        say(f"error: {reason}")
    failed = bool(reasons)
    reasons |= {name: NOT_THERE.format(name) for name in datasets if name not in there}
    absent = [f"{paper.DATASETS[name]}: {reason}" for name, reason in reasons.items()]

    def document(outcomes: Outcomes) -> Document:
        return compose(rows, runs, outcomes, measured, absent)

    absent_files = [name for name in datasets if name not in there]
    for name in absent_files if options.train else ():
        for optimizer in (UNSMOOTHED, SEVO):
            if optimizer in measured.get(name, {}):
                continue
            say(f"synthetic-{name}, {optimizer}: measuring time and memory")
            try:
                found = measure_apart(name, optimizer, options.data_dir)
            except UserError as error:
                say(f"error: {error}")
                absent.append(f"synthetic-{name}, {optimizer}: {error}")
                failed = True
            else:
                measured.setdefault(name, {})[optimizer] = found
            documents.write(document(outcomes), options.out)
    # Runs that cannot go on for want of data are in the table, but not done.
    status = carry_out(order, options, document, data)
    return 1 if failed else status


def make_row(dataset: str, optimizer: str) -> Row:
    """The row of an optimiser; the paper's epochs are not always those of its published runs."""
    epochs = published(MODEL, dataset, optimizer).training.epochs
    return Row(dataset, optimizer, epochs, TABLE_3.get((dataset, optimizer)))


def run_of(row: Row, seed: int, epochs: int | None) -> Run:
    """A seed of a row, stopped early if ``epochs`` are given."""
    epochs = row.published if epochs is None else epochs
    return make_run(MODEL, row.dataset, row.optimizer, seed, epochs=epochs)


def measure_apart(dataset: str, optimizer: str, data_dir: Path | None) -> dict[str, Any]:
    """`measure` in a process of its own, whose memory is the run's alone."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure, dataset, optimizer, data_dir).result()
    except BrokenProcessPool as error:
        raise UserError("the process that measures was killed, perhaps for memory") from error


def measure(dataset: str, optimizer: str, data_dir: Path | None) -> dict[str, Any]:
    """Seconds of an epoch, from some of its steps, and the peak of this process's memory.

    Raises:
        UserError: there is no synthetic data set of that size.
    """
    data = load(f"synthetic-{dataset}", data_dir)
    run = make_run(MODEL, dataset, optimizer)
    call, steps, whole = steps_runner(run, make_setup(run, data), data, STEPS)
    seconds = in_turn({"steps": call}, ROUNDS)["steps"] / steps
    unit = 1 if sys.platform == "darwin" else 1024
    on_device = jax.devices()[0].memory_stats() or {}
    return {
        "data": data.name,
        "device": device(),
        "seconds_per_step": seconds.tolist(),
        "steps_per_epoch": whole,
        "seconds_per_epoch": float(np.median(seconds)) * whole,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_device_bytes": on_device.get("peak_bytes_in_use"),
    }


def compose(
    rows: list[Row],
    runs: list[list[Run]],
    outcomes: Outcomes,
    measured: Measured,
    absent: list[str],
) -> Document:
    """The table: accuracy where there are runs, time and memory on synthetic data elsewhere."""
    lines = [
        (row, make_cell([outcomes[run].result for run in seeds], row.published))
        for row, seeds in zip(rows, runs, strict=True)
    ]
    tables: list[Table] = []
    comparisons: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        name = paper.DATASETS[dataset]
        own = {row.optimizer: (row, cell) for row, cell in lines if row.dataset == dataset}
        written = [line for row, cell in own.values() for line in _lines(row, cell)]
        if SEVO in own and PLAIN in own:
            comparisons.append(_comparison(dataset, own[SEVO][1], own[PLAIN][1]))
            written += _gains(comparisons[-1])
        tables.append(Table(f"{name}: {paper.MODELS[MODEL]}", HEADER, written, text_columns=2))
        if dataset in measured:
            title = f"{name} (synthetic, time and memory only)"
            tables.append(Table(title, SYNTHETIC_HEADER, _synthetic(measured[dataset])))
    devices = {r["device"] for _, cell in lines for r in cell.results.values()}
    devices |= {found["device"] for by_name in measured.values() for found in by_name.values()}
    text = [
        f"Test metrics at the epoch of the best validation {CRITERION}; full ranking, "
        "leave-one-out. Mean ± standard deviation over seeds. The paper's seconds are of an RTX "
        "3090 and cannot be compared with ours; the gains can. It has no graph neural networks "
        "here: they fail at this size.",
        "Tables marked *synthetic* are of random data of the same numbers of users, items and "
        f"interactions, measured over {STEPS} steps (median of {ROUNDS} rounds) and extrapolated "
        "to an epoch, each optimiser in a process of its own. They hold no scores, since random "
        "data have nothing to learn.",
        f"On: {', '.join(sorted(devices)) or 'nothing yet'}.",
    ]
    not_done = absent + missing([run for seeds in runs for run in seeds], outcomes)
    return Document(
        name="table3",
        title="Table 3: large data sets",
        text=text,
        tables=tables,
        missing=not_done,
        content={
            "table": "table3",
            "metrics": METRICS,
            "rows": [
                {
                    "dataset": row.dataset,
                    "optimizer": row.optimizer,
                    "paper_seconds_per_epoch": row.paper.seconds_per_epoch if row.paper else None,
                }
                | cell_json(cell, METRICS, row.paper[:3] if row.paper else None)
                for row, cell in lines
            ],
            "comparisons": comparisons,
            "synthetic": measured,
            "missing": not_done,
        },
    )


def _lines(row: Row, cell: Cell) -> list[list[str]]:
    values = [cell.values(metric) for metric in METRICS]
    seconds = mean(
        [r["seconds_per_epoch"] for r in cell.results.values() if r["seconds_per_epoch"]]
    )
    label = LABELS.get(row.optimizer, row.optimizer)
    ours = [label, "ours", *map(score_over_seeds, values), _seconds(seconds), *progress_of(cell)]
    if row.paper is None:
        return [ours]
    theirs = row.paper[: len(METRICS)]
    epochs = str(row.paper.epochs)
    return [
        ours,
        ["", "paper", *map(score, theirs), _seconds(row.paper.seconds_per_epoch), "", epochs, ""],
        ["", "difference", *differences(cell, METRICS, theirs), "", "", "", ""],
    ]


def _comparison(dataset: str, sevo: Cell, plain: Cell) -> dict[str, Any]:
    """SEvo over plain, for each metric."""
    theirs = [TABLE_3[dataset, optimizer][: len(METRICS)] for optimizer in (SEVO, PLAIN)]
    paper_gains = [relative(a, b) for a, b in zip(*theirs, strict=True)]
    return {
        "dataset": dataset,
        "seeds": common_seeds(sevo, plain),
        "gain": {m: gain(sevo, plain, m) for m in METRICS},
        "p_value": {m: p_value(sevo, plain, m) for m in METRICS},
        "paper_gain": dict(zip(METRICS, paper_gains, strict=True)),
    }


def _gains(comparison: dict[str, Any]) -> list[list[str]]:
    seeds, rest = str(len(comparison["seeds"])), ["", ""]
    gains, theirs = comparison["gain"].values(), comparison["paper_gain"].values()
    p_values = comparison["p_value"].values()
    return [
        ["SEvo over plain", "ours", *map(percent, gains), "", seeds, *rest],
        ["", "paper", *map(percent, theirs), "", "", *rest],
        ["", "p-value", *map(probability, p_values), "", "", *rest],
    ]


def _synthetic(measured: dict[str, dict[str, Any]]) -> list[list[str]]:
    plain = measured.get(UNSMOOTHED, {}).get("seconds_per_epoch")
    rows: list[list[str]] = []
    for optimizer, found in measured.items():
        over = relative(found["seconds_per_epoch"], plain) if optimizer == SEVO else None
        rows.append(
            [
                LABELS[optimizer],
                _seconds(found["seconds_per_epoch"]),
                percent(over),
                f"{found['peak_bytes'] / 2**30:.2f}",
                str(found["steps_per_epoch"]),
            ]
        )
    return rows


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
