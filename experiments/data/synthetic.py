"""A built-in data set for first runs: small, seeded, and with structure for SEvo to use."""

from __future__ import annotations

import numpy as np

from experiments.data.interactions import Interactions, from_sequences

NUM_USERS, NUM_ITEMS, NUM_COMMUNITIES = 3000, 1000, 50
ZIPF_EXPONENT = 0.8
P_STAY, P_NEXT = 0.6, 0.2


def synthetic(seed: int = 0) -> Interactions:
    """About 3,000 users and 1,000 items in planted communities, drawn from ``seed``.

    Items belong to 50 communities, which stand in a ring; popularity follows Zipf's law. A user
    walks over items: the next one is of the same community, of the one after it in the ring, or any
    item, drawn by popularity.
    """
    rng = np.random.default_rng(seed)
    community = rng.permutation(NUM_ITEMS) % NUM_COMMUNITIES
    popularity = (1.0 + rng.permutation(NUM_ITEMS)) ** -ZIPF_EXPONENT
    everywhere = np.cumsum(popularity / popularity.sum())
    members = [np.flatnonzero(community == c) for c in range(NUM_COMMUNITIES)]
    within = [np.cumsum(popularity[m] / popularity[m].sum()) for m in members]

    lengths = 4 + rng.geometric(1 / 3, NUM_USERS)
    sequences = []
    for length in lengths:
        walk: list[int] = []
        for move, draw in rng.random((length, 2)):
            if not walk or move >= P_STAY + P_NEXT:
                walk.append(int(np.searchsorted(everywhere, draw)))
            else:
                home = (community[walk[-1]] + (move >= P_STAY)) % NUM_COMMUNITIES
                walk.append(int(members[home][np.searchsorted(within[home], draw)]))
        sequences.append(walk)
    return from_sequences("synthetic", np.concatenate(sequences) + 1, lengths)
