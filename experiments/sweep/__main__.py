"""``python -m experiments.sweep``: the command line."""

from __future__ import annotations

import sys
from inspect import getdoc
from pathlib import Path
from typing import Any

import tyro

from experiments import trainer
from experiments.console import say
from experiments.data import load
from experiments.errors import UserError
from experiments.sweep.options import (
    Arguments,
    Options,
    check_fields,
    check_numbers,
    chosen_axes,
    limit_of,
)
from experiments.sweep.report import Frame
from experiments.sweep.session import Session
from experiments.sweep.space import parse_search
from experiments.sweep.study import Sweep
from experiments.train import ignore_closed_loop


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(
        Options, args=argv, prog="python -m experiments.sweep", description=getdoc(Arguments)
    )
    try:
        return sweep(options)
    except trainer.Interrupted as interruption:
        say(f"interrupted: {interruption}; the same command goes on")
        return 130
    except KeyboardInterrupt:
        say("interrupted; what is done is kept: the same command goes on")
        return 130
    except UserError as error:
        say(f"error: {error}")
        return 1


def sweep(options: Any) -> int:
    """Works at the sweep that the options ask for; the exit status: 1 if no trial has a score.

    Raises:
        UserError: bad options, data or folder, or a run that cannot go on.
        Interrupted: a signal came; the trial in hand is saved.
    """
    check_numbers(options)
    fields = parse_search(options.search)
    first, *others = check_fields(options, fields)
    axes, limit = chosen_axes(options, fields), limit_of(options, fields)
    data = load(options.dataset, options.data_dir)
    for note in data.notes:
        say(note)
    for run in others:  # names that the model may refuse, before hours of training
        trainer.make_setup(run, trainer.used_users(run, data))
    name = f"{Path(options.dataset).stem}-{options.model}-{options.optimizer}"
    out: Path = options.out or Path("sweeps") / name
    config = first.to_json() | {field.name: field.text for field in fields}
    config |= {"seeds": list(options.seeds), "sampler": options.sampler, "seed": options.seed}
    config["data"] = data.fingerprint
    with Sweep(out, config, fields, options.sampler, options.seed) as opened:
        session = Session(opened, options, Frame(config, fields, axes, limit), data, out)
        try:
            session.work()
        finally:
            session.tell()
        written = ", ".join(map(str, session.write()))
        say(f"written: {written}")
        return 0 if any(t.score is not None for t in opened.tried()) else 1


if __name__ == "__main__":
    sys.unraisablehook = ignore_closed_loop
    sys.exit(main())
