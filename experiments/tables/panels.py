"""Pictures of a score: lines over a setting, bars by kind of run, and curves over epochs.

A picture has a panel for each model on a data set. Error bars are standard deviations over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from experiments.metrics import CRITERION
from experiments.pages import plots
from experiments.tables import cells


class Drawn(NamedTuple):
    """A point of a picture.

    Attributes:
        series: its label.
        x: its place; None for what holds at all places.
        values: the test criterion of each seed; none if nothing is done yet.
        curves: for each seed the lines of its ``metrics.jsonl``.
        paper: the paper's test criterion, if it has one.
    """

    series: str
    x: float | str | None
    values: Sequence[float]
    curves: Sequence[Sequence[Mapping[str, Any]]]
    paper: float | None = None


PAPER: dict[str, Any] = {
    "ls": "", "marker": "D", "mfc": "none", "mec": "black", "ms": 6, "label": "paper",
}  # fmt: skip
Panels = Mapping[str, Sequence[Drawn]]
"""The points of each panel, by its title."""


def draw_lines(panels: Panels, x_label: str, path: Path) -> None:
    """The criterion over a setting, a line for each series."""

    def panel(axes: Axes, points: Sequence[Drawn]) -> None:
        for series, color in _colors(points):
            own = [p for p in points if p.series == series and p.values and p.x is not None]
            axes.errorbar(
                [float(p.x or 0) for p in own],
                [float(np.mean(p.values)) for p in own],
                [cells.deviation(p.values) or 0.0 for p in own],
                color=color,
                marker="o",
                ms=4,
                capsize=3,
                label=series if own else None,
            )
        places = sorted({float(p.x) for p in points if p.x is not None})
        if not places:
            return  # those that hold at all places may be done first
        if places[0] > 0 and places[-1] >= 100 * places[0]:
            axes.set_xscale("log")
        elif len(places) > 2 and places[0] == 0 and places[-1] >= 20 * places[1]:
            axes.set_xscale("symlog", linthresh=places[1])
        if all(place.is_integer() for place in places):
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.minorticks_off()
        published = [(float(p.x), p.paper) for p in points if p.x is not None and p.paper]
        if published:
            axes.plot(*zip(*published, strict=True), **PAPER)

    _draw_panels(panels, panel, x_label, path)


def draw_bars(panels: Panels, x_label: str, path: Path) -> None:
    """The criterion by kind of run, a colour for each series."""
    placed = [p for points in panels.values() for p in points if p.x is not None]
    shown = [p for p in placed if p.values] or placed
    kinds = list(dict.fromkeys(str(p.x) for p in shown))
    several = list(dict.fromkeys(p.series for p in shown))
    width = 0.8 / max(1, len(several))

    def panel(axes: Axes, points: Sequence[Drawn]) -> None:
        for series, color in _colors(points):
            own = [p for p in points if p.series == series and p.values and p.x is not None]
            if own:
                shift = (several.index(series) - (len(several) - 1) / 2) * width
                bars = axes.bar(
                    [kinds.index(str(p.x)) + shift for p in own],
                    [float(np.mean(p.values)) for p in own],
                    width,
                    yerr=[cells.deviation(p.values) or 0.0 for p in own]
                    if any(len(p.values) > 1 for p in own)
                    else None,
                    capsize=3,
                    color=color,
                    label=series,
                )
                axes.bar_label(bars, fmt="%.4f", fontsize="x-small", padding=2)
        # Some 60 letters fit below a panel, side by side.
        long = max(map(len, kinds), default=0) * len(kinds) > 60
        turned: dict[str, Any] = {"rotation": 25, "ha": "right"} if long else {}
        axes.set_xticks(range(len(kinds)), kinds, **turned)
        axes.set_xlim(-0.6, len(kinds) - 0.4)
        axes.margins(y=0.1)

    _draw_panels(panels, panel, x_label, path)


def draw_curves(panels: Panels, x_label: str, path: Path) -> None:
    """The training loss and the validation criterion over epochs; bands are deviations."""
    with plots.picture(path, (9.2, 4.0 * len(panels)), len(panels), 2) as (figure, grid):
        for (title, points), (left, right) in zip(panels.items(), grid, strict=True):
            for axes, key in ((left, "train_loss"), (right, CRITERION)):
                for point, (_, color) in zip(points, _colors(points), strict=True):
                    _draw_curve(axes, point, key, color)
                axes.set(xlabel=x_label, title=title)
            if any(point.curves for point in points):  # an empty axis has no logarithm
                left.set_yscale("log")
            left.set(ylabel="training loss (log scale)")
            right.set(ylabel=f"validation {CRITERION}")
        plots.legend_below(figure)


def _draw_curve(axes: Axes, point: Drawn, key: str, color: Any) -> None:
    found: dict[int, list[float]] = {}
    for record in (record for curve in point.curves for record in curve):
        value = record[key] if key in record else record["valid"][key]
        found.setdefault(record["epoch"], []).append(value)
    epochs = sorted(found)
    means = np.array([np.mean(found[epoch]) for epoch in epochs])
    spread = np.array([cells.deviation(found[epoch]) or 0.0 for epoch in epochs])
    axes.plot(epochs, means, color=color, lw=1.5, label=point.series if epochs else None)
    axes.fill_between(epochs, means - spread, means + spread, color=color, alpha=0.2)


def _draw_panels(
    panels: Panels, panel: Callable[[Axes, Sequence[Drawn]], None], x_label: str, path: Path
) -> None:
    """Panels of the test criterion, side by side."""
    panels = {t: own for t, own in panels.items() if any(p.values for p in own)} or panels
    size = max(6.0, 4.6 * len(panels)), 4.0
    with plots.picture(path, size, 1, len(panels)) as (figure, grid):
        for (title, points), axes in zip(panels.items(), grid[0], strict=True):
            panel(axes, points)
            _draw_references(axes, points)
            axes.set(xlabel=x_label, ylabel=f"test {CRITERION}", title=title)
        plots.legend_below(figure)


def _colors(points: Sequence[Drawn]) -> list[tuple[str, Any]]:
    """A colour for each series that has places, or where none has for each."""
    placed = [p for p in points if p.x is not None] or points
    names = dict.fromkeys(p.series for p in placed)
    return list(zip(names, plots.COLORS, strict=False))


def _draw_references(axes: Axes, points: Sequence[Drawn]) -> None:
    """The points that hold at all places: a line across, in a band of its deviation."""
    styles = zip([p for p in points if p.x is None], ("--", ":", "-."), strict=False)
    for point, style in styles:
        middle, spread = cells.mean(point.values), cells.deviation(point.values)
        if middle is not None:
            axes.axhline(middle, color="black", ls=style, lw=1.2, label=point.series)
        if middle is not None and spread is not None:
            axes.axhspan(middle - spread, middle + spread, color="black", alpha=0.08)


DRAWING = {"lines": draw_lines, "bars": draw_bars, "curves": draw_curves}
"""The kinds of picture."""
