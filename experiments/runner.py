"""Groups of runs under bars and signals: what several commands share once options are read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.progress import Progress

from experiments import processes, summary, trainer
from experiments.bars import progress_bar
from experiments.compilation import keep_programs
from experiments.console import say
from experiments.data import Interactions, load_categories, load_part
from experiments.errors import UserError
from experiments.graphs import check_neighbours
from experiments.mesh import DATA, MODEL, ONE_DEVICE, Placement, make_mesh


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
        say("stopping after this epoch; once more to stop at once")

    for number in numbers:
        signal.signal(number, heed)
    try:
        yield stop
    finally:
        give_back()


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
        status = f"loss {progress.train_loss:#.4g}"
        if progress.run in scores:
            status += f"  NDCG@10 {scores[progress.run]:.4f}"
        bar.update(tasks[progress.run], completed=progress.epoch, status=status)

    trainer.train_together(
        runs, data, folders, resume=resume, stop=stop, report=report, placement=placement
    )
    for name, task in tasks.items():
        score = f"  NDCG@10 {scores[name]:.4f}" if name in scores else ""
        bar.update(task, completed=epochs, status=f"done{score}")


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
    place: Callable[[Any, list[trainer.Run]], Placement] = lambda options, runs: ONE_DEVICE,
) -> int:
    """Trains the runs that options ask for, compares them, and returns the exit status.

    Args:
        options: of a command; `train.Arguments` says what is read of them here.
        make_runs: the runs, in the order in which they are to be done; given the options, with the
            folder that runs go to in ``out``.
        name_of: the name of a run's folder.
        place: the devices to train on, given the options and the runs.
    """
    status = _run_all(options, make_runs, name_of, place)
    processes.leave(status)
    return status


def _run_all(
    options: Any,
    make_runs: Callable[[Any], list[trainer.Run]],
    name_of: Callable[[trainer.Run], str],
    place: Callable[[Any, list[trainer.Run]], Placement],
) -> int:
    keep_programs(options.compilation_cache)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = options.out or Path("runs") / f"{Path(options.dataset).stem}-{stamp}"

    def note(message: str) -> None:
        if processes.is_first():
            say(message)

    def write_summary() -> None:
        if processes.is_first():
            summary.write(out)

    try:
        if options.resume and options.out is None:
            raise UserError("--resume: name the folder to go on with by --out")
        runs = make_runs(dataclasses.replace(options, out=out))
        placement = place(options, runs)
        folders = {run: out / name_of(run) for run in runs}
        if jax.process_count() > 1:
            check_processes(options, runs)
        data = load_part(options.dataset, options.data_dir)
        if jax.process_count() > 1:
            check_users(runs, data)
        note(
            f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, "
            f"{data.num_interactions:,} interactions; results go to {out}"
        )
        if data.cuts is not None:
            sizes = [int(data.lengths[i:j].sum()) for i, j in itertools.pairwise(data.cuts)]
            note(f"interactions of each process: {', '.join(f'{size:,}' for size in sizes)}")
        for line in trainer.used_users(runs[0], data).notes:
            note(line)
        if data.renumbered:
            note("items are renumbered from 1: see item_ids.json in each run's folder")
        for run in runs:  # before the first of them trains for hours
            if run.settings.graph == "teacher":
                check_neighbours(run.settings.num_neighbours, data.num_items)
            if run.settings.graph == "category":
                load_categories(data)
            finished = trainer.check_folder(run, data, folders[run], options.resume)
            if options.resume and not finished and not (folders[run] / "config.json").exists():
                note(f"{folders[run].name}: nothing to resume, starts anew")
        try:
            together = options.together if placement.mesh is None else False
            groups = make_groups(runs, together)
            train_all(groups, data, folders, options.resume, placement)
        except BaseException:
            with contextlib.suppress(UserError, OSError):  # the first error is the one to tell
                write_summary()
            raise
        write_summary()
    except trainer.Interrupted as interruption:
        note(f"interrupted: {interruption}; go on with --resume --out {out}")
        return 130
    except KeyboardInterrupt:
        note(f"interrupted; what {out} holds is kept: go on with --resume --out {out}")
        return 130
    except UserError as error:
        say(f"error: {error}", "bold red")
        return 1
    except Exception:
        processes.await_news()
        raise
    return 0
