"""Evaluation: the ranks of the held-out items among all items, by counting.

A rank is one plus the number of other items that score at least as high as the held-out one; ties
count against it. Items that the model has read are excluded; held-out items never are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.data import Interactions
from experiments.inputs.batches import check_layout, mask_tokens, read_tokens
from experiments.inputs.corpus import Corpus
from experiments.inputs.mesh import DATA, MODEL, ONE_DEVICE, Placement
from experiments.inputs.packing import Layout, choose_groups, group_rows, layout, longer_of_blocks
from models import Backbone, Task

Split = Literal["valid", "test", "next"]
"""The split to evaluate. ``next`` holds out nothing: the model reads all items of a user."""
USERS_PER_BLOCK = 256
SCORES_PER_BLOCK = 2**25
"""The most users and scores of a block: 128 MiB of scores, however many items there are."""


class EvaluationSet(NamedTuple):
    """A split in blocks of users; each leaf has a leading axis of blocks.

    Attributes:
        rows: the input, as `packing.layout` or `packing.group_rows` returns it.
        last: ``int32[blocks, users]``, the cell of each user's newest token; for rows in groups,
            its row.
        targets: ``int32[blocks, users]``, the held-out items; 0 beyond the last user. If a user has
            several, ``int32[blocks, users, k]``, each item once; 0 where a user has fewer.
        seen_users: ``int32[blocks, seen]``, a user of the block for each excluded item.
        seen_items: ``int32[blocks, seen]``, the excluded items, filled up with 0.
    """

    rows: Layout
    last: Int[Array, "blocks users"]
    targets: Int[Array, "blocks users *k"]
    seen_users: Int[Array, "blocks seen"]
    seen_items: Int[Array, "blocks seen"]


def ranked_users(data: Interactions, split: Split) -> np.ndarray:
    """Returns the users that a split ranks items for, ``int[users]``: all with leave-one-out.

    They have a history and something held out. Those with the most held-out items come last.
    """
    if split == "next":
        return np.arange(data.num_users)
    begin, end = _held_out(data, split)
    users = np.flatnonzero((end > begin) & (begin > data.starts))
    return users[np.argsort((end - begin)[users], kind="stable")]


def _held_out(data: Interactions, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each user's held-out items begin and end."""
    train, valid, end = data.ends
    return {"valid": (train, valid), "test": (valid, end), "next": (end, end)}[split]


def held_out_items(data: Interactions, split: Split, users: np.ndarray) -> np.ndarray:
    """Returns the held-out items of users, ``int32[users]``; 0 if nothing is held out.

    If a user has several, they are ``int32[users, k]``, each item once; 0 where a user has fewer.
    """
    begin, end = (place[users] for place in _held_out(data, split))
    if split == "next":
        return np.zeros(users.size, np.int32)
    if (end - begin == 1).all():
        return data.items[begin]
    cells = begin[:, None] + np.arange((end - begin).max())
    inside = cells < end[:, None]
    items = -np.sort(-np.where(inside, data.items[np.where(inside, cells, 0)], 0), axis=1)
    items[:, 1:][items[:, 1:] == items[:, :-1]] = 0  # repeated ones
    return -np.sort(-items, axis=1)


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
    """Lays out users for a split. The model reads the items before the held-out ones.

    For the task ``masked``, the cell of a held-out item comes last: the mask will stand there.

    Args:
        data: the data set.
        split: the split.
        max_len: the longest input.
        task: the task of the model.
        packed: whether users share rows.
        grouped: whether rows come in groups, with one user in a row: for models that do not pack.
        users: ``int[users]``, the users in their order; `ranked_users` if ``None``.
    """
    users = ranked_users(data, split) if users is None else users
    held_out = held_out_items(data, split, users)
    rows, last, targets = _lay_out(
        data, split, max_len, users, held_out, task=task, packed=packed, grouped=grouped
    )
    blocks, users_per_block = targets.shape[:2]
    # Pairs of a user, by its place in `users`, and an item that the user's input holds, each once.
    place = np.full(data.num_users, -1)
    place[users] = np.arange(users.size)
    is_input = np.arange(data.items.size) < np.repeat(_held_out(data, split)[0], data.lengths)
    is_input &= place[data.owners] >= 0
    width = data.num_items + 1
    pairs = np.unique(place[data.owners[is_input]] * width + data.items[is_input])
    pairs = _without(
        pairs, np.arange(users.size)[:, None] * width + held_out.reshape(users.size, -1)
    )
    seen_users, seen_items = pairs // width, pairs % width
    # The pairs of each block, filled up to the same number.
    block = seen_users // users_per_block
    starts = np.searchsorted(block, np.arange(blocks + 1))
    seen = np.zeros((2, blocks, int(np.diff(starts).max())), np.int32)
    within = np.arange(seen_users.size) - starts[block]
    seen[:, block, within] = seen_users % users_per_block, seen_items
    arrays = (rows, last, targets, seen[0], seen[1])
    return EvaluationSet(*jax.tree.map(jnp.asarray, arrays))


