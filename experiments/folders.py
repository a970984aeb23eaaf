"""A run's folder: what it holds, whose it is, and its checkpoints.

The newest two checkpoints are kept, each with the checksums of its files: where the newest one is
damaged, the one before is taken, and what came after it is computed again, to the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import sys
import textwrap
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from experiments import processes
from experiments.configs import MODELS, Hyperparameters
from experiments.configs.base import is_file, option
from experiments.data import NAMES, Interactions
from experiments.epochs import TrainState
from experiments.errors import UserError
from experiments.files import read_json, read_lines, write_json
from experiments.graphs import graph_files

CHECKSUMS = "checksums.json"


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


def changes(config: dict[str, Any]) -> dict[str, Any]:
    """The settings in a run's ``config.json`` that are not the published ones."""
    if config["model"] not in MODELS:  # one of the user's own, which this command does not know
        return {}
    settings = MODELS[config["model"]](config["dataset"], config["optimizer"])
    published = dataclasses.asdict(settings)
    del published["teacher"]  # where it lies
    # A run that is older than a setting was made with what is now its default.
    return {k: config[k] for k, v in published.items() if config.get(k, v) != v}


def settings_of(config: dict[str, Any]) -> Hyperparameters:
    """The settings in a run's ``config.json``, with defaults for those younger than the run."""
    names = {f.name for f in dataclasses.fields(Hyperparameters)}
    return Hyperparameters(**{k: v for k, v in config.items() if k in names})


FILES = "files"
"""The key of ``config.json`` that has the checksums of the files that settings name."""


def files_of(settings: Hyperparameters) -> dict[str, str]:
    """What tells the files that settings name from others, by the settings' names.

    A teacher is told by its result, which no other training writes to the second.
    """
    paths: dict[str, list[Path]] = {}
    if settings.categories:
        paths["categories"] = [Path(settings.categories)]
    if settings.teacher:
        paths["teacher"] = [Path(settings.teacher, "result.json")]
    if is_file(settings.graph):
        paths["graph"] = graph_files(Path(settings.graph))
    there = {name: own for name, own in paths.items() if all(path.exists() for path in own)}
    return {name: _checksum(own) for name, own in there.items()}


