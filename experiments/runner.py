"""Training of groups of runs under bars and signals, for all commands that train."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.progress import Progress

from experiments import summary
from experiments.bars import progress_bar
from experiments.console import say
from experiments.data import Interactions
from experiments.errors import ArgumentError, UserError, option
from experiments.inputs.mesh import DATA, MODEL, ONE_DEVICE, Placement, make_mesh
from experiments.logs import Log, open_log
from experiments.options import TrainingOptions
from experiments.run import Run, checksums_of
from experiments.settings.published import reads_graph
from experiments.training import loop, prepare, processes
from experiments.training.compilation import keep_programs
from experiments.training.continued import check_start
from experiments.training.graphs import check_graph


def make_groups(runs: list[Run], together: bool | None) -> list[list[Run]]:
    """Groups runs that are trained in one program: those that differ in their seeds alone.

    Args:
        runs: the runs.
        together: ``False`` for every run on its own; ``None`` groups runs on accelerators alone.
    """
    if together is None:
        together = jax.default_backend() != "cpu"
    if not together:
        return [[run] for run in runs]
    groups: dict[Run, list[Run]] = {}
    for run in runs:
        groups.setdefault(dataclasses.replace(run, seed=0), []).append(run)
    return list(groups.values())


@contextlib.contextmanager
def stop_on_signal() -> Generator[threading.Event]:
    """Yields an event that Ctrl-C and SIGTERM set. A second signal acts as without this."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def restore_handlers() -> None:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    def on_signal(*_: Any) -> None:
        stop.set()
        restore_handlers()
        say("stopping after this epoch; once more to stop at once")

    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore_handlers()


def train_group(
    runs: list[Run],
    data: Interactions,
    folders: list[Path],
    resume: bool,
    bar: Progress,
    stop: threading.Event,
    placement: Placement = ONE_DEVICE,
    log: Log | None = None,
    validated: Callable[[], None] = lambda: None,
) -> None:
    """Trains runs that differ in their seeds alone together, with a bar for each folder.

    ``log`` is that of `loop.train`, and ``validated`` is called after each validation of a run.

    Raises:
        UserError: as `loop.train`.
        Interrupted: ``stop`` was set.
    """
    if processes.any_process(stop.is_set()):
        raise loop.Interrupted(f"{', '.join(folder.name for folder in folders)}: not begun")
    epochs = runs[0].settings.training.epochs
    tasks = {
        run.name: bar.add_task(folder.name, total=epochs, status="compiling")
        for run, folder in zip(runs, folders, strict=True)
    }
    scores: dict[str, float] = {}

    def report(progress: loop.Progress) -> None:
        if progress.score is not None:
            scores[progress.run] = progress.score
        status = f"loss {progress.train_loss:#.4g}"
        if progress.run in scores:
            status += f"  NDCG@10 {scores[progress.run]:.4f}"
        bar.update(tasks[progress.run], completed=progress.epoch, status=status)
        if progress.score is not None:
            validated()

    loop.train_together(
        runs, data, folders, resume=resume, stop=stop, report=report, placement=placement, log=log
    )
    for name, task in tasks.items():
        score = f"  NDCG@10 {scores[name]:.4f}" if name in scores else ""
        bar.update(task, completed=epochs, status=f"done{score}")


def train_all(
    groups: list[list[Run]],
    data: Interactions,
    folders: Mapping[Run, Path],
    resume: bool,
    placement: Placement,
    log: Log | None,
    validated: Callable[[], None],
) -> None:
    """Trains one group after the other under progress bars, until a signal comes.

    Raises:
        UserError: as `loop.train`.
        Interrupted: a signal came.
    """
    with progress_bar() as bar, stop_on_signal() as stop:
        for runs in groups:
            held = [folders[run] for run in runs]
            train_group(runs, data, held, resume, bar, stop, placement, log, validated)


SHARE = 0.05
"""The most of a run's time that is spent on summaries to look at."""


def glance(out: Path) -> Callable[[], None]:
    """Makes a function that brings the summary of runs in training up to date.

    It does so at most for a `SHARE` of the time. An error is printed once, and ends no run.
    """
    due, noted = 0.0, False

    def look() -> None:
        nonlocal due, noted
        began = time.monotonic()
        if began < due:
            return
        try:
            summary.update(out)
        except Exception as error:  # Matplotlib has errors of many kinds
            if not noted:
                say(f"{out}: the summary of the runs so far cannot be written ({error})")
            noted = True
        due = time.monotonic() + (time.monotonic() - began) / SHARE

    return look


class Devices(NamedTuple):
    """The devices that a command asks for.

    Attributes:
        mesh: the sizes of the mesh's axes, such as ``data=2,model=2``; one device if ``None``.
        coordinator: ``host:port`` of process 0; ``None`` for one process.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.
    """

    mesh: str | None = None
    coordinator: str | None = None
    num_processes: int = 1
    process_id: int = 0


