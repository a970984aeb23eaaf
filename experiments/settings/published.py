"""The published settings: a TOML file for each model, with a section for each data set.

A section holds the values of the run with SEvo, which ``adamw`` shares, and in a table ``adam`` what
the plain run, which was tuned on its own and decays weights by an L2 term, has otherwise; so do the
other optimisers with an L2 term, for want of published values. The section ``default`` comes first,
and is all there is for a data set without a section. Under ``variants``, a kind of graph or a method
of distillation has sections of its own, in place of those of the data sets.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from experiments.errors import ArgumentError, UserError
from experiments.settings import METHODS, Settings, fields_of
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


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """What a command knows of a model before it is built.

    Attributes:
        settings: the dataclass of its own settings.
        ignores: the settings of training that it does not read.
        values: settings of a model without a TOML file that are not the defaults.
    """

    settings: type
    ignores: tuple[str, ...] = ()
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


_ONE_ITEM = ("max_len", "packed")
MODELS: dict[str, ModelEntry] = {
    "mf-bpr": ModelEntry(MFBPRSettings, _ONE_ITEM),
    "gru4rec": ModelEntry(GRU4RecSettings),
    "sasrec": ModelEntry(SASRecSettings),
    "bert4rec": ModelEntry(BERT4RecSettings),
    "stosa": ModelEntry(STOSASettings),
    "lightgcn": ModelEntry(LightGCNSettings, _ONE_ITEM),
    "sr-gnn": ModelEntry(SRGNNSettings, ("packed",)),
    "lessr": ModelEntry(LESSRSettings, ("packed",)),
    "maerec": ModelEntry(MAERecSettings),
}


def published(
    model: str, dataset: str, optimizer: str, variant: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of a model on a data set.

    Args:
        model: one of `MODELS`.
        dataset: a registered name or a path.
        optimizer: one of `OPTIMIZERS`.
        variant: values that select other published settings, the rest being ignored: ``graph``
            and ``distill``.
    """
    chosen = [(variant or {}).get(name, "") for name in ("distill", "graph")]
    name = next((v for v in chosen if v in _variants(model)), "")
    values = _values(model, dataset.removeprefix("synthetic-"), optimizer in DECOUPLED, name)
    settings = Settings(MODELS[model].settings())
    return settings.replace(**values)


def reads(model: str, optimizer: str, distill: str, setting: str) -> bool:
    """Whether a run reads a setting."""
    if setting in MODELS[model].ignores:
        return False
    settings = Settings(MODELS[model].settings())
    field = next(
        (
            fields_of(type(part))[setting]
            for part in vars(settings).values()
            if setting in fields_of(type(part))
        ),
        None,
    )
    if field is None:
        return False
    readers = field.metadata.get("readers", ())
    return not readers or optimizer in readers or distill in readers


def check_read(
    model: str, optimizers: Sequence[str], distill: str, settings: Iterable[str]
) -> None:
    """An `ArgumentError` that names the setting, unless some optimiser's run reads each."""
    for setting in settings:
        if not any(reads(model, optimizer, distill, setting) for optimizer in optimizers):
            raise ArgumentError(setting, f"{model} with {' and '.join(optimizers)} ignores it")


@cache
def _file(model: str) -> dict[str, Any]:
    path = FOLDER / f"{model}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _variants(model: str) -> dict[str, Any]:
    return _file(model).get("variants", {})


def _values(model: str, dataset: str, decoupled: bool, variant: str) -> dict[str, Any]:
    """The values of the sections that concern a run, later ones over earlier ones."""
    content = _file(model)
    special = _variants(model).get(variant)
    sections = [content.get("default", {}), (special or content).get(dataset, {})]
    if special is not None:
        sections.insert(1, special.get("default", {}))
    values = dict(MODELS[model].values)
    for section in sections:
        plain = {} if decoupled else section.get("adam", {})
        values |= {k: v for k, v in section.items() if k != "adam"} | plain
    return values


__all__ = ["METHODS", "MODELS", "ModelEntry", "UserError", "check_read", "published", "reads"]
