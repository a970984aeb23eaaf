"""Training runs, from the first epoch or a checkpoint to the result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import sevo_jax
from experiments.data import Interactions
from experiments.errors import UserError
from experiments.files import write_json, write_text
from experiments.inputs.layout import EpochLayouts
from experiments.inputs.mesh import ONE_DEVICE, Placement
from experiments.logs import Log
from experiments.metrics import CRITERION, by_history, by_popularity, of_lists
from experiments.run import Run, check_folder, claim_folder, lock_folder, read_records
from experiments.training import processes
from experiments.training.checkpoints import (
    open_checkpoints,
    resume_checkpoint,
    save_checkpoint,
)
from experiments.training.continued import continue_from
from experiments.training.prepare import (
    NotFiniteError,
    Setup,
    initial_checkpoint,
    make_setup,
    make_watched,
    used_users,
)
from experiments.training.state import Checkpoint, TrainState
from experiments.training.steps import Epochs
from experiments.training.watched import Watched, means


@dataclasses.dataclass(frozen=True)
class Progress:
    """The report of a run after an epoch; ``score`` is ``None`` without a validation."""

    epoch: int
    train_loss: float
    score: float | None
    run: str


class DivergedError(UserError):
    """A loss, a parameter or a score is not finite."""


class Interrupted(Exception):  # noqa: N818, like KeyboardInterrupt
    """The run was asked to stop, and has saved itself after the epoch it was in."""


def train(
    run: Run,
    data: Interactions,
    folder: Path,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Trains, validates and tests; writes the run's folder and returns ``result.json``.

    Args:
        run: the run.
        data: the data set.
        folder: the run's folder; created if missing.
        resume: whether to go on with the run that the folder holds, if any.
        stop: when set, the run saves itself after the epoch it is in.
        report: called after every epoch.
        log: called after every epoch with the run's folder, the epoch, and numbers by their names:
            the loss, the seconds, metrics, and norms and smoothness of tables.

    Raises:
        UserError: the folder holds another run or cannot be written, or a loss, a parameter or a
            score is not finite.
        Interrupted: ``stop`` was set.
    """
    (result,) = train_together(
        [run], data, [folder], resume=resume, stop=stop, report=report, log=log
    )
    return result


