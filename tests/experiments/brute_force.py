"""Evaluation in plain Python: a user's input and held-out item, and its rank by sorting."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.data import Interactions


def brute_force_rank(scores: list[float], target: int, seen: set[int]) -> int:
    """Sorts all items but the seen ones; among equals the target comes last."""
    candidates = [i for i in range(1, len(scores) + 1) if i == target or i not in seen]
    order = sorted(candidates, key=lambda i: (-scores[i - 1], i == target))
    return order.index(target) + 1


def inputs_and_targets(data: Interactions, split: str) -> Iterator[tuple[list[int], int]]:
    back = {"valid": 2, "test": 1}[split]
    for start, length in zip(data.starts, data.lengths, strict=True):
        stop = start + length - back
        yield data.items[start:stop].tolist(), int(data.items[stop])
