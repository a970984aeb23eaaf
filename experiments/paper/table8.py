"""Table 8: the wall time of training and of inference, and what SEvo adds to it.

Measured in turn, in one process: an epoch without smoothing, one smoothed at every step, and one
smoothed once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import data, numbers
from experiments.console import say
from experiments.errors import UserError
from experiments.files import read_json
from experiments.numbers import PLAIN, SEVO, UNSMOOTHED
from experiments.pages.documents import NONE, Document, Table
from experiments.paper import accuracy_tables
from experiments.run import make_run
from experiments.tables import cells, requests, rows, runs
from experiments.training import loop, prepare, timing

ROUNDS = 3
WAITING = "waiting"
Measured = dict[str, dict[str, Any]]
"""Seconds by data set and model."""
HEADER = (
    "Model", "", "Epoch, plain", "Epoch, SEvo", "Epoch, SEvo once", "Training, plain",
    "Training, SEvo", "Overhead", "Overhead, once", "Inference", "Epochs",
)  # fmt: skip


def make(request: requests.Request) -> int:
    """Measures what is missing, and writes the table, after each model on each data set too."""
    choices = requests.Choices(
        models=requests.Names(accuracy_tables.known_models()),
        datasets=requests.Names(data.NAMES, numbers.TABLE_2_DATASETS),
        seeds=(),
        epochs=False,
    )
    asked = requests.choose(request, choices)
    models, datasets = asked.models, asked.datasets
    machine, measured = kept(request.out / "table8.json", request.train)
    loaded, reasons = runs.load_all(datasets if request.train else (), request.data_dir)
    failed = any(name in request.datasets for name in reasons)

    def write() -> str:
        return runs.publish(compose(models, datasets, machine, measured, reasons), request)

    write()
    for dataset in loaded:
        for model in models:
            if model in measured.get(dataset, {}):
                continue
            say(f"{dataset}, {model}: measuring")
            try:
                found = measure(model, dataset, loaded[dataset])
            except UserError as error:
                reasons[f"{dataset}, {model}"] = str(error)
                failed = True
                say(f"error: {error}")
            else:
                measured.setdefault(dataset, {})[model] = found
            write()
    say(f"written: {write()}")
    return 1 if failed else 0


def kept(file: Path, train: bool) -> tuple[str, Measured]:
    """The machine to write about, and the seconds that an earlier call measured on it.

    With ``train`` that is the machine at hand, else the one of the file.
    """
    here = loop.device()
    if not file.exists():
        return here, {}
    held = read_json(file)
    machine, measured = held.get("device", here), held.get("measured", {})
    if not train:
        return machine, measured
    if machine != here:
        say(f"{file} is of another machine ({machine}), so everything is measured anew")
        return here, {}
    if measured:
        say(f"what {file} holds is kept; to measure it anew, move the file away")
    return here, measured


def measure(model: str, dataset: str, loaded: data.Interactions) -> dict[str, Any]:
    """Seconds of an epoch without SEvo, with it, and smoothed once, and of ranking all test users.

    Models that the paper has without SEvo alone are trained without it.

    Raises:
        UserError: the model cannot be trained on the data.
    """
    optimizers = compared(model)
    own = {name: make_run(model, dataset, name) for name in optimizers}
    if SEVO in own:
        own[WAITING] = make_run(model, dataset, SEVO, every_epochs=1)
    setups = {name: prepare.make_setup(run, loaded) for name, run in own.items()}
    calls = {name: timing.epoch_runner([run], setups[name], loaded)[0] for name, run in own.items()}
    run, setup = own[optimizers[-1]], setups[optimizers[-1]]
    start = prepare.initial_checkpoint(run, setup, loaded).state
    epochs = timing.in_turn(calls, ROUNDS)
    evaluations = timing.in_turn(
        {"inference": lambda: setup.evaluate("test", start.params, start.carried)}, ROUNDS
    )
    found = {
        "plain": epochs[optimizers[0]].tolist(),
        "inference": evaluations["inference"].tolist(),
        "epochs": run.settings.training.epochs,
    }
    if SEVO in epochs:
        found |= {"sevo": epochs[SEVO].tolist(), WAITING: epochs[WAITING].tolist()}
    return found


def compared(model: str) -> tuple[str, ...]:
    """The optimisers to measure: SEvo, and the same less smoothing; or the plain one alone."""
    return (UNSMOOTHED, SEVO) if model in numbers.BACKBONES else (rows.plain_optimizer(model),)


def compose(
    models: tuple[str, ...],
    datasets: tuple[str, ...],
    machine: str,
    measured: Measured,
    reasons: dict[str, str],
) -> Document:
    """The table: the paper's seconds beside ours."""
    tables: list[Table] = []
    content: list[dict[str, Any]] = []
    absent = [f"{name}: {reason}" for name, reason in reasons.items()]
    for dataset in datasets:
        written: list[list[str]] = []
        for model in models:
            found = measured.get(dataset, {}).get(model)
            if found is None and dataset not in reasons and f"{dataset}, {model}" not in reasons:
                absent.append(f"{dataset}, {model}: not measured")
            ours = ours_of(found) if found else dict.fromkeys(COLUMNS)
            theirs = paper_of(model, dataset)
            written.append([numbers.MODELS[model], "ours", *_cells(ours)])
            written.append(["", "paper", *_cells(theirs)])
            content.append({"dataset": dataset, "model": model, "ours": ours, "paper": theirs})
        name = numbers.dataset_name(dataset)
        tables.append(Table(f"{name}: seconds", HEADER, written, text_columns=2))
    tables.append(means_of(content))
    text = [
        f"Seconds on: {machine}. An epoch is the median of {ROUNDS} after a warm-up, in turn "
        "without smoothing, with SEvo at every step, and with SEvo once in the epoch; all settings "
        "but the smoothing are SEvo's. A training is the epoch times the published epochs, without "
        "validations. Inference ranks all items for all test users. Models that the paper has "
        "without SEvo alone are trained as such.",
        "The paper's seconds are of other hardware and software (Xeon E5-2620 v4, one GTX 1080 "
        "Ti, PyTorch): the overheads can be compared, the seconds cannot. Nor can ours of "
        "different data sets, if the machine's speed changed between them. Epochs are those of "
        "each row.",
        *numbers.defects(models),
    ]
    return Document(
        name="table8",
        title="Table 8: training and inference times",
        text=text,
        tables=tables,
        missing=absent,
        content={
            "table": "table8",
            "device": machine,
            "rows": content,
            "measured": measured,
            "missing": absent,
        },
    )


