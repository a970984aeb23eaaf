"""One training run: compiled epochs, validation, checkpoints and the files of its folder.

Everything random follows from the seed, the epoch and the step, so that a run that was interrupted
goes on exactly as it would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import sevo_jax
from experiments.batches import Corpus, make_corpus, read_tokens, sample_negatives
from experiments.configs import Hyperparameters
from experiments.data import Interactions
from experiments.errors import UserError
from experiments.evaluate import Split, make_evaluation_set, make_evaluator, metrics_of
from experiments.files import read_json, read_lines, write_json, write_text
from experiments.optimizers import make_optimizer
from experiments.packing import EMPTY, ROWS_MULTIPLE, layout
from models import SASRec

CRITERION = "NDCG@10"
NEWEST_INPUT = 4
"""How far before the end of a user's items the newest training input stands: the test, validation
and newest training items come after it, and the last of these is its target."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What determines a run's result, and what ``config.json`` holds."""

    model: str
    dataset: str
    optimizer: str
    seed: int
    settings: Hyperparameters

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.model}-{self.optimizer}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """A flat mapping of names to values."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in own.items() if k != "settings"} | dataclasses.asdict(self.settings)


class TrainState(NamedTuple):
    """What an epoch changes."""

    params: Any
    opt_state: Any


class Checkpoint(NamedTuple):
    """What a run needs to go on."""

    state: TrainState | Any  # None while the run is trained: an epoch takes its memory
    best_params: Any
    epoch: int
    best_epoch: int
    best_score: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run reports after each epoch."""

    epoch: int
    train_loss: float
    score: float | None
    run: str


class Interrupted(Exception):  # noqa: N818, like KeyboardInterrupt
    """The run was asked to stop, and has saved itself after the epoch it was in."""


_INITIAL, _TRAINING = 0, 1
"""What is folded into a seed's key for the initial weights, and for the epochs. Both fold numbers
from 0 on into the key that they get: from one key, weights and epochs would draw alike."""


def make_model(run: Run, num_items: int) -> nnx.Module:
    """The model of a run, its weights initialised from the run's seed."""
    s = run.settings
    return SASRec(
        num_items,
        max_len=s.max_len,
        dim=s.dim,
        num_heads=s.num_heads,
        num_blocks=s.num_blocks,
        dropout_rate=s.dropout_rate,
        attend_padding=s.attend_padding,
        rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(run.seed), _INITIAL)),
    )


