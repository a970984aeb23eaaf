"""``python -m experiments.reproduce``: the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import tyro

from experiments.errors import UserError, check_name
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
from experiments.reproduce.runs import say
from experiments.train import ignore_closed_loop
from experiments.trainer import Interrupted

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


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Options, args=argv, prog="python -m experiments.reproduce")
    try:
        check_name("table", options.table, TABLES)
        return TABLES[options.table](options)
    except Interrupted as interruption:
        say(f"interrupted: {interruption}; the same command goes on")
        return 130
    except KeyboardInterrupt:
        say("interrupted; what is done is kept: the same command goes on")
        return 130
    except UserError as error:
        say(f"error: {error}")
        return 1


if __name__ == "__main__":
    sys.unraisablehook = ignore_closed_loop
    sys.exit(main())
