"""Recommendations: the best items for users, by a trained run."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from flax import nnx
from jaxtyping import Array, Float, Int
from polars.io.plugins import register_io_source

from experiments.data import NAMES, Interactions, find_path, load
from experiments.errors import ArgumentError, UserError, check_name
from experiments.evaluation import EvaluationSet, make_evaluation_set, score_block
from experiments.files import read_json, replaced
from experiments.run import Run, check_files, settings_of
from experiments.settings import OPTIMIZERS, is_file
from experiments.training.backbones import BUILDERS
from experiments.training.checkpoints import open_checkpoints, restore_checkpoint
from experiments.training.corpus import Corpus
from experiments.training.prepare import initial_checkpoint, make_setup, used_users
from models import Backbone


def recommend(
    folder: Path | str,
    users: Iterable[Any] | None = None,
    top_k: int = 10,
    data_dir: Path | None = None,
    dataset: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Finds the best items that users have not met, by the best checkpoint of a run.

    The model reads all items of a user, validation and test items included.

    Args:
        folder: the run's folder.
        users: the data set's own ids of users; all users if ``None``.
        top_k: items for each user; a user who has met almost all items gets fewer.
        data_dir: the folder of the data set's file.
        dataset: the run's data set, if its file has moved.
        moved: the files of the settings ``teacher``, ``graph`` and ``categories`` that have moved,
            by the names of these settings.

    Returns:
        Columns ``user`` and ``item``, with the data set's own ids, ``rank`` from 1 and ``score``.

    Raises:
        UserError: the folder holds no run or no checkpoint, the data are not the run's, or a user
            is unknown.
    """
    return pl.concat(recommendations(folder, users, top_k, data_dir, dataset, moved))


