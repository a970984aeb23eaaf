"""An exported run in an approximate index: the best items of many users, without all scores.

Run it with ``python examples/approximate_index.py FOLDER``, where usearch is installed. The folder
is one that ``python -m experiments.export`` has written. It prints the share of the exact ten best
items that the index finds, and the seconds of both.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from jax import export

TOP_K, USERS = 10, 1000


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Loads the vectors of the items and of some users: ``float32[items | users, dim]``.

    If the export has no vectors of users, the encoder makes them from histories. Here these are
    drawn; yours are what your users did.
    """
    items = pl.read_parquet(folder / "items.parquet")["vector"].to_numpy()
    if (folder / "users.parquet").exists():
        return items, pl.read_parquet(folder / "users.parquet")["vector"].to_numpy()[:USERS]
    encoder = export.deserialize(bytearray((folder / "encoder.bin").read_bytes()))
    max_len = encoder.in_avals[0].shape[1]
    rng = np.random.default_rng(0)
    histories = rng.integers(1, len(items) + 1, (USERS, max_len), np.int32)
    lengths = rng.integers(1, max_len + 1, (USERS, 1))
    histories[np.arange(max_len) < max_len - lengths] = 0  # zeros come before the oldest item
    return items, np.asarray(jax.jit(encoder.call)(histories))


def main(folder: Path) -> float | None:
    """Searches approximately and exactly; returns the recall, ``None`` without usearch."""
    if importlib.util.find_spec("usearch") is None:
        print("skipped: usearch is not installed (pip install usearch)")
        return None
    usearch: Any = importlib.import_module("usearch.index")
    items, users = load(folder)

    # One coordinate more makes all items equally long, and users have 0 there. The nearest items
    # are then those of the highest scores, and an index of distances finds them for any model.
    squares = (items**2).sum(axis=1, keepdims=True)
    equally_long = np.hstack([items, np.sqrt(squares.max() - squares)])
    # Users point where no item lies, so the index gets more edges and longer searches than usual:
    # with its defaults, threads that add at once make a recall of .88 or of .99 by chance.
    index = usearch.Index(
        ndim=items.shape[1] + 1,
        metric="l2sq",
        dtype="f32",
        connectivity=32,
        expansion_add=512,
        expansion_search=512,
    )
    index.add(np.arange(len(items)), equally_long)
    started = time.perf_counter()
    found = index.search(np.pad(users, [(0, 0), (0, 1)]), TOP_K).keys  # rows of items.parquet
    searched = time.perf_counter()
    scores = users @ items.T
    best = np.argpartition(-scores, TOP_K - 1)[:, :TOP_K]
    scored = time.perf_counter()

    recall = float(np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)]))
    print(
        f"{len(users):,} users, {len(items):,} items: recall@{TOP_K} {recall:.3f}; index "
        f"{searched - started:.3f} s, exact scores {scored - searched:.3f} s"
    )
    return recall


if __name__ == "__main__":
    main(Path(sys.argv[1]))