def train_together(
    runs: Sequence[Run],
    data: Interactions,
    folders: Sequence[Path],
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    placement: Placement = ONE_DEVICE,
    log: Log | None = None,
) -> list[dict[str, Any]]:
    """Trains runs that differ in their seeds alone, in one program that shares the graph.

    Every run gets the folder and, up to rounding, the numbers that `train` would give it. There is
    one exception. In rare epochs, a batch of some seed has more long sequences than its groups of
    rows have room for; the rows of all seeds then shift, and with them the random numbers they get.

    A run that fails does not hold up the others: its error is raised when they are done. On
    resuming, runs that lag behind are trained first. If seeds 0 and 1 have 10 of 50 epochs, and
    seed 2 has 30,

    - seeds 0 and 1 are trained together to epoch 30, and then
    - seeds 0, 1 and 2 are trained together to epoch 50.

    The seconds of an epoch are divided by the number of runs trained in it. The seconds in
    ``metrics.jsonl`` are the time of training since the first of these runs began.

    Args:
        runs: the runs.
        data: the data set.
        folders: a folder for each run.
        resume: as in `train`.
        stop: as in `train`.
        report: called for each run after every epoch.
        placement: where arrays lie.
        log: as in `train`; with several processes, the first one logs.

    Returns:
        The content of ``result.json`` of each run.

    Raises:
        UserError: as `train`.
        Interrupted: ``stop`` was set.
    """
    if len({dataclasses.replace(run, seed=0) for run in runs}) != 1:
        raise ValueError("runs that are trained together must differ in their seeds alone")
    held = list(zip(runs, folders, strict=True))
    found = [check_folder(run, data, folder, resume) for run, folder in held]
    results = {i: result for i, result in enumerate(found) if result is not None}
    todo = [i for i, result in enumerate(found) if result is None]
    # No process writes before all of them have read the folders.
    processes.agree({f"what {out} holds": bool(found[i]) for i, (_, out) in enumerate(held)})
    if not todo:
        return [results[i] for i in range(len(runs))]
    failures: list[UserError] = []
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            for i in todo:
                stack.enter_context(lock_folder(folders[i]))
        used = used_users(runs[0], data)
        setup = make_setup(runs[0], used, placement)
        layouts = {i: setup.layouts(used, runs[i].seed) for i in todo}
        watched = None if log is None else make_watched(runs[0], used, placement)
        lanes: dict[int, _Lane] = {}
        for i in todo:
            run, folder = held[i]
            saved = stack.enter_context(open_checkpoints(folder, clean=True))
            start = initial_checkpoint(run, setup, used)
            continued = run.settings.training.start and not saved.all_steps()
            if continued:
                start = continue_from(run, setup, used, start)
            if processes.is_first():
                claim_folder(run, data, folder)  # only now: a run may be refused
            lanes[i] = _open_lane(run, start, layouts[i], folder, saved, resume)
            if continued:
                lanes[i].records.clear()  # a run that was killed may have left its first line
                score = lanes[i].validate(start.state, setup, 0, None, time.perf_counter())
                processes.note(
                    f"{run.name}: validation {CRITERION} before the first step is {score:.4f}"
                )
        # The runs that are furthest behind are trained until they meet the next ones.
        while epochs := sorted({lane.epoch for lane in lanes.values()}):
            group = {i: lane for i, lane in lanes.items() if lane.epoch == epochs[0]}
            until = epochs[1] if len(epochs) > 1 else setup.settings.training.epochs
            errors = _train_lanes(list(group.values()), until, setup, stop, report, log, watched)
            failures += [error for error in errors if error is not None]
            for (i, lane), error in zip(group.items(), errors, strict=True):
                if error is None and lane.epoch == setup.settings.training.epochs:
                    results[i] = _finish(lane, setup, used)
                    if log is not None and processes.is_first():
                        log(lane.folder, lane.epoch, _named("test", results[i]["test"]))
                if error is not None or i in results:
                    del lanes[i]  # frees its memory, too
    if failures:
        raise failures[0]
    return [results[i] for i in range(len(runs))]


@dataclasses.dataclass
class _Lane:
    """A run in training: its part of a program that trains several runs side by side."""

    run: Run
    folder: Path
    saved: ocp.CheckpointManager
    checkpoint: Checkpoint
    records: list[dict[str, Any]]
    layouts: EpochLayouts
    epoch_seconds: list[float] = dataclasses.field(default_factory=list[float])
    evaluation_seconds: list[float] = dataclasses.field(default_factory=list[float])

    @property
    def epoch(self) -> int:
        """The epochs that are done."""
        return self.checkpoint.epoch

    def diverged(self, what: str, epoch: int) -> DivergedError:
        """Makes the error for a number that is not finite."""
        last = self.checkpoint.epoch
        kept = f"the checkpoint of epoch {last} in {self.folder} is the last good one"
        kept = kept if last else "there is no checkpoint yet"
        return DivergedError(f"{self.run.name}: {what} (epoch {epoch}); {kept}")

    def mean_loss(self, losses: np.ndarray, epoch: int) -> float:
        """Averages an epoch's losses, ``float[steps]``, over its sequences."""
        finite = np.isfinite(losses)
        if not finite.all():
            step = (epoch - 1) * losses.size + int(np.argmin(finite)) + 1
            raise self.diverged(f"the loss is {losses[~finite][0]} at step {step}", epoch)
        return float(np.average(losses, weights=self.layouts.sequences_per_step))

    def validate(
        self, state: TrainState, setup: Setup, epoch: int, loss: float | None, began: float
    ) -> float:
        """Validates the state after an epoch, keeps the best so far, and returns the score."""
        step = epoch * self.layouts.sequences_per_step.size
        clock = time.perf_counter()
        params = _settled(state.params, state.opt_state)
        try:
            metrics = setup.evaluate("valid", params, state.carried)
        except NotFiniteError as error:
            raise self.diverged(f"{error} at step {step}", epoch) from error
        self.evaluation_seconds.append(time.perf_counter() - clock)
        record = {"epoch": epoch, "step": step, "train_loss": loss}
        seconds = round(time.perf_counter() - began, 3)
        self.records.append(record | {"seconds": seconds, "valid": metrics})
        if metrics[CRITERION] > self.checkpoint.best_score:
            # Copies, since the next epoch takes over the memory of the state.
            best_params, best_carried = jax.tree.map(jnp.copy, (params, state.carried))
            self.checkpoint = self.checkpoint._replace(
                best_params=best_params,
                best_carried=best_carried,
                best_epoch=epoch,
                best_score=metrics[CRITERION],
            )
        return metrics[CRITERION]

    def save(self, state: TrainState, epoch: int, seconds: float) -> None:
        """Writes the records, then the checkpoint."""
        self.checkpoint = self.checkpoint._replace(epoch=epoch, seconds=seconds)
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        if processes.is_first():
            write_text(self.folder / "metrics.jsonl", lines)
        save_checkpoint(self.saved, self.checkpoint._replace(state=state), self.folder)


