"""``python -m benchmarks.graph_building``: `sequence_graph` against Algorithm 4's dictionary."""

from __future__ import annotations

import resource
from collections import defaultdict
from functools import partial

import numpy as np

import sevo_jax
from benchmarks import report
from benchmarks.graphs import interactions
from experiments.data import TABLE_1
from experiments.training.timing import in_turn


def dictionary_loop(
    items: np.ndarray, lengths: np.ndarray, max_len: int = 50, walk_length: int = 1
) -> int:
    """Runs Algorithm 4 as in the paper, with weights by distance; returns the number of entries."""
    weights: dict[tuple[int, int], float] = defaultdict(float)
    flat, start = items.tolist(), 0
    for length in lengths.tolist():
        seq = flat[start : start + length][-max_len:]
        start += length
        for i in range(len(seq) - 1):
            for h, j in enumerate(range(i + 1, min(i + walk_length + 1, len(seq))), start=1):
                weights[seq[i], seq[j]] += 1 / h
                weights[seq[j], seq[i]] += 1 / h
    return len(weights)


def measure(quick: bool) -> list[report.Case]:
    """Measures seconds from flat arrays in memory to the graph, and the process's peak memory."""
    cases: list[report.Case] = []
    for name in ("tools",) if quick else ("clothing", "beauty"):
        size = TABLE_1[name]
        items, lengths = interactions(size)
        ours = partial(sevo_jax.sequence_graph, items, size.items, lengths=lengths)
        entries = ours().capacity
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        calls = {
            "sequence_graph": ours,
            "dictionary loop": partial(dictionary_loop, items, lengths),
        }
        seconds = in_turn(calls, rounds=1 if quick else 7)
        if entries != calls["dictionary loop"]():
            raise AssertionError(f"{name}: the loop finds other entries")
        case = report.case(f"{name}: {size.interactions} interactions", seconds, "s", 1)
        if not cases:
            # Measured before any dictionary loop: the peak is ours, with data, JAX and one graph.
            case["peak_memory_gib"] = round(peak, 2)
        cases.append(case)
    return cases


if __name__ == "__main__":
    report.command("graph_building", measure)
