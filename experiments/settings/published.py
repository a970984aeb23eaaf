"""The published settings: a TOML file for each model, with a section for each data set.

The section ``default`` holds the values for all data sets. The section of a data set replaces some
of them. Both are those of the run with SEvo, which ``adamw`` shares. In either section, the part
``adam`` replaces values for optimisers whose weight decay is an L2 term: the plain run with Adam
was tuned on its own, and nothing is published for the other optimisers of this kind.

A kind of graph, a method of distillation or a recipe may have a ``default`` and sections of its own
under ``variants``. They come in place of the sections of the data sets.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments.errors import ArgumentError
from experiments.settings import DistillationSettings, Settings, fields_of
from experiments.settings.parts import OVER_GRAPH, readers_in
from models.settings import (
    BERT4RecSettings,
    GRU4RecSettings,
    LESSRSettings,
    LightGCNSettings,
    MAERecSettings,
    MFBPRSettings,
    SASRecSettings,
    SRGNNSettings,
    STOSASettings,
)

FOLDER = Path(__file__).parent
DECOUPLED = ("adamw", "sevo-adamw")


class ModelEntry(NamedTuple):
    """The settings of a model.

    Attributes:
        settings: the dataclass of the model's own settings.
        published: returns the published settings for a data set, an optimiser and a variant.
        ignores: other settings that the model does not read.
        recipes: the recipes that the model's file has beside the published one.
    """

    settings: type
    published: Callable[[str, str, str], Settings]
    ignores: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()


def published(
    model: str,
    dataset: str,
    optimizer: str,
    *,
    distill: str = "none",
    graph: str = "item-item",
    recipe: str = "published",
) -> Settings:
    """Returns the published settings of a run.

    Args:
        model: one of `MODELS`.
        dataset: a registered name or a path.
        optimizer: one of `OPTIMIZERS`.
        distill: a method of distillation or ``"none"``.
        graph: a kind of graph.
        recipe: ``"published"``, or one that the model's file has.

    Raises:
        ArgumentError: the model has no such recipe, or a recipe and a method are named.

    Examples:
        >>> published("mf-bpr", "toys", "sevo-adamw").optimizer.beta
        0.99
        >>> published("mf-bpr", "toys", "sevo-adamw", graph="user-item").optimizer.beta
        0.7
    """
    variant = graph if distill == "none" else distill
    if recipe != "published":
        if distill != "none":
            raise ArgumentError("recipe", f"must be left out: {distill} has settings of its own")
        known = [name for name, entry in MODELS.items() if recipe in entry.recipes]
        if model not in known:
            raise ArgumentError("recipe", f"{recipe} is one of {' and '.join(known)}, got {model}")
        variant = recipe
    found = MODELS[model].published(dataset, optimizer, variant)
    return found.replace(distill=distill, graph=graph, recipe=recipe)


def reads(model: str, optimizer: str, given: Mapping[str, Any], setting: str) -> bool:
    """Tells whether a run reads a setting; ``given`` are all settings that it is given."""
    readers = _readers(model, setting)
    if readers is None:
        return False
    return not readers or not readers_in(optimizer, given).isdisjoint(readers)


def reads_graph(optimizer: str, values: Mapping[str, Any]) -> bool:
    """Tells whether anything reads the graph in a run of these settings, by their flat names."""
    return not readers_in(optimizer, values).isdisjoint(OVER_GRAPH)


def _readers(model: str, setting: str) -> tuple[str, ...] | None:
    """Returns the readers of a setting, none for all; ``None`` if the model does not read it."""
    entry = MODELS[model]
    for part in vars(Settings(entry.settings())).values():
        fields = fields_of(type(part))
        if setting in fields and setting not in entry.ignores:
            return fields[setting].metadata.get("readers", ())
    return None


def check_read(model: str, optimizers: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raises an `ArgumentError` for a given setting that no optimiser's run reads."""
    for setting in given:
        if not any(reads(model, optimizer, given, setting) for optimizer in optimizers):
            readers = _readers(model, setting)
            if readers is None:
                readers = tuple(m for m in MODELS if _readers(m, setting) is not None)
            raise ArgumentError(
                setting,
                f"read by {', '.join(readers)} alone; {model} with {' and '.join(optimizers)} "
                "ignores it",
            )


def from_toml(model: str, settings: type) -> Callable[[str, str, str], Settings]:
    """Makes the function `ModelEntry.published` of a model, which reads the model's TOML file."""

    @cache
    def read(dataset: str, optimizer: str, variant: str) -> Settings:
        content: dict[str, Any] = tomllib.loads((FOLDER / f"{model}.toml").read_text("utf-8"))
        special = content.get("variants", {}).get(variant)
        sections = content if special is None else special
        # synthetic-clothing has the size of clothing, and its settings.
        used = [content["default"], sections.get(dataset.removeprefix("synthetic-"), {})]
        if special is not None:
            used.insert(1, special["default"])
        values: dict[str, Any] = {}
        for section in used:  # from the general to the special: later ones replace values
            plain = {} if optimizer in DECOUPLED else section.get("adam", {})
            values |= {k: v for k, v in section.items() if k != "adam"} | plain
        return Settings(settings()).replace(**values)

    return read


_OF_STUDENTS = tuple(
    name for name in fields_of(DistillationSettings) if not name.startswith("teacher")
)


def _entry(model: str, settings: type, *ignores: str, recipes: tuple[str, ...] = ()) -> ModelEntry:
    if model != "sasrec":
        ignores += _OF_STUDENTS
    return ModelEntry(settings, from_toml(model, settings), ignores, recipes)


MODELS: dict[str, ModelEntry] = {
    "mf-bpr": _entry("mf-bpr", MFBPRSettings, "max_len", "packed"),
    "gru4rec": _entry("gru4rec", GRU4RecSettings, recipes=("strong",)),
    "sasrec": _entry("sasrec", SASRecSettings, recipes=("strong",)),
    "bert4rec": _entry("bert4rec", BERT4RecSettings),
    "stosa": _entry("stosa", STOSASettings),
    "lightgcn": _entry("lightgcn", LightGCNSettings, "max_len", "packed"),
    "sr-gnn": _entry("sr-gnn", SRGNNSettings, "packed"),
    "lessr": _entry("lessr", LESSRSettings, "packed"),
    "maerec": _entry("maerec", MAERecSettings),
}