def _open_lane(
    run: Run,
    start: Checkpoint,
    layouts: EpochLayouts,
    folder: Path,
    saved: ocp.CheckpointManager,
    resume: bool,
) -> _Lane:
    checkpoint = resume_checkpoint(saved, start) if resume else start
    records = read_records(folder / "metrics.jsonl", checkpoint.epoch)
    return _Lane(run, folder, saved, checkpoint, records, layouts)


def _train_lanes(
    lanes: list[_Lane],
    until: int,
    setup: Setup,
    stop: threading.Event | None,
    report: Callable[[Progress], None],
    log: Log | None,
    watched: Watched | None,
) -> list[UserError | None]:
    """Trains runs from the epoch at which all of them stand to the epoch ``until``.

    An error of one run ends the training of all, once the others are saved.

    Returns:
        The error of each run, or ``None``.

    Raises:
        Interrupted: ``stop`` was set, and all runs are saved.
    """
    settings, epoch = setup.settings, lanes[0].epoch
    began = time.perf_counter() - lanes[0].checkpoint.seconds  # as if there had been no pause
    together = len(lanes) > 1
    states = [lane.checkpoint.state for lane in lanes]
    layouts = [lane.layouts for lane in lanes]
    epochs = Epochs(
        setup.graphdef,
        setup.optimizer,
        setup.inputs,
        layouts,
        states[0],
        setup.placement,
        watched,
    )
    state = epochs.stack(states)
    for lane in lanes:  # a compiled epoch takes over the memory of its state
        lane.checkpoint = lane.checkpoint._replace(state=None)
    del states
    errors: list[UserError | None] = [None] * len(lanes)

    def finish_epoch(i: int, losses: np.ndarray, saving: bool, due: bool) -> None:
        lane, score = lanes[i], None
        loss = lane.mean_loss(losses, epoch)
        numbers = {"train_loss": loss, "seconds": lane.epoch_seconds[-1], **means(epochs.norms, i)}
        if saving:
            own = epochs.state_of(state, i)
            if not _all_finite(own):
                # The loss of a step is computed before its update. It does not show this.
                raise lane.diverged(
                    f"parameters are not finite at step {epoch * losses.size}", epoch
                )
            if due:
                score = lane.validate(own, setup, epoch, loss, began)
                numbers |= _named("valid", lane.records[-1]["valid"])
                if watched is not None:
                    numbers |= watched.smoothness(_settled(own.params, own.opt_state))
            lane.save(own, epoch, time.perf_counter() - began)
        if log is not None and processes.is_first():
            log(lane.folder, epoch, numbers)
        report(Progress(epoch, loss, score, lane.run.name))

    with ThreadPoolExecutor(1) as packer:
        upcoming = packer.submit(epochs.lay_out, epoch)
        while epoch < until and not any(errors):
            clock = time.perf_counter()
            cells = upcoming.result()
            upcoming = packer.submit(epochs.lay_out, epoch + 1)  # packed while the device works
            state, losses = epochs(state, cells, epoch)
            losses = np.asarray(losses, np.float64)
            epoch += 1
            seconds = (time.perf_counter() - clock) / len(lanes)

            # Runs are saved when they are validated, when they stop for any reason, and when a
            # loss is not finite, so that the others keep what they have.
            due = epoch % settings.training.eval_every == 0 or epoch == settings.training.epochs
            stopping = processes.any_process(stop is not None and stop.is_set())
            saving = due or stopping or epoch == until or not np.isfinite(losses).all()
            for i, lane in enumerate(lanes):
                lane.epoch_seconds.append(seconds)
                try:
                    finish_epoch(i, losses[i], saving, due)
                except UserError as error:
                    errors[i] = error
            if stopping and epoch < settings.training.epochs and not any(errors):
                names = ", ".join(lane.run.name for lane in lanes)
                where = lanes[0].folder.parent if together else lanes[0].folder
                raise Interrupted(f"{names}: saved after epoch {epoch} in {where}")
    for i, lane in enumerate(lanes):
        lane.checkpoint = lane.checkpoint._replace(state=epochs.state_of(state, i))
    return errors


