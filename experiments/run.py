"""A run: its settings, its name, its folder and the files in the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import ArgumentError, UserError
from experiments.files import read_json, read_lines, write_json
from experiments.settings import Settings, is_file
from experiments.settings.published import MODELS, published, reads_graph

if TYPE_CHECKING:  # commands read their options, and name runs, before anything large is imported
    from experiments.data import Interactions


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that determines a run's result; ``config.json`` holds it."""

    model: str
    dataset: str
    optimizer: str
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.model}-{self.optimizer}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Returns a flat mapping of names to values."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        flat = own | self.settings.flat()
        # JSON has lists alone, and what is read back is compared with this.
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()}
        return {k: v for k, v in listed.items() if k != "settings"}

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Run:
        """Reads what `to_json` made; further names, such as those of ``config.json``, may be there.

        Raises:
            UserError: a name is missing.
        """
        own = tuple(f.name for f in dataclasses.fields(cls) if f.name != "settings")
        _require(config, own, "config.json")
        settings = Settings(MODELS[config["model"]].settings())
        _require(config, tuple(settings.flat()), "config.json")
        held = {name: config[name] for name in settings.flat()}
        settings = settings.replace(**held | {"cutoffs": tuple(held["cutoffs"])})
        return cls(**{name: config[name] for name in own}, settings=settings)


def make_run(model: str, dataset: str, optimizer: str, seed: int = 0, **values: Any) -> Run:
    """Makes a run with the published settings; ``values`` replaces some, by their flat names.

    Examples:
        >>> make_run("sasrec", "beauty", "adamw", beta=0.5).settings.optimizer.beta
        0.5
    """
    kinds = {name: values[name] for name in _USUAL if name in values}
    settings = published(model, dataset, optimizer, **kinds).replace(**values)
    return Run(model, dataset, optimizer, seed, settings)


_USUAL = {"distill": "none", "graph": "item-item", "recipe": "published"}


