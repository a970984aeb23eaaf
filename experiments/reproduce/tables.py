"""The tables and figures that can be made, each by a function of the options."""

from __future__ import annotations

from collections.abc import Callable

from experiments.reproduce import (
    a4,
    ablation_points,
    ablations,
    accuracy_time,
    figure2b,
    figure6,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
    table8,
    when_it_helps,
)
from experiments.reproduce.options import Options

TABLES: dict[str, Callable[[Options], int]] = {
    "table1": table1.make,
    "table2": table2.make,
    "table3": table3.make,
    "table4": table4.make,
    "table5": table5.make,
    "table6": table6.make,
    "table8": table8.make,
    **dict.fromkeys(ablation_points.ABLATIONS, ablations.make),
    "figure2b": figure2b.make,
    "figure6": figure6.make,
    "accuracy-time": accuracy_time.make,
    "when-it-helps": when_it_helps.make,
    "a4": a4.make,
}
