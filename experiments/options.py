"""Options that several commands share, and the runs that they come to; quick to import."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from experiments.configs import MODELS, OPTIMIZERS, Hyperparameters, check_read, reads
from experiments.errors import UserError, check_name
from experiments.folders import Run

HINTS = get_type_hints(Hyperparameters)
"""The type of each hyper-parameter."""


def with_settings(arguments: type) -> type:
    """Arguments, and every hyper-parameter: None stands for the value of the configuration."""
    own = {f.name for f in dataclasses.fields(arguments)}
    settings = [
        (
            f.name,
            Annotated[
                HINTS[f.name] | None,
                tyro.conf.arg(help=f.metadata["help"], help_behavior_hint="(default: published)"),
            ],
            None,
        )
        for f in dataclasses.fields(Hyperparameters)
        if f.name not in own
    ]
    return dataclasses.make_dataclass("Options", settings, bases=(arguments,), frozen=True)


def given_settings(options: Any) -> dict[str, Any]:
    """The hyper-parameters that are given."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Hyperparameters)}
    return {name: value for name, value in given.items() if value is not None}


def check_values(option: str, values: Sequence[Any]) -> None:
    """A `UserError` that names the option, unless there are values, all different."""
    if not values or len(set(values)) < len(values):
        raise UserError(f"{option}: expected one or more different values, got {list(values)}")


def check_seeds(seeds: Sequence[int]) -> None:
    """A `UserError` unless there are seeds, all different and in range."""
    check_values("--seeds", seeds)
    if not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise UserError(f"--seeds: must be in [0, 2^32), got {list(seeds)}")


def make_runs(options: Any) -> list[Run]:
    """The runs that the options ask for.

    Raises:
        UserError: an unknown model or optimiser, a setting that no run reads, or one out of its
            range.
    """
    check_name("model", options.model, MODELS)
    check_values("--optimizer", options.optimizer)
    check_seeds(options.seeds)
    for optimizer in options.optimizer:
        check_name("optimizer", optimizer, OPTIMIZERS)
    given = given_settings(options)
    check_read(options.model, options.optimizer, given)
    runs: list[Run] = []
    for seed in options.seeds:
        for optimizer in options.optimizer:
            settings = MODELS[options.model](options.dataset, optimizer)
            own = {k: v for k, v in given.items() if reads(options.model, optimizer, k)}
            settings = dataclasses.replace(settings, **own)
            settings.check()
            runs.append(Run(options.model, options.dataset, optimizer, seed, settings))
    return runs
