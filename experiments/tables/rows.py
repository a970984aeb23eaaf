"""Rows of a table of accuracy: what is trained, and its lines beside the paper's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import numbers
from experiments.metrics import CRITERION
from experiments.numbers import LABELS, METRICS
from experiments.protocol import Measured, protocol
from experiments.run import Run, make_run
from experiments.settings.published import published
from experiments.tables import cells, requests, runs


class Row(NamedTuple):
    """A row to be trained.

    Attributes:
        dataset: its name.
        model: its name.
        label: the row's name.
        optimizer: its name.
        settings: those that are not the published ones.
        paper: the paper's value, if it has one.
        series: of a picture, if the row is in one.
        x: the row's place in its series; None for a series that is the same at all places.
        epochs: of its runs, if they are not the published ones.
    """

    dataset: str
    model: str
    label: str
    optimizer: str
    settings: Mapping[str, Any] = {}
    paper: numbers.Scores | None = None
    series: str = ""
    x: float | str | None = None
    epochs: int | None = None


class Line(NamedTuple):
    """A row with what there is of its runs.

    Attributes:
        row: what is trained.
        cell: the results.
        curves: the ``metrics.jsonl`` of each seed that has a result.
    """

    row: Row
    cell: cells.Cell
    curves: Sequence[Path] = ()


def plain_optimizer(model: str) -> str:
    """The optimiser of a model without SEvo: LESSR's authors decouple its decay."""
    return numbers.UNSMOOTHED if model == "lessr" else numbers.PLAIN


def optimizer_label(row: Row) -> str:
    """The name of a row's optimiser."""
    if row.optimizer == plain_optimizer(row.model) != numbers.PLAIN:
        return "AdamW, as published"
    label = LABELS.get(row.optimizer, row.optimizer)
    # The settings of a recipe are neither the published ones nor those of SEvo.
    return label.partition(",")[0] if "recipe" in row.settings else label


def quick_row(row: Row) -> Row:
    """The row of a quick look: with its settings, and without the paper's value."""
    distill = row.settings.get("distill", "none")
    quick = requests.quick_settings(row.model, row.optimizer, distill)
    return row._replace(settings={**row.settings, **quick}, paper=None)


def run_of(row: Row, seed: int, epochs: int | None) -> Run:
    """A seed of a row, stopped early if ``epochs`` are given."""
    epochs = row.epochs if epochs is None else epochs
    values = {**row.settings, **({} if epochs is None else {"epochs": epochs})}
    return make_run(row.model, row.dataset, row.optimizer, seed, **values)


def published_epochs(row: Row) -> int:
    """The epochs of a run that is not stopped early."""
    kinds = {k: v for k, v in row.settings.items() if k in ("distill", "graph", "recipe")}
    usual = published(row.model, row.dataset, row.optimizer, **kinds).training.epochs
    return row.epochs or usual


class Plan(NamedTuple):
    """Rows and their runs.

    Attributes:
        rows: the rows.
        runs: the seeds of each row.
        before: runs that come first, since others need them.
    """

    rows: Sequence[Row]
    runs: Sequence[Sequence[Run]]
    before: Sequence[Run] = ()

    def order(self) -> list[Run]:
        """All runs as they are to be done: the first seed of every row, then the second."""
        turns = [run for turn in zip(*self.runs, strict=True) for run in turn]
        return list(dict.fromkeys([*self.before, *turns]))

    def read(self, outcomes: runs.Outcomes, folder: Path) -> tuple[list[Line], list[str]]:
        """The lines, from what there is of their runs in ``folder``, and what is missing."""
        lines: list[Line] = []
        for row, own in zip(self.rows, self.runs, strict=True):
            done = [run for run in own if outcomes[run].result is not None]
            files = [runs.folder_of(run, folder) / "metrics.jsonl" for run in done]
            cell = cells.make_cell([outcomes[run].result for run in own], published_epochs(row))
            lines.append(Line(row, cell, [file for file in files if file.exists()]))
        in_table = [run for own in self.runs for run in own]
        return lines, runs.missing(dict.fromkeys([*self.before, *in_table]), outcomes)


def make_plan(
    wanted: Sequence[Row], seeds: Sequence[int], epochs: int | None, before: Sequence[Run] = ()
) -> Plan:
    """The runs of rows, stopped early if ``epochs`` are given."""
    return Plan(wanted, [[run_of(row, seed, epochs) for seed in seeds] for row in wanted], before)


def differences(
    cell: cells.Cell, paper: numbers.Scores, metrics: Sequence[str] = METRICS
) -> list[str]:
    """The differences between the means and the paper's, for reading.

    A run that was stopped early says nothing of the paper's.
    """
    values = [cell.values(metric) for metric in metrics]
    ours = [cells.mean(v) if cell.epochs == cell.published else None for v in values]
    return [cells.percent(cells.relative(a, b)) for a, b in zip(ours, paper, strict=True)]


