"""Leave-one-out evaluation: the held-out item's rank among all items, by counting.

A user's rank is one plus the number of other items that score at least as high as the held-out one;
ties count against it. Items that the model has read are excluded; the held-out item never is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.data import Interactions
from experiments.training.batches import check_layout, mask_tokens, read_tokens
from experiments.training.corpus import Corpus
from experiments.training.mesh import DATA, MODEL, ONE_DEVICE, Placement
from experiments.training.packing import Layout, choose_groups, group_rows, layout, longer_of_blocks
from models import Backbone, Task

Split = Literal["valid", "test", "next"]
"""The split to evaluate. ``next`` holds out nothing: the model reads all items of a user."""
USERS_PER_BLOCK = 256
SCORES_PER_BLOCK = 2**25
"""The most users and scores of a block: 128 MiB of scores, however many items there are."""
CUTOFFS = {"HR": (1, 5, 10), "NDCG": (5, 10)}
CRITERION = "NDCG@10"
"""The metric on validation that chooses the best epoch."""


class EvaluationSet(NamedTuple):
    """A split in blocks of users; each leaf has a leading axis of blocks.

    Attributes:
        rows: the input, as `packing.layout` or `packing.group_rows` returns it.
        last: ``int32[blocks, users]``, the cell of each user's newest token; for rows in groups,
            its row.
        targets: ``int32[blocks, users]``, the held-out items; 0 beyond the last user.
        seen_users: ``int32[blocks, seen]``, a user of the block for each excluded item.
        seen_items: ``int32[blocks, seen]``, the excluded items, filled up with 0.
    """

    rows: Layout
    last: Int[Array, "blocks users"]
    targets: Int[Array, "blocks users"]
    seen_users: Int[Array, "blocks seen"]
    seen_items: Int[Array, "blocks seen"]


def held_out(split: Split) -> int:
    """Returns the place of the held-out item, counted from the end of a user's items."""
    return {"valid": 2, "test": 1, "next": 0}[split]


def make_evaluation_set(
    data: Interactions,
    split: Split,
    max_len: int,
    *,
    task: Task = "next",
    packed: bool = True,
    grouped: bool = False,
    users: np.ndarray | None = None,
) -> EvaluationSet:
    """Lays out users for a split. The model reads the items before the held-out one.

    For the task ``masked``, the cell of the held-out item comes last: the mask will stand there.

    Args:
        data: the data set.
        split: the split.
        max_len: the longest input.
        task: the task of the model.
        packed: whether users share rows.
        grouped: whether rows come in groups, with one user in a row: for models that do not pack.
        users: ``int[users]``, the users in their order; all if ``None``.
    """
    users = np.arange(data.num_users) if users is None else users
    held_out_items = _held_out_items(data, split)[users]
    rows, last, targets = _lay_out(
        data, split, max_len, users, held_out_items, task=task, packed=packed, grouped=grouped
    )
    blocks, users_per_block = targets.shape
    # Pairs of a user, by its place in `users`, and an item that the user's input holds, each once.
    place = np.full(data.num_users, -1)
    place[users] = np.arange(users.size)
    stops = data.starts + data.lengths - held_out(split)
    is_input = np.arange(data.items.size) < np.repeat(stops, data.lengths)
    is_input &= place[data.owners] >= 0
    width = data.num_items + 1
    pairs = np.unique(place[data.owners[is_input]] * width + data.items[is_input])
    seen_users, seen_items = pairs // width, pairs % width
    kept = seen_items != held_out_items[seen_users]
    seen_users, seen_items = seen_users[kept], seen_items[kept]
    # The pairs of each block, filled up to the same number.
    block = seen_users // users_per_block
    starts = np.searchsorted(block, np.arange(blocks + 1))
    seen = np.zeros((2, blocks, int(np.diff(starts).max())), np.int32)
    within = np.arange(seen_users.size) - starts[block]
    seen[:, block, within] = seen_users % users_per_block, seen_items
    arrays = (rows, last, targets, seen[0], seen[1])
    return EvaluationSet(*jax.tree.map(jnp.asarray, arrays))


def _held_out_items(data: Interactions, split: Split) -> np.ndarray:
    """Returns the held-out items, ``int32[users]``; 0 if nothing is held out."""
    if split == "next":
        return np.zeros(data.num_users, np.int32)
    return data.items_before_end(held_out(split))