def changes(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings in a run's ``config.json`` that differ from the published ones.

    A kind of graph, a method of distillation and a recipe count as changes; the settings that they
    bring do not.
    """
    if config["model"] not in MODELS:  # a model of the user's own, which is not registered here
        return {}
    kinds = {name: config.get(name, usual) for name, usual in _USUAL.items()}
    base = published(config["model"], config["dataset"], config["optimizer"], **kinds).flat()
    del base["teacher"], base["cutoffs"]  # a place, and what is reported
    own = {name: kind for name, kind in kinds.items() if kind != _USUAL[name]}
    return own | {k: config[k] for k, v in base.items() if config.get(k, v) != v}


def folder_name(run: Run) -> str:
    """Returns the name of a run's folder: model, optimiser, changed settings and seed.

    Epochs are left out: a run that goes on for more epochs stays in its folder. Slashes of paths
    become underscores, so that the name is one folder.

    Examples:
        >>> folder_name(make_run("sasrec", "beauty", "adamw", 3, beta=0.5, epochs=60))
        'sasrec-adamw-beta=0.5-seed3'
    """
    changed = changes(run.to_json())
    words = [f"{name}={value}" for name, value in changed.items() if name != "epochs"]
    return "-".join([run.model, run.optimizer, *words, f"seed{run.seed}"]).replace("/", "_")


IDS_APART = "ids.txt"
"""An entry of a graph's file; if it is there, the ids of the nodes are in another file."""


def graph_files(path: Path) -> list[Path]:
    """Returns the files that `experiments.build_graph` wrote: the graph, and its items if any."""
    items = path.with_suffix(".items.parquet")
    return [path, items] if items.exists() else [path]


FILES = "files"
"""The key in ``config.json`` of the checksums of the files that a run reads."""


def files_of(run: Run) -> dict[str, list[Path]]:
    """Lists the files that a run reads, by the names of their settings.

    Another run is recognised by its ``result.json``: it holds seconds, so no two runs write the
    same.
    """
    settings = run.settings
    paths: dict[str, list[Path]] = {}
    smooths = reads_graph(run.optimizer, settings.flat())
    if smooths and settings.graph.categories:
        paths["categories"] = [Path(settings.graph.categories)]
    if smooths and is_file(settings.graph.kind):
        paths["graph"] = graph_files(Path(settings.graph.kind))
    if settings.distillation.teacher and (smooths or settings.distillation.method != "none"):
        paths["teacher"] = [Path(settings.distillation.teacher, "result.json")]
    if settings.training.start:
        paths["start"] = [Path(settings.training.start, "result.json")]
    return paths


def checksums_of(run: Run) -> dict[str, str]:
    """Computes checksums of those of `files_of` that are there, by the names of the settings."""
    files = files_of(run).items()
    return {name: checksum(own) for name, own in files if all(path.exists() for path in own)}


def checksum(files: Iterable[Path]) -> str:
    """Computes a checksum of files.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()[:16]


def check_files(run: Run, held: dict[str, Any], folder: Path) -> None:
    """Raises an `ArgumentError` unless the files that a run reads are those in ``config.json``."""
    found, wanted = checksums_of(run), held.get(FILES, {})
    # The run that another began from is needed no more.
    for name in sorted((files_of(run).keys() & wanted.keys()) - {"start"}):
        place = run.settings.flat()[name]
        if name not in found:
            raise ArgumentError(
                name,
                f"{folder} was trained with {place}, and {Path.cwd()} has no such file; say where "
                "it is now",
            )
        if found[name] != wanted[name]:
            raise ArgumentError(
                name,
                f"{folder} was trained with {place}, which has changed since; say where the run's "
                "is now",
            )


def differences(held: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Lists the differences between the ``config.json`` of a folder and the one it should have.

    Data and files are compared by their content; their paths may differ.
    """
    from experiments.data import NAMES  # takes long to import

    held = dict(held)
    # A path that changed is no difference if the content is the same.
    held_files, wanted_files = held.pop(FILES, {}), wanted.get(FILES, {})
    names = (held.keys() | wanted.keys()) - {FILES}
    if not reads_graph(wanted["optimizer"], wanted):
        names -= {"graph", "categories"}
    sets = {held.get("dataset"), wanted.get("dataset")}
    if "data" in held and held["data"] == wanted.get("data") and not sets & set(NAMES):
        names -= {"dataset"}
    both = held_files.keys() & wanted_files.keys()
    names -= {name for name in both if held_files[name] == wanted_files[name]}
    # The opposite case: the same path, but other content.
    others = [name for name in sorted(both & names) if held.get(name) == wanted.get(name)]
    changed = [name for name in sorted(names) if held.get(name) != wanted.get(name)]
    return [
        "the interactions are others"
        if name == "data"
        else f"{name} was {held.get(name)!r} and is now {wanted.get(name)!r}"
        for name in changed
    ] + [f"{name} was another {wanted[name]}" for name in others]


def _config(run: Run, data: Interactions) -> dict[str, Any]:
    """Makes the content of ``config.json``: the run, and checksums of its data and files."""
    files = checksums_of(run)
    return run.to_json() | {"data": data.fingerprint} | ({FILES: files} if files else {})


def check_folder(run: Run, data: Interactions, folder: Path, resume: bool) -> dict[str, Any] | None:
    """Checks that a run can be trained in a folder; returns its result if it is finished.

    A run may go on for more epochs, unless a schedule of it spans all of them. If it was finished,
    its last epoch was validated even if ``eval_every`` does not divide it. That record stays, and
    the epoch may be the best: this alone differs from a run that had all epochs from the start.

    Raises:
        UserError: the folder holds another run, or it holds this run and ``resume`` is not set; or
            the run cannot go on for more epochs.
    """
    config_file, result_file = folder / "config.json", folder / "result.json"
    try:
        exists = config_file.exists()
        leftover = not exists and any((folder / "checkpoints").glob("*"))
    except OSError as error:
        raise ArgumentError("out", f"{folder} cannot be used ({error.strerror})") from error
    if leftover:
        raise ArgumentError("out", f"{folder} holds checkpoints but no config.json; name another")
    if not exists:
        return None
    if not resume:
        raise ArgumentError("out", f"{folder} already holds a run; resume it, or name another")
    held, wanted = read_json(config_file), _config(run, data)
    before, epochs = held.get("epochs"), run.settings.training.epochs
    longer = isinstance(before, int) and before < epochs
    changed = differences(held | ({"epochs": epochs} if longer else {}), wanted)
    if changed:
        raise ArgumentError("resume", f"{folder} holds a run in which {'; '.join(changed)}")
    # Without checkpoints it begins anew.
    if longer and _spans_all_epochs(run.settings) and any((folder / "checkpoints").glob("*")):
        raise ArgumentError(
            "epochs",
            f"{folder} holds a run of {before} epochs, over which the groups of htd harden; train "
            f"{epochs} anew, in another folder",
        )
    result = read_result(result_file) if result_file.exists() else None
    return result if result and result["epochs"] == epochs else None


def _spans_all_epochs(settings: Settings) -> bool:
    """Tells whether a schedule of a run depends on the number of its epochs."""
    return settings.distillation.method == "htd"


def read_result(path: Path) -> dict[str, Any]:
    """Reads a run's ``result.json``.

    Raises:
        UserError: the file cannot be read, or lacks a part.
    """
    return _require(read_json(path), ("epochs", "test"), path)


def _require(content: dict[str, Any], names: tuple[str, ...], where: Path | str) -> dict[str, Any]:
    lacking = [name for name in names if name not in content]
    if lacking:
        raise UserError(f"{where}: lacks {', '.join(lacking)}; it was changed, or not written here")
    return content


@contextlib.contextmanager
def lock_folder(folder: Path) -> Generator[None]:
    """Makes the folder, and keeps other processes from training in it.

    The kernel releases the lock when the process ends, even if it is killed. On a network file
    system the lock may hold for one machine alone, or not at all.

    Raises:
        UserError: the folder cannot be used, or is in use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ArgumentError("out", f"{folder} cannot be used ({error.strerror})") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 20).decode(errors="replace")
            raise ArgumentError(
                "out",
                f"{folder} is in use by process {holder or 'unknown'}; wait until it has "
                "ended, or name another",
            ) from error
        except OSError:
            pass  # this file system has no locks
        with contextlib.suppress(OSError):  # the holder's number, for the message above
            os.truncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)


def claim_folder(run: Run, data: Interactions, folder: Path) -> None:
    """Makes the folder if it is missing, and writes the run's ``config.json`` into it."""
    folder.mkdir(parents=True, exist_ok=True)
    if data.renumbered:
        write_json(folder / "item_ids.json", data.item_ids.tolist())
    write_json(folder / "config.json", _config(run, data))


def read_records(path: Path, epoch: int) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl`` up to the epoch of the checkpoint; later epochs are computed again.

    Raises:
        UserError: the file cannot be read, or a line lacks a part.
    """
    if not path.exists():
        return []
    records = [_require(record, ("epoch", "valid"), path) for record in read_lines(path)]
    return [record for record in records if record["epoch"] <= epoch]
