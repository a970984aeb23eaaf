"""The students of a teacher: the methods by which they learn, and their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from experiments.numbers import PLAIN, SEVO
from experiments.settings.published import published

TEACHER_DIM, STUDENT_DIM = 200, 20
TEACHER_SEED = 0
"""The teacher's seed. Students of all seeds have this teacher, so that they train together."""


class Method(NamedTuple):
    """A way in which a student learns: a distillation, an optimiser and a graph."""

    label: str
    distill: str
    optimizer: str
    graph: str = "item-item"

    @property
    def has_teacher(self) -> bool:
        """Whether the student learns from a teacher at all."""
        return self.distill != "none" or self.graph == "teacher"


METHODS = {
    "plain": Method("Student", "none", PLAIN),
    "kd": Method("+ KD", "kd", PLAIN),
    "rkd": Method("+ RKD", "rkd", PLAIN),
    "htd": Method("+ HTD", "htd", PLAIN),
    "dkd": Method("+ DKD", "dkd", PLAIN),
    "sevo": Method("+ SEvo", "none", SEVO, "teacher"),
    "sevo+dkd": Method("+ SEvo + DKD", "dkd", SEVO, "teacher"),
}


def teacher_settings(
    dataset: str, dim: int = TEACHER_DIM, epochs: int | None = None
) -> dict[str, Any]:
    """Returns the settings of a teacher that differ from SASRec's published plain run."""
    usual = published("sasrec", dataset, PLAIN).training.epochs
    return {"dim": dim, "epochs": usual if epochs is None else epochs}


def student_settings(method: str, dataset: str, teacher: Path | str, epochs: int) -> dict[str, Any]:
    """Returns the settings of a student that differ from the published ones.

    Args:
        method: a key of `METHODS`.
        dataset: a registered name or a path.
        teacher: the folder of the teacher's run.
        epochs: the teacher's epochs.
    """
    own, plain = METHODS[method], published("sasrec", dataset, PLAIN)
    settings: dict[str, Any] = {
        "distill": own.distill,
        "graph": own.graph,
        "dim": STUDENT_DIM,
        "max_len": plain.training.max_len,
        "attend_padding": plain.model.attend_padding,
    }
    if own.has_teacher:
        settings |= {"teacher": str(teacher), "teacher_epochs": epochs}
    return settings