SCORES_HEADER = ("Model", "Optimiser", "", *METRICS, "Seeds", "Epochs", "Best epoch")


def score_lines(line: Line) -> list[list[str]]:
    """Ours, the paper's value and the difference: under `SCORES_HEADER`, one below the other."""
    row, cell, _ = line
    ours = [cells.score_over_seeds(cell.values(metric)) for metric in METRICS]
    written = [[row.label, optimizer_label(row), "ours", *ours, *cells.progress_of(cell)]]
    if row.paper is not None:
        theirs, difference = map(cells.score, row.paper), differences(cell, row.paper)
        written.append(["", "", "paper", *theirs, "5", "", ""])
        written.append(["", "", "difference", *difference, "", "", ""])
    return written


class Comparison(NamedTuple):
    """A row beside another one."""

    one: Line
    other: Line

    @property
    def seeds(self) -> list[int]:
        """The seeds of both."""
        return cells.common_seeds(self.one.cell, self.other.cell)

    def gain(self, metric: str) -> float | None:
        """The share by which the one is above the other, ours."""
        return cells.gain(self.one.cell, self.other.cell, metric)

    def gains_by_seed(self, metric: str) -> list[float]:
        """The share by which the one is above the other, ours, for each seed of both."""
        both = ([line.cell.results[seed]["test"][metric] for seed in self.seeds] for line in self)
        gains = (cells.relative(*pair) for pair in zip(*both, strict=True))
        return [gain for gain in gains if gain is not None]

    @property
    def gains(self) -> list[float | None]:
        """Ours, for each metric."""
        return [self.gain(metric) for metric in METRICS]

    @property
    def p_values(self) -> list[float | None]:
        """Ours, for each metric."""
        return [cells.p_value(self.one.cell, self.other.cell, metric) for metric in METRICS]

    @property
    def paper_gains(self) -> list[float | None]:
        """The paper's, for each metric; all None where it lacks a row."""
        one, other = self.one.row.paper, self.other.row.paper
        if one is None or other is None:
            return [None] * len(METRICS)
        return [cells.relative(a, b) for a, b in zip(one, other, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """The seeds and, by metric, all of these numbers."""
        return {
            "seeds": self.seeds,
            "gain": dict(zip(METRICS, self.gains, strict=True)),
            "p_value": dict(zip(METRICS, self.p_values, strict=True)),
            "paper_gain": dict(zip(METRICS, self.paper_gains, strict=True)),
        }


def gain_in_words(pair: Comparison) -> str:
    """Says by how much the criterion of a row is above or below another's, and how sure that is."""
    gain, seeds = pair.gain(CRITERION) or 0.0, len(pair.seeds)
    p_value = pair.p_values[METRICS.index(CRITERION)]
    trust = "one seed" if seeds == 1 else f"{seeds} seeds, p = {cells.probability(p_value)}"
    if p_value is None or p_value >= 0.05:
        trust += ", so it may be chance"
    return f"{abs(gain):.1%} {'below' if gain < 0 else 'above'} ({trust})"


GAINS_HEADER = ("Model", "Against", "", *METRICS, "Seeds")


def gain_lines(comparison: Comparison) -> list[list[str]]:
    """The gain, its p-value and the paper's gain: under `GAINS_HEADER`, one below the other."""
    gains = map(cells.percent, comparison.gains)
    against, seeds = optimizer_label(comparison.other.row), str(len(comparison.seeds))
    written = [
        [comparison.one.row.label, against, "gain", *gains, seeds],
        ["", "", "p-value", *map(cells.probability, comparison.p_values), ""],
    ]
    if any(gain is not None for gain in comparison.paper_gains):
        theirs = map(cells.percent, comparison.paper_gains)
        written.append(["", "", "paper's gain", *theirs, "5"])
    return written


def devices(found: Iterable[cells.Cell]) -> list[str]:
    """The machines of the runs, each once."""
    return sorted({result["device"] for cell in found for result in cell.results.values()})


def protocol_of(lines: Iterable[Line]) -> str:
    """The protocol of the runs of lines, for reading."""
    return protocol(
        Measured(numbers.dataset_name(row.dataset), row.settings, result)
        for row, cell, _ in lines
        for result in cell.results.values()
    )


def trained_on(machines: Iterable[str], separator: str = ", ") -> str:
    """The machines of the runs, as a sentence."""
    return f"Trained on: {separator.join(machines) or 'nothing yet'}."


def row_json(line: Line) -> dict[str, Any]:
    """The entry of a row in the JSON file."""
    row, cell, _ = line
    return {
        "dataset": row.dataset,
        "label": row.label,
        "model": row.model,
        "optimizer": row.optimizer,
        "settings": row.settings,
        "paper": row.paper,
        **cells.cell_json(cell, METRICS, row.paper),
    }
