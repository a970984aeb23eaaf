"""Teachers: finished runs from whose models students learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flax import nnx

from experiments.data import Interactions
from experiments.errors import ArgumentError
from experiments.files import read_json
from experiments.run import Run, read_result
from experiments.settings import Settings
from experiments.training.checkpoints import restore_best_params
from models import SASRec


def load_teacher(settings: Settings, data: Interactions) -> SASRec:
    """Loads the teacher that a student's settings name, at its best epoch.

    Args:
        settings: the student's settings.
        data: the student's data set.

    Raises:
        UserError: no teacher is named, or its folder holds no finished run of SASRec; or that run
            has other data, another ``max_len``, or another number of epochs than the student
            expects.
    """
    if not settings.distillation.teacher:
        raise ArgumentError(
            "teacher",
            "expected the folder of a finished run of sasrec; "
            "python -m experiments.distill trains one first",
        )
    folder = Path(settings.distillation.teacher)
    if not (folder / "result.json").exists():
        raise ArgumentError(
            "teacher",
            f"{folder} holds no finished run; python -m experiments.distill trains a "
            "teacher first, and a run of it can be resumed",
        )
    held, result = read_json(folder / "config.json"), read_result(folder / "result.json")
    if held.get("model") != "sasrec":
        raise ArgumentError(
            "teacher", f"{folder} holds a run of {held.get('model')}, expected sasrec"
        )
    if held.get("distill", "none") != "none":
        raise ArgumentError("teacher", f"{folder} holds a student; expected a run of sasrec alone")
    if result.get("num_items") != data.num_items:
        raise ArgumentError(
            "teacher",
            f"{folder} knows {result.get('num_items')} items and {data.name} has "
            f"{data.num_items}; expected a teacher of the same items",
        )
    if held.get("max_len") != settings.training.max_len:
        raise ArgumentError(
            "max_len",
            f"{folder} reads {held.get('max_len')} items and its student "
            f"{settings.training.max_len}; expected as many",
        )
    if result.get("epochs") != settings.distillation.teacher_epochs:
        raise ArgumentError(
            "teacher_epochs",
            f"{folder} was trained for {result.get('epochs')} epochs, expected "
            f"{settings.distillation.teacher_epochs}",
        )
    own = Run.from_json(held).settings
    for name, value in dataclasses.asdict(settings.protocol).items():
        if name != "cutoffs" and held[name] != value:
            raise ArgumentError(
                name,
                f"{folder} was trained with {held[name] or 'none'}, its student has "
                f"{value or 'none'}; expected the same, or the teacher may know what tests the "
                "student",
            )
    if held.get("data") != (data.whole or data).fingerprint:
        raise ArgumentError(
            "teacher",
            f"{folder} was trained on other interactions than those of {data.name}, and may know "
            "what tests the student; expected a teacher of the same data",
        )
    model = SASRec(
        data.num_items,
        max_len=own.training.max_len,
        **dataclasses.asdict(own.model),
        loss=own.training.loss,
        rngs=nnx.Rngs(0),
    )
    nnx.update(model, restore_best_params(folder, nnx.state(model, nnx.Param)))
    return model