def _lay_out(
    data: Interactions,
    split: Split,
    max_len: int,
    users: np.ndarray,
    held_out_items: np.ndarray,
    *,
    task: Task,
    packed: bool,
    grouped: bool,
) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Makes the rows, the last cells and the targets of an `EvaluationSet`."""
    users_per_block = max(1, min(USERS_PER_BLOCK, SCORES_PER_BLOCK // data.num_items))
    ends = data.starts[users] + data.lengths[users] - held_out(split) + (task == "masked")
    counts = np.minimum(ends - data.starts[users], 1 if task == "pair" else max_len)
    first = ends - counts
    if grouped:
        groups = choose_groups(longer_of_blocks(counts, users_per_block))
        rows, last = group_rows(first, counts, users_per_block, groups)
    else:
        rows, last = layout(first, counts, users_per_block, max_len, packed=packed)
    targets = np.zeros(last.shape, np.int32)
    targets.flat[: users.size] = held_out_items
    return rows, last, targets


def score_block(
    model: Backbone, corpus: Corpus, block: EvaluationSet, max_len: int
) -> Float[Array, "users items"]:
    """Scores the items ``1 … num_items`` for the users of one block.

    Raises:
        ValueError: as `check_layout`.
    """
    check_layout(model, block.rows)
    tokens = read_tokens(model.task, corpus, block.rows, max_len)
    if model.task == "masked" and not isinstance(block.rows, list):
        tokens = mask_tokens(tokens, block.rows.cells == block.rows.ends, corpus)
    hidden = model(*tokens)
    return model.scores(hidden.reshape(-1, hidden.shape[-1])[block.last])


def ranks_of(
    scores: Float[Array, "users items"],
    targets: Int[Array, " users"],
    seen_users: Int[Array, " seen"],
    seen_items: Int[Array, " seen"],
) -> Int[Array, " users"]:
    """Ranks the targets from 1, by counting; column ``j`` of ``scores`` is item ``j + 1``.

    ``(seen_users, seen_items)`` are distinct pairs of a user and an excluded item, which is never
    the target; the rest is filled up with item 0.
    """
    # `better` counts the target itself, so ranks begin at 1. It also counts excluded items, which
    # are subtracted at the end.
    # Scores that are at least `bar` count. With no held-out item (0) the ranks mean nothing.
    bar = jnp.take_along_axis(scores, jnp.maximum(targets - 1, 0)[:, None], axis=1)
    better = (scores >= bar).sum(axis=1)
    excluded = (scores[seen_users, seen_items - 1] >= bar[seen_users, 0]) & (seen_items > 0)
    return better - jax.ops.segment_sum(excluded.astype(better.dtype), seen_users, targets.size)


def make_evaluator(
    make_model: Callable[[Any], Backbone], max_len: int, placement: Placement = ONE_DEVICE
) -> Callable[..., tuple[Int[Array, " users"], Bool[Array, ""]]]:
    """Compiles the evaluation of all users.

    Args:
        make_model: makes the model from the parameters that the evaluation is given.
        max_len: the longest input.
        placement: the devices. On a mesh the users of a block are split over ``data``, and the
            items that are scored for them over ``model``.

    Returns:
        A function of parameters, corpus and evaluation set. It returns the ranks, and whether all
        scores are finite. Ranks beyond the last user mean nothing.
    """

    @jax.jit
    def evaluate(
        params: Any, corpus: Corpus, blocks: EvaluationSet
    ) -> tuple[Int[Array, " users"], Bool[Array, ""]]:
        model = make_model(params).prepared()

        def rank_block(block: EvaluationSet) -> tuple[Array, Array]:
            block = placement.split(block, DATA)
            scores = placement.split(score_block(model, corpus, block, max_len), DATA, MODEL)
            ranks = ranks_of(scores, block.targets, block.seen_users, block.seen_items)
            return ranks, jnp.isfinite(scores).all()

        ranks, finite = jax.lax.map(rank_block, blocks)
        return placement.split((ranks.reshape(-1), finite.all()))

    return evaluate


def metrics_of(ranks: np.ndarray) -> dict[str, float]:
    """Averages HR@K and NDCG@K over users, each with one relevant item.

    Args:
        ranks: ``int[users]``, from 1.

    Examples:
        >>> import numpy as np
        >>> from experiments.evaluation import metrics_of
        >>> metrics_of(np.array([1, 7, 12, 3]))["HR@10"]
        0.75
    """
    ranks = np.asarray(ranks, np.float64)
    gains = 1 / np.log2(ranks + 1)  # one relevant item: the ideal gain is 1
    hits = {f"HR@{k}": float(np.mean(ranks <= k)) for k in CUTOFFS["HR"]}
    return hits | {f"NDCG@{k}": float(np.mean(gains * (ranks <= k))) for k in CUTOFFS["NDCG"]}


def by_popularity(ranks: np.ndarray, data: Interactions) -> dict[str, list[Any]]:
    """Computes HR@10 and NDCG@10 of the test for five groups of users, by their item's popularity.

    Users are sorted by the training interactions of their test item and cut into fifths, the least
    popular first. Users with equally popular items stay in one group, so groups differ in size.

    Args:
        ranks: ``int[users]``, the ranks of the test items, from 1.
        data: the data set.

    Returns:
        Five values each: the ``users`` of a group, the ``most_interactions`` of an item in it, and
        the metrics, ``None`` if the group is empty.
    """
    popularity = data.training_counts()[data.items_before_end(1)]
    # The four bounds are popularities that occur, so that equal ones fall on the same side.
    bounds = np.quantile(popularity, np.arange(1, 5) / 5, method="lower")
    group = np.searchsorted(bounds, popularity)
    groups: dict[str, list[Any]] = {
        "users": np.bincount(group, minlength=5).tolist(),
        "most_interactions": [*map(int, bounds), int(popularity.max())],
        "HR@10": [],
        "NDCG@10": [],
    }
    for g in range(5):
        metrics = metrics_of(ranks[group == g]) if (group == g).any() else {}
        for name in ("HR@10", "NDCG@10"):
            groups[name].append(metrics.get(name))
    return groups
