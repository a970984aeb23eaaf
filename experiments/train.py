"""``python -m experiments.train``: trains models with several optimisers and compares them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments import processes, summary, trainer
from experiments.configs import MODELS, OPTIMIZERS, Hyperparameters, check_read, reads
from experiments.data import Interactions, load_part
from experiments.errors import UserError, check_name
from experiments.folders import files_of
from experiments.graphs import check_graph
from experiments.mesh import DATA, MODEL, ONE_DEVICE, Placement, make_mesh

console = Console(stderr=True)

# Longer than a line, where tyro would keep the breaks of a docstring.
MODEL_HELP = (
    "mf-bpr, mf-bpr-user-item (users smoothed too), gru4rec, sasrec, bert4rec, stosa, lightgcn, "
    "sr-gnn, lessr or maerec; or, with --teacher, sasrec-kd, sasrec-rkd, sasrec-htd or sasrec-dkd "
    "(experiments.distill trains the teacher, too)."
)
DATASET_HELP = (
    "synthetic, beauty, toys, tools, ml-1m, electronics, clothing; or the path of a .txt file of "
    "'user item item …' lines, or of a .csv, .tsv, .parquet or .inter table of user, item, time; "
    "text may be gzipped (.csv.gz)."
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
    """Of several processes: host:port of process 0 (experiments.launch starts them all here)."""
    num_processes: int = 1
    """How many processes train together."""
    process_id: int = 0
    """Which of them this is, from 0."""
    out: Path | None = None
    """Where the runs go; runs/DATASET-TIME if not given."""
    data_dir: Path | None = None
    """Where to look for the files of named data sets; $SEVO_DATA or a cache if not given."""
    resume: bool = False
    """Go on with the runs in --out; finished ones are kept."""


HINTS = get_type_hints(Hyperparameters)


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


Options = with_settings(Arguments)


def check_values(option: str, values: Sequence[Any]) -> None:
    """A `UserError` that names the option, unless there are values, all different."""
    if not values or len(set(values)) < len(values):
        raise UserError(f"{option}: expected one or more different values, got {list(values)}")


def check_seeds(seeds: Sequence[int]) -> None:
    """A `UserError` unless there are seeds, all different and in range."""
    check_values("--seeds", seeds)
    if not 0 <= min(seeds) <= max(seeds) < 2**32:
        raise UserError(f"--seeds: must be in [0, 2^32), got {list(seeds)}")


def make_runs(options: Any) -> list[trainer.Run]:
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
    runs = []
    for seed in options.seeds:
        for optimizer in options.optimizer:
            settings = MODELS[options.model](options.dataset, optimizer)
            own = {k: v for k, v in given.items() if reads(options.model, optimizer, k)}
            settings = dataclasses.replace(settings, **own)
            settings.check()
            runs.append(trainer.Run(options.model, options.dataset, optimizer, seed, settings))
    return runs


def make_groups(runs: list[trainer.Run], together: bool | None) -> list[list[trainer.Run]]:
    """The runs that differ in their seeds alone together, or every run on its own."""
    if together is None:
        together = jax.default_backend() != "cpu"
    if not together:
        return [[run] for run in runs]
    groups: dict[trainer.Run, list[trainer.Run]] = {}
    for run in runs:
        groups.setdefault(dataclasses.replace(run, seed=0), []).append(run)
    return list(groups.values())


@contextlib.contextmanager
def stop_on_signal(progress: Progress) -> Generator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. A second signal does what it did before."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def give_back() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    def heed(*_: Any) -> None:
        stop.set()
        give_back()
        progress.console.print("stopping after this epoch; once more to stop at once")

    for number in numbers:
        signal.signal(number, heed)
    try:
        yield stop
    finally:
        give_back()


def progress_bar() -> Progress:
    """A bar for each run, as `train_group` fills it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed}/{task.total}"),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not processes.is_first())


def train_group(
    runs: list[trainer.Run],
    data: Interactions,
    folders: list[Path],
    resume: bool,
    bar: Progress,
    stop: threading.Event,
    placement: Placement = ONE_DEVICE,
) -> None:
    """Trains runs that differ in their seeds alone together, with a bar for each folder.

    Raises:
        UserError: as `trainer.train`.
        Interrupted: ``stop`` was set.
    """
    if processes.any_process(stop.is_set()):
        raise trainer.Interrupted(f"{', '.join(folder.name for folder in folders)}: not begun")
    epochs = runs[0].settings.epochs
    tasks = {
        run.name: bar.add_task(folder.name, total=epochs, status="compiling")
        for run, folder in zip(runs, folders, strict=True)
    }
    scores: dict[str, float] = {}

    def report(progress: trainer.Progress) -> None:
        if progress.score is not None:
            scores[progress.run] = progress.score
        status = f"loss {progress.train_loss:.4f}"
        if progress.run in scores:
            status += f"  NDCG@10 {scores[progress.run]:.4f}"
        bar.update(tasks[progress.run], completed=progress.epoch, status=status)

    trainer.train_together(
        runs, data, folders, resume=resume, stop=stop, report=report, placement=placement
    )
    for task in tasks.values():
        bar.update(task, completed=epochs, status="done")


def train_all(
    groups: list[list[trainer.Run]],
    data: Interactions,
    folders: Mapping[trainer.Run, Path],
    resume: bool,
    placement: Placement,
) -> None:
    """Trains group after group under a progress bar; the first signal to stop is heeded.

    Raises:
        UserError: as `trainer.train`.
        Interrupted: a signal came.
    """
    with progress_bar() as bar, stop_on_signal(bar) as stop:
        for runs in groups:
            held = [folders[run] for run in runs]
            train_group(runs, data, held, resume, bar, stop, placement)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = tyro.cli(
        Options, args=argv, prog="python -m experiments.train", description=getdoc(Arguments)
    )
    status = run_all(
        options, make_runs, lambda run: run.name, lambda runs: place_runs(options, runs)
    )
    processes.leave(status)
    return status


