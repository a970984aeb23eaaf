"""Cells of a table: the seeds of a row together, beside the paper's value and beside other rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.numbers import Scores
from experiments.pages.documents import NONE

ROUNDING = 1e-12
"""Differences of scores below this are rounding."""


class Cell(NamedTuple):
    """The results of a row on a data set.

    Attributes:
        results: ``result.json`` by seed, of the seeds that were trained for the most epochs.
        epochs: theirs; 0 without results.
        published: the epochs of the published run.
        seeds: how many were asked for.
    """

    results: dict[int, dict[str, Any]]
    epochs: int
    published: int
    seeds: int

    def values(self, metric: str) -> list[float]:
        """The test metric of each seed."""
        return [result["test"][metric] for result in self.results.values()]


def make_cell(results: Iterable[dict[str, Any] | None], published: int) -> Cell:
    """Puts the results of a row's seeds, ``None`` for a missing one, into a cell.

    Runs of different lengths are not averaged: the longest count.
    """
    asked = list(results)
    found = [result for result in asked if result is not None]
    epochs = max((result["epochs"] for result in found), default=0)
    longest = {result["seed"]: result for result in found if result["epochs"] == epochs}
    return Cell(longest, epochs, published, len(asked))


def mean(values: Sequence[float]) -> float | None:
    """The mean, if there are values."""
    return float(np.mean(values)) if values else None


def complete_mean(values: Sequence[float | None]) -> float | None:
    """The mean, if there are values and none is missing."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation, if there are two values or more."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def relative(ours: float | None, other: float | None) -> float | None:
    """The share by which ours is above the other.

    Examples:
        >>> relative(3.0, 2.0)
        0.5
    """
    return None if ours is None or not other else ours / other - 1


def common_seeds(one: Cell, other: Cell) -> list[int]:
    """The seeds of both, if both were trained for the same share of their published epochs."""
    if one.epochs * other.published != other.epochs * one.published:
        return []
    return sorted(one.results.keys() & other.results.keys())


def gain(one: Cell, other: Cell, metric: str) -> float | None:
    """The share by which the mean of one is above the other's, over their common seeds."""
    seeds = common_seeds(one, other)
    means = [mean([cell.results[s]["test"][metric] for s in seeds]) for cell in (one, other)]
    return relative(*means)


def p_value(one: Cell, other: Cell, metric: str) -> float | None:
    """The paired t-test over common seeds, two-sided; None for fewer than two different gains."""
    seeds = common_seeds(one, other)
    if len(seeds) < 2:
        return None
    ours, others = ([cell.results[s]["test"][metric] for s in seeds] for cell in (one, other))
    if np.ptp(np.subtract(ours, others)) < ROUNDING:
        return None  # equal differences have no variance to test against
    p = float(stats.ttest_rel(ours, others).pvalue)
    return p if math.isfinite(p) else None


def score(value: float | None) -> str:
    """A metric for reading."""
    return NONE if value is None else f"{value:.4f}"


def score_over_seeds(values: Sequence[float]) -> str:
    """Mean and deviation for reading.

    Examples:
        >>> score_over_seeds([0.07, 0.08])
        '0.0750 ± 0.0071'
    """
    spread = deviation(values)
    return score(mean(values)) + ("" if spread is None else f" ± {spread:.4f}")


def percent(value: float | None) -> str:
    """A difference for reading.

    Examples:
        >>> percent(0.0213)
        '+2.1%'
    """
    return NONE if value is None else f"{value:+.1%}"


def probability(p: float | None) -> str:
    """A p-value for reading."""
    return NONE if p is None else f"{p:.2g}"


def span(values: Iterable[int]) -> str:
    """The least and the greatest of some numbers.

    Examples:
        >>> span([195, 180, 190])
        '180–195'
    """
    ordered = sorted(set(values))
    return "–".join(map(str, ordered[:1] + ordered[1:][-1:])) or NONE


def progress_of(cell: Cell) -> list[str]:
    """The columns Seeds, Epochs and Best epoch of a row."""
    return [
        f"{len(cell.results)} of {cell.seeds}",
        f"{cell.epochs} of {cell.published}" if cell.results else NONE,
        span(result["best_epoch"] for result in cell.results.values()),
    ]


def cell_json(cell: Cell, metrics: Sequence[str], paper: Scores | None) -> dict[str, Any]:
    """The entry of a cell in the JSON file: everything, in full precision."""
    scores: dict[str, Any] = {}
    for i, metric in enumerate(metrics):
        average = mean(cell.values(metric))
        held_against = paper[i] if paper else None
        scores[metric] = {
            "seeds": {str(seed): r["test"][metric] for seed, r in cell.results.items()},
            "mean": average,
            "std": deviation(cell.values(metric)),
            "paper": held_against,
            "difference": relative(average, held_against),
        }
    return {
        "seeds_done": len(cell.results),
        "seeds_asked": cell.seeds,
        "epochs": cell.epochs,
        "epochs_published": cell.published,
        "best_epochs": {str(seed): r["best_epoch"] for seed, r in cell.results.items()},
        "seconds_per_epoch": {
            str(seed): r["seconds_per_epoch"] for seed, r in cell.results.items()
        },
        "devices": sorted({r["device"] for r in cell.results.values()}),
        "test": scores,
    }
