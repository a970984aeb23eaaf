"""``python -m experiments.distill``: trains small SASRecs that learn from a large one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import console
from experiments.errors import ArgumentError, check_name
from experiments.numbers import PLAIN
from experiments.options import Given, check_seeds, check_values, parse
from experiments.run import Run, folder_name, make_run
from experiments.settings import ProtocolSettings, fields_of
from experiments.settings.published import reads
from experiments.students import (
    METHODS,
    STUDENT_DIM,
    TEACHER_DIM,
    TEACHER_SEED,
    Method,
    student_settings,
    teacher_settings,
)

METHODS_HELP = (
    "One or more of plain (a student on its own), kd, rkd, htd, dkd, sevo (smoothed over the "
    "teacher's nearest neighbours) and sevo+dkd."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains a large SASRec, then small ones that learn from it, side by side.

    A setting applies to the students that read it.
    """

    dataset: str = "synthetic"
    """A registered name or a path; see experiments.train --help."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help=METHODS_HELP)] = tuple(METHODS)
    seeds: tuple[int, ...] = (0,)
    """A student of each method for each seed."""
    teacher: str | None = None
    """Folder of a finished run of sasrec to learn from; if not given, one is trained in --out."""
    teacher_dim: int = TEACHER_DIM
    """Width of the teacher that is trained."""
    teacher_epochs: int | None = None
    """Epochs of the teacher; the published number if not given."""
    dim: int = STUDENT_DIM
    """Width of the students."""
    together: bool | None = None
    """Train all seeds of a method in one program; if not given, on accelerators alone."""
    out: Path | None = None
    """Folder of the runs; runs/DATASET-TIME if not given."""
    data_dir: Path | None = None
    """Folder of the files of named data sets; $SEVO_DATA or a cache if not given."""
    resume: bool = False
    """Go on with the runs in --out; finished ones, the teacher too, are kept."""
    log: str | None = None
    """A logger of losses, metrics, norms and smoothness: tensorboard."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""


def make_student_runs(arguments: Arguments, given: Given, out: Path) -> list[Run]:
    """Makes the runs that the options ask for, first the teacher's if none is named.

    Args:
        arguments: the command's own arguments.
        given: settings of the students that differ from the published ones.
        out: the folder of the runs.

    Raises:
        UserError: a method is unknown, no student reads a setting, or one is out of its range.
    """
    check_values("methods", arguments.methods)
    check_seeds(arguments.seeds)
    for method in arguments.methods:
        check_name("method", method, METHODS)
    for name in ("graph", "distill"):
        if name in given:
            raise ArgumentError(name, "follows from the methods; leave it out")
    if "start" in given:
        raise ArgumentError(
            "from", "students begin anew; leave it out, or go on with experiments.train"
        )
    chosen = [METHODS[method] for method in arguments.methods]

    def read_by(own: Method) -> dict[str, Any]:
        all_given = {**given, "distill": own.distill}
        return {k: v for k, v in given.items() if reads("sasrec", own.optimizer, all_given, k)}

    for name in given:
        if not any(name in read_by(own) for own in chosen):
            raise ArgumentError(name, f"no student of {', '.join(arguments.methods)} reads it")

    of_both = ("max_len", "user_share", *fields_of(ProtocolSettings))
    shared = {name: given[name] for name in of_both if name in given}
    wide = teacher_settings(arguments.dataset, arguments.teacher_dim, arguments.teacher_epochs)
    teacher = make_run("sasrec", arguments.dataset, PLAIN, TEACHER_SEED, **wide | shared)
    needs_one = any(own.has_teacher for own in chosen)
    runs = [teacher] if needs_one and arguments.teacher is None else []
    # Every student has the teacher's folder in its settings, also before the teacher is trained.
    place = arguments.teacher or out / folder_name(teacher)
    for seed in arguments.seeds:
        for method, own in zip(arguments.methods, chosen, strict=True):
            values = student_settings(
                method, arguments.dataset, place, teacher.settings.training.epochs
            )
            values |= {"dim": arguments.dim} | read_by(own)
            runs.append(make_run("sasrec", arguments.dataset, own.optimizer, seed, **values))
    for run in runs:
        run.settings.check()
    return runs


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments, given = parse(Arguments, argv, "python -m experiments.distill")
    from experiments import runner  # takes long: only after --help and mistakes in options

    return runner.run_all(
        arguments, lambda out: make_student_runs(arguments, given, out), folder_name
    )


if __name__ == "__main__":
    console.run(main)
