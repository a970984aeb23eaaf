"""``python -m experiments.distill``: small SASRecs that learn from a large one, in several ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from experiments import console
from experiments.configs import MODELS, Hyperparameters, reads
from experiments.configs.base import option
from experiments.errors import UserError, check_name
from experiments.folders import Run, folder_name
from experiments.options import check_seeds, check_values, given_settings, with_settings
from experiments.paper import PLAIN, SEVO

TEACHER_DIM, STUDENT_DIM = 200, 20
TEACHER_SEED = 0
"""All students have one teacher, so that seeds can be trained together."""


class Method(NamedTuple):
    """How a student learns: what is trained, with which optimiser, and over which graph."""

    label: str
    model: str
    optimizer: str
    graph: str = "item-item"

    @property
    def has_teacher(self) -> bool:
        """Whether the student is not on its own."""
        return self.model != "sasrec" or self.graph == "teacher"


METHODS = {
    "plain": Method("Student", "sasrec", PLAIN),
    "kd": Method("+ KD", "sasrec-kd", PLAIN),
    "rkd": Method("+ RKD", "sasrec-rkd", PLAIN),
    "htd": Method("+ HTD", "sasrec-htd", PLAIN),
    "dkd": Method("+ DKD", "sasrec-dkd", PLAIN),
    "sevo": Method("+ SEvo", "sasrec", SEVO, "teacher"),
    "sevo+dkd": Method("+ SEvo + DKD", "sasrec-dkd", SEVO, "teacher"),
}
METHODS_HELP = (
    "One or more of plain (a student on its own), kd, rkd, htd, dkd, sevo (smoothed over the "
    "teacher's nearest neighbours) and sevo+dkd."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains a large SASRec, then small ones that learn from it, side by side.

    Settings are those of the students that read them.
    """

    dataset: str = "synthetic"
    """As in experiments.train."""
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
    """Where the runs go; runs/DATASET-TIME if not given."""
    data_dir: Path | None = None
    """Where to look for the files of named data sets; $SEVO_DATA or a cache if not given."""
    resume: bool = False
    """Go on with the runs in --out; finished ones, the teacher too, are kept."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""


Options = with_settings(Arguments)


def teacher_settings(
    dataset: str, dim: int = TEACHER_DIM, epochs: int | None = None
) -> dict[str, Any]:
    """What a teacher has otherwise than SASRec's published plain run."""
    published = MODELS["sasrec"](dataset, PLAIN).epochs
    return {"dim": dim, "epochs": published if epochs is None else epochs}


def student_settings(method: str, dataset: str, teacher: Path | str, epochs: int) -> dict[str, Any]:
    """What a student has otherwise than its model's published settings.

    Args:
        method: of `METHODS`.
        dataset: a name or a path.
        teacher: the folder of the teacher's run.
        epochs: the teacher's.
    """
    own, sasrec = METHODS[method], MODELS["sasrec"](dataset, PLAIN)
    settings: dict[str, Any] = {
        "dim": STUDENT_DIM,
        "max_len": sasrec.max_len,
        "attend_padding": sasrec.attend_padding,
    }
    if own.has_teacher:
        settings |= {"teacher": str(teacher), "teacher_epochs": epochs}
    return settings | {"graph": own.graph}


def make_runs(options: Any) -> list[Run]:
    """The runs that the options ask for, the teacher first if it is to be trained.

    Raises:
        UserError: an unknown method, a setting that no student reads, or one out of its range.
    """
    check_values("--methods", options.methods)
    check_seeds(options.seeds)
    for method in options.methods:
        check_name("method", method, METHODS)
    given = given_settings(options)
    for name in ("teacher", "teacher_epochs"):
        given.pop(name, None)
    if "graph" in given:
        raise UserError("--graph: follows from --methods; leave it out")
    for name in given:
        if not any(reads(METHODS[m].model, METHODS[m].optimizer, name) for m in options.methods):
            raise UserError(f"{option(name)}: no student of {', '.join(options.methods)} reads it")

    changed = teacher_settings(options.dataset, options.teacher_dim, options.teacher_epochs)
    changed |= {name: given[name] for name in ("max_len", "user_share") if name in given}
    teacher = _run("sasrec", options.dataset, PLAIN, TEACHER_SEED, changed)
    needs_one = any(METHODS[method].has_teacher for method in options.methods)
    runs = [teacher] if needs_one and options.teacher is None else []
    place = options.teacher or options.out / folder_name(teacher)
    for seed in options.seeds:
        for method in options.methods:
            own = METHODS[method]
            settings = student_settings(method, options.dataset, place, teacher.settings.epochs)
            read = {k: v for k, v in given.items() if reads(own.model, own.optimizer, k)}
            runs.append(_run(own.model, options.dataset, own.optimizer, seed, settings | read))
    return runs


def _run(model: str, dataset: str, optimizer: str, seed: int, settings: Mapping[str, Any]) -> Run:
    published: Hyperparameters = MODELS[model](dataset, optimizer)
    changed = dataclasses.replace(published, **settings)
    changed.check()
    return Run(model, dataset, optimizer, seed, changed)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(
        Options, args=argv, prog="python -m experiments.distill", description=getdoc(Arguments)
    )
    from experiments import runner  # after --help and the mistakes in options, since it takes long

    return runner.run_all(options, make_runs, folder_name)


if __name__ == "__main__":
    console.run(main)