def make_step(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    max_len: int,
    few_rows: int | None = None,
) -> Callable[[Corpus, TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array]]:
    """A training step: of corpus, state, cells ``int32[rows, width]`` and a key.

    Packed batches of an epoch have the rows of its largest. Most need fewer: where ``few_rows`` are
    enough, the model computes no more than these. Neither layout nor dropout, whose bits belong to
    positions counted from the first row, notices the rows that are left out.
    """

    def step(
        corpus: Corpus, state: TrainState, cells: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        negative_key, dropout_key = jax.random.split(key)
        tokens = read_tokens(corpus, cells, NEWEST_INPUT, max_len)
        real = cells != EMPTY
        positives = jnp.where(real, corpus.items[cells + 1], 0)
        negatives = sample_negatives(corpus.unseen, corpus.owners[cells], negative_key)

        def loss(params: Any, rows: int) -> jax.Array:
            model = nnx.merge(graphdef, params)
            hidden = model(*(t[:rows] for t in tokens), dropout_key)
            return model.loss(hidden, positives[:rows], negatives[:rows], real[:rows])

        def gradients(rows: int) -> Callable[[Any], tuple[jax.Array, Any]]:
            return lambda params: jax.value_and_grad(loss)(params, rows)

        rows = cells.shape[0]
        if few_rows is None or few_rows >= rows:
            value, grads = gradients(rows)(state.params)
        else:
            more = real[few_rows:].any()
            value, grads = jax.lax.cond(more, gradients(rows), gradients(few_rows), state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), value

    return step


def make_epoch(
    step: Callable[..., Any], seed_axes: TrainState | None = None
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Compiles an epoch: a scan of ``step`` over ``cells``, ``int32[steps, rows, width]``.

    With ``seed_axes``, the axes of a state of several seeds, it trains them all: cells, keys and
    losses then have a leading axis of seeds. The state is donated. Returns the new state and the
    loss of every step.
    """

    def epoch(
        state: TrainState, corpus: Corpus, cells: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        keys = jax.random.split(key, cells.shape[0])
        return jax.lax.scan(lambda s, batch: step(corpus, s, *batch), state, (cells, keys))

    if seed_axes is not None:
        epoch = jax.vmap(epoch, (seed_axes, None, 0, 0), (seed_axes, 0))
    return jax.jit(epoch, donate_argnums=0)


class EpochLayouts:
    """The layout of every epoch, a function of the data, the seed and the epoch alone."""

    def __init__(self, data: Interactions, settings: Hyperparameters, seed: int) -> None:
        # A training sequence of n items gives n - 1 inputs, the newest max_len of which are read.
        counts = np.minimum(data.lengths - 3, settings.max_len)
        users = np.flatnonzero(counts > 0)
        if users.size == 0:
            raise UserError(f"{data.name}: no user has two training items; nothing to learn from")
        newest = data.starts + data.lengths - NEWEST_INPUT
        self._first, self._counts = (newest - counts + 1)[users], counts[users]
        self._settings, self._seed = settings, seed
        # Epochs pack into about as many rows each. Epoch 0 sets the least for all, so that few
        # epochs differ in shape and compile anew.
        self.rows = 0
        first = self(0)
        self.rows = first.shape[1]
        self.few_rows = _few_rows((first != EMPTY).any(axis=-1).sum(axis=-1), self.rows)

    def __call__(self, epoch: int) -> np.ndarray:
        """``int32[steps, rows, width]``, users shuffled and dealt into batches."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self._first.size)
        s = self._settings
        cells, _ = layout(
            self._first[order],
            self._counts[order],
            s.batch_size,
            s.max_len,
            packed=s.packed,
            rows=self.rows,
        )
        return cells

    @property
    def users_per_step(self) -> np.ndarray:
        """``int64[steps]``: the weights of the steps' losses in an epoch's mean."""
        steps = np.arange(0, self._first.size, self._settings.batch_size)
        return np.minimum(self._first.size - steps, self._settings.batch_size)


def _few_rows(needed: np.ndarray, rows: int) -> int:
    """The number of rows that saves most if steps which need no more compute no more."""
    choices = np.append(np.arange(ROWS_MULTIPLE, rows, ROWS_MULTIPLE), rows)
    saved = (rows - choices) * (needed[:, None] <= choices).mean(axis=0)
    return int(choices[saved.argmax()])


def train(
    run: Run,
    data: Interactions,
    folder: Path,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Trains, validates and tests; writes the run's folder and returns ``result.json``.

    Args:
        run: what to train.
        data: on what.
        folder: where; created if missing.
        resume: whether to go on with the run that the folder holds, if any.
        stop: when set, the run saves itself after the epoch it is in.
        report: called after every epoch.

    Raises:
        UserError: a folder that holds another run or cannot be written, a loss or score that is not
            finite.
        Interrupted: ``stop`` was set.
    """
    return train_together([run], data, [folder], resume=resume, stop=stop, report=report)[0]


def train_together(
    runs: Sequence[Run],
    data: Interactions,
    folders: Sequence[Path],
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[dict[str, Any]]:
    """`train` for runs that differ in their seeds alone, in one program that shares the graph.

    Every run gets the folder and, up to rounding, the numbers that it would get on its own. On
    resuming, runs that lag behind are trained first, until they meet the next ones. A run that
    fails does not hold up the others; its error is raised when they are done.

    The seconds of an epoch are divided by the runs trained in it; those of ``metrics.jsonl`` are
    the time since the first of them began, resting times left out.
    """
    if len({dataclasses.replace(run, seed=0) for run in runs}) != 1:
        raise ValueError("runs that are trained together must differ in their seeds alone")
    held = list(zip(runs, folders, strict=True))
    found = [check_folder(run, data, folder, resume) for run, folder in held]
    results = {i: result for i, result in enumerate(found) if result is not None}
    todo = [i for i, result in enumerate(found) if result is None]
    if not todo:
        return [results[i] for i in range(len(runs))]
    setup = make_setup(runs[todo[0]], data)
    layouts = {i: EpochLayouts(data, setup.settings, runs[i].seed) for i in todo}
    failures: list[UserError] = []
    with contextlib.ExitStack() as stack:
        lanes: dict[int, _Lane] = {}
        for i in todo:
            run, folder = held[i]
            _claim_folder(run, data, folder)
            saved = stack.enter_context(_checkpoints(folder))
            start = initial_checkpoint(run, setup, data)
            lanes[i] = _open_lane(run, start, layouts[i], folder, saved, resume)
        while epochs := sorted({lane.epoch for lane in lanes.values()}):
            group = {i: lane for i, lane in lanes.items() if lane.epoch == epochs[0]}
            until = epochs[1] if len(epochs) > 1 else setup.settings.epochs
            errors = _train_lanes(list(group.values()), until, setup, stop, report)
            failures += [error for error in errors if error is not None]
            for (i, lane), error in zip(group.items(), errors, strict=True):
                if error is None and lane.epoch == setup.settings.epochs:
                    results[i] = _finish(lane, setup, data)
                if error is not None or i in results:
                    del lanes[i]
    if failures:
        raise failures[0]
    return [results[i] for i in range(len(runs))]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What runs share that differ in their seeds alone."""

    graphdef: nnx.GraphDef[Any]
    optimizer: optax.GradientTransformation
    corpus: Corpus
    settings: Hyperparameters
    evaluate: Callable[[Split, Any], dict[str, float]]


@dataclasses.dataclass
class _Lane:
    """A run in training, on the host."""

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
        """The epochs behind it."""
        return self.checkpoint.epoch

    def diverged(self, what: str, epoch: int) -> UserError:
        """The error for a number that is not finite."""
        last = self.checkpoint.epoch
        kept = f"the checkpoint of epoch {last} in {self.folder} is the last good one"
        kept = kept if last else "there is no checkpoint yet"
        return UserError(f"{self.run.name}: {what} (epoch {epoch}); {kept}")

    def mean_loss(self, losses: np.ndarray, epoch: int) -> float:
        """The mean loss of an epoch over users, from ``float[steps]``."""
        finite = np.isfinite(losses)
        if not finite.all():
            step = (epoch - 1) * losses.size + int(np.argmin(finite)) + 1
            raise self.diverged(f"the loss is {losses[~finite][0]} at step {step}", epoch)
        return float(np.average(losses, weights=self.layouts.users_per_step))

    def validate(self, params: Any, setup: Setup, epoch: int, loss: float, began: float) -> float:
        """Scores an epoch, keeps the best one's parameters, and returns the criterion."""
        step = epoch * self.layouts.users_per_step.size
        clock = time.perf_counter()
        try:
            metrics = setup.evaluate("valid", params)
        except _NotFiniteError as error:
            raise self.diverged(f"{error} at step {step}", epoch) from error
        self.evaluation_seconds.append(time.perf_counter() - clock)
        record = {"epoch": epoch, "step": step, "train_loss": loss}
        seconds = round(time.perf_counter() - began, 3)
        self.records.append(record | {"seconds": seconds, "valid": metrics})
        if metrics[CRITERION] > self.checkpoint.best_score:
            self.checkpoint = self.checkpoint._replace(
                best_params=jax.tree.map(jnp.copy, params),
                best_epoch=epoch,
                best_score=metrics[CRITERION],
            )
        return metrics[CRITERION]

    def save(self, state: TrainState, epoch: int, seconds: float) -> None:
        """Writes the records, then the checkpoint."""
        self.checkpoint = self.checkpoint._replace(epoch=epoch, seconds=seconds)
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_text(self.folder / "metrics.jsonl", lines)
        _save(self.saved, self.checkpoint._replace(state=state), self.folder)


def make_setup(run: Run, data: Interactions) -> Setup:
    """Builds what the run shares with those of other seeds."""
    settings = run.settings
    optimizer = make_optimizer(run.optimizer, settings, data)
    graphdef = nnx.split(make_model(run, data.num_items), nnx.Param)[0]
    corpus = make_corpus(data)
    compiled: dict[Split, Callable[[Any], tuple[jax.Array, jax.Array]]] = {}

    def evaluate(split: Split, params: Any) -> dict[str, float]:
        if split not in compiled:
            blocks = make_evaluation_set(data, split, settings.max_len)
            ranker = make_evaluator(lambda p: nnx.merge(graphdef, p), split, settings.max_len)
            compiled[split] = lambda p: ranker(p, corpus, blocks)
        ranks, finite = compiled[split](params)
        if not finite:
            raise _NotFiniteError(f"a {split} score is not finite")
        return metrics_of(np.asarray(ranks)[: data.num_users])

    return Setup(graphdef, optimizer, corpus, settings, evaluate)


def initial_checkpoint(run: Run, setup: Setup, data: Interactions) -> Checkpoint:
    """Where a run begins, its weights drawn from its seed."""
    params = nnx.split(make_model(run, data.num_items), nnx.Param)[1]
    state = TrainState(params, setup.optimizer.init(params))
    return Checkpoint(state, jax.tree.map(jnp.copy, params), 0, 0, -1.0, 0.0)


def _open_lane(
    run: Run,
    start: Checkpoint,
    layouts: EpochLayouts,
    folder: Path,
    saved: ocp.CheckpointManager,
    resume: bool,
) -> _Lane:
    checkpoint = _restore(saved, start) if resume else start
    records = _read_records(folder / "metrics.jsonl", checkpoint.epoch)
    return _Lane(run, folder, saved, checkpoint, records, layouts)


def _train_lanes(
    lanes: list[_Lane],
    until: int,
    setup: Setup,
    stop: threading.Event | None,
    report: Callable[[Progress], None],
) -> list[UserError | None]:
    """Trains runs that stand at one epoch to the epoch ``until``; returns the errors of each.

    An error ends the training of all, once the others are saved.

    Raises:
        Interrupted: ``stop`` was set, and all are saved.
    """
    settings, epoch = setup.settings, lanes[0].epoch
    began = time.perf_counter() - lanes[0].checkpoint.seconds
    together = len(lanes) > 1
    states = [lane.checkpoint.state for lane in lanes]
    axes = state_axes(setup.optimizer, states[0])
    state = stack_states(states, axes) if together else states[0]
    for lane in lanes:  # an epoch takes the state's memory
        lane.checkpoint = lane.checkpoint._replace(state=None)
    del states
    # Under vmap both sides of a condition are computed, and a GPU may wait for the host to choose.
    choosing = not together and jax.default_backend() == "cpu"
    few_rows = lanes[0].layouts.few_rows if choosing else None
    step = make_step(setup.graphdef, setup.optimizer, settings.max_len, few_rows)
    run_epoch = make_epoch(step, axes if together else None)
    errors: list[UserError | None] = [None] * len(lanes)

    def lay_out(epoch: int) -> np.ndarray:
        cells = [lane.layouts(epoch) for lane in lanes]
        return stack_cells(cells) if together else cells[0]

    def key_of(epoch: int) -> jax.Array:
        def own(seed: int) -> jax.Array:
            training = jax.random.fold_in(jax.random.key(seed, impl=settings.rng), _TRAINING)
            return jax.random.fold_in(training, epoch)

        keys = [own(lane.run.seed) for lane in lanes]
        return jnp.stack(keys) if together else keys[0]

    def finish_epoch(i: int, losses: np.ndarray, saving: bool, due: bool) -> None:
        lane, score = lanes[i], None
        loss = lane.mean_loss(losses, epoch)
        if saving:
            own = state_of(state, axes, i) if together else state
            if not _all_finite(own):
                # The loss of a step is that of the parameters before it.
                raise lane.diverged(
                    f"parameters are not finite at step {epoch * losses.size}", epoch
                )
            if due:
                score = lane.validate(own.params, setup, epoch, loss, began)
            lane.save(own, epoch, time.perf_counter() - began)
        report(Progress(epoch, loss, score, lane.run.name))

    with ThreadPoolExecutor(1) as packer:
        upcoming = packer.submit(lay_out, epoch)
        while epoch < until and not any(errors):
            clock = time.perf_counter()
            cells = upcoming.result()
            upcoming = packer.submit(lay_out, epoch + 1)  # packed while the device works
            state, losses = run_epoch(state, setup.corpus, cells, key_of(epoch))
            losses = np.asarray(losses, np.float64).reshape(len(lanes), -1)
            epoch += 1
            seconds = (time.perf_counter() - clock) / len(lanes)

            due = epoch % settings.eval_every == 0 or epoch == settings.epochs
            stopping = stop is not None and stop.is_set()
            saving = due or stopping or epoch == until or not np.isfinite(losses).all()
            for i, lane in enumerate(lanes):
                lane.epoch_seconds.append(seconds)
                try:
                    finish_epoch(i, losses[i], saving, due)
                except UserError as error:
                    errors[i] = error
            if stopping and epoch < settings.epochs and not any(errors):
                names = ", ".join(lane.run.name for lane in lanes)
                where = lanes[0].folder.parent if together else lanes[0].folder
                raise Interrupted(f"{names}: saved after epoch {epoch} in {where}")
    for i, lane in enumerate(lanes):
        own = state_of(state, axes, i) if together else state
        lane.checkpoint = lane.checkpoint._replace(state=own)
    return errors


def _finish(lane: _Lane, setup: Setup, data: Interactions) -> dict[str, Any]:
    """Tests the best epoch, and writes ``result.json``."""
    checkpoint, run = lane.checkpoint, lane.run
    best = next((r for r in lane.records if r["epoch"] == checkpoint.best_epoch), None)
    result = {
        "model": run.model,
        "dataset": run.dataset,
        "optimizer": run.optimizer,
        "seed": run.seed,
        "epochs": setup.settings.epochs,
        "best_epoch": checkpoint.best_epoch,
        "valid": best["valid"] if best else setup.evaluate("valid", checkpoint.best_params),
        "test": setup.evaluate("test", checkpoint.best_params),
        "seconds_per_epoch": _median(lane.epoch_seconds),
        "seconds_per_evaluation": _median(lane.evaluation_seconds),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "versions": {p: version(p) for p in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "num_users": data.num_users,
        "num_items": data.num_items,
        "num_interactions": int(data.items.size),
    }
    write_json(lane.folder / "result.json", result)
    return result


def state_axes(optimizer: optax.GradientTransformation, state: TrainState) -> TrainState:
    """The axes of a state of several seeds: 0, and None for what they share."""
    params = jax.tree.map(lambda _: 0, state.params)
    return TrainState(params, sevo_jax.seed_axes(optimizer, state.params))


def _by_axis(function: Callable[..., Any], axes: TrainState, *states: TrainState) -> TrainState:
    """``function`` of the leaves of one seed each; what seeds share is taken from the first."""

    def apply(axis: int | None, *subtrees: Any) -> Any:
        return subtrees[0] if axis is None else function(*subtrees)

    return jax.tree.map(apply, axes, *states, is_leaf=lambda x: x is None)


def stack_cells(cells: list[np.ndarray]) -> np.ndarray:
    """Layouts ``int32[steps, rows, width]`` of several seeds as one, filled up to equal rows."""
    rows = max(c.shape[1] for c in cells)
    spare = [((0, 0), (0, rows - c.shape[1]), (0, 0)) for c in cells]
    padded = (np.pad(*c, constant_values=EMPTY) for c in zip(cells, spare, strict=True))
    return np.stack(list(padded))


def stack_states(states: list[TrainState], axes: TrainState) -> TrainState:
    """The states of several seeds as one."""
    return _by_axis(lambda *leaves: jnp.stack(leaves), axes, *states)


def state_of(state: TrainState, axes: TrainState, i: int) -> TrainState:
    """The state of seed ``i`` among several."""
    return _by_axis(lambda leaf: leaf[i], axes, state)


class _NotFiniteError(UserError):
    """A score is NaN or infinite."""


def _config(run: Run, data: Interactions) -> dict[str, Any]:
    """What ``config.json`` holds: the run, and what tells its data from others."""
    return run.to_json() | {"data": data.fingerprint}


def check_folder(run: Run, data: Interactions, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Reads what the folder holds, and changes nothing; the run's result if it is finished.

    Raises:
        UserError: the folder holds another run, or this one and ``resume`` is not set.
    """
    config_file, result_file = folder / "config.json", folder / "result.json"
    try:
        exists = config_file.exists()
        leftover = not exists and any((folder / "checkpoints").glob("*"))
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be used ({error.strerror})") from error
    if leftover:
        raise UserError(f"--out: {folder} holds checkpoints but no config.json; name another")
    if not exists:
        return None
    if not resume:
        raise UserError(
            f"--out: {folder} already holds a run; --resume goes on with it, or name another"
        )
    held, wanted = read_json(config_file), _config(run, data)
    defaults = dataclasses.asdict(Hyperparameters())
    held = defaults | held  # a setting that is younger than the run
    if held != wanted:
        changes = [
            f"{name} was {held.get(name)!r} and is now {wanted.get(name)!r}"
            for name in sorted(held.keys() | wanted.keys())
            if held.get(name) != wanted.get(name)
        ]
        raise UserError(f"--resume: {folder} holds a run in which {'; '.join(changes)}")
    return read_json(result_file) if result_file.exists() else None


def _claim_folder(run: Run, data: Interactions, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be used ({error.strerror})") from error
    if data.renumbered:
        write_json(folder / "item_ids.json", data.item_ids.tolist())
    write_json(folder / "config.json", _config(run, data))


@jax.jit
def _finite_leaves(tree: Any) -> list[jax.Array]:
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return [jnp.isfinite(x).all() for x in floating]


def _all_finite(state: TrainState) -> bool:
    return all(map(bool, _finite_leaves(state.params)))


def _checkpoints(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    try:
        return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)
    except OSError as error:
        raise UserError(f"{folder / 'checkpoints'}: cannot be used ({error.strerror})") from error


def _save(saved: ocp.CheckpointManager, checkpoint: Checkpoint, folder: Path) -> None:
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)  # Orbax logs a traceback of every thread that fails
    try:
        done = saved.save(checkpoint.epoch, args=ocp.args.StandardSave(checkpoint._asdict()))
    except Exception as error:  # each storage layer below has its own
        raise UserError(
            f"{folder}: the checkpoint of epoch {checkpoint.epoch} could not be written "
            f"({str(error).partition(' [')[0]}); any before it is intact, so make room and go "
            "on with --resume"
        ) from error
    finally:
        log.setLevel(level)
    if not done:
        raise UserError(f"{folder}: holds a checkpoint of a later epoch than {checkpoint.epoch}")


def _restore(saved: ocp.CheckpointManager, start: Checkpoint) -> Checkpoint:
    latest = saved.latest_step()
    if latest is None:
        return start
    try:
        return Checkpoint(**saved.restore(latest, args=ocp.args.StandardRestore(start._asdict())))
    except Exception as error:  # each storage layer below has its own
        raise UserError(
            f"{saved.directory}: the checkpoint of epoch {latest} cannot be read ({error}); "
            "expected one of this run, on the same data; to start over, remove the folder"
        ) from error


def _read_records(path: Path, epoch: int) -> list[dict[str, Any]]:
    """The lines up to the epoch of the checkpoint; what came after it is computed again."""
    if not path.exists():
        return []
    return [record for record in read_lines(path) if record["epoch"] <= epoch]


def _median(seconds: Iterable[float]) -> float | None:
    values = list(seconds)
    return round(float(np.median(values)), 4) if values else None