def _finish(lane: _Lane, setup: Setup, data: Interactions) -> dict[str, Any]:
    """Tests the best epoch, and writes ``result.json``."""
    checkpoint, run = lane.checkpoint, lane.run
    best = next((r for r in lane.records if r["epoch"] == checkpoint.best_epoch), None)
    best_model = checkpoint.best_params, checkpoint.best_carried
    cutoffs = 10, *setup.settings.protocol.cutoffs
    ranks, lists = setup.rank_and_list(*best_model, min(max(cutoffs), data.num_items))
    recommended = [of_lists(lists, data, k) for k in sorted(set(cutoffs))]
    result = {
        "model": run.model,
        "dataset": run.dataset,
        "optimizer": run.optimizer,
        "seed": run.seed,
        "epochs": setup.settings.training.epochs,
        "best_epoch": checkpoint.best_epoch,
        "valid": best["valid"] if best else setup.evaluate("valid", *best_model),
        "test": setup.metrics_of(ranks),
        "by_popularity": by_popularity(ranks, data),
        "by_history": by_history(ranks, data),
        "recommended": {name: value for own in recommended for name, value in own.items()},
        # A process that trained no epoch itself has only the whole time, evaluations included.
        "seconds_per_epoch": _median(lane.epoch_seconds)
        or round(checkpoint.seconds / checkpoint.epoch, 4),
        "seconds_per_evaluation": _median(lane.evaluation_seconds),
        "device": device(setup.placement.num_devices),
        "versions": {p: version(p) for p in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "num_users": data.num_users,
        "ranked_users": len(ranks),
        "num_items": data.num_items,
        "num_interactions": data.num_interactions,
    }
    if processes.is_first():
        write_json(lane.folder / "result.json", result)
    return result


def _named(split: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in metrics.items()}


def device(count: int = 1) -> str:
    """Names this machine and the number of devices in use, as results show them."""
    kind = jax.devices()[0].device_kind
    return f"{f'{count} x ' if count > 1 else ''}{kind}, {os.cpu_count()} cores"


_settled = jax.jit(sevo_jax.settle)
"""Between two smoothings the parameters are validated, and kept, as smoothed."""


@jax.jit
def _finite_leaves(tree: Any) -> list[jax.Array]:
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return [jnp.isfinite(x).all() for x in floating]


def _all_finite(state: TrainState) -> bool:
    return all(map(bool, _finite_leaves((state.params, state.carried))))


def _median(seconds: Iterable[float]) -> float | None:
    values = list(seconds)
    return round(float(np.median(values)), 4) if values else None
