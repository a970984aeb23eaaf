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
from typing import Any

import jax
import numpy as np

from experiments import data, numbers
from experiments.console import say
from experiments.errors import UserError
from experiments.files import read_json
from experiments.metrics import CRITERION
from experiments.numbers import LABELS, PLAIN, SEVO, TABLE_3, UNSMOOTHED
from experiments.pages.documents import NONE, Document, Table
from experiments.run import make_run
from experiments.settings import OPTIMIZERS
from experiments.tables import cells, requests, rows, runs
from experiments.tables.cells import percent
from experiments.tables.rows import Comparison, Line, Row
from experiments.training import loop, prepare, timing

MODEL = "sasrec"
METRICS = ("HR@1", "HR@10", "NDCG@10")
DATASETS = tuple(dict.fromkeys(dataset for dataset, _ in TABLE_3))
STEPS, ROUNDS = 10, 5
"""The size of a measurement on synthetic data: an epoch may take a quarter of an hour."""
HEADER = ("Optimiser", "", *METRICS, "Seconds/epoch", "Seeds", "Epochs", "Best epoch")
SYNTHETIC_HEADER = ("Optimiser", "Seconds/epoch", "Overhead", "Peak memory (GiB)", "Steps/epoch")
Measured = dict[str, dict[str, Any]]
"""Time and memory on synthetic data, by data set and optimiser."""


def not_there(dataset: str) -> str:
    """The reason why there are no runs on a data set without files."""
    return (
        "no file of it in the data_dir, $SEVO_DATA or the cache, and this command downloads none "
        f"of such size; {requests.command('table1', datasets=dataset)} does"
    )


def make(request: requests.Request) -> int:
    """Runs what is missing on the files at hand, measures on synthetic data for the others."""
    choices = requests.Choices(
        datasets=requests.Names(DATASETS), optimizers=requests.Names(OPTIMIZERS, (PLAIN, SEVO))
    )
    asked = requests.choose(request, choices)
    datasets = asked.datasets
    wanted = [make_row(dataset, name) for dataset in datasets for name in asked.optimizers]
    plan = rows.make_plan(wanted, asked.seeds, request.epochs)
    for run in plan.order():  # before anything is measured
        run.settings.check()
    measured = kept(request.out / "table3.json", request.train)
    there = [name for name in datasets if data.at_hand(name, request.data_dir)]
    loaded, reasons = runs.load_all(there if request.train else (), request.data_dir)
    for reason in reasons.values():
        say(f"error: {reason}")
    failed = bool(reasons)
    reasons |= {name: not_there(name) for name in datasets if name not in there}
    absent = [f"{numbers.DATASETS[name]}: {reason}" for name, reason in reasons.items()]

    def document(outcomes: runs.Outcomes) -> Document:
        lines, missing = plan.read(outcomes, request.runs)
        return compose(lines, measured, absent + missing)

    outcomes = runs.look_at_all(plan.order(), request.runs)
    for name in (name for name in datasets if name not in there and request.train):
        for optimizer in (UNSMOOTHED, SEVO):
            if optimizer in measured.get(name, {}):
                continue
            say(f"synthetic-{name}, {optimizer}: measuring time and memory")
            try:
                found = measure_apart(name, optimizer, request.data_dir)
            except UserError as error:
                say(f"error: {error}")
                absent.append(f"synthetic-{name}, {optimizer}: {error}")
                failed = True
            else:
                measured.setdefault(name, {})[optimizer] = found
            runs.publish(document(outcomes), request)
    # Runs that cannot go on for want of data are in the table, but not done.
    status = runs.carry_out(plan.order(), request, document, loaded)
    return 1 if failed else status


def make_row(dataset: str, optimizer: str) -> Row:
    """SASRec with an optimiser, and the paper's value of the three metrics."""
    theirs = TABLE_3.get((dataset, optimizer))
    scores = theirs and (theirs.hr_1, None, theirs.hr_10, None, theirs.ndcg_10)
    return Row(dataset, MODEL, numbers.MODELS[MODEL], optimizer, {}, scores)


def kept(file: Path, train: bool) -> Measured:
    """The measurements of an earlier call; before new ones, only those on this machine."""
    measured: Measured = read_json(file).get("synthetic", {}) if file.exists() else {}
    if train:
        for by_optimizer in measured.values():
            for name, own in list(by_optimizer.items()):
                if own["device"] != loop.device():
                    del by_optimizer[name]
    return measured


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
    synthetic = data.load(f"synthetic-{dataset}", data_dir)
    run = make_run(MODEL, dataset, optimizer)
    setup = prepare.make_setup(run, synthetic)
    call, steps, whole = timing.steps_runner(run, setup, synthetic, STEPS)
    seconds = timing.in_turn({"steps": call}, ROUNDS)["steps"] / steps
    unit = 1 if sys.platform == "darwin" else 1024
    on_device = jax.devices()[0].memory_stats() or {}
    return {
        "data": synthetic.name,
        "device": loop.device(),
        "seconds_per_step": seconds.tolist(),
        "steps_per_epoch": whole,
        "seconds_per_epoch": float(np.median(seconds)) * whole,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_device_bytes": on_device.get("peak_bytes_in_use"),
    }


