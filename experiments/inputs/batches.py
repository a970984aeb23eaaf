"""Batches on the device: from rows of a layout to items, targets and negatives.

The whole data set lives on the device, or on every device of a mesh. Only the layout of an epoch is
sent there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from experiments.inputs.corpus import Corpus, Unseen
from experiments.inputs.packing import EMPTY, Layout, Rows
from experiments.settings import TrainingSettings
from models import Backbone, Task


class Tokens(NamedTuple):
    """The input of a model: ``int32[rows, width]`` each, 0 where a cell is empty.

    For rows in groups, each field is a tuple of such arrays, one for each group.
    """

    items: Int[Array, "rows width"]
    segments: Int[Array, "rows width"]
    positions: Int[Array, "rows width"]


class Batch(NamedTuple):
    """The data of a training step: the model's input and its targets.

    For rows in groups, targets exist at the newest token of each row alone: ``width`` is then 1 in
    all fields but ``tokens``.

    Attributes:
        tokens: the input.
        positives: ``int32[rows, width]``, the item to predict at each token.
        negatives: ``int32[rows, width, k]``, items that the user has not met, or any items; or
            ``int32[k]``, any items, shared by all tokens.
        real: ``bool[rows, width]``, where there is something to predict.
    """

    tokens: Tokens
    positives: Int[Array, "rows width"]
    negatives: Int[Array, ...]
    real: Bool[Array, "rows width"]

    def first_rows(self, rows: int) -> Batch:
        """Returns the batch of the first ``rows`` rows."""
        if rows == self.real.shape[0]:
            return self
        shared = self.negatives.ndim == 1
        return Batch(
            Tokens(*(t[:rows] for t in self.tokens)),
            self.positives[:rows],
            self.negatives if shared else self.negatives[:rows],
            self.real[:rows],
        )


def read_tokens(task: Task, corpus: Corpus, rows: Layout, max_len: int) -> Tokens:
    """Looks up the tokens of a batch of rows; masks none.

    Args:
        task: for ``pair`` a token is a user, otherwise an item.
        corpus: the data.
        rows: the layout.
        max_len: the newest token of a sequence gets position ``max_len - 1``, older ones count down
            from it.
    """
    if isinstance(rows, list):
        groups: Any = zip(*(read_tokens(task, corpus, r, max_len) for r in rows), strict=True)
        return Tokens(*groups)
    cells, ends = rows
    real = cells != EMPTY
    values = corpus.owners if task == "pair" else corpus.items
    return Tokens(
        items=jnp.where(real, values[cells], 0),
        segments=jnp.where(real, ends + 1, 0),  # no two sequences of a row end alike
        positions=jnp.where(real, max_len - 1 - (ends - cells), 0),
    )


def check_layout(model: Backbone, rows: Layout) -> None:
    """Raises a `ValueError` unless the rows are of the kind that the model reads.

    Without this check, outputs would silently be taken for those of other tokens.
    """
    grouped = isinstance(rows, list)
    if grouped == model.packs:
        raise ValueError(
            f"rows must be in groups for a model that does not pack, and only for it; got packs = "
            f"{model.packs} and rows {'in groups' if grouped else 'of one width'}"
        )
    if grouped and model.task == "masked":
        raise ValueError(
            "a model for the task masked must pack: in groups, only the newest items are predicted"
        )


def newest(groups: list[Rows]) -> Rows:
    """Returns the last cell of each row, ``int32[rows, 1]``, one group after the other."""
    last = [jax.tree.map(lambda a: a[:, -1:], group) for group in groups]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *last)


def make_batch(
    task: Task,
    training: TrainingSettings,
    corpus: Corpus,
    rows: Layout,
    key: PRNGKeyArray,
    mask_rate: float = 0.5,
) -> Batch:
    """Looks up a training batch; draws its negatives and, for the task ``masked``, its mask.

    Args:
        task: the training task; see `models.Task`.
        training: the settings of the run.
        corpus: the data.
        rows: the layout; in groups, only the last token of each row predicts.
        key: random key of the draws.
        mask_rate: the share of the tokens to mask, for the task ``masked``.
    """
    tokens = read_tokens(task, corpus, rows, training.max_len)
    cells, ends = newest(rows) if isinstance(rows, list) else rows  # the cells that predict
    real, ahead = cells != EMPTY, 1  # the target of a cell is the item one place ahead
    if task == "prefix":
        real &= cells == ends  # only the end of a prefix predicts
    elif task == "pair":
        ahead = 0
    elif task == "masked":
        ahead = 0
        mask_key, key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
        real &= jax.random.bernoulli(mask_key, mask_rate, cells.shape)
        tokens = mask_tokens(tokens, real, corpus)
    positives = jnp.where(real, corpus.items[cells + ahead], 0)
    shape = (*cells.shape, training.num_negatives)
    if training.loss == "sampled-softmax":
        shape = shape if training.own_negatives else shape[-1:]
        if training.popular_negatives:
            negatives = sample_popular(corpus.up_to, shape, key)
        else:
            negatives = jax.random.randint(key, shape, 1, corpus.num_items + 1)
    else:
        owners = jnp.broadcast_to(corpus.owners[cells][..., None], shape)
        negatives = sample_negatives(corpus.unseen, owners, key)
    return Batch(tokens, positives, negatives, real)


def mask_tokens(tokens: Tokens, where: Bool[Array, "rows width"], corpus: Corpus) -> Tokens:
    """Puts the mask in place of the tokens that ``where`` selects; its id is ``num_items + 1``."""
    mask = corpus.num_items + 1
    return tokens._replace(items=jnp.where(where & (tokens.segments > 0), mask, tokens.items))


def sample_popular(
    up_to: Int[Array, " items"], shape: tuple[int, ...], key: PRNGKeyArray
) -> Int[Array, ...]:
    """Draws items by their training interactions: the item of an interaction drawn uniformly."""
    drawn = jax.random.randint(key, shape, 0, up_to[-1])
    return 1 + jnp.searchsorted(up_to, drawn, side="right").astype(jnp.int32)


def sample_negatives(
    unseen: Unseen, owners: Int[Array, "*shape"], key: PRNGKeyArray
) -> Int[Array, "*shape"]:
    """Draws an item for each entry of ``owners``, uniformly over the items the user has not met.

    It draws a rank ``r`` and returns the ``r``-th unseen item: ``r`` plus the number of seen items
    before it. That number is how many of the user's `Unseen.gaps` are at most ``r``. A binary
    search finds it, so that no draw is ever rejected.
    """
    begin, end = unseen.starts[owners], unseen.starts[owners + 1]
    rank = jax.random.randint(key, owners.shape, 0, unseen.num_items - (end - begin))
    # Bisection for the first gap above the rank. The number of rounds is static, so a search that
    # has ended (low == high) must stay where it is.
    low, high = begin, end
    for _ in range(unseen.longest.size):
        middle = (low + high) // 2
        below = (unseen.gaps[middle] <= rank) & (low < high)
        low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
    return 1 + rank + low - begin
