"""A built-in data set for first runs: small, seeded, and with structure for SEvo to use."""

from __future__ import annotations

import functools

import numpy as np

from experiments.data.interactions import Interactions, from_sequences

NUM_USERS, NUM_ITEMS, NUM_COMMUNITIES = 3000, 1000, 40
ZIPF_EXPONENT = 0.4
P_STAY, P_NEXT = 0.5, 0.2
SHORTEST, MEAN_LENGTH = 4, 4.5


@functools.cache  # drawing takes half a second, and nobody writes to the arrays
def synthetic(seed: int = 0) -> Interactions:
    """Draws about 3,000 users and 1,000 items in planted communities from ``seed``.

    Items belong to communities, which form a ring; popularity follows Zipf's law. A user walks over
    items. The next item is from the same community, from the next one in the ring, or from all
    items; it is drawn by popularity. As in shops, an item occurs so rarely (a few times in
    training) that its own interactions tell little about it, and those of its neighbours help.
    """
    rng = np.random.default_rng(seed)
    community = rng.permutation(NUM_ITEMS) % NUM_COMMUNITIES
    popularity = (1.0 + rng.permutation(NUM_ITEMS)) ** -ZIPF_EXPONENT
    everywhere = popularity / popularity.sum()
    members = [np.flatnonzero(community == c) for c in range(NUM_COMMUNITIES)]
    within = [popularity[m] / popularity[m].sum() for m in members]

    lengths = SHORTEST - 1 + rng.geometric(1 / (MEAN_LENGTH - SHORTEST + 1), NUM_USERS)
    sequences = []
    for length in lengths:
        walk = [rng.choice(NUM_ITEMS, p=everywhere)]
        for move in rng.random(length - 1):
            if move < P_STAY + P_NEXT:  # within the community, or in the next one of the ring
                home = (community[walk[-1]] + (move >= P_STAY)) % NUM_COMMUNITIES
                walk.append(rng.choice(members[home], p=within[home]))
            else:
                walk.append(rng.choice(NUM_ITEMS, p=everywhere))
        sequences.append(walk)
    return from_sequences("synthetic", np.concatenate(sequences) + 1, lengths)
