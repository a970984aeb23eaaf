"""Table 1: the sizes of the data sets.

What is not at hand is downloaded, but for the two that take gigabytes, which must be asked for;
with ``--no-train`` nothing is.
"""

from __future__ import annotations

from typing import Any

from experiments import paper
from experiments.data import TABLE_1, Interactions, at_hand
from experiments.reproduce import documents
from experiments.reproduce.cells import percent, relative
from experiments.reproduce.documents import NONE, Document, Table
from experiments.reproduce.options import Options, chosen, refuse
from experiments.reproduce.runs import load_all, say
from experiments.reproduce.table3 import DATASETS as LARGE
from experiments.reproduce.table3 import NOT_THERE

COUNTS = ("users", "items", "interactions", "average_length")
NOT_DOWNLOADED = "not at hand; python -m experiments.reproduce table1 --datasets {} downloads it"
HEADER = ("Data set", "", "Users", "Items", "Interactions", "Avg. length")


def make(options: Options) -> int:
    """Loads the data sets, and writes their sizes beside the paper's."""
    refuse(options, "models", "optimizers", "seeds", "epochs", "quick")
    names = chosen("dataset", options.datasets, TABLE_1)
    left_out = [
        name
        for name in names
        if not at_hand(name, options.data_dir)
        and (not options.train or (name in LARGE and name not in options.datasets))
    ]
    data, reasons = load_all((name for name in names if name not in left_out), options.data_dir)
    why = NOT_THERE if options.train else NOT_DOWNLOADED
    reasons |= {name: why.format(name) for name in left_out}
    paths = documents.write(compose(names, data, reasons), options.out)
    for name, reason in reasons.items():
        say(f"missing: {name}: {reason}")
    say(f"written: {', '.join(map(str, paths))}")
    return 1 if any(name in options.datasets for name in reasons) else 0


def compose(
    names: tuple[str, ...], data: dict[str, Interactions], reasons: dict[str, str]
) -> Document:
    """The table of the data sets ``names``."""
    rows: list[list[str]] = []
    content: dict[str, Any] = {}
    for name in names:
        theirs = (*TABLE_1[name], paper.AVERAGE_LENGTH[name])
        ours = counts_of(data[name]) if name in data else (None,) * len(COUNTS)
        differences = [relative(a, b) for a, b in zip(ours, theirs, strict=True)]
        rows.append([paper.DATASETS[name], "ours", *map(_number, ours)])
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
            *(f"{paper.DATASETS[name]}: {note}." for name, d in data.items() for note in d.notes),
        ],
        tables=[Table("Sizes", HEADER, rows, text_columns=2)],
        missing=[f"{paper.DATASETS[name]}: {reason}" for name, reason in reasons.items()],
        content={"table": "table1", "datasets": content, "missing": reasons},
    )


def counts_of(data: Interactions) -> tuple[float, ...]:
    """Users, items, interactions and interactions a user."""
    users, interactions = data.num_users, int(data.items.size)
    return users, data.num_items, interactions, interactions / users


def _number(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 2):g}"


def _difference(value: float | None) -> str:
    return "0" if value == 0 else percent(value)
