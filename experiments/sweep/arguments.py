"""The options of a sweep; quick to import."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

Sampler = Literal["grid", "random", "tpe"]

SEARCH_HELP = (
    "For each field FIELD=VALUE,VALUE,… or FIELD=LOW:HIGH[:log], such as beta=0.5,0.9,0.99 "
    "num_layers=1:5 learning_rate=1e-4:1e-2:log."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Searches for hyper-parameters by the best validation NDCG@10.

    Any setting below can be searched; those that are neither searched nor given are the published
    ones. The same command goes on with what was interrupted, and several at once share the work.
    """

    search: Annotated[tuple[str, ...], tyro.conf.arg(help=SEARCH_HELP)]
    model: str = "sasrec"
    """As in experiments.train."""
    dataset: str = "synthetic"
    """As in experiments.train."""
    optimizer: str = "sevo-adamw"
    """One of experiments.train's."""
    sampler: Sampler = "tpe"
    """grid (all combinations), random, or tpe (a model of what was good so far)."""
    trials: int | None = None
    """How many, of all processes and commands together; if not given, all of a grid, or 20."""
    seeds: tuple[int, ...] = (0,)
    """A trial trains a run for each of them, and its score is the mean."""
    seed: int = 0
    """Of the sampler."""
    axes: tuple[str, ...] = ()
    """One or two fields for the picture; the two most varied if not given."""
    together: bool | None = None
    """Train all seeds of a trial in one program; if not given, on accelerators alone."""
    out: Path | None = None
    """Where everything goes; sweeps/DATASET-MODEL-OPTIMIZER if not given."""
    data_dir: Path | None = None
    """Where to look for the files of named data sets; $SEVO_DATA or a cache if not given."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""
