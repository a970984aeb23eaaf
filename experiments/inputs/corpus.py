"""The interactions as arrays on the device, and an index from which negatives are drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.data import Interactions
from experiments.errors import UserError
from experiments.inputs.mesh import ONE_DEVICE, Placement


class Corpus(NamedTuple):
    """The interactions as device arrays.

    Attributes:
        items: ``int32[interactions]``.
        owners: ``int32[interactions]``, the user of each.
        unseen: the index of each user's training items, which `sample_negatives` reads.
        up_to: ``int32[items]``, the training interactions of items up to each, for draws by
            popularity; empty if there are none.
    """

    items: Int[Array, " interactions"]
    owners: Int[Array, " interactions"]
    unseen: Unseen
    up_to: Int[Array, " items"]

    @property
    def num_items(self) -> Int[Array, ""]:
        """The number of items, ``int32[]``: as an array, it is no constant of compiled programs."""
        return self.unseen.num_items


class Unseen(NamedTuple):
    """The items that users have not met in training, in a form that can be indexed by rank.

    A user who has met the items 2, 3 and 6 has ``s = 1, 2, 5`` and the gaps ``1, 1, 3``. The unseen
    item of rank 2 comes after the two gaps of at most 2, so it is item ``1 + 2 + 2 = 5``.

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
    data: Interactions,
    placement: Placement = ONE_DEVICE,
    *,
    draws_unseen: bool = True,
    draws_popular: bool = False,
) -> Corpus:
    """Puts a data set on the device, or whole on every device of a mesh.

    Args:
        data: the data set.
        placement: where the arrays lie.
        draws_unseen: whether negatives will be drawn that the user has not met.
        draws_popular: whether negatives will be drawn by popularity.

    Raises:
        UserError: a user has every item in training and ``draws_unseen`` is set, or there are
            2^31 interactions or more.
    """
    if data.num_interactions >= 2**31:
        raise UserError(
            f"{data.name}: has {data.num_interactions:,} interactions; expected fewer than 2^31, "
            "for their positions are int32"
        )
    training = data.training_part()
    # A pair of user and item (from 0) as one number: unique pairs come sorted by user, then item.
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
        np.zeros(longest.bit_length(), np.int32),  # only its length, which is static, is read
    )
    counts = data.training_counts()[1:] if draws_popular else np.zeros(0, np.int64)
    arrays: Any = (data.items, data.owners, Unseen(*unseen), np.cumsum(counts).astype(np.int32))
    return Corpus(*placement.put_whole(jax.tree.map(jnp.asarray, arrays)))
