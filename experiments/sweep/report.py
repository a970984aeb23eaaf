"""What a sweep shows: its table, on the screen and in Markdown, JSON and LaTeX, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table as Grid

from experiments.paper.numbers import METRICS
from experiments.sweep.picture import SCORE, draw, most_varied, written
from experiments.sweep.space import Field
from experiments.sweep.study import Tried
from experiments.tables.cells import score, score_over_seeds, span
from experiments.tables.documents import NONE, Document, Table
from experiments.trainer import CRITERION


class Frame(NamedTuple):
    """What all tables of a sweep have in common.

    Attributes:
        config: what `study.Sweep` was made with.
        fields: what is searched.
        axes: the fields of the picture; the most varied ones if there are none.
        limit: trials of all processes together.
    """

    config: dict[str, Any]
    fields: Sequence[Field]
    axes: Sequence[Field]
    limit: int

    @property
    def title(self) -> str:
        """Model, optimiser and data set."""
        return "{model}, {optimizer}, {dataset}".format(**self.config)


def is_over(tried: Sequence[Tried], frame: Frame) -> bool:
    """Whether all trials are done or failed."""
    return len(tried) >= frame.limit and all(t.state != "begun" for t in tried)


def table(tried: Sequence[Tried], frame: Frame) -> Table:
    """The trials in their order, and the values of the fields that are searched."""
    header = [
        "Trial",
        *(field.name for field in frame.fields),
        f"Validation {CRITERION}",
        "Best epoch",
        "Seconds",
        "State",
    ]
    rows = [
        [
            str(t.number),
            *(written(t.settings.get(field.name, NONE)) for field in frame.fields),
            score_over_seeds(t.scores) if t.score is not None else NONE,
            span(t.best_epochs),
            f"{t.seconds:.0f}",
            t.state if t.twin == t.number else f"{t.state}, as trial {t.twin}",
        ]
        for t in tried
    ]
    return Table("Trials, the best first", header, rows)


def grid(tried: Sequence[Tried], frame: Frame) -> Grid:
    """The table for the screen, the best trial in bold."""
    content = table(tried, frame)
    counts = {state: sum(t.state == state for t in tried) for state in ("done", "failed", "begun")}
    words = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    shown = Grid(
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        title=f"{frame.title}: {words or 'none'} of {frame.limit} trials",
    )
    for name in content.header:
        words = name.replace("_", " ")  # which may stand below each other
        shown.add_column(escape(words), justify="left" if name == "State" else "right")
    for i, row in enumerate(content.rows):
        best = i == 0 and tried[0].score is not None
        shown.add_row(*map(escape, row), style="bold" if best else None)
    return shown


def compose(tried: Sequence[Tried], frame: Frame, tests: Sequence[dict[str, Any]]) -> Document:
    """The document of the trials that there are.

    Args:
        tried: the best first.
        frame: of the sweep.
        tests: ``result.json`` of the best trial's runs, once the sweep is over.
    """
    scored = [t for t in tried if t.score is not None]
    axes = list(frame.axes) or most_varied(tried, frame.fields)
    seeds = frame.config["seeds"]
    test = {m: [result["test"][m] for result in tests] for m in METRICS} if tests else {}
    text = [
        "Searched: " + "; ".join(f"{f.name} in {f.text}" for f in frame.fields) + ". "
        f"Sampler: {frame.config['sampler']}. {len(tried)} of {frame.limit} trials were begun.",
        f"The score is the {SCORE}{_over(seeds)}. {_doubt(seeds)}",
    ]
    tables = [table(tried, frame)]
    if test:
        rows = [[str(scored[0].number), *map(score_over_seeds, test.values())]]
        tables.append(Table("Test metrics of the best trial", ["Trial", *test], rows))
    others = [field.name for field in frame.fields if field not in axes]
    title = frame.title + (f"\nmean over {', '.join(others)}" if others else "")
    return Document(
        name="sweep",
        title=f"Sweep: {frame.title}",
        text=text,
        tables=tables,
        missing=[f"trial {t.number}: {t.reason or 'not finished'}" for t in tried if not t.scores],
        content={
            "config": frame.config,
            "limit": frame.limit,
            "over": is_over(tried, frame),
            "trials": [t._asdict() for t in tried],
            "best": scored[0]._asdict() | {"test": test} if scored else None,
        },
        draw=(lambda path: draw(tried, axes, title, path)) if scored else None,
    )


def in_words(trial: Tried, fields: Sequence[Field]) -> str:
    """A trial's settings and score."""
    settings = ", ".join(f"{f.name} {written(trial.settings[f.name])}" for f in fields)
    return f"trial {trial.number} ({settings}): {SCORE} {score(trial.score)}"


def _over(seeds: Sequence[int]) -> str:
    return f", mean ± deviation over seeds {' '.join(map(str, seeds))}" if len(seeds) > 1 else ""


def _doubt(seeds: Sequence[int]) -> str:
    if len(seeds) > 1:
        return "Differences of less than the deviations over seeds may be chance."
    return "One seed a trial: differences of a few per cent may be chance; --seeds 0 1 2 averages."
