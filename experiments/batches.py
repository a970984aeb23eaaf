"""Batches on the device: from cells of a layout to items, targets and negatives.

The whole data set lives on the device; an epoch's only traffic is the layout of `packing.layout`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from experiments.data import Interactions
from experiments.errors import UserError
from experiments.packing import EMPTY


class Corpus(NamedTuple):
    """The interactions as device arrays.

    Attributes:
        items: ``int32[interactions]``.
        owners: ``int32[interactions]``, the user of each.
        stops: ``int32[users]``, one past each user's last interaction.
        unseen: what `sample_negatives` needs to know of each user's training items.
    """

    items: Int[Array, " interactions"]
    owners: Int[Array, " interactions"]
    stops: Int[Array, " users"]
    unseen: Unseen


class Unseen(NamedTuple):
    """The items that users have not met in training, in a form that can be indexed by rank.

    Attributes:
        gaps: ``int32[…]``, for each user the sorted distinct training items ``s_0 < s_1 < …``,
            counted from 0, as ``s_j - j``: the number of unseen items below ``s_j``.
        starts: ``int32[users + 1]``, where each user's run of ``gaps`` begins and ends.
        num_items: ``int32[]``.
        longest: ``int32[rounds]``, an array whose length is the rounds of binary search that the
            longest run needs.
    """

    gaps: Int[Array, " distinct"]
    starts: Int[Array, " users_and_one"]
    num_items: Int[Array, ""]
    longest: Int[Array, " rounds"]


class Tokens(NamedTuple):
    """What a sequence model reads: ``int32[rows, width]`` each, 0 where a cell is empty."""

    items: Int[Array, "rows width"]
    segments: Int[Array, "rows width"]
    positions: Int[Array, "rows width"]


def make_corpus(data: Interactions) -> Corpus:
    """Puts a data set on the device.

    Raises:
        UserError: a user has every item in training, so that no negative is left.
    """
    training = data.training_part()
    pairs = np.unique(
        data.owners[training].astype(np.int64) * data.num_items + data.items[training] - 1
    )
    user, item = pairs // data.num_items, pairs % data.num_items
    starts = np.searchsorted(user, np.arange(data.num_users + 1))
    longest = int(np.diff(starts).max())
    if longest == data.num_items:
        raise UserError(
            f"{data.name}: user {np.diff(starts).argmax() + 1} of {data.num_users} has all "
            f"{data.num_items} items in training; expected at least one item to draw as a negative"
        )
    unseen = Unseen(
        gaps=jnp.asarray(item - (np.arange(pairs.size) - starts[user]), jnp.int32),
        starts=jnp.asarray(starts, jnp.int32),
        num_items=jnp.asarray(data.num_items, jnp.int32),
        longest=jnp.zeros(longest.bit_length(), jnp.int32),
    )
    stops = data.starts + data.lengths
    return Corpus(
        jnp.asarray(data.items), jnp.asarray(data.owners), jnp.asarray(stops, jnp.int32), unseen
    )


def read_tokens(
    corpus: Corpus, cells: Int[Array, "rows width"], newest: int, max_len: int
) -> Tokens:
    """Looks up the tokens of a layout.

    Args:
        corpus: the data.
        cells: positions in the flat array of interactions, -1 where empty.
        newest: how far before the end of a user's items the newest token of the input stands.
        max_len: the newest token gets position ``max_len - 1``, older ones count down from it.
    """
    real = cells != EMPTY
    owner = corpus.owners[cells]
    age = corpus.stops[owner] - newest - cells
    return Tokens(
        items=jnp.where(real, corpus.items[cells], 0),
        segments=jnp.where(real, owner + 1, 0),
        positions=jnp.where(real, max_len - 1 - age, 0),
    )


def sample_negatives(
    unseen: Unseen, owners: Int[Array, "*shape"], key: PRNGKeyArray
) -> Int[Array, "*shape"]:
    """One item for each entry of ``owners``, uniform over the items that user has not met.

    The ``r``-th unseen item is ``r`` plus the number of seen items before it, and that is the
    number of gaps of at most ``r``; so one uniform draw and a binary search give it,
    without rejection.
    """
    begin, end = unseen.starts[owners], unseen.starts[owners + 1]
    rank = jax.random.randint(key, owners.shape, 0, unseen.num_items - (end - begin))
    low, high = begin, end
    for _ in range(unseen.longest.size):
        middle = (low + high) // 2
        below = (unseen.gaps[middle] <= rank) & (low < high)
        low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
    return 1 + rank + low - begin