def recommendations(
    folder: Path | str,
    users: Iterable[Any] | None = None,
    top_k: int = 10,
    data_dir: Path | None = None,
    dataset: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> Generator[pl.DataFrame]:
    """Yields the same as `recommend`, a block of users at a time, which needs less memory.

    Arguments are checked at the call, and not only when the first block is asked for.
    """
    folder = Path(folder)
    if top_k < 1:
        raise ArgumentError("top_k", f"must be at least 1, got {top_k}")
    run, data = read_run(folder, data_dir, dataset, moved)
    chosen = np.arange(data.num_users) if users is None else find_users(data, list(users))
    return _recommendations(folder, run, data, chosen, min(top_k, data.num_items))


def read_run(
    folder: Path,
    data_dir: Path | None = None,
    dataset: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> tuple[Run, Interactions]:
    """Reads a run and its data; the arguments are those of `recommend`.

    Raises:
        UserError: the folder holds no run or no checkpoint, or the run's data or another of its
            files are missing or have changed.
    """
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{folder}: holds no config.json; expected the folder of a run")
    if not any((folder / "checkpoints").glob("*")):
        raise UserError(
            f"{folder}: holds no checkpoint (results that are shared often do not); train the run "
            "again, in another folder"
        )
    held = read_json(file)
    lacking = [
        name for name in ("model", "dataset", "optimizer", "seed", "data") if name not in held
    ]
    if lacking:
        raise UserError(f"{file}: is no run's configuration; it lacks {', '.join(lacking)}")
    check_name("model", held["model"], BUILDERS)
    check_name("optimizer", held["optimizer"], OPTIMIZERS)
    for name in moved or {}:
        kept = held[name]
        if not kept or (name == "graph" and not is_file(kept)):
            raise ArgumentError(
                name, f"{folder} was trained with {kept or 'none'}, which is no file; leave it out"
            )
    settings = settings_of(held).replace(**(moved or {}))
    run = Run(held["model"], held["dataset"], held["optimizer"], held["seed"], settings)
    run.settings.check()
    place = dataset or run.dataset
    if place not in NAMES and not find_path(place, data_dir).exists():
        raise ArgumentError(
            "dataset",
            f"{folder} was trained on {place}, and {Path.cwd()} has no such file; say where it is "
            "now, or name its folder as the data_dir",
        )
    data = load(place, data_dir)
    if data.fingerprint != held["data"]:
        raise ArgumentError(
            "dataset",
            f"{folder} was trained on other data than {place} now holds (fingerprint "
            f"{held['data']}, found {data.fingerprint}); say where the run's are now",
        )
    check_files(run.settings, held, folder)
    return run, used_users(run, data)


def find_users(data: Interactions, users: Sequence[Any]) -> np.ndarray:
    """Finds the rows of users, ``int[users]``, by the data set's own ids.

    Raises:
        UserError: a user is unknown or named twice.
    """
    rows = {str(user): row for row, user in enumerate(data.user_ids.tolist())}
    names = [str(user) for user in users]
    unknown = [name for name in names if name not in rows]
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise ArgumentError(
            "users",
            f"the run knows no user {', '.join(unknown[:10])}{more}; expected ids of "
            f"{data.name}, such as {', '.join(list(rows)[:3])}",
        )
    if not names or len(set(names)) < len(names):
        raise ArgumentError("users", "expected one or more different ids")
    return np.array([rows[name] for name in names])


def _recommendations(
    folder: Path, run: Run, data: Interactions, users: np.ndarray, top_k: int
) -> Generator[pl.DataFrame]:
    setup = make_setup(run, data)
    with open_checkpoints(folder) as saved:
        checkpoint = restore_checkpoint(saved, initial_checkpoint(run, setup, data))
    if checkpoint.best_epoch == 0:
        raise UserError(f"{folder}: was interrupted before its first validation; resume it first")
    params = checkpoint.best_params, checkpoint.best_carried, setup.inputs.constants
    max_len = run.settings.training.max_len

    @jax.jit
    def best(
        model: Backbone, corpus: Corpus, block: EvaluationSet
    ) -> tuple[Float[Array, "users k"], Int[Array, "users k"]]:
        scores = score_block(model, corpus, block, max_len)
        # Scores of seen items become -inf. Fill-up items get a column out of range: dropped.
        column = jnp.where(block.seen_items > 0, block.seen_items - 1, data.num_items)
        scores = scores.at[block.seen_users, column].set(-jnp.inf, mode="drop")
        return jax.lax.top_k(scores, top_k)

    blocks = make_evaluation_set(
        data,
        "next",
        max_len,
        task=setup.task,
        packed=setup.settings.training.packed,
        grouped=not setup.packs,
        users=users,
    )
    model = nnx.merge(setup.graphdef, *params).prepared()
    per_block = blocks.last.shape[1]
    for i, begin in enumerate(range(0, users.size, per_block)):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
        some = users[begin : begin + per_block]
        scores, items = (
            np.asarray(a)[: some.size] for a in best(model, setup.inputs.corpus, block)
        )
        kept = np.isfinite(scores)  # a user may have fewer unseen items
        yield pl.DataFrame(
            {
                "user": np.repeat(data.user_ids[some], kept.sum(axis=1)).tolist(),
                "rank": np.broadcast_to(np.arange(1, top_k + 1), kept.shape)[kept],
                "item": data.item_ids[items[kept]].tolist(),
                "score": scores[kept],
            },
            # Polars could not infer the types from an empty block, of users who have met all items.
            schema={
                "user": _type_of(data.user_ids),
                "rank": pl.Int32,
                "item": _type_of(data.item_ids),
                "score": pl.Float32,
            },
        )


def _type_of(ids: np.ndarray) -> type[pl.DataType]:
    if ids.dtype == np.uint64:  # some ids may be 2^63 or more
        return pl.UInt64
    return pl.Int64 if np.issubdtype(ids.dtype, np.integer) else pl.String


def write(frames: Iterable[pl.DataFrame], out: Path) -> None:
    """Streams recommendations into a file, whole or not at all.

    Raises:
        UserError: neither .parquet nor .csv, or the file cannot be written.
    """
    frames = iter(frames)
    first = next(frames)

    def source(
        with_columns: list[str] | None, predicate: Any, n_rows: int | None, batch_size: int | None
    ) -> Generator[pl.DataFrame]:
        yield first
        yield from frames

    # Polars streams from a source, so that only one block is in memory.
    stream = register_io_source(source, schema=first.schema)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as draft:
            if out.suffix == ".parquet":
                stream.sink_parquet(draft)
            else:
                stream.sink_csv(draft)
    except (OSError, pl.exceptions.PolarsError) as error:  # Polars has errors of its own for disks
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError("out", f"{out} cannot be written ({reason})") from error
