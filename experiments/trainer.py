"""One training run: compiled epochs, validation, checkpoints and the files of its folder.

Everything random follows from the seed, the epoch and the step, so that a run that was interrupted
goes on exactly as it would have.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
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

from experiments.batches import Corpus, make_corpus, read_tokens, sample_negatives
from experiments.configs import Hyperparameters
from experiments.data import Interactions
from experiments.errors import UserError
from experiments.evaluate import Split, make_evaluation_set, make_evaluator, metrics_of
from experiments.files import read_json, read_lines, write_json, write_text
from experiments.optimizers import make_optimizer
from experiments.packing import EMPTY, layout
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

    state: TrainState
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


class Interrupted(Exception):  # noqa: N818, like KeyboardInterrupt
    """The run was asked to stop, and has saved itself after the epoch it was in."""


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
        rngs=nnx.Rngs(run.seed),
    )


def make_step(
    graphdef: nnx.GraphDef[Any], optimizer: optax.GradientTransformation, max_len: int
) -> Callable[[Corpus, TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array]]:
    """A training step: of corpus, state, cells ``int32[rows, width]`` and a key."""

    def step(
        corpus: Corpus, state: TrainState, cells: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        negative_key, dropout_key = jax.random.split(key)
        tokens = read_tokens(corpus, cells, NEWEST_INPUT, max_len)
        real = cells != EMPTY
        positives = jnp.where(real, corpus.items[cells + 1], 0)
        negatives = sample_negatives(corpus.unseen, corpus.owners[cells], negative_key)

        def loss(params: Any) -> jax.Array:
            model = nnx.merge(graphdef, params)
            return model.loss(model(*tokens, dropout_key), positives, negatives, real)

        value, gradients = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), value

    return step


def make_epoch(step: Callable[..., Any]) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Compiles an epoch: a scan of ``step`` over ``cells``, ``int32[steps, rows, width]``.

    The state is donated. Returns the new state and the loss of every step.
    """

    def epoch(
        state: TrainState, corpus: Corpus, cells: jax.Array, key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        keys = jax.random.split(key, cells.shape[0])
        return jax.lax.scan(lambda s, batch: step(corpus, s, *batch), state, (cells, keys))

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
        self._rows = 0
        self._rows = self(0).shape[1]

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
            rows=self._rows,
        )
        return cells

    @property
    def users_per_step(self) -> np.ndarray:
        """``int64[steps]``: the weights of the steps' losses in an epoch's mean."""
        steps = np.arange(0, self._first.size, self._settings.batch_size)
        return np.minimum(self._first.size - steps, self._settings.batch_size)


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
    finished = check_folder(run, data, folder, resume)
    if finished is not None:
        return finished
    settings = run.settings
    optimizer = make_optimizer(run.optimizer, settings, data)
    graphdef, params = nnx.split(make_model(run, data.num_items), nnx.Param)
    corpus = make_corpus(data)
    layouts = EpochLayouts(data, settings, run.seed)
    run_epoch = make_epoch(make_step(graphdef, optimizer, settings.max_len))
    _claim_folder(run, data, folder)

    def evaluator(split: Split) -> Callable[[Any], dict[str, float]]:
        blocks = make_evaluation_set(data, split, settings.max_len)
        compiled = make_evaluator(lambda p: nnx.merge(graphdef, p), split, settings.max_len)

        def evaluate(params: Any) -> dict[str, float]:
            ranks, finite = compiled(params, corpus, blocks)
            if not finite:
                raise _NotFiniteError(f"a {split} score is not finite")
            return metrics_of(np.asarray(ranks)[: data.num_users])

        return evaluate

    validate = evaluator("valid")
    key = jax.random.key(run.seed)
    start = Checkpoint(
        TrainState(params, optimizer.init(params)), jax.tree.map(jnp.copy, params), 0, 0, -1.0, 0.0
    )
    with _checkpoints(folder) as saved, ThreadPoolExecutor(1) as packer:
        checkpoint = _restore(saved, start) if resume else start
        records = _read_records(folder / "metrics.jsonl", checkpoint.epoch)
        state, epoch = checkpoint.state, checkpoint.epoch
        began = time.perf_counter() - checkpoint.seconds
        epoch_seconds: list[float] = []
        evaluation_seconds: list[float] = []

        def diverged(what: str, epoch: int) -> UserError:
            kept = f"the checkpoint of epoch {checkpoint.epoch} in {folder} is the last good one"
            kept = kept if checkpoint.epoch else "there is no checkpoint yet"
            return UserError(f"{run.name}: {what} (epoch {epoch}); {kept}")

        upcoming = packer.submit(layouts, epoch)
        while epoch < settings.epochs:
            clock = time.perf_counter()
            cells = upcoming.result()
            upcoming = packer.submit(layouts, epoch + 1)  # packed while the device works
            state, losses = run_epoch(state, corpus, cells, jax.random.fold_in(key, epoch))
            losses = np.asarray(losses, np.float64)
            epoch += 1
            epoch_seconds.append(time.perf_counter() - clock)
            finite = np.isfinite(losses)
            if not finite.all():
                step = (epoch - 1) * losses.size + int(np.argmin(finite)) + 1
                raise diverged(f"the loss is {losses[~finite][0]} at step {step}", epoch)
            loss = float(np.average(losses, weights=layouts.users_per_step))

            due = epoch % settings.eval_every == 0 or epoch == settings.epochs
            stopping = stop is not None and stop.is_set()
            score = None
            if (due or stopping) and not _all_finite(state):
                # The loss of a step is that of the parameters before it.
                raise diverged(f"parameters are not finite at step {epoch * losses.size}", epoch)
            if due:
                clock = time.perf_counter()
                try:
                    metrics = validate(state.params)
                except _NotFiniteError as error:
                    raise diverged(f"{error} at step {epoch * losses.size}", epoch) from error
                evaluation_seconds.append(time.perf_counter() - clock)
                score = metrics[CRITERION]
                if score > checkpoint.best_score:
                    best = jax.tree.map(jnp.copy, state.params)
                    checkpoint = checkpoint._replace(
                        best_params=best, best_epoch=epoch, best_score=score
                    )
                records.append(
                    {
                        "epoch": epoch,
                        "step": epoch * losses.size,
                        "train_loss": loss,
                        "seconds": round(time.perf_counter() - began, 3),
                        "valid": metrics,
                    }
                )
            if due or stopping:
                checkpoint = checkpoint._replace(
                    state=state, epoch=epoch, seconds=time.perf_counter() - began
                )
                lines = "".join(json.dumps(r) + "\n" for r in records)
                write_text(folder / "metrics.jsonl", lines)
                _save(saved, checkpoint, folder)
            report(Progress(epoch, loss, score))
            if stopping and epoch < settings.epochs:
                raise Interrupted(f"{run.name}: saved after epoch {epoch} in {folder}")

    best = next((r for r in records if r["epoch"] == checkpoint.best_epoch), None)
    result = {
        "model": run.model,
        "dataset": run.dataset,
        "optimizer": run.optimizer,
        "seed": run.seed,
        "epochs": settings.epochs,
        "best_epoch": checkpoint.best_epoch,
        "valid": best["valid"] if best else validate(checkpoint.best_params),
        "test": evaluator("test")(checkpoint.best_params),
        "seconds_per_epoch": _median(epoch_seconds),
        "seconds_per_evaluation": _median(evaluation_seconds),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "versions": {p: version(p) for p in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "num_users": data.num_users,
        "num_items": data.num_items,
        "num_interactions": int(data.items.size),
    }
    write_json(folder / "result.json", result)
    return result


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
