"""The tables and figures that can be made, each by a function of the request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.beyond import every, new_items_page, strong, tuning, when_it_pays
from experiments.paper import (
    a4,
    ablations,
    accuracy,
    accuracy_tables,
    accuracy_time,
    figure2b,
    figure6,
    table1,
    table3,
    table8,
)
from experiments.tables.requests import Request

TARGETS: dict[str, Callable[[Request], int]] = {
    "table1": table1.make,
    "table2": partial(accuracy.make, accuracy_tables.TABLE_2),
    "table3": table3.make,
    "table4": partial(accuracy.make, accuracy_tables.TABLE_4),
    "table5": partial(accuracy.make, accuracy_tables.TABLE_5),
    "table6": partial(accuracy.make, accuracy_tables.TABLE_6),
    "table8": table8.make,
    **{
        name: partial(accuracy.make, ablations.table_of(own))
        for name, own in ablations.ABLATIONS.items()
    },
    "figure2b": figure2b.make,
    "figure6": figure6.make,
    "accuracy-time": accuracy_time.make,
    "strong": partial(accuracy.make, strong.STRONG),
    "tuning": partial(accuracy.make, tuning.TRIALS_TABLE),
    "tuned": partial(accuracy.make, tuning.TUNED),
    "when-it-pays": when_it_pays.make,
    "cold": new_items_page.make_cold,
    "incremental": new_items_page.make_days,
    "every": partial(accuracy.make, every.EVERY),
    "every-parts": partial(accuracy.make, every.PARTS_TABLE),
    "every-models": partial(accuracy.make, every.MODELS_TABLE),
    "every-softmax": partial(accuracy.make, every.SOFTMAX_TABLE),
    "a4": a4.make,
}