def compose(lines: list[Line], measured: Measured, missing: list[str]) -> Document:
    """The table: accuracy where there are runs, time and memory on synthetic data elsewhere."""
    tables: list[Table] = []
    comparisons: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(line.row.dataset for line in lines):
        name = numbers.DATASETS[dataset]
        own = {line.row.optimizer: line for line in lines if line.row.dataset == dataset}
        written = [line for each in own.values() for line in _lines(each)]
        if SEVO in own and PLAIN in own:
            comparisons.append(_comparison(Comparison(own[SEVO], own[PLAIN])))
            written += _gains(comparisons[-1])
        tables.append(Table(f"{name}: {numbers.MODELS[MODEL]}", HEADER, written, text_columns=2))
        if dataset in measured:
            title = f"{name} (synthetic, time and memory only)"
            tables.append(Table(title, SYNTHETIC_HEADER, _synthetic(measured[dataset])))
    devices = set(rows.devices(line.cell for line in lines))
    devices |= {found["device"] for by_name in measured.values() for found in by_name.values()}
    text = [
        f"Test metrics at the epoch of the best validation {CRITERION}. Mean ± standard deviation "
        "over seeds. The paper's seconds are of an RTX 3090 and cannot be compared with ours; the "
        "gains can. It has no graph neural networks here: they fail at this size.",
        "Tables marked *synthetic* are of random data of the same numbers of users, items and "
        f"interactions, measured over {STEPS} steps (median of {ROUNDS} rounds) and extrapolated "
        "to an epoch, each optimiser in a process of its own. They hold no scores, since random "
        "data have nothing to learn.",
        rows.protocol_of(lines),
        f"On: {', '.join(sorted(devices)) or 'nothing yet'}.",
    ]
    return Document(
        name="table3",
        title="Table 3: large data sets",
        text=text,
        tables=tables,
        missing=missing,
        content={
            "table": "table3",
            "metrics": METRICS,
            "rows": [_row_json(line) for line in lines],
            "comparisons": comparisons,
            "synthetic": measured,
            "missing": missing,
        },
    )


def _row_json(line: Line) -> dict[str, Any]:
    row = line.row
    theirs = TABLE_3.get((row.dataset, row.optimizer))
    return {
        "dataset": row.dataset,
        "optimizer": row.optimizer,
        "paper_seconds_per_epoch": theirs.seconds_per_epoch if theirs else None,
        **cells.cell_json(line.cell, METRICS, theirs[: len(METRICS)] if theirs else None),
    }


def _lines(line: Line) -> list[list[str]]:
    row, cell, _ = line
    theirs = TABLE_3.get((row.dataset, row.optimizer))
    seconds = [r["seconds_per_epoch"] for r in cell.results.values() if r["seconds_per_epoch"]]
    values = [cells.score_over_seeds(cell.values(metric)) for metric in METRICS]
    label = LABELS.get(row.optimizer, row.optimizer)
    progress = cells.progress_of(cell)
    ours = [label, "ours", *values, _seconds(cells.mean(seconds)), *progress]
    if theirs is None:
        return [ours]
    scores = theirs[: len(METRICS)]
    per_epoch, epochs = _seconds(theirs.seconds_per_epoch), str(theirs.epochs)
    return [
        ours,
        ["", "paper", *map(cells.score, scores), per_epoch, "", epochs, ""],
        ["", "difference", *rows.differences(cell, scores, METRICS), "", "", "", ""],
    ]


def _comparison(own: Comparison) -> dict[str, Any]:
    """SEvo over plain, for each metric."""
    found = own.to_json()
    shown = {"dataset": own.one.row.dataset, "seeds": found.pop("seeds")}
    return shown | {name: {m: values[m] for m in METRICS} for name, values in found.items()}


def _gains(comparison: dict[str, Any]) -> list[list[str]]:
    seeds, rest = str(len(comparison["seeds"])), ["", ""]
    gains, theirs = comparison["gain"].values(), comparison["paper_gain"].values()
    p_values = comparison["p_value"].values()
    return [
        ["SEvo over plain", "ours", *map(percent, gains), "", seeds, *rest],
        ["", "paper", *map(percent, theirs), "", "", *rest],
        ["", "p-value", *map(cells.probability, p_values), "", "", *rest],
    ]


def _synthetic(measured: dict[str, dict[str, Any]]) -> list[list[str]]:
    plain = measured.get(UNSMOOTHED, {}).get("seconds_per_epoch")
    written: list[list[str]] = []
    for optimizer, found in measured.items():
        over = cells.relative(found["seconds_per_epoch"], plain) if optimizer == SEVO else None
        written.append(
            [
                LABELS[optimizer],
                _seconds(found["seconds_per_epoch"]),
                percent(over),
                f"{found['peak_bytes'] / 2**30:.2f}",
                str(found["steps_per_epoch"]),
            ]
        )
    return written


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
