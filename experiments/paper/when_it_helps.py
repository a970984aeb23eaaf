"""When SEvo helps: by the number of negatives, by the amount of data, by the popularity of items.

SASRec on Beauty with a sampled softmax whose negatives are shared by a batch, with and without
smoothing and otherwise alike. Not from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.paper.numbers import METRICS, SEVO, UNSMOOTHED
from experiments.run import Run, make_run
from experiments.tables import cells, plots, requests, rows, runs
from experiments.tables.cells import Cell, mean, percent, score
from experiments.tables.documents import Document, Table
from experiments.trainer import CRITERION

MODEL, DATASET = "sasrec", "beauty"
EPOCHS = 100
NEGATIVES: tuple[int, ...] = (1, 16, 512)
SHARES: tuple[float, ...] = (1.0, 0.25)
COMMON = {
    "loss": "sampled-softmax",
    "dropout_rate": 0.5,
    "weight_decay": 0.1,
    "attend_padding": False,
    "beta": 0.99,
    "num_layers": 3,
}
SHOWN = ("HR@10", "NDCG@10")
QUINTILES = 5


class Condition(NamedTuple):
    """The settings that both runs of a pair have in common."""

    negatives: int
    share: float

    @property
    def settings(self) -> dict[str, Any]:
        """Its hyper-parameters."""
        return COMMON | {"num_negatives": self.negatives, "user_share": self.share}


class Pair(NamedTuple):
    """A condition without smoothing and with it."""

    condition: Condition
    plain: Cell
    sevo: Cell

    @property
    def words(self) -> list[str]:
        """Negatives and users, for reading: the users that there really were, once there were."""
        share = f"{self.condition.share:.0%}"
        counts = {r["num_users"] for cell in self[1:] for r in cell.results.values()}
        users = " / ".join(f"{count:,}" for count in sorted(counts))
        return [str(self.condition.negatives), f"{users} ({share})" if users else share]


def make(request: requests.Request) -> int:
    """Runs what is missing, and writes the table and the picture."""
    seeds = requests.choose(request, requests.Choices(seeds=(0,))).seeds
    conditions = [Condition(negatives, share) for share in SHARES for negatives in NEGATIVES]
    epochs = EPOCHS if request.epochs is None else request.epochs
    wanted = {
        (condition, optimizer): [run_of(condition, optimizer, seed, epochs) for seed in seeds]
        for condition in conditions
        for optimizer in (UNSMOOTHED, SEVO)
    }
    order = rows.in_turn(wanted.values())

    def document(outcomes: runs.Outcomes) -> Document:
        found = {
            key: cells.make_cell([outcomes[run].result for run in own], EPOCHS)
            for key, own in wanted.items()
        }
        pairs = [Pair(c, found[c, UNSMOOTHED], found[c, SEVO]) for c in conditions]
        return compose(pairs, runs.missing(order, outcomes))

    return runs.carry_out(order, request, document)


def run_of(condition: Condition, optimizer: str, seed: int, epochs: int) -> Run:
    """A run under a condition."""
    values = {**condition.settings, "epochs": epochs}
    return make_run(MODEL, DATASET, optimizer, seed, **values)


def by_popularity(cell: Cell, metric: str) -> list[float | None]:
    """The metric by quintile of the target item's popularity, the least popular first.

    The mean over seeds; None where a quintile is empty, since equally popular items are together.
    """
    rows = [r["by_popularity"][metric] for r in cell.results.values()]
    columns = zip(*rows, strict=True) if rows else [()] * QUINTILES
    return [mean([value for value in column if value is not None]) for column in columns]


def compose(pairs: Sequence[Pair], not_done: list[str]) -> Document:
    """The page: the verdict, the tables and the picture."""
    text = [
        "SASRec on Beauty, sampled softmax over negatives shared by a batch, AdamW "
        f"with and without smoothing (β 0.99, L 3), {EPOCHS} epochs, all other settings equal: "
        "learning rate 0.001, dropout 0.5, decay 0.1, padding masked. Test metrics at the epoch of "
        f"the best validation {CRITERION}. *25%* trains and tests on a quarter of the users. Where "
        "two numbers stand in a cell, the first is of the plain runs.",
        verdict(pairs),
        rows.trained_on(rows.devices(cell for pair in pairs for cell in pair[1:])),
    ]
    header = [
        "Negatives",
        "Users",
        *(f"{m}{what}" for m in SHOWN for what in (", plain", ", SEvo", ", gain")),
        "Seeds",
        "Epochs",
        "Best epoch",
    ]
    written = [
        [
            *pair.words,
            *(text for metric in SHOWN for text in _beside(pair, metric)),
            *map(_both, cells.progress_of(pair.plain), cells.progress_of(pair.sevo)),
        ]
        for pair in pairs
    ]
    tables = [Table("By negatives and users", header, written, text_columns=2)]
    tables += [_popularity_table(pairs, metric) for metric in SHOWN]
    return Document(
        name="when-it-helps",
        title="When SEvo helps",
        text=text,
        tables=tables,
        missing=not_done,
        content={
            "table": "when-it-helps",
            "verdict": verdict(pairs),
            "conditions": [_pair_json(pair) for pair in pairs],
            "missing": not_done,
        },
        draw=lambda path: draw(pairs, path),
        alt=f"Left, test {CRITERION} with and without smoothing against the number of shared "
        "negatives; right, how smoothing changes it for each popularity quintile of the target.",
    )


def verdict(pairs: Sequence[Pair]) -> str:
    """The numbers in words, whichever way they fall."""
    found = [(cells.gain(pair.sevo, pair.plain, CRITERION), pair) for pair in pairs]
    gains = [(value, pair) for value, pair in found if value is not None]
    if not gains:
        return "No pair of runs is done yet."
    ahead = sum(value > 0 for value, _ in gains)
    (least, low), (most, high) = min(gains, key=_first), max(gains, key=_first)
    sentences = [
        f"By test {CRITERION}, SEvo is ahead of the plain run in {ahead} of {len(gains)} pairs."
    ]
    if len(gains) > 1:
        sentences.append(
            f"Its gain is largest with {_phrase(high.condition)} ({percent(most)}), and smallest "
            f"with {_phrase(low.condition)} ({percent(least)})."
        )
    changes = [_quintile_changes(pair) for _, pair in gains]
    ends = [[value for c in changes if (value := c[end]) is not None] for end in (0, -1)]
    rare, popular = map(mean, ends)
    if rare is not None and popular is not None:
        sentences.append(
            f"Averaged over the pairs, smoothing changes {CRITERION} by {rare:+.4f} for targets of "
            f"the least popular quintile and by {popular:+.4f} for those of the most popular one."
        )
    if len(pairs[0].sevo.results) <= 1:
        sentences.append("One seed a run: gains of a few per cent may be chance.")
    return " ".join(sentences)


def _both(plain: str, sevo: str) -> str:
    """The words of both runs, once if they are the same."""
    return plain if plain == sevo else f"{plain} / {sevo}"


def _first(item: tuple[float, Pair]) -> float:
    return item[0]


def _phrase(condition: Condition) -> str:
    plural = "s" * (condition.negatives != 1)
    return f"{condition.negatives} negative{plural}, {_users(condition.share)}"


def _users(share: float) -> str:
    return "all users" if share == 1 else f"{share:.0%} of the users"


def _quintile_changes(pair: Pair) -> list[float | None]:
    """SEvo's criterion less the plain one's, by quintile."""
    both = by_popularity(pair.sevo, CRITERION), by_popularity(pair.plain, CRITERION)
    return [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]


def _beside(pair: Pair, metric: str) -> list[str]:
    averages = [mean(cell.values(metric)) for cell in (pair.plain, pair.sevo)]
    return [*map(score, averages), percent(cells.gain(pair.sevo, pair.plain, metric))]


def _popularity_table(pairs: Sequence[Pair], metric: str) -> Table:
    header = ["Negatives", "Users", "", "Q1, least popular", "Q2", "Q3", "Q4", "Q5, most popular"]
    written: list[list[str]] = []
    for pair in pairs:
        plain, sevo = (by_popularity(cell, metric) for cell in (pair.plain, pair.sevo))
        changes = [_difference(a, b) for a, b in zip(sevo, plain, strict=True)]
        written.append([*pair.words, "plain", *map(score, plain)])
        written.append(["", "", "SEvo", *map(score, sevo)])
        written.append(["", "", "difference", *changes])
    title = f"{metric} by popularity of the target item, in quintiles"
    return Table(title, header, written, text_columns=3)


def _difference(ours: float | None, other: float | None) -> str:
    return score(None) if ours is None or other is None else f"{ours - other:+.4f}"


def _pair_json(pair: Pair) -> dict[str, Any]:
    def side(cell: Cell) -> dict[str, Any]:
        own = {str(seed): r["by_popularity"] for seed, r in cell.results.items()}
        return cells.cell_json(cell, METRICS, None) | {"by_popularity": own}

    return {
        "negatives": pair.condition.negatives,
        "user_share": pair.condition.share,
        "plain": side(pair.plain),
        "sevo": side(pair.sevo),
        "gain": {metric: cells.gain(pair.sevo, pair.plain, metric) for metric in METRICS},
    }


def _heights(values: Sequence[float | None]) -> list[float]:
    """The values for Matplotlib, which leaves out the missing ones."""
    return [np.nan if value is None else value for value in values]


def draw(pairs: Sequence[Pair], path: Path) -> None:
    """Left the criterion against negatives, right SEvo's change of it by popularity."""
    styles = dict(zip(SHARES, ("-", "--"), strict=True))
    with plots.picture(path, (10, 4), 1, 2) as (_, ((left, right),)):
        for share, style in styles.items():
            own = [pair for pair in pairs if pair.condition.share == share]
            negatives = [pair.condition.negatives for pair in own]
            for label, color, found in (
                ("plain", "tab:gray", [pair.plain for pair in own]),
                ("SEvo", "tab:blue", [pair.sevo for pair in own]),
            ):
                heights = _heights([mean(cell.values(CRITERION)) for cell in found])
                label = f"{label}, {_users(share)}"
                left.plot(negatives, heights, style, color=color, marker="o", label=label)
        colors = dict(zip(NEGATIVES, plots.COLORS, strict=False))
        quintiles = np.arange(1, QUINTILES + 1)
        for pair in pairs:
            changes, (negatives, share) = _quintile_changes(pair), pair.condition
            if any(change is not None for change in changes):
                look = {"color": colors[negatives], "marker": "o", "label": _phrase(pair.condition)}
                right.plot(quintiles, _heights(changes), styles[share], **look)
        right.axhline(0, color="black", lw=0.8)
        left.set(xscale="log", xticks=NEGATIVES, xticklabels=map(str, NEGATIVES))
        left.minorticks_off()
        left.set_ylim(0, 1.1 * left.get_ylim()[1])
        left.set(xlabel="shared negatives", ylabel=f"test {CRITERION}")
        right.set(xlabel="popularity quintile of the target item (5: most popular)")
        right.set(ylabel=f"{CRITERION}, SEvo less plain", xticks=quintiles)
        for axes in (left, right):
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
