"""The sizes of the paper's Table 1, and data sets of these sizes drawn from a seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments.data.interactions import Interactions

ZIPF_EXPONENT = 0.8


class Size(NamedTuple):
    """A row of Table 1."""

    users: int
    items: int
    interactions: int


TABLE_1 = {
    "beauty": Size(22_363, 12_101, 198_502),
    "toys": Size(19_412, 11_924, 167_597),
    "tools": Size(16_638, 10_217, 134_476),
    "ml-1m": Size(6_040, 3_416, 999_611),
    "electronics": Size(728_489, 159_729, 6_737_580),
    "clothing": Size(1_219_337, 376_378, 11_282_445),
}


def draw_sequences(size: Size, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws items ``int32[interactions]`` by a power law, and lengths ``int64[users]`` from 5."""
    rng = np.random.default_rng(seed)
    spare = size.interactions - 5 * size.users
    lengths = 5 + rng.multinomial(spare, np.full(size.users, 1 / size.users))
    popularity = (1.0 + rng.permutation(size.items)) ** -ZIPF_EXPONENT
    items = rng.choice(size.items, size=size.interactions, p=popularity / popularity.sum())
    return items.astype(np.int32), lengths


def draw(name: str, size: Size, seed: int = 0) -> Interactions:
    """Draws a data set of exactly a given size, to measure speed and memory.

    It has no structure to learn. It has ``size.items`` items, the rarest perhaps without any
    interaction.

    Examples:
        >>> data = draw("small", Size(users=10, items=20, interactions=80))
        >>> data.num_users, data.num_items, data.items.size
        (10, 20, 80)
    """
    items, lengths = draw_sequences(size, seed)
    return Interactions(
        name=name,
        items=items + np.int32(1),
        lengths=lengths,
        item_ids=np.arange(1, size.items + 1),
        user_ids=np.arange(1, size.users + 1),
    )


def differences(data: Interactions, size: Size) -> tuple[str, ...]:
    """Returns a note of the differences from Table 1, if there are any.

    Examples:
        >>> data = draw("small", Size(users=10, items=20, interactions=80))
        >>> differences(data, Size(users=10, items=21, interactions=80))
        ('differs from Table 1 of the paper: 20 items instead of 21',)
    """
    found = Size(data.num_users, data.num_items, data.num_interactions)
    different = [
        f"{ours:,} {what} instead of {theirs:,}"
        for what, ours, theirs in zip(Size._fields, found, size, strict=True)
        if ours != theirs
    ]
    return (f"differs from Table 1 of the paper: {', '.join(different)}",) if different else ()
