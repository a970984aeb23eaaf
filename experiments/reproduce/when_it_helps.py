"""When SEvo helps: by the number of negatives, by the amount of data, by the popularity of items.

SASRec on Beauty with a sampled softmax whose negatives are shared by a batch, with and without
smoothing and otherwise alike. Not from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from experiments.paper import METRICS, SEVO
from experiments.reproduce.cells import (
    Cell,
    cell_json,
    gain,
    make_cell,
    mean,
    percent,
    progress_of,
    score,
)
from experiments.reproduce.documents import Document, Table
from experiments.reproduce.options import Options, chosen_seeds, refuse
from experiments.reproduce.rows import UNSMOOTHED
from experiments.reproduce.runs import Outcomes, carry_out, missing
from experiments.run import Run, make_run
from experiments.training.loop import CRITERION

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
    """What both runs of a pair have in common."""

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


def make(options: Options) -> int:
    """Runs what is missing, and writes the table and the picture."""
    refuse(options, "models", "datasets", "optimizers", "quick")
    seeds = chosen_seeds(options.seeds, (0,))
    conditions = [Condition(negatives, share) for share in SHARES for negatives in NEGATIVES]
    epochs = EPOCHS if options.epochs is None else options.epochs
    runs = {
        (condition, optimizer): [run_of(condition, optimizer, seed, epochs) for seed in seeds]
        for condition in conditions
        for optimizer in (UNSMOOTHED, SEVO)
    }
    order = [run for seed in zip(*runs.values(), strict=True) for run in seed]

    def document(outcomes: Outcomes) -> Document:
        cells = {
            key: make_cell([outcomes[run].result for run in own], EPOCHS)
            for key, own in runs.items()
        }
        pairs = [Pair(c, cells[c, UNSMOOTHED], cells[c, SEVO]) for c in conditions]
        return compose(pairs, missing(order, outcomes))

    return carry_out(order, options, document)


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
    """The table, the picture and what they come to."""
    results = [r for pair in pairs for cell in pair[1:] for r in cell.results.values()]
    devices = sorted({r["device"] for r in results})
    text = [
        "SASRec on Beauty, sampled softmax over negatives shared by a batch, AdamW "
        f"with and without smoothing (β 0.99, L 3), {EPOCHS} epochs, all other settings equal: "
        "learning rate 0.001, dropout 0.5, decay 0.1, padding masked. Test metrics at the epoch of "
        f"the best validation {CRITERION}. *25%* trains and tests on a quarter of the users. Where "
        "two numbers stand in a cell, the first is of the plain runs.",
        verdict(pairs),
        f"Trained on: {', '.join(devices) or 'nothing yet'}.",
    ]
    header = [
        "Negatives",
        "Users",
        *(f"{m}{what}" for m in SHOWN for what in (", plain", ", SEvo", ", gain")),
        "Seeds",
        "Epochs",
        "Best epoch",
    ]
    rows = [
        [
            *pair.words,
            *(text for metric in SHOWN for text in _beside(pair, metric)),
            *map(_both, progress_of(pair.plain), progress_of(pair.sevo)),
        ]
        for pair in pairs
    ]
    tables = [Table("By negatives and users", header, rows, text_columns=2)]
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
    """What the numbers say, whichever way they fall."""
    found = [(gain(pair.sevo, pair.plain, CRITERION), pair) for pair in pairs]
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
    """What holds for both runs, or what holds for each."""
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
    return [*map(score, averages), percent(gain(pair.sevo, pair.plain, metric))]


def _popularity_table(pairs: Sequence[Pair], metric: str) -> Table:
    header = ["Negatives", "Users", "", "Q1, least popular", "Q2", "Q3", "Q4", "Q5, most popular"]
    rows: list[list[str]] = []
    for pair in pairs:
        plain, sevo = (by_popularity(cell, metric) for cell in (pair.plain, pair.sevo))
        changes = [_difference(a, b) for a, b in zip(sevo, plain, strict=True)]
        rows.append([*pair.words, "plain", *map(score, plain)])
        rows.append(["", "", "SEvo", *map(score, sevo)])
        rows.append(["", "", "difference", *changes])
    title = f"{metric} by popularity of the target item, in quintiles"
    return Table(title, header, rows, text_columns=3)


def _difference(ours: float | None, other: float | None) -> str:
    return score(None) if ours is None or other is None else f"{ours - other:+.4f}"


def _pair_json(pair: Pair) -> dict[str, Any]:
    def side(cell: Cell) -> dict[str, Any]:
        own = {str(seed): r["by_popularity"] for seed, r in cell.results.items()}
        return cell_json(cell, METRICS, None) | {"by_popularity": own}

    return {
        "negatives": pair.condition.negatives,
        "user_share": pair.condition.share,
        "plain": side(pair.plain),
        "sevo": side(pair.sevo),
        "gain": {metric: gain(pair.sevo, pair.plain, metric) for metric in METRICS},
    }


def _heights(values: Sequence[float | None]) -> list[float]:
    """What Matplotlib leaves out where a value is missing."""
    return [np.nan if value is None else value for value in values]


def draw(pairs: Sequence[Pair], path: Path) -> None:
    """Left the criterion against negatives, right SEvo's change of it by popularity."""
    mpl.use("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    styles = dict(zip(SHARES, ("-", "--"), strict=True))
    for share, style in styles.items():
        own = [pair for pair in pairs if pair.condition.share == share]
        negatives = [pair.condition.negatives for pair in own]
        for label, color, cells in (
            ("plain", "tab:gray", [pair.plain for pair in own]),
            ("SEvo", "tab:blue", [pair.sevo for pair in own]),
        ):
            values = [mean(cell.values(CRITERION)) for cell in cells]
            left.plot(
                negatives,
                _heights(values),
                style,
                color=color,
                marker="o",
                label=f"{label}, {_users(share)}",
            )
    colors = dict(zip(NEGATIVES, mpl.color_sequences["tab10"], strict=False))
    quintiles = np.arange(1, QUINTILES + 1)
    for pair in pairs:
        changes = _quintile_changes(pair)
        if any(change is not None for change in changes):
            right.plot(
                quintiles,
                _heights(changes),
                styles[pair.condition.share],
                color=colors[pair.condition.negatives],
                marker="o",
                label=_phrase(pair.condition),
            )
    right.axhline(0, color="black", lw=0.8)
    left.set(xscale="log", xticks=NEGATIVES, xticklabels=map(str, NEGATIVES))
    left.minorticks_off()
    left.set_ylim(0, 1.1 * left.get_ylim()[1])
    left.set(xlabel="shared negatives", ylabel=f"test {CRITERION}")
    right.set(xlabel="popularity quintile of the target item (5: most popular)")
    right.set(ylabel=f"{CRITERION}, SEvo less plain", xticks=quintiles)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
