"""Table 1: the sizes of the data sets.

Data sets that are not at hand are downloaded, but for the two that take gigabytes, which must be
asked for; without training none is.
"""

from __future__ import annotations

from typing import Any

from experiments import data, numbers
from experiments.console import say
from experiments.pages.documents import NONE, Document, Table
from experiments.paper import table3
from experiments.tables import cells, requests, runs

COUNTS = ("users", "items", "interactions", "average_length")
HEADER = ("Data set", "", "Users", "Items", "Interactions", "Avg. length")


def make(request: requests.Request) -> int:
    """Loads the data sets, and writes their sizes beside the paper's."""
    choices = requests.Choices(datasets=requests.Names(data.TABLE_1), seeds=(), epochs=False)
    names = requests.choose(request, choices).datasets
    left_out = [
        name
        for name in names
        if not data.at_hand(name, request.data_dir)
        and (not request.train or (name in table3.DATASETS and name not in request.datasets))
    ]
    wanted = (name for name in names if name not in left_out)
    loaded, reasons = runs.load_all(wanted, request.data_dir)
    why = table3.not_there if request.train else _not_downloaded
    reasons |= {name: why(name) for name in left_out}
    written = runs.publish(compose(names, loaded, reasons), request)
    for name, reason in reasons.items():
        say(f"missing: {name}: {reason}")
    say(f"written: {written}")
    return 1 if any(name in request.datasets for name in reasons) else 0


def _not_downloaded(name: str) -> str:
    return f"not at hand; {requests.command('table1', datasets=name)} downloads it"


def compose(
    names: tuple[str, ...], loaded: dict[str, data.Interactions], reasons: dict[str, str]
) -> Document:
    """The table of the data sets ``names``."""
    rows: list[list[str]] = []
    content: dict[str, Any] = {}
    for name in names:
        theirs = (*data.TABLE_1[name], numbers.AVERAGE_LENGTH[name])
        ours = counts_of(loaded[name]) if name in loaded else (None,) * len(COUNTS)
        differences = [cells.relative(a, b) for a, b in zip(ours, theirs, strict=True)]
        rows.append([numbers.DATASETS[name], "ours", *map(_number, ours)])
        rows.append(["", "paper", *map(_number, theirs)])
        rows.append(["", "difference", *map(_difference, differences)])
        content[name] = {
            count: {"ours": a, "paper": b, "difference": c}
            for count, a, b, c in zip(COUNTS, ours, theirs, differences, strict=True)
        }
    return Document(
        name="table1",
        title="Table 1: data sets",
        text=[
            "Sizes as loaded; the paper rounds the average length.",
            *(
                f"{numbers.DATASETS[name]}: {note}."
                for name, d in loaded.items()
                for note in d.notes
            ),
        ],
        tables=[Table("Sizes", HEADER, rows, text_columns=2)],
        missing=[f"{numbers.DATASETS[name]}: {reason}" for name, reason in reasons.items()],
        content={"table": "table1", "datasets": content, "missing": reasons},
    )


def counts_of(own: data.Interactions) -> tuple[float, ...]:
    """Users, items, interactions and interactions a user."""
    users, interactions = own.num_users, int(own.items.size)
    return users, own.num_items, interactions, interactions / users


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 2):g}"


def _difference(value: float | None) -> str:
    return "0" if value == 0 else cells.percent(value)
