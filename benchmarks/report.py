"""Measuring in turn, and the JSON file that every benchmark writes."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"
QUICK = 0.2


def in_turn(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each candidate, ``float[rounds]``: A B C A B C …, after one call to warm up.

    Turns let a change of the machine's speed meet all candidates alike. A quick call is preceded by
    one that is not counted, so that none finds the caches that another has filled.
    """

    def seconds_of(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    quick = {}
    for name, call in candidates.items():
        jax.block_until_ready(call())
        quick[name] = seconds_of(call) < QUICK
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            if quick[name]:
                jax.block_until_ready(call())
            seconds[name].append(seconds_of(call))
    return {name: np.array(values) for name, values in seconds.items()}


def case(name: str, seconds: dict[str, np.ndarray], unit: str, scale: float) -> dict[str, Any]:
    """A case of the JSON file: the first candidate is ours, the others are its peers.

    ``ratio`` is ours over the best peer, by medians; ``spread`` its extremes over rounds.
    """
    medians = {k: float(np.median(v)) * scale for k, v in seconds.items()}
    (_, ours), *peers = medians.items()
    best = min(peers, key=lambda peer: peer[1])[0] if peers else None
    result: dict[str, Any] = {"case": name, "ours": round(ours, 4), "unit": unit}
    result["peers"] = {k: round(v, 4) for k, v in peers}
    if best:
        ratios = next(iter(seconds.values())) / seconds[best]
        result["ratio"] = round(ours / medians[best], 4)
        result["spread"] = [round(float(ratios.min()), 4), round(float(ratios.max()), 4)]
    else:
        values = next(iter(seconds.values())) * scale
        result["ratio"] = None
        result["spread"] = [round(float(values.min()), 4), round(float(values.max()), 4)]
    return result


def write(benchmark: str, cases: list[dict[str, Any]]) -> None:
    """Prints the cases and writes ``results/BENCHMARK-DEVICE.json``."""
    kind = jax.devices()[0].device_kind.lower().replace(" ", "-")
    content = {
        "benchmark": benchmark,
        "device": f"{kind}, {platform.machine()}, {os.cpu_count()} cores",
        "versions": {p: version(p) for p in ("jax", "jaxlib", "optax", "flax", "numpy")},
        "date": date.today().isoformat(),
        "cases": cases,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}-{kind}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    for entry in cases:
        print(json.dumps(entry))
    print(f"written to {path}")
