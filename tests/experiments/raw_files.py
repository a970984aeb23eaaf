"""Small files as the sources of the data sets have them."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

# Five users and five items, all with all. User A has a tie (i5 before i2, as in the file), user B's
# times run backwards; the file is in no order of users.
EVENTS = [
    ("B", "i3", 30), ("A", "i5", 20), ("A", "i1", 10), ("B", "i1", 50), ("A", "i2", 20),
    ("A", "i3", 15), ("A", "i4", 40), ("B", "i2", 40), ("B", "i4", 20), ("B", "i5", 10),
    *[(user, f"i{item}", item) for item in range(1, 6) for user in "CDE"],
]  # fmt: skip
SEQUENCES = [[1, 3, 5, 2, 4], [5, 4, 3, 2, 1], *[[1, 2, 3, 4, 5]] * 3]
FLAT = [item for items in SEQUENCES for item in items]


def amazon(path: Path, events: list[tuple] = EVENTS) -> Path:
    lines = [
        json.dumps({"reviewerID": u, "helpful": [0, 1], "asin": i, "unixReviewTime": t})
        for u, i, t in events
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def movielens(path: Path, events: list[tuple] = EVENTS, member="ml-1m/ratings.dat") -> Path:
    lines = [f"{'ABCDEZ'.index(u) + 1}::{i[1:]}::5::{t}" for u, i, t in events]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/README", "about it")
        archive.writestr(member, "\n".join(lines) + "\n")
    return path
