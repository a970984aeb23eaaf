"""``python -m experiments.train``: trains models with several optimisers and compares them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.console import run
from experiments.options import Given, make_runs, parse
from experiments.run import Run

# Texts longer than a line: tyro would keep the line breaks of a docstring.
MODEL_HELP = (
    "mf-bpr, gru4rec, sasrec, bert4rec, stosa, lightgcn, sr-gnn, lessr or maerec; --help with "
    "another one shows its settings."
)
DATASET_HELP = (
    "synthetic, beauty, toys, tools, sports, ml-1m, electronics, clothing; or the path of a .txt "
    "file of 'user item item …' lines, or of a .csv, .tsv, .parquet or .inter table of user, item, "
    "time; text may be gzipped (.csv.gz)."
)
OPTIMIZER_HELP = (
    "One or more of adam (the published plain settings), adamw (SEvo's settings, no smoothing), "
    "sevo-adamw; and sgd, sevo-sgd, sevo-adam, for which nothing is published."
)
MESH_HELP = (
    "Train on several devices, such as data=2,model=2: users are split over data, the features of "
    "tables over model (docs/distributed.md)."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains a model with one or more optimisers, side by side.

    Without arguments: SASRec with AdamW and with SEvo-AdamW on a built-in synthetic data set.
    """

    model: Annotated[str, tyro.conf.arg(help=MODEL_HELP)] = "sasrec"
    dataset: Annotated[str, tyro.conf.arg(help=DATASET_HELP)] = "synthetic"
    optimizer: Annotated[tuple[str, ...], tyro.conf.arg(help=OPTIMIZER_HELP)] = (
        "adamw",
        "sevo-adamw",
    )
    seeds: tuple[int, ...] = (0,)
    """A run of each optimiser for each seed."""
    together: bool | None = None
    """Train all seeds of an optimiser in one program; if not given, on accelerators alone."""
    mesh: Annotated[str | None, tyro.conf.arg(help=MESH_HELP)] = None
    coordinator: str | None = None
    """host:port of process 0, for several processes (experiments.launch starts them all here)."""
    num_processes: int = 1
    """Number of processes that train together."""
    process_id: int = 0
    """Number of this process, from 0."""
    out: Path | None = None
    """Folder of the runs; runs/DATASET-TIME if not given."""
    data_dir: Path | None = None
    """Folder of the files of named data sets; $SEVO_DATA or a cache if not given."""
    resume: bool = False
    """Go on with the runs in --out; finished ones are kept."""
    log: str | None = None
    """A logger of losses, metrics, norms and smoothness: tensorboard."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""


def runs_of(arguments: Arguments, given: Given) -> list[Run]:
    """Makes the runs that the command's options ask for; see `make_runs`."""
    a = arguments
    return make_runs(a.model, a.dataset, a.optimizer, a.seeds, given)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments, given = parse(Arguments, argv, "python -m experiments.train")
    from experiments import runner  # takes long: only after --help and mistakes in options

    a = arguments
    devices = runner.Devices(a.mesh, a.coordinator, a.num_processes, a.process_id)
    return runner.run_all(
        arguments, lambda out: runs_of(arguments, given), lambda run: run.name, devices
    )


if __name__ == "__main__":
    run(main)
