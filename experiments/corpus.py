"""The interactions on the device: whole, or on a mesh in parts, some users' on each device.

What stands at a position is looked up where it lies: on a mesh it is the sum of what each device
finds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments import processes
from experiments.data import Interactions
from experiments.data.interactions import cut_users
from experiments.errors import UserError
from experiments.mesh import Placement


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


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["parts", "firsts", "stops"],
    meta_fields=["num_items", "placement"],
)
@dataclasses.dataclass(frozen=True)
class SplitCorpus:
    """The interactions on a mesh, some users' on each device.

    Attributes:
        parts: each leaf with a leading axis of devices. ``owners`` and ``unseen`` know all users,
            the others than the part's without interactions.
        firsts: ``int32[devices]``, the position of each part's first interaction among all.
        stops: ``int32[devices]``, the position behind its last.
        num_items: of the data set.
        placement: on the mesh.
    """

    parts: Corpus
    firsts: Int[Array, " devices"]
    stops: Int[Array, " devices"]
    num_items: int
    placement: Placement

    def with_items(self, data: Interactions, items: np.ndarray) -> SplitCorpus:
        """The corpus with others in the place of the data's items, ``int32[interactions]``."""
        _, parts = _device_parts(dataclasses.replace(data, items=items), self.placement)
        size = self.parts.items.shape[1]
        put = self.placement.put_parts({i: _padded(part.items, size) for i, part in parts.items()})
        return dataclasses.replace(self, parts=self.parts._replace(items=put))


def make_corpus(data: Interactions, *, draws_unseen: bool = True) -> Corpus:
    """Puts a data set on the device.

    Args:
        data: the data set.
        draws_unseen: whether items will be drawn for users that they have not met.

    Raises:
        UserError: they will be, and a user has every item in training.
    """
    return jax.tree.map(jnp.asarray, _corpus(data, draws_unseen))


def _corpus(data: Interactions, draws_unseen: bool) -> Corpus:
    """A `Corpus` of numpy arrays."""
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
            "to draw as a negative: leave such users out, or take --loss softmax or "
            "sampled-softmax, which draw no unseen items"
        )
    unseen: Any = (
        (item - (np.arange(pairs.size) - starts[user])).astype(np.int32),
        starts.astype(np.int32),
        np.array(data.num_items, np.int32),
        np.zeros(longest.bit_length(), np.int32),
    )
    arrays: Any = (data.items, data.owners, Unseen(*unseen))
    return Corpus(*arrays)


def split_corpus(
    data: Interactions, placement: Placement, *, draws_unseen: bool = True
) -> SplitCorpus:
    """Puts the users of each device of a mesh there, padded to as many interactions on each.

    Raises:
        UserError: as `make_corpus`, in all processes.
    """
    positions, parts = _device_parts(data, placement)
    most, rounds = int(np.diff(positions).max()), int(data.lengths.max()).bit_length()

    def padded(part: Interactions) -> Corpus:
        corpus = _corpus(part, draws_unseen)
        longest: Any = np.zeros(rounds, np.int32)
        unseen = corpus.unseen._replace(gaps=_padded(corpus.unseen.gaps, most), longest=longest)
        return Corpus(_padded(corpus.items, most), _padded(corpus.owners, most), unseen)

    corpora = processes.attempt(lambda: {i: padded(part) for i, part in parts.items()})
    firsts, stops = placement.put_parts({i: (positions[i], positions[i + 1]) for i in parts})
    return SplitCorpus(placement.put_parts(corpora), firsts, stops, data.num_items, placement)


def _device_parts(
    data: Interactions, placement: Placement
) -> tuple[np.ndarray, dict[int, Interactions]]:
    """Where the part of each device of a mesh begins; and the parts of this process's devices."""
    cuts = [0]
    for process, (first, stop) in enumerate(itertools.pairwise(data.cuts or (0, data.num_users))):
        devices = placement.num_devices
        if data.cuts is not None:
            devices = len(placement.devices_of(process))
        cuts += [first + cut for cut in cut_users(data.lengths[first:stop], devices)[1:]]
    positions = np.append(data.starts, data.num_interactions)[cuts].astype(np.int32)
    own = placement.devices_of(jax.process_index())
    return positions, {i: data.part_of(cuts[i], cuts[i + 1]) for i in own}


def _padded(array: Any, size: int) -> Any:
    return np.pad(array, (0, size - array.size))


def look_up(
    function: Callable[..., Array], corpus: Corpus | SplitCorpus, cells: Any, *more: Any
) -> Array:
    """What a function of a corpus and of positions finds there.

    Of a corpus on a mesh, each part gets the positions within it, and is asked for those alone.
    What stands at others, such as `EMPTY`, is then 0; otherwise it is not to be relied on.

    Args:
        function: of the corpus, of ``cells`` and of ``more``, to an array of ``int32`` whose
            leading axes are those of ``cells``.
        corpus: the data.
        cells: ``int32[…]``, positions in the flat array of interactions.
        more: further arrays.
    """
    if isinstance(corpus, Corpus):
        return function(corpus, cells, *more)

    def in_part(part: tuple[Corpus, Array, Array], cells: Array, *more: Any) -> Array:
        own, first, stop = part
        within = (cells >= first) & (cells < stop)
        found = function(own, jnp.where(within, cells - first, 0), *more)
        within = within.reshape(*within.shape, *(1 for _ in found.shape[within.ndim :]))
        return jnp.where(within, found, 0)

    parts = (corpus.parts, corpus.firsts, corpus.stops)
    return corpus.placement.sum_over_parts(in_part, parts, cells, *more)


def items_at(corpus: Corpus, cells: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """The items at positions."""
    return corpus.items[cells]


def owners_at(corpus: Corpus, cells: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """The users at positions."""
    return corpus.owners[cells]