def place_runs(options: Any, runs: list[trainer.Run]) -> Placement:
    """The devices that options ask for.

    Raises:
        UserError: as `processes.join` and `make_mesh`; options that do not go with a mesh.
    """
    several = options.num_processes > 1
    if several != (options.coordinator is not None):
        raise UserError("--coordinator: goes with --num-processes of 2 and more, and they with it")
    if options.mesh is None and not several:
        return ONE_DEVICE
    if options.together:
        raise UserError("--together: seeds are trained one after the other on a --mesh")
    if runs[0].settings.rng != "threefry2x32":
        raise UserError(
            f"--rng: {runs[0].settings.rng} draws other numbers on a --mesh than on one device; "
            "expected threefry2x32"
        )
    if several:
        if options.out is None:
            raise UserError("--out: several processes write to one folder; name it")
        processes.join(options.coordinator, options.num_processes, options.process_id)
    mesh = make_mesh(options.mesh or f"{DATA}={jax.device_count()}")
    if options.model == "lessr" and mesh.shape[MODEL] > 1:
        raise UserError(
            f"--mesh: {MODEL} must be 1 for lessr, whose vectors start at a kink of its loss, "
            "where the last bit of a sum decides the gradient"
        )
    return Placement(mesh)


def check_processes(options: Any, runs: list[trainer.Run]) -> None:
    """A `UserError` unless all processes are asked for the same."""
    facts: dict[str, Any] = {"--mesh": options.mesh, "--resume": options.resume}
    facts |= {"the runs": [run.name for run in runs]}
    for run in runs:
        facts |= {f"{name} of {run.name}": value for name, value in run.to_json().items()}
        facts |= {f"the files of {run.name}": files_of(run.settings)}
    processes.agree(facts | {"JAX": jax.__version__})


def check_users(runs: list[trainer.Run], data: Interactions) -> None:
    """A `UserError` if there are more processes than users."""
    users = min(trainer.used_users(run, data).num_users for run in runs)
    if jax.process_count() > users:
        raise UserError(
            f"--num-processes: {jax.process_count()} are more than the {users} users to train on"
        )


def run_all(
    options: Any,
    make_runs: Callable[[Any], list[trainer.Run]],
    name_of: Callable[[trainer.Run], str],
    place: Callable[[list[trainer.Run]], Placement] = lambda runs: ONE_DEVICE,
) -> int:
    """Trains the runs that options ask for, compares them, and returns the exit status.

    Args:
        options: of a command; `Arguments` says what is read of them here.
        make_runs: the runs, in the order in which they are to be done; given the options, with the
            folder that runs go to in ``out``.
        name_of: the name of a run's folder.
        place: the devices to train on.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = options.out or Path("runs") / f"{Path(options.dataset).stem}-{stamp}"

    def say(message: str, style: str | None = None) -> None:
        if style is None and not processes.is_first():
            return
        console.print(message, style=style, markup=False, soft_wrap=True)

    def write_summary() -> None:
        if processes.is_first():
            summary.write(out)

    try:
        if options.resume and options.out is None:
            raise UserError("--resume: name the folder to go on with by --out")
        runs = make_runs(dataclasses.replace(options, out=out))
        placement = place(runs)
        folders = {run: out / name_of(run) for run in runs}
        if jax.process_count() > 1:
            check_processes(options, runs)
        data = load_part(options.dataset, options.data_dir)
        if jax.process_count() > 1:
            check_users(runs, data)
        say(
            f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, "
            f"{data.num_interactions:,} interactions; results go to {out}"
        )
        if data.cuts is not None:
            sizes = [int(data.lengths[i:j].sum()) for i, j in itertools.pairwise(data.cuts)]
            say(f"interactions of each process: {', '.join(f'{size:,}' for size in sizes)}")
        for note in trainer.used_users(runs[0], data).notes:
            say(note)
        if data.renumbered:
            say("items are renumbered from 1: see item_ids.json in each run's folder")
        graph_notes: set[str] = set()
        for run in runs:  # before the first of them trains for hours
            graph_notes.add(check_graph(run.settings, data))
            finished = trainer.check_folder(run, data, folders[run], options.resume)
            if options.resume and not finished and not (folders[run] / "config.json").exists():
                say(f"{folders[run].name}: nothing to resume, starts anew")
        for note in sorted(graph_notes - {""}):
            say(note)
        try:
            together = options.together if placement.mesh is None else False
            groups = make_groups(runs, together)
            train_all(groups, data, folders, options.resume, placement)
        except BaseException:
            with contextlib.suppress(UserError):  # the first error is the one to tell
                write_summary()
            raise
        write_summary()
    except trainer.Interrupted as interruption:
        say(f"interrupted: {interruption}; go on with --resume --out {out}")
        return 130
    except KeyboardInterrupt:
        say(f"interrupted; what {out} holds is kept: go on with --resume --out {out}")
        return 130
    except UserError as error:
        say(f"error: {error}", "bold red")
        return 1
    except Exception:
        processes.await_news()
        raise
    return 0


def ignore_closed_loop(unraisable: Any) -> None:
    """Storage threads that outlive a failed checkpoint find their event loop closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.unraisablehook = ignore_closed_loop
    sys.exit(main())
