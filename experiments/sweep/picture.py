"""The picture of a sweep: mean scores over two fields as a heat map, over one field as a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution

from experiments.sweep.space import Field
from experiments.sweep.study import Tried
from experiments.trainer import CRITERION

BINS = 8
MOST_VALUES = 16
"""Whole numbers of a longer range share bins."""
SCORE = f"best validation {CRITERION}"


class Scale(NamedTuple):
    """A field along an axis of cells.

    Attributes:
        cells: how many there are.
        cell_of: the cell of a value.
        ticks: where the labels stand; a cell is 1 long, the first begins at 0.
        labels: of values, or of the edges of bins.
    """

    cells: int
    cell_of: Callable[[Any], int]
    ticks: list[float]
    labels: list[str]


def written(value: Any) -> str:
    """A setting for reading.

    Examples:
        >>> written(0.00031622776), written(3), written("bce")
        ('0.0003162', '3', 'bce')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def most_varied(tried: Sequence[Tried], fields: Sequence[Field]) -> list[Field]:
    """The two fields of which the most values have a score, in the order of the search."""

    def values(field: Field) -> int:
        return len({t.settings[field.name] for t in tried if t.score is not None})

    chosen = sorted(fields, key=values, reverse=True)[:2]
    return [field for field in fields if field in chosen]


def values_of(field: Field) -> list[Any] | None:
    """The values that get a place of their own; None for a range, or too many whole numbers.

    Numbers are in the order of their size, names as they are given.
    """
    listed = field.listed()
    if listed is None or (isinstance(listed, range) and len(listed) > MOST_VALUES):
        return None
    named = any(isinstance(value, str | bool) for value in listed)
    return list(listed) if named else sorted(listed)


def scale_of(field: Field) -> Scale:
    """A cell for each value, or bins of equal length over a range."""
    values = values_of(field)
    if values is not None:
        middles = [i + 0.5 for i in range(len(values))]
        return Scale(len(values), values.index, middles, [written(v) for v in values])
    distribution = field.distribution
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    spaced = np.geomspace if distribution.log else np.linspace
    edges = spaced(distribution.low, distribution.high, BINS + 1)
    digits = ".2g" if isinstance(distribution, FloatDistribution) else ".0f"
    return Scale(
        BINS,
        lambda value: int(np.searchsorted(edges[1:-1], value, side="right")),
        list(range(BINS + 1)),
        [f"{edge:{digits}}" for edge in edges],
    )


def draw(tried: Sequence[Tried], fields: Sequence[Field], title: str, path: Path) -> None:
    """Writes the picture of the trials that have a score.

    Args:
        tried: at least one of them has a score.
        fields: along the axes: one, or x and y.
        title: above it.
        path: of the PNG file.
    """
    mpl.use("agg")
    scored = [t for t in tried if t.score is not None]
    if len(fields) == 1:
        figure = _line(scored, fields[0])
    else:
        figure = _heat_map(scored, fields[0], fields[1])
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _heat_map(scored: Sequence[Tried], across: Field, upward: Field) -> Any:
    x, y = scale_of(across), scale_of(upward)
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for t in scored:
        assert t.score is not None
        cell = y.cell_of(t.settings[upward.name]), x.cell_of(t.settings[across.name])
        found[cell].append(t.score)
    means = np.full((y.cells, x.cells), np.nan)
    for cell, scores in found.items():
        means[cell] = np.mean(scores)

    size = max(5.0, 2 + 0.75 * x.cells), max(3.6, 1.4 + 0.55 * y.cells)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_facecolor("0.92")  # cells without a trial
    mesh = axes.pcolormesh(np.ma.masked_invalid(means), cmap="viridis", edgecolors="white")
    several = any(len(scores) > 1 for scores in found.values())
    for (i, j), scores in found.items():
        text = f"{means[i, j]:.4f}" + (f"\n({len(scores)})" if several else "")
        dark = float(np.asarray(mesh.norm(means[i, j]))) < 0.6
        color = "white" if dark else "black"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=color, fontsize="small")
    axes.set_xticks(x.ticks, x.labels, rotation=45 if max(map(len, x.labels)) > 6 else 0)
    axes.set_yticks(y.ticks, y.labels)
    axes.set(xlabel=across.name, ylabel=upward.name)
    what = f"{SCORE},\nmean of (n) trials" if several else SCORE
    figure.colorbar(mesh, ax=axes, label=what)
    return figure


def _line(scored: Sequence[Tried], field: Field) -> Any:
    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    values = values_of(field)
    found: dict[Any, list[float]] = defaultdict(list)
    for t in scored:
        assert t.score is not None
        value = t.settings[field.name]
        found[value if values is None else values.index(value)].append(t.score)
    places = sorted(found)
    means = [float(np.mean(found[place])) for place in places]
    axes.plot(places, means, color="tab:blue", lw=1.2, label="mean", zorder=1)
    dots = [(place, score) for place in places for score in found[place]]
    axes.scatter(*zip(*dots, strict=True), color="tab:blue", s=22, label="a trial", zorder=2)
    if values is not None:  # side by side, however close or far apart
        axes.set_xticks(range(len(values)), map(written, values))
    elif getattr(field.distribution, "log", False):
        axes.set_xscale("log")
    axes.set(xlabel=field.name, ylabel=SCORE)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
