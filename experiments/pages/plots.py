"""The one style of all pictures, and how they are saved."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.3,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
COLORS = mpl.color_sequences["tab10"]


@contextlib.contextmanager
def picture(
    path: Path, size: tuple[float, float], rows: int = 1, columns: int = 1, **axes: Any
) -> Generator[tuple[Any, Any]]:
    """A figure and its grid of axes, to be drawn on; written to ``path`` at the end.

    Args:
        path: of the PNG file.
        size: in inches.
        rows: of the grid.
        columns: of the grid.
        axes: what `matplotlib.pyplot.subplots` takes beside, such as ``sharey``.
    """
    mpl.use("agg")
    with mpl.rc_context(STYLE):
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, **axes)
        yield figure, grid
        figure.savefig(path, format="png")  # whatever the name of a draft
        plt.close(figure)


def legend_below(figure: Any) -> None:
    """One legend for all panels, below them, where labels of any length leave them their room."""
    entries = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles, labels = max(entries, key=lambda entry: len(entry[1]))  # a panel may have nothing yet
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