def _checksum(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()[:16]


def check_files(settings: Hyperparameters, held: dict[str, Any], folder: Path) -> None:
    """A `UserError` unless the files that settings name are those of a run's ``config.json``."""
    found = files_of(settings)
    for name, checksum in held.get(FILES, {}).items():
        place = getattr(settings, name)
        if name not in found:
            raise UserError(
                f"{folder}: was trained with {option(name)} {place}, and {Path.cwd()} has no such "
                f"file; {option(name)} says where it is now"
            )
        if found[name] != checksum:
            raise UserError(
                f"{folder}: was trained with {option(name)} {place}, which has changed since; "
                f"{option(name)} says where the run's is now"
            )


def differences(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between the ``config.json`` of a folder and the one it should have.

    Data and files are compared by their content: where they lie, and how that is written, is no
    difference.
    """
    held = dataclasses.asdict(Hyperparameters()) | held  # a setting that is younger than the run
    held_files, wanted_files = held.pop(FILES, {}), wanted.get(FILES, {})
    names = (held.keys() | wanted.keys()) - {FILES}
    sets = {held.get("dataset"), wanted.get("dataset")}
    if "data" in held and held["data"] == wanted.get("data") and not sets & set(NAMES):
        names -= {"dataset"}
    both = held_files.keys() & wanted_files.keys()
    names -= {name for name in both if held_files[name] == wanted_files[name]}
    others = [name for name in sorted(both & names) if held.get(name) == wanted.get(name)]
    changed = [name for name in sorted(names) if held.get(name) != wanted.get(name)]
    return [
        "the interactions are others"
        if name == "data"
        else f"{name} was {held.get(name)!r} and is now {wanted.get(name)!r}"
        for name in changed
    ] + [f"{name} was another {wanted[name]}" for name in others]


class Checkpoint(NamedTuple):
    """What a run needs to go on."""

    state: TrainState | Any  # None while the run is trained: an epoch takes its memory
    best_params: Any
    best_carried: Any
    epoch: int
    best_epoch: int
    best_score: float
    seconds: float


def _config(run: Run, data: Interactions) -> dict[str, Any]:
    """What ``config.json`` holds: the run, and what tells its data and files from others."""
    files = files_of(run.settings)
    return run.to_json() | {"data": data.fingerprint} | ({FILES: files} if files else {})


def check_folder(run: Run, data: Interactions, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Reads what the folder holds, and changes nothing; the run's result if it is finished.

    A run of fewer epochs may be gone on with for more of them. Its last epoch was validated even if
    ``eval_every`` does not divide it: one record, and one candidate for the best epoch, that a run
    of all epochs at once would not have.

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
    epochs = held.get("epochs")
    if isinstance(epochs, int):  # a run may go on for longer
        epochs = max(epochs, run.settings.epochs)
    changed = differences(held | {"epochs": epochs}, wanted)
    if changed:
        raise UserError(f"--resume: {folder} holds a run in which {'; '.join(changed)}")
    result = read_result(result_file) if result_file.exists() else None
    return result if result and result["epochs"] == run.settings.epochs else None


def read_result(path: Path) -> dict[str, Any]:
    """What a run's ``result.json`` holds.

    Raises:
        UserError: the file cannot be read, or lacks a part.
    """
    return _whole(read_json(path), ("epochs", "test"), path)


def _whole(content: dict[str, Any], names: tuple[str, ...], where: Path | str) -> dict[str, Any]:
    lacking = [name for name in names if name not in content]
    if lacking:
        raise UserError(f"{where}: lacks {', '.join(lacking)}; it was changed, or not written here")
    return content


@contextlib.contextmanager
def lock_folder(folder: Path) -> Generator[None]:
    """Makes the folder, and keeps others from training in it.

    The kernel takes the lock back when the process ends, however it does. On a network file system
    it may hold on one machine alone, or not at all.

    Raises:
        UserError: the folder cannot be used, or is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be used ({error.strerror})") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 20).decode(errors="replace")
            raise UserError(
                f"--out: {folder} is in use by process {holder or 'unknown'}; wait until it has "
                "ended, or name another"
            ) from error
        except OSError:
            pass  # no locks there
        with contextlib.suppress(OSError):  # whose it is, for the message above
            os.truncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)


def claim_folder(run: Run, data: Interactions, folder: Path) -> None:
    """Writes into the folder, which it makes if need be, whose it is."""
    folder.mkdir(parents=True, exist_ok=True)
    if data.renumbered:
        write_json(folder / "item_ids.json", data.item_ids.tolist())
    write_json(folder / "config.json", _config(run, data))


def open_checkpoints(folder: Path, *, clean: bool = False) -> ocp.CheckpointManager:
    """The checkpoints of a run's folder, of which the newest two are kept.

    Args:
        folder: of the run.
        clean: removes what writes that were killed have left; for who has locked the folder.
    """
    # The error that Orbax raises says it all; its tasks would log a traceback each besides.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=clean
    )
    try:
        return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)
    except OSError as error:
        raise UserError(f"{folder / 'checkpoints'}: cannot be used ({error.strerror})") from error