def place_runs(devices: Devices, options: TrainingOptions, runs: list[Run]) -> Placement:
    """Joins the other processes, and chooses the devices to train on.

    Raises:
        UserError: as `processes.join` and `make_mesh`; or an option does not go with a mesh.
    """
    several = devices.num_processes > 1
    if several != (devices.coordinator is not None):
        raise ArgumentError("coordinator", "goes with 2 processes and more, and they with it")
    if devices.mesh is None and not several:
        return ONE_DEVICE
    if options.together:
        raise ArgumentError("together", "seeds are trained one after the other on a mesh")
    rng = runs[0].settings.training.rng
    if rng != "threefry2x32":
        raise ArgumentError(
            "rng", f"{rng} draws other numbers on a mesh than on one device; expected threefry2x32"
        )
    if several and devices.coordinator is not None:
        if options.out is None:
            raise ArgumentError("out", "several processes write to one folder; name it")
        processes.join(devices.coordinator, devices.num_processes, devices.process_id)
    mesh = make_mesh(devices.mesh or f"{DATA}={jax.device_count()}")
    if runs[0].model == "lessr" and mesh.shape[MODEL] > 1:
        raise ArgumentError(
            "mesh",
            f"{MODEL} must be 1 for lessr, whose vectors start at a kink of its loss, where the "
            "last bit of a sum decides the gradient",
        )
    return Placement(mesh)


def check_processes(devices: Devices, options: TrainingOptions, runs: list[Run]) -> None:
    """Raises a `UserError` unless all processes were given the same options and files."""
    facts: dict[str, Any] = {"mesh": devices.mesh, "resume": options.resume}
    facts |= {"the runs": [run.name for run in runs]}
    for run in runs:
        facts |= {f"{name} of {run.name}": value for name, value in run.to_json().items()}
        facts |= {f"the files of {run.name}": checksums_of(run)}
    processes.agree(facts | {"JAX": jax.__version__})


def run_all(
    options: TrainingOptions,
    make_runs: Callable[[Path], list[Run]],
    name_of: Callable[[Run], str],
    devices: Devices = Devices(),  # noqa: B008, a tuple
) -> int:
    """Trains the runs that options ask for, compares them, and returns the exit status.

    Args:
        options: the command's options.
        make_runs: makes the runs of a folder, in the order of training.
        name_of: returns the name of a run's folder.
        devices: the devices to train on.
    """
    status = _run_all(options, make_runs, name_of, devices)
    processes.leave(status)
    return status


def _run_all(
    options: TrainingOptions,
    make_runs: Callable[[Path], list[Run]],
    name_of: Callable[[Run], str],
    devices: Devices,
) -> int:
    keep_programs(options.compilation_cache)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = options.out or Path("runs") / f"{Path(options.dataset).stem}-{stamp}"

    again = f"{option('resume')} {option('out')} {out}"

    def write_summary() -> None:
        if processes.is_first():
            summary.write(out)

    try:
        if options.resume and options.out is None:
            raise ArgumentError("out", "name the folder to resume")
        with open_log(options.log):  # before anything is loaded
            runs = make_runs(out)
        placement = place_runs(devices, options, runs)
        folders = {run: out / name_of(run) for run in runs}
        if jax.process_count() > 1:
            check_processes(devices, options, runs)
        data = processes.first_then_all(
            lambda: prepare.load_for(runs[0], options.dataset, options.data_dir)
        )
        processes.agree({"the data's fingerprint": data.fingerprint})
        processes.note(
            f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, "
            f"{data.num_interactions:,} interactions; results go to {out}"
        )
        used = prepare.used_users(runs[0], data)
        for line in used.notes:
            processes.note(line)
        if data.renumbered:
            processes.note("items are renumbered from 1: see item_ids.json in each run's folder")
        graph_notes: set[str] = set()
        for run in runs:  # before the first of them trains for hours
            # A logger's smoothness is of the graph even if the optimiser does without.
            if options.log or reads_graph(run.optimizer, run.settings.flat()):
                graph_notes.add(check_graph(run.settings.graph, data))
            prepare.check_smoothings(run, used)
            new = not (folders[run] / "config.json").exists()
            if new and run.settings.training.start:
                check_start(run, Path(run.settings.training.start))
                if placement.mesh is not None:
                    raise ArgumentError(
                        "from", "begin on one device: a run can then be resumed on a mesh"
                    )
            finished = loop.check_folder(run, data, folders[run], options.resume)
            if options.resume and not finished and new:
                processes.note(f"{folders[run].name}: nothing to resume, starts anew")
        for line in sorted(graph_notes - {""}):
            processes.note(line)
        try:
            together = options.together if placement.mesh is None else False
            groups = make_groups(runs, together)
            with open_log(options.log) as log:
                look = glance(out) if processes.is_first() else lambda: None
                train_all(groups, data, folders, options.resume, placement, log, look)
        except BaseException:
            with contextlib.suppress(UserError, OSError):  # the first error is the one to report
                write_summary()
            raise
        write_summary()
    except loop.Interrupted as interruption:
        processes.note(f"interrupted: {interruption}; go on with {again}")
        return 130
    except KeyboardInterrupt:
        processes.note(f"interrupted; what {out} holds is kept: go on with {again}")
        return 130
    except UserError as error:
        say(f"error: {error.as_option()}", "bold red")
        return 1
    except Exception:
        processes.stop_if_another_ended()
        raise
    return 0
