"""A built-in data set for first runs: small, seeded, and with structure for SEvo to use."""

from __future__ import annotations

import numpy as np

from experiments.data.interactions import Interactions, from_sequences

NUM_USERS, NUM_ITEMS, NUM_COMMUNITIES = 3000, 1000, 50


def synthetic(seed: int = 0) -> Interactions:
    """About 3,000 users and 1,000 items in planted communities, drawn from ``seed``.

    Items belong to 50 communities; popularity follows Zipf's law. A user begins in a community of
    their own and walks: mostly to one of the few items that tend to follow the last one, which are
    of its community, else to any item of the user's community, seldom to any item at all.
    """
    rng = np.random.default_rng(seed)
    community = rng.permutation(NUM_ITEMS) % NUM_COMMUNITIES
    popularity = 1 / (1 + rng.permutation(NUM_ITEMS)) ** 0.7
    members = [np.flatnonzero(community == c) for c in range(NUM_COMMUNITIES)]
    weights = [popularity[m] / popularity[m].sum() for m in members]
    community_weights = np.array([popularity[m].sum() for m in members])
    followers = np.stack(
        [rng.choice(members[c], 4, p=weights[c], replace=False) for c in community]
    )

    lengths = 5 + rng.geometric(1 / 5, NUM_USERS) - 1
    homes = rng.choice(NUM_COMMUNITIES, NUM_USERS, p=community_weights / community_weights.sum())
    sequences = []
    for home, length in zip(homes, lengths, strict=True):
        item = rng.choice(members[home], p=weights[home])
        walk = [item]
        for kind in rng.random(length - 1):
            if kind < 0.5:
                item = rng.choice(followers[item])
            elif kind < 0.9:
                item = rng.choice(members[home], p=weights[home])
            else:
                item = rng.integers(NUM_ITEMS)
            walk.append(item)
        sequences.append(walk)
    return from_sequences("synthetic", np.concatenate(sequences) + 1, lengths)
