"""Recommendations: the best items for users of a trained run's data, and for others."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from polars.io.plugins import register_io_source

from experiments.data import Interactions
from experiments.data.histories import match
from experiments.errors import ArgumentError
from experiments.evaluation import EvaluationSet, make_evaluation_set, score_block, without_seen
from experiments.files import replaced
from experiments.inputs.corpus import Corpus, make_corpus
from experiments.training.finished import Finished, load_run
from models import Backbone

USERS_AT_ONCE = 2**17
"""The users that are laid out together."""
STRANGERS_AT_ONCE = 2**12
"""The users without a known item in a block."""


class Recommender:
    """A trained run that recommends items, by the best checkpoint.

    Attributes:
        run: the run.
        data: its data.
        model: its model of the best epoch.
    """

    def __init__(self, finished: Finished) -> None:
        """Takes what `load` has read."""
        self.run, self.data, self._setup, checkpoint = finished
        best = checkpoint.best_params, checkpoint.best_carried
        self.model = nnx.merge(self._setup.graphdef, *best, self._setup.inputs.constants).prepared()

    @classmethod
    def load(
        cls,
        folder: Path | str,
        data_dir: Path | None = None,
        dataset: str | None = None,
        moved: Mapping[str, str] | None = None,
    ) -> Recommender:
        """Reads a run's folder, and its data.

        Args:
            folder: the run's folder.
            data_dir: the folder of the data set's file.
            dataset: the run's data set, if its file has moved.
            moved: the files of the settings ``teacher``, ``graph`` and ``categories`` that have
                moved, by the names of these settings.

        Raises:
            UserError: the folder holds no run or no checkpoint, or the data are not the run's.
        """
        return cls(load_run(Path(folder), data_dir, dataset, moved))

    def recommend(
        self,
        histories: Mapping[Any, Sequence[Any]] | Path | None = None,
        top_k: int = 10,
        *,
        users: Iterable[Any] | None = None,
        candidates: Iterable[Any] | None = None,
        include_seen: bool = False,
        report: Callable[[str], None] = warnings.warn,
    ) -> pl.DataFrame:
        """Finds the best items, for users of the data or for anyone.

        The model reads all items of a user of the data, validation and test items included. Users
        whose history has no item of the data get the items with the most training interactions,
        with a score of null.

        Args:
            histories: for each user the items in order of time, by the data set's own ids; or the
                path of a file that holds them, as data sets do. If ``None``, users of the data.
            top_k: items for each user; fewer where fewer are left.
            users: users of the data, by its own ids; all if ``None``.
            candidates: the only items to recommend, by the data set's own ids; all if ``None``.
            include_seen: whether to recommend items that the user has met.
            report: called with sentences on ids that the data lacks.

        Returns:
            Columns ``user``, ``rank`` from 1, ``item`` and ``score``.

        Raises:
            UserError: a user or every candidate is unknown, a file cannot be read, or the model
                knows the users alone that it was trained on.
        """
        return pl.concat(
            self.blocks(
                histories,
                top_k,
                users=users,
                candidates=candidates,
                include_seen=include_seen,
                report=report,
            )
        )

    def blocks(
        self,
        histories: Mapping[Any, Sequence[Any]] | Path | None = None,
        top_k: int = 10,
        *,
        users: Iterable[Any] | None = None,
        candidates: Iterable[Any] | None = None,
        include_seen: bool = False,
        report: Callable[[str], None] = warnings.warn,
        progress: Callable[[int, int], None] = lambda done, users: None,
    ) -> Generator[pl.DataFrame]:
        """Yields the same as `recommend`, a block of users at a time, which needs less memory.

        Arguments are checked at the call, and not only when the first block is asked for.
        ``progress`` is called after each block, with the users that are done and their number.
        """
        if top_k < 1:
            raise ArgumentError("top_k", f"must be at least 1, got {top_k}")
        allowed = np.ones(self.data.num_items, bool)
        if candidates is not None:
            allowed = find_candidates(self.data, candidates, report)
        if histories is None:
            data = self.data
            chosen = np.arange(data.num_users) if users is None else find_users(data, list(users))
        else:
            if users is not None:
                raise ArgumentError("users", "must be left out: the histories name the users")
            if self._setup.task == "pair":
                raise ArgumentError(
                    "history",
                    f"{self.run.model} has a vector for each user that it was trained on, and "
                    "none for others; take a model that reads items, such as sasrec",
                )
            data = self._matched(histories, report)
            chosen = np.arange(data.num_users)
        top_k = min(top_k, int(allowed.sum()))

        def frames() -> Generator[pl.DataFrame]:
            done = 0
            sated: list[Any] = []
            for names, items, scores in self._found(data, chosen, top_k, allowed, include_seen):
                done += names.size
                sated += names[np.isneginf(scores).all(axis=1)].tolist()
                yield self._frame(names, items, scores)
                progress(done, chosen.size)
            if sated:
                report(
                    "nothing is recommended to users who have met all items, or all candidates: "
                    f"{len(sated):,} ({_some(sated)})"
                )

        return frames()

    def _matched(
        self, histories: Mapping[Any, Sequence[Any]] | Path, report: Callable[[str], None]
    ) -> Interactions:
        data, unknown = match(histories, self.data)
        for line in data.notes:
            report(line)
        if unknown:
            report(
                f"histories: skipped {len(unknown):,} items that {self.data.name} lacks "
                f"({_some(unknown)})"
            )
        without = data.user_ids[data.lengths == 0].tolist()
        if without:
            report(
                f"histories: {len(without):,} users without a known item get the most popular "
                f"items ({_some(without)})"
            )
        return data

    def _found(
        self,
        data: Interactions,
        users: np.ndarray,
        top_k: int,
        allowed: np.ndarray,
        include_seen: bool,
    ) -> Generator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields users, the items ``[users, k]`` of each, counted from 0, and their scores."""
        setup, max_len = self._setup, self.run.settings.training.max_len
        corpus = setup.inputs.corpus
        if data is not self.data:
            corpus = make_corpus(data, draws_unseen=False)
        met = data.lengths[users] > 0
        for part in _parts(users[met], USERS_AT_ONCE):  # a layout of all users might be large
            blocks = make_evaluation_set(
                data,
                "next",
                max_len,
                task=setup.task,
                packed=setup.settings.training.packed,
                grouped=not setup.packs,
                users=part,
            )
            if include_seen:
                blocks = blocks._replace(seen_items=jnp.zeros_like(blocks.seen_items))
            for i, some in enumerate(_parts(part, blocks.last.shape[1])):
                block = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
                found = best_items(self.model, corpus, block, allowed, max_len, top_k)
                scores, items = (np.asarray(a)[: some.size] for a in found)
                yield data.user_ids[some], items, scores
        popular = np.argsort(np.where(allowed, -self.data.training_counts()[1:], 1), kind="stable")[
            :top_k
        ]
        for some in _parts(users[~met], STRANGERS_AT_ONCE):
            items = np.broadcast_to(popular, (some.size, top_k))
            yield data.user_ids[some], items, np.full(items.shape, np.nan)

    def _frame(self, users: np.ndarray, items: np.ndarray, scores: np.ndarray) -> pl.DataFrame:
        """Makes a frame of items ``[users, k]``, counted from 0; a score of -inf is none."""
        kept = ~np.isneginf(scores)  # a user may have fewer items left
        ranks = np.broadcast_to(np.arange(1, items.shape[1] + 1), kept.shape)
        columns = {
            "user": np.repeat(users, kept.sum(axis=1)).tolist(),
            "rank": ranks[kept],
            "item": self.data.item_ids[items[kept]].tolist(),
            "score": scores[kept],
        }
        # Polars could not infer the types from an empty block, of users who have met all items.
        types = {"user": type_of(users), "item": type_of(self.data.item_ids)}
        schema = {"rank": pl.Int32, "score": pl.Float32} | types
        frame = pl.DataFrame(columns, schema={name: schema[name] for name in columns})
        return frame.with_columns(pl.col("score").fill_nan(None))