def _without(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Drops ``others`` from sorted, distinct values."""
    if not values.size:
        return values
    place = np.minimum(np.searchsorted(values, others), values.size - 1)
    return np.delete(values, place[values[place] == others])


def _lay_out(
    data: Interactions,
    split: Split,
    max_len: int,
    users: np.ndarray,
    held_out: np.ndarray,
    *,
    task: Task,
    packed: bool,
    grouped: bool,
) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Makes the rows, the last cells and the targets of an `EvaluationSet`."""
    users_per_block = max(1, min(USERS_PER_BLOCK, SCORES_PER_BLOCK // data.num_items))
    starts = data.starts[users]
    ends = _held_out(data, split)[0][users] + (task == "masked")
    counts = np.minimum(ends - starts, 1 if task == "pair" else max_len)
    first = ends - counts
    if grouped:
        groups = choose_groups(longer_of_blocks(counts, users_per_block))
        rows, last = group_rows(first, counts, users_per_block, groups)
    else:
        rows, last = layout(first, counts, users_per_block, max_len, packed=packed)
    targets = np.zeros((last.size, *held_out.shape[1:]), np.int32)
    targets[: users.size] = held_out
    return rows, last, targets.reshape(*last.shape, *held_out.shape[1:])


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
    targets: Int[Array, " users *k"],
    seen_users: Int[Array, " seen"],
    seen_items: Int[Array, " seen"],
) -> Int[Array, " users *k"]:
    """Ranks the targets from 1, by counting; column ``j`` of ``scores`` is item ``j + 1``.

    ``(seen_users, seen_items)`` are distinct pairs of a user and an excluded item, which is never a
    target; the rest is filled up with item 0. Of several targets of a user, those of equal scores
    count against each other, and the rank of target 0 is 0; see `in_order`.
    """
    if targets.ndim == 2:
        used = (targets > 0).any(axis=0).sum()  # users of a block have about as many

        def rank(j: Any, ranks: Array) -> Array:
            return ranks.at[:, j].set(ranks_of(scores, targets[:, j], seen_users, seen_items))

        ranks = jax.lax.fori_loop(0, used, rank, jnp.zeros_like(targets))
        return jnp.where(targets > 0, ranks, 0)
    # `better` counts the target itself, so ranks begin at 1. It also counts excluded items, which
    # are subtracted at the end.
    # Scores that are at least `bar` count. With no held-out item (0) the ranks mean nothing.
    bar = jnp.take_along_axis(scores, jnp.maximum(targets - 1, 0)[:, None], axis=1)
    better = (scores >= bar).sum(axis=1)
    excluded = (scores[seen_users, seen_items - 1] >= bar[seen_users, 0]) & (seen_items > 0)
    return better - jax.ops.segment_sum(excluded.astype(better.dtype), seen_users, targets.size)


def without_seen(
    scores: Float[Array, "users items"],
    seen_users: Int[Array, " seen"],
    seen_items: Int[Array, " seen"],
) -> Float[Array, "users items"]:
    """Replaces the scores of excluded items, as `ranks_of` takes them, by -inf."""
    # Fill-up items get a column out of range: dropped.
    column = jnp.where(seen_items > 0, seen_items - 1, scores.shape[1])
    return scores.at[seen_users, column].set(-jnp.inf, mode="drop")


def make_evaluator(
    make_model: Callable[[Any], Backbone],
    max_len: int,
    placement: Placement = ONE_DEVICE,
    top_k: int = 0,
) -> Callable[..., tuple[Array, ...]]:
    """Compiles the evaluation of all users.

    Args:
        make_model: makes the model from the parameters that the evaluation is given.
        max_len: the longest input.
        placement: the devices. On a mesh the users of a block are split over ``data``, and the
            items that are scored for them over ``model``.
        top_k: the length of the lists to return, at most the number of items.

    Returns:
        A function of parameters, corpus and evaluation set. It returns the ranks, ``int32[users]``
        or ``int32[users, k]``, and whether all scores are finite, ``bool[]``; with ``top_k``, then
        the best items, ``int32[users, top_k]``, 0 where too few are left. What lies beyond the last
        user means nothing.
    """

    @jax.jit
    def evaluate(params: Any, corpus: Corpus, blocks: EvaluationSet) -> tuple[Array, ...]:
        model = make_model(params).prepared()

        def rank_block(block: EvaluationSet) -> tuple[Array, ...]:
            block = placement.split(block, DATA)
            scores = placement.split(score_block(model, corpus, block, max_len), DATA, MODEL)
            ranks = ranks_of(scores, block.targets, block.seen_users, block.seen_items)
            finite = jnp.isfinite(scores).all()
            if not top_k:
                return ranks, finite
            scores = without_seen(scores, block.seen_users, block.seen_items)
            best, items = jax.lax.top_k(scores, top_k)
            return ranks, finite, jnp.where(jnp.isneginf(best), 0, items + 1)

        ranks, finite, *lists = jax.lax.map(rank_block, blocks)
        flat = [a.reshape(-1, *a.shape[2:]) for a in (ranks, *lists)]
        return placement.split((flat[0], finite.all(), *flat[1:]))

    return evaluate