def _stored(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is on disk.

    Of a model that carries nothing, no empty trees: checkpoints made before any did can be read.
    """
    stored = checkpoint._asdict() | {"state": checkpoint.state._asdict()}
    if not jax.tree.leaves(checkpoint.best_carried):
        del stored["best_carried"], stored["state"]["carried"]
    return stored


def save_checkpoint(saved: ocp.CheckpointManager, checkpoint: Checkpoint, folder: Path) -> None:
    """Saves a checkpoint; a `UserError` if it cannot be written."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)  # Orbax logs a traceback of every thread that fails
    try:
        done = saved.save(checkpoint.epoch, args=ocp.args.StandardSave(_stored(checkpoint)))
    except Exception as error:  # each storage layer below has its own
        processes.await_news()
        raise UserError(
            f"{folder}: the checkpoint of epoch {checkpoint.epoch} could not be written "
            f"({_brief(error)}); any before it is intact, so make room and go "
            "on with --resume"
        ) from error
    finally:
        log.setLevel(level)
    if not done:
        raise UserError(f"{folder}: holds a checkpoint of a later epoch than {checkpoint.epoch}")
    if processes.is_first():
        step = _step_folder(saved, checkpoint.epoch)
        write_json(step / CHECKSUMS, _checksums(step))


def resume_checkpoint(saved: ocp.CheckpointManager, start: Checkpoint) -> Checkpoint:
    """As `restore_checkpoint`; removes newer ones that cannot be read, to be written again."""
    checkpoint = restore_checkpoint(saved, start)
    for step in saved.all_steps():
        if step > checkpoint.epoch:
            saved.delete(step)
    return checkpoint


def restore_checkpoint(saved: ocp.CheckpointManager, start: Checkpoint) -> Checkpoint:
    """The newest checkpoint that can be read; ``start``, whose shapes it must have, if none is."""
    stored = _restore_newest(saved, ocp.args.StandardRestore(_stored(start)))
    if stored is None:
        return start
    state = start.state._replace(**stored.pop("state"))
    return start._replace(**stored, state=state)


def restore_best_params(folder: Path, params: Any) -> Any:
    """The parameters of a run's best epoch; of the shapes of ``params``, which it must have.

    Raises:
        UserError: there is no checkpoint, or not one of these parameters.
    """
    target = {"best_params": params}
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    with open_checkpoints(folder) as saved:
        stored = _restore_newest(
            saved,
            ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True),
        )
    if stored is None:
        raise UserError(
            f"{folder}: holds no checkpoint (results that are shared often do not); train the "
            "run again, in another folder"
        )
    return stored["best_params"]


def _restore_newest(saved: ocp.CheckpointManager, args: ocp.args.CheckpointArgs) -> Any:
    """What the newest checkpoint that can be read holds, or None if there is none.

    Raises:
        UserError: there are checkpoints, and none of them can be read.
    """
    reasons: list[str] = []
    for step in sorted(saved.all_steps(), reverse=True):
        try:
            _verify(_step_folder(saved, step))
            stored: Any = saved.restore(step, args=args)
        except Exception as error:  # each storage layer below has its own
            reasons.append(f"the checkpoint of epoch {step} cannot be read ({_brief(error)})")
            continue
        for reason in reasons:
            note = f"{saved.directory}: {reason}; that of epoch {step} is taken instead"
            if processes.is_first():
                print(note, file=sys.stderr)
        return stored
    if reasons:
        raise UserError(
            f"{saved.directory}: {'; '.join(reasons)}; expected one of this run, on the same data; "
            "to start over, remove the folder"
        )
    return None


def _step_folder(saved: ocp.CheckpointManager, epoch: int) -> Path:
    return Path(saved.directory) / str(epoch)


def _checksums(step: Path) -> dict[str, str]:
    """Of each file of a checkpoint; Orbax has some of its own, but none of arrays."""
    sums: dict[str, str] = {}
    for path in sorted(step.rglob("*")):
        if path.is_file() and path.name != CHECKSUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            sums[path.relative_to(step).as_posix()] = digest
    return sums


def _verify(step: Path) -> None:
    """A `UserError` that names a file of a checkpoint that is not as it was written.

    A checkpoint without checksums passes: it is older than they are, or its process was killed
    before it wrote them.
    """
    if not (step / CHECKSUMS).exists():
        return
    found = _checksums(step)
    for name, digest in read_json(step / CHECKSUMS).items():
        if found.get(name) != digest:
            raise UserError(f"{name} is {'damaged' if name in found else 'missing'}")


def _brief(error: Exception) -> str:
    """What is wrong, without the pages of TensorStore's context."""
    return textwrap.shorten(str(error).partition(" [")[0], 1000)


def read_records(path: Path, epoch: int) -> list[dict[str, Any]]:
    """The lines up to the epoch of the checkpoint; what came after it is computed again.

    Raises:
        UserError: the file cannot be read, or a line lacks a part.
    """
    if not path.exists():
        return []
    records = [_whole(record, ("epoch", "valid"), path) for record in read_lines(path)]
    return [record for record in records if record["epoch"] <= epoch]
