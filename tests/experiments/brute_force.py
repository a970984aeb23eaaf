"""Evaluation in plain Python: a user's input and held-out item, and its rank by sorting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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


def best_first(scores: list[float], sought: set[int], seen: set[int]) -> list[int]:
    """All items but the seen ones, the best first; among equals the sought ones come last."""
    candidates = [item for item in range(1, len(scores) + 1) if item not in seen]
    return sorted(candidates, key=lambda item: (-scores[item - 1], item in sought))


def brute_force_metrics(
    lists: Sequence[list[int]], sought: Sequence[set[int]], cutoffs: Sequence[int]
) -> dict[str, float]:
    """The usual metrics, then HR, NDCG and MRR at cutoffs: means over users, list by list."""

    def one(name: str, items: list[int], wanted: set[int]) -> float:
        places = [place for place, item in enumerate(items, 1) if item in wanted]
        if name == "HR":
            return float(bool(places))
        if name == "MRR":
            return 1 / places[0] if places else 0.0
        best = sum(1 / math.log2(p + 1) for p in range(1, min(len(wanted), k) + 1))
        return sum(1 / math.log2(p + 1) for p in places) / best

    usual = ["HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"]
    names = usual + [f"{name}@{k}" for k in cutoffs for name in ("HR", "NDCG", "MRR")]
    found: dict[str, float] = {}
    for both in names:
        name, k = both.split("@")[0], int(both.split("@")[1])
        values = [one(name, own[:k], wanted) for own, wanted in zip(lists, sought, strict=True)]
        found[both] = sum(values) / len(values)
    return found
