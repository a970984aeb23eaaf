"""Options that several commands share, and the runs that follow from them; quick to import."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, get_type_hints

import tyro

from experiments.errors import ArgumentError, check_name
from experiments.run import Run, make_run
from experiments.settings import OPTIMIZERS, Settings, fields_of
from experiments.settings.published import MODELS, check_read, reads

T = TypeVar("T")
Given = Mapping[str, Any]
"""The settings that are given on the command line, by their flat names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The options of commands that read a finished run, and what may have moved since."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of the run, which holds config.json and checkpoints."""
    dataset: str | None = None
    """The run's data set, if its file has moved."""
    data_dir: Path | None = None
    """Folder of the data set's file; $SEVO_DATA or, for named data sets, a cache if not given."""
    teacher: str | None = None
    """The folder of the run's teacher, if it has moved."""
    graph: str | None = None
    """The run's --graph FILE.npz, if it has moved."""
    categories: str | None = None
    """The run's --categories FILE, if it has moved."""

    def moved(self) -> dict[str, str]:
        """Returns the files that are given, by the names of the settings."""
        named = {"teacher": self.teacher, "graph": self.graph, "categories": self.categories}
        return {name: file for name, file in named.items() if file is not None}


class TrainingOptions(Protocol):
    """The options of all commands that train runs and compare them."""

    @property
    def dataset(self) -> str:
        """A registered name or a path."""
        ...

    @property
    def together(self) -> bool | None:
        """Whether seeds are trained in one program; ``None`` for accelerators alone."""
        ...

    @property
    def out(self) -> Path | None:
        """The folder of the runs."""
        ...

    @property
    def data_dir(self) -> Path | None:
        """The folder of the files of named data sets."""
        ...

    @property
    def resume(self) -> bool:
        """Whether to go on with the runs in the folder."""
        ...

    @property
    def log(self) -> str | None:
        """The logger, one of `experiments.logs.LOGGERS`."""
        ...

    @property
    def compilation_cache(self) -> bool:
        """Whether to keep compiled programs."""
        ...


def parse(arguments: type[T], argv: Sequence[str] | None, prog: str) -> tuple[T, dict[str, Any]]:
    """Reads a command's own arguments and the settings of the model that they name.

    The settings of other models are accepted too, but ``--help`` does not show them. So a message
    can later tell the user that the model does not read them.

    Args:
        arguments: a dataclass; if it has a field ``model``, that field chooses the settings.
        argv: the words of the command line; ``None`` for those of this process.
        prog: the command's name, for ``--help``.

    Returns:
        The arguments, and the settings that are given.
    """
    own = {f.name for f in dataclasses.fields(arguments)}  # pyright: ignore[reportArgumentType]
    options = _settings(_chosen_model(argv) if "model" in own else "sasrec")
    if not {"-h", "--help"} & set(sys.argv[1:] if argv is None else argv):
        options = {name: kind for model in MODELS for name, kind in _settings(model).items()}
    fields = [(name, kind, None) for name, kind in options.items() if name not in own]
    both = dataclasses.make_dataclass("Options", fields, bases=(arguments,), frozen=True)
    found: Any = tyro.cli(both, args=argv, prog=prog, description=getdoc(arguments))
    values = {name: getattr(found, name) for name in own}
    given = {name: getattr(found, name) for name, _, _ in fields}
    return arguments(**values), {k: v for k, v in given.items() if v is not None}


@dataclasses.dataclass(frozen=True)
class _Model:
    model: str = "sasrec"


def _chosen_model(argv: Sequence[str] | None) -> str:
    """Returns the model that the command line names, or the default if the name is unknown."""
    found, _ = tyro.cli(_Model, args=argv, add_help=False, return_unknown_args=True)
    return found.model if found.model in MODELS else _Model.model


def _types() -> dict[str, Any]:
    """Returns the type of each setting of any model."""
    parts = {type(part) for e in MODELS.values() for part in vars(Settings(e.settings())).values()}
    return {
        name: get_type_hints(part)[field.name]
        for part in parts
        for name, field in fields_of(part).items()
    }


HINTS = _types()
"""The type of each setting, by its flat name."""


def _settings(model: str) -> dict[str, Any]:
    """Makes an option for each setting that a model reads; ``None`` is the published value."""
    entry = MODELS[model]
    options: dict[str, Any] = {}
    for part in vars(Settings(entry.settings())).values():
        hints = get_type_hints(type(part))
        # An option that is not given is None, and the published value stays.
        for name, field in fields_of(type(part)).items():
            if name not in entry.ignores:
                shown = tyro.conf.arg(
                    name=field.metadata.get("flag"),
                    help=field.metadata["help"],
                    help_behavior_hint="(default: published)",
                )
                options[name] = Annotated[hints[field.name] | None, shown]
    return options


def check_values(argument: str, values: Sequence[Any]) -> None:
    """Raises an `ArgumentError` unless there are values, all different."""
    if not values or len(set(values)) < len(values):
        raise ArgumentError(argument, f"expected one or more different values, got {list(values)}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises an `ArgumentError` unless there are seeds, all different and in range."""
    check_values("seeds", seeds)
    if not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise ArgumentError("seeds", f"must be in [0, 2^32), got {list(seeds)}")


def make_runs(
    model: str,
    dataset: str,
    optimizers: Sequence[str],
    seeds: Sequence[int],
    given: Given,
) -> list[Run]:
    """Makes the runs of a model with several optimisers and seeds.

    Args:
        model: the model's name.
        dataset: a registered name or a path.
        optimizers: names in `OPTIMIZERS`, all different.
        seeds: the seeds, all different.
        given: settings that differ from the published ones; each run gets those that it reads.

    Raises:
        UserError: an unknown model or optimiser, a setting that no run reads, or one out of its
            range.
    """
    check_name("model", model, MODELS)
    check_values("optimizer", optimizers)
    check_seeds(seeds)
    for optimizer in optimizers:
        check_name("optimizer", optimizer, OPTIMIZERS)
    if given.get("distill", "none") != "none" and model != "sasrec":
        raise ArgumentError("distill", f"students are models of sasrec, got {model}")
    check_read(model, optimizers, given)
    runs: list[Run] = []
    for seed in seeds:
        for optimizer in optimizers:
            read = {k: v for k, v in given.items() if reads(model, optimizer, given, k)}
            run = make_run(model, dataset, optimizer, seed, **read)
            run.settings.check()
            runs.append(run)
    return runs
