"""The settings of a run: a small dataclass for each concern, and one that holds them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.errors import ArgumentError
from experiments.settings.parts import (
    GRAPHS,
    OPTIMIZERS,
    SEVO,
    DistillationSettings,
    GraphSettings,
    OptimizerSettings,
    ProtocolSettings,
    TrainingSettings,
)

LOSS_OF = {
    "own_negatives": "sampled-softmax",
    "popular_negatives": "sampled-softmax",
    "calibration": "gbce",
}
"""The settings of training that one loss reads alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run. No two fields of its parts share a name; see `flat`.

    Attributes:
        model: the model's own settings, a dataclass of `models.settings`.
        training: the settings of training and data.
        protocol: the split of the data, and the metrics.
        optimizer: the numbers of optimiser and smoothing.
        graph: the graph over which tables are smoothed.
        distillation: the settings of a student.
    """

    model: Any
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    protocol: ProtocolSettings = dataclasses.field(default_factory=ProtocolSettings)
    optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
    graph: GraphSettings = dataclasses.field(default_factory=GraphSettings)
    distillation: DistillationSettings = dataclasses.field(default_factory=DistillationSettings)

    def flat(self) -> dict[str, Any]:
        """Returns names and values of all settings, as in ``config.json`` and on the command line.

        Examples:
            >>> from models.settings import MFBPRSettings
            >>> settings = Settings(MFBPRSettings(dim=8))
            >>> settings.flat()["dim"], settings.flat()["graph"]
            (8, 'item-item')
        """
        return {
            name: getattr(part, field.name)
            for part in self._parts().values()
            for name, field in fields_of(type(part)).items()
        }

    def replace(self, **values: Any) -> Settings:
        """Returns these settings with some values replaced, by the names of `flat`.

        Raises:
            TypeError: a name is no setting of this run.

        Examples:
            >>> from models.settings import MFBPRSettings
            >>> Settings(MFBPRSettings()).replace(dim=8, beta=0.5).optimizer.beta
            0.5
        """
        unknown = values.keys() - self.flat().keys()
        if unknown:
            raise TypeError(f"no settings of this run: {', '.join(sorted(unknown))}")
        parts = {
            place: dataclasses.replace(
                part,
                **{
                    field.name: values[name]
                    for name, field in fields_of(type(part)).items()
                    if name in values
                },
            )
            for place, part in self._parts().items()
        }
        return Settings(**parts)

    def check(self) -> None:
        """Raises an `ArgumentError` for a value out of its range, or for values that do not fit."""
        values = self.flat()
        for part in self._parts().values():
            for name, field in fields_of(type(part)).items():
                within = field.metadata.get("within")
                if within is not None and not within.holds(values[name]):
                    raise ArgumentError(name, f"must be {within.words}, got {values[name]}")
                if isinstance(values[name], int) and values[name] >= 2**31:
                    raise ArgumentError(name, f"must be less than 2^31, got {values[name]}")
        self._check_protocol()
        graph = self.graph  # from here on, values that do not go together
        if graph.kind not in GRAPHS and not is_file(graph.kind):
            expected = f"{', '.join(GRAPHS)} or a file that ends in .npz"
            raise ArgumentError("graph", f"must be {expected}, got {graph.kind}")
        if graph.categories and graph.kind != "category":
            raise ArgumentError("categories", "must be left out: the graph is another")
        if not graph.categories and graph.max_category_size != GraphSettings().max_category_size:
            raise ArgumentError("max_category_size", "must be left out: it goes with categories")
        if graph.kind != "item-item":
            for name in ("graph_of_all_users", "keep", "walk_length", "weighting"):
                if values[name] != fields_of(GraphSettings)[name].default:
                    reason = f"the graph {graph.kind} has no sequences"
                    raise ArgumentError(name, f"must be left out: {reason}, got {values[name]}")
        if graph.graph_of_all_users and self.training.user_share == 1:
            raise ArgumentError("graph_of_all_users", "must be left out: user_share is all users")
        if self.optimizer.every != 1 and self.optimizer.every_epochs:
            raise ArgumentError(
                "every_epochs", f"must be left out: every is {self.optimizer.every} steps"
            )
        if self.optimizer.kappa:
            self._check_shrinkage()
        if self.training.loss == "softmax" and self.training.num_negatives != 1:
            raise ArgumentError(
                "num_negatives",
                f"must be left out: softmax has none, got {self.training.num_negatives}",
            )
        for name, loss in LOSS_OF.items():
            usual = fields_of(TrainingSettings)[name].default
            if self.training.loss != loss and values[name] != usual:
                raise ArgumentError(
                    name, f"must be left out: it goes with {loss}, the loss is {self.training.loss}"
                )
        heads = values.get("num_heads", 1)
        if values.get("dim", heads) % heads:
            raise ArgumentError("dim", f"must be a multiple of {heads} heads, got {values['dim']}")

    def _check_shrinkage(self) -> None:
        """Raises an `ArgumentError` if another setting does not go with a beta for each item."""
        own, usual = self.optimizer, OptimizerSettings()
        for name in ("method", "every", "every_epochs", "moment_correction"):
            if getattr(own, name) != getattr(usual, name):
                raise ArgumentError(name, f"must be left out: kappa is {own.kappa}")
        if self.graph.kind == "user-item":
            raise ArgumentError(
                "kappa", "must be left out: it is of items, and the graph has users"
            )

    def _check_protocol(self) -> None:
        own, usual = self.protocol, ProtocolSettings()
        if own.split == "last-n" and own.last_n < 2:
            raise ArgumentError(
                "last_n", "say how many of a user's items test, 2 or more; 1 is leave-one-out"
            )
        if own.split == "time":
            for name in ("valid_from", "test_from"):
                if not getattr(own, name):
                    raise ArgumentError(
                        name,
                        "say where it begins, in the way of the data's times: such as 2014-03-01 "
                        "or 1393632000",
                    )
        for name, split in (("last_n", "last-n"), ("valid_from", "time"), ("test_from", "time")):
            value = getattr(own, name)
            if own.split != split and value != getattr(usual, name):
                raise ArgumentError(
                    name, f"must be left out: it goes with {split}, the split is {own.split}"
                )
        if any(k < 1 for k in own.cutoffs) or len(set(own.cutoffs)) < len(own.cutoffs):
            raise ArgumentError(
                "cutoffs", f"must be different numbers from 1 on, got {list(own.cutoffs)}"
            )

    def _parts(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def is_file(graph: str) -> bool:
    """Tells whether a kind of graph is the name of a file."""
    return graph.endswith(".npz")


def fields_of(part: type) -> Mapping[str, dataclasses.Field[Any]]:
    """Returns the fields of a dataclass of settings, by their names in `Settings.flat`."""
    return {f.metadata.get("name", f.name): f for f in dataclasses.fields(part)}


__all__ = [
    "OPTIMIZERS",
    "SEVO",
    "DistillationSettings",
    "GraphSettings",
    "OptimizerSettings",
    "ProtocolSettings",
    "Settings",
    "TrainingSettings",
    "fields_of",
    "is_file",
]
