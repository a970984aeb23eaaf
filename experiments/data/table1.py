"""The sizes of the paper's data sets: its Table 1."""

from __future__ import annotations

from typing import NamedTuple


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
