"""The options of a sweep; quick to import."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

Sampler = Literal["grid", "random", "tpe"]

SEARCH_HELP = (
    "Fields and what to try: FIELD=VALUE,VALUE,… or FIELD=LOW:HIGH[:log], such as "
    "beta=0.5,0.9,0.99 num_layers=1:5 learning_rate=1e-4:1e-2:log."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Searches for hyper-parameters by the best validation NDCG@10.

    Any setting below can be searched. Settings that are neither searched nor given have their
    published values. The same command resumes a sweep, and several at once share its trials.
    """

    search: Annotated[tuple[str, ...], tyro.conf.arg(help=SEARCH_HELP)]
    model: str = "sasrec"
    """A model of experiments.train."""
    dataset: str = "synthetic"
    """A registered name or a path; see experiments.train --help."""
    optimizer: str = "sevo-adamw"
    """An optimiser of experiments.train."""
    sampler: Sampler = "tpe"
    """grid (all combinations), random, or tpe (a model of the values that were good so far)."""
    trials: int | None = None
    """Trials of all processes together; if not given, all of a grid, else 20."""
    seeds: tuple[int, ...] = (0,)
    """A trial trains a run for each seed, and its score is their mean."""
    seed: int = 0
    """Seed of the sampler."""
    axes: tuple[str, ...] = ()
    """One or two fields for the picture; the two with the most values if not given."""
    together: bool | None = None
    """Train all seeds of a trial in one program; if not given, on accelerators alone."""
    out: Path | None = None
    """Folder of the sweep; sweeps/DATASET-MODEL-OPTIMIZER if not given."""
    data_dir: Path | None = None
    """Folder of the files of named data sets; $SEVO_DATA or a cache if not given."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""