def _some(ids: Sequence[Any]) -> str:
    return ", ".join(map(str, ids[:5])) + ", …" * (len(ids) > 5)


def _parts(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (values[begin : begin + size] for begin in range(0, values.size, size))


@functools.partial(jax.jit, static_argnames=("max_len", "top_k"))
def best_items(
    model: Backbone,
    corpus: Corpus,
    block: EvaluationSet,
    allowed: Bool[Array, " items"],
    max_len: int,
    top_k: int,
) -> tuple[Float[Array, "users k"], Int[Array, "users k"]]:
    """Finds the best items of a block's users, counted from 0; those of score -inf are none."""
    scores = jnp.where(allowed, score_block(model, corpus, block, max_len), -jnp.inf)
    return jax.lax.top_k(without_seen(scores, block.seen_users, block.seen_items), top_k)


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


def find_candidates(
    data: Interactions, candidates: Iterable[Any], report: Callable[[str], None]
) -> np.ndarray:
    """Marks candidates, ``bool[num_items]``, by the data set's own ids; reports unknown ones.

    Raises:
        UserError: none is known.
    """
    wanted = dict.fromkeys(str(item) for item in candidates)
    allowed = np.array([str(item) in wanted for item in data.item_ids.tolist()])
    unknown = len(wanted) - int(allowed.sum())
    if not allowed.any():
        some = ", ".join(list(wanted)[:3]) or "none"
        raise ArgumentError(
            "candidates",
            f"{data.name} has none of these items ({some}); expected ids such as "
            f"{', '.join(map(str, data.item_ids[:3].tolist()))}",
        )
    if unknown:
        report(f"candidates: skipped {unknown:,} items that {data.name} lacks")
    return allowed


def type_of(ids: np.ndarray) -> type[pl.DataType]:
    """Returns the type of a column of ids."""
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
    with written_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as draft:
            if out.suffix == ".parquet":
                stream.sink_parquet(draft)
            else:
                stream.sink_csv(draft)


@contextlib.contextmanager
def written_to(out: Path) -> Generator[None]:
    """Raises an `ArgumentError` where what is written to a file or folder cannot be."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:  # Polars has errors of its own for disks
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError("out", f"{out} cannot be written ({reason})") from error
