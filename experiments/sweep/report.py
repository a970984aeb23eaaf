"""The report of a sweep: a table on the screen and in Markdown, JSON and LaTeX, and a picture."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_contour, plot_slice
from rich.box import SIMPLE
from rich.table import Table as Grid
from rich.text import Text

from experiments.console import markdown_text
from experiments.files import replaced
from experiments.metrics import CRITERION
from experiments.numbers import METRICS
from experiments.pages.documents import NONE, Document, Table
from experiments.protocol import Measured, protocol
from experiments.sweep.space import Field
from experiments.tables.cells import score, score_over_seeds, span

SCORE = f"best validation {CRITERION}"


class Frame(NamedTuple):
    """The configuration of a sweep, as its tables show it.

    Attributes:
        config: the configuration that `study.open_study` takes.
        fields: the fields that are searched.
        axes: the fields of the picture; if empty, they are chosen from all fields.
        limit: the number of trials of all processes together.
    """

    config: dict[str, Any]
    fields: Sequence[Field]
    axes: Sequence[Field]
    limit: int

    @property
    def title(self) -> str:
        """Model, optimiser and data set."""
        title = "{model}, {optimizer}, {dataset}".format(**self.config)
        return "".join(c if c.isprintable() else " " for c in title)


def state_of(trial: FrozenTrial) -> str:
    """Returns ``done``, ``failed`` or ``begun``."""
    if trial.state == TrialState.FAIL and "reason" in trial.user_attrs:
        return "failed"
    return "done" if trial.state == TrialState.COMPLETE else "begun"


def is_over(trials: Sequence[FrozenTrial], frame: Frame) -> bool:
    """Tells whether all trials are done or failed."""
    return len(trials) >= frame.limit and all(state_of(t) != "begun" for t in trials)


def _ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Sorts trials: the best first, those without a score last."""
    return sorted(trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Returns the trial with the best score, if any has one."""
    return next((t for t in _ranked(trials) if t.value is not None), None)


def to_json(trial: FrozenTrial) -> dict[str, Any]:
    """Returns a trial as ``sweep.json`` has it.

    Its seconds are those of training, without pauses and without the time of killed processes. If
    an earlier trial had the same settings, its runs are used again, and it is the twin of this one.
    """
    held = trial.user_attrs
    return {
        "number": trial.number,
        "settings": trial.params,
        "state": state_of(trial),
        "score": trial.value,
        "scores": held.get("scores", []),
        "best_epochs": held.get("best_epochs", []),
        "seconds": held.get("seconds", 0.0),
        "twin": held.get("twin", trial.number),
        "reason": held.get("reason", ""),
    }


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_words(trial: FrozenTrial, fields: Sequence[Field]) -> str:
    """Describes a trial: its settings and score."""
    settings = ", ".join(f"{f.name} {_written(trial.params[f.name])}" for f in fields)
    return f"trial {trial.number} ({settings}): {SCORE} {score(trial.value)}"


def make_table(trials: Sequence[FrozenTrial], frame: Frame) -> Table:
    """Makes the table of trials, the best first, with the values of their fields."""
    names = [field.name for field in frame.fields]
    header = ["Trial", *names, f"Validation {CRITERION}", "Best epoch", "Seconds", "State"]
    rows = [
        [
            str(t["number"]),
            *(_written(t["settings"].get(name, NONE)) for name in names),
            score_over_seeds(t["scores"]) if t["state"] == "done" else NONE,
            span(t["best_epochs"]),
            f"{t['seconds']:.0f}",
            t["state"] if t["twin"] == t["number"] else f"{t['state']}, as trial {t['twin']}",
        ]
        for t in map(to_json, _ranked(trials))
    ]
    return Table("Trials, the best first", header, rows)


def make_grid(trials: Sequence[FrozenTrial], frame: Frame) -> Grid:
    """Makes the table for the screen."""
    table, counts = make_table(trials, frame), Counter(map(state_of, trials))
    words = ", ".join(f"{counts[s]} {s}" for s in ("done", "failed", "begun") if counts[s])
    title = Text(f"{frame.title}: {words or 'none'} of {frame.limit} trials")
    grid = Grid(box=SIMPLE, collapse_padding=True, pad_edge=False, title=title)
    for name in table.header:
        grid.add_column(
            Text(name.replace("_", " ")), justify="left" if name == "State" else "right"
        )
    for row in table.rows:
        grid.add_row(*map(Text, row))
    return grid


def compose(
    trials: Sequence[FrozenTrial], frame: Frame, tests: Sequence[dict[str, Any]]
) -> Document:
    """Composes the document of the trials.

    Args:
        trials: the trials.
        frame: the configuration.
        tests: the results of the best trial's runs; empty until all trials are over.
    """
    best, seeds = best_of(trials), frame.config["seeds"]
    over = f", mean ± deviation over seeds {' '.join(map(str, seeds))}" if len(seeds) > 1 else ""
    doubt = (
        "Differences of less than the deviations over seeds may be chance."
        if over
        else "One seed a trial: differences of a few per cent may be chance; more seeds average."
    )
    test = {m: [result["test"][m] for result in tests] for m in METRICS} if tests else {}
    tables = [make_table(trials, frame)]
    if best and test:
        row = [str(best.number), *map(score_over_seeds, test.values())]
        tables.append(Table("Test metrics of the best trial", ["Trial", *test], [row]))
    searched = "; ".join(f"{f.name} in {markdown_text(f.text)}" for f in frame.fields)
    unfinished = [to_json(t) for t in trials if state_of(t) != "done"]
    return Document(
        name="sweep",
        title=f"Sweep: {markdown_text(frame.title)}",
        text=[
            f"Searched: {searched}. Sampler: {frame.config['sampler']}. "
            f"{len(trials)} of {frame.limit} trials were begun.",
            f"The score is the {SCORE}{over}. {doubt}",
            markdown_text(
                protocol(
                    Measured(frame.config["dataset"], frame.config, own) for own in tests or [{}]
                )
            ),
        ],
        tables=tables,
        missing=[
            f"trial {t['number']}: {markdown_text(t['reason']) or 'not finished'}"
            for t in unfinished
        ],
        content={
            "config": frame.config,
            "limit": frame.limit,
            "over": is_over(trials, frame),
            "trials": [to_json(t) for t in _ranked(trials)],
            "best": to_json(best) | {"test": test} if best else None,
        },
        draw=(lambda path: draw(trials, frame, path)) if best else None,
    )


def _no_formula(value: Any) -> Any:
    return value.replace("$", r"\$") if isinstance(value, str) else value


def draw(trials: Sequence[FrozenTrial], frame: Frame, path: Path) -> None:
    """Draws the mean scores over two fields as a map, or over one field as dots, into a PNG file.

    The fields are those of ``axes``, or else the two with the most different values.
    """
    scored = [t for t in trials if t.value is not None]
    values = {f: len({t.params[f.name] for t in scored}) for f in frame.axes or frame.fields}
    axes = sorted(values, key=lambda f: values[f], reverse=True)[:2]
    axes = [f for f in axes if values[f] > 1] or axes[:1]
    others = [f.name for f in frame.fields if f not in axes]
    title = frame.title + (f"\nmean over {', '.join(others)}" if others else "")

    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for t in scored:
        found[tuple(_no_formula(t.params[f.name]) for f in axes)].append(t.value or 0.0)
    names = [f.name for f in axes]
    plain = [f._replace(values=tuple(map(_no_formula, f.values))) for f in axes]
    distributions = {f.name: f.distribution for f in plain}
    # Optuna draws studies: this one, in memory, has a trial with the mean score for each cell.
    means = optuna.create_study(direction="maximize")
    for cell, scores in found.items():
        params = dict(zip(names, cell, strict=True))
        mean = float(np.mean(scores))
        means.add_trial(optuna.create_trial(params=params, distributions=distributions, value=mean))
    mpl.use("agg")
    # Optuna's plots change the global style, and warn of a flat map and of a single dot.
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plot = plot_contour if len(axes) == 2 else plot_slice
        plot(means, names, target_name=SCORE)
        figure = plt.gcf()
        figure.axes[0].set_title(_no_formula(title), fontsize="medium")
        with replaced(path) as draft:
            figure.savefig(draft, format="png", dpi=150, bbox_inches="tight")
        plt.close(figure)
