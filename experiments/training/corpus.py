"""The interactions as arrays on the device, and what negatives are drawn from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.data import Interactions
from experiments.errors import UserError
from experiments.training.mesh import ONE_DEVICE, Placement


class Corpus(NamedTuple):
    """The interactions as device arrays.

    Attributes:
        items: ``int32[interactions]``.
        owners: ``int32[interactions]``, the user of each.
        unseen: what `sample_negatives` needs to know of each user's training items.
    """

    items: Int[Array, " interactions"]
    owners: Int[Array, " interactions"]
    unseen: Unseen

    @property
    def num_items(self) -> Int[Array, ""]:
        """As an array, since a program that is compiled for it serves all."""
        return self.unseen.num_items


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


def make_corpus(
    data: Interactions, placement: Placement = ONE_DEVICE, *, draws_unseen: bool = True
) -> Corpus:
    """Puts a data set on the device, or whole on every device of a mesh.

    Args:
        data: the data set.
        placement: on a mesh.
        draws_unseen: whether items will be drawn for users that they have not met.

    Raises:
        UserError: they will be, and a user has every item in training.
    """
    if data.num_interactions >= 2**31:
        raise UserError(
            f"{data.name}: has {data.num_interactions:,} interactions; expected fewer than 2^31, "
            "for their positions are int32"
        )
    training = data.training_part()
    pairs = np.unique(
        data.owners[training].astype(np.int64) * data.num_items + data.items[training] - 1
    )
    user, item = pairs // data.num_items, pairs % data.num_items
    starts = np.searchsorted(user, np.arange(data.num_users + 1))
    longest = int(np.diff(starts).max())
    if draws_unseen and longest == data.num_items:
        user = int(np.diff(starts).argmax())
        raise UserError(
            f"{data.name}: user {user + 1} of {data.num_users} has all {data.num_items} items in "
            f"training (the id is {str(data.user_ids[user])[:40]!r}); expected at least one item "
            "to draw as a negative: leave such users out, or take the loss softmax or "
            "sampled-softmax, which draw no unseen items"
        )
    unseen: Any = (
        (item - (np.arange(pairs.size) - starts[user])).astype(np.int32),
        starts.astype(np.int32),
        np.array(data.num_items, np.int32),
        np.zeros(longest.bit_length(), np.int32),
    )
    arrays: Any = (data.items, data.owners, Unseen(*unseen))
    return Corpus(*placement.put_whole(jax.tree.map(jnp.asarray, arrays)))