def means_of(content: Iterable[dict[str, Any]]) -> Table:
    """The last rows of Table 2: a model's seconds, averaged over the data sets it was timed on."""
    written: list[list[str]] = []
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in content:
        if row["ours"]["training_plain"] is not None:
            by_model.setdefault(row["model"], []).append(row)
    for model, timed in by_model.items():
        label, count = numbers.MODELS[model], str(len(timed))
        for *first, name in ((label, count, "ours"), ("", "", "paper")):
            plain, sevo, inference = (
                cells.complete_mean([row[name][column] for row in timed])
                for column in ("training_plain", "training_sevo", "inference")
            )
            added = None if plain is None or sevo is None else sevo - plain
            trainings = [NONE if x is None else f"{x:,.0f}" for x in (plain, added)]
            written.append([*first, name, *trainings, _cell("inference", inference)])
    header = ("Model", "Data sets", "", "Training, plain", "SEvo adds", "Inference")
    return Table("Mean over data sets (Table 2): seconds", header, written, text_columns=3)


COLUMNS: tuple[str, ...] = (
    "epoch_plain", "epoch_sevo", "epoch_waiting", "training_plain", "training_sevo", "overhead",
    "overhead_waiting", "inference", "epochs",
)  # fmt: skip


def ours_of(found: dict[str, Any]) -> dict[str, float | None]:
    """The columns of our seconds.

    Examples:
        >>> found = {"plain": [1, 2, 3], "sevo": [3, 3, 9], "inference": [1, 1, 1], "epochs": 10}
        >>> ours_of(found)["training_sevo"], ours_of(found)["overhead"]
        (30.0, 0.5)
    """
    plain, inference = (float(np.median(found[name])) for name in ("plain", "inference"))
    sevo, waiting = (
        float(np.median(found[name])) if name in found else None for name in ("sevo", WAITING)
    )
    epochs = found["epochs"]
    trainings = plain * epochs, None if sevo is None else sevo * epochs
    overheads = cells.relative(sevo, plain), cells.relative(waiting, plain)
    values = (plain, sevo, waiting, *trainings, *overheads, inference, epochs)
    return dict(zip(COLUMNS, values, strict=True))


def paper_of(model: str, dataset: str) -> dict[str, float | None]:
    """The columns as the paper has them, which measures trainings, not epochs."""
    plain, sevo = (numbers.TABLE_8.get((model, dataset, optimizer)) for optimizer in (PLAIN, SEVO))
    if plain is None:
        return dict.fromkeys(COLUMNS)
    trained = sevo.training if sevo else None
    values = (
        plain.training / plain.epochs,
        sevo.training / sevo.epochs if sevo else None,
        None,
        plain.training,
        trained,
        cells.relative(trained, plain.training),
        None,
        plain.inference,
        plain.epochs,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _cells(values: dict[str, float | None]) -> list[str]:
    return [_cell(name, value) for name, value in values.items()]


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return NONE
    if name.startswith("overhead"):
        return cells.percent(value)
    if name == "epochs":
        return f"{value:.0f}"
    return f"{value:,.1f}" if name.startswith("training") else f"{value:.2f}"
