"""``python -m experiments.reproduce``: the command line."""

from __future__ import annotations

from typing import Any

import tyro

from experiments import console
from experiments.console import say
from experiments.errors import UserError, check_name
from experiments.reproduce.options import Options


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(Options, args=argv, prog="python -m experiments.reproduce")
    from experiments.reproduce.tables import TABLES
    from experiments.training.compilation import keep_programs  # after --help, since it takes long
    from experiments.training.loop import Interrupted

    try:
        check_name("table", options.table, TABLES)
        keep_programs(options.compilation_cache)
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


def __getattr__(name: str) -> Any:
    """`TABLES`, which was here before `experiments.reproduce.tables` was."""
    from experiments.reproduce import tables

    return getattr(tables, name)


if __name__ == "__main__":
    console.run(main)
