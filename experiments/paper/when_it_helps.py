"""The gain of SEvo by the number of negatives, the amount of data and the popularity of items.

SASRec on Beauty with a sampled softmax whose negatives are shared by a batch, with and without
smoothing and otherwise alike. Not from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation import CRITERION
from experiments.paper.numbers import METRICS, SEVO, UNSMOOTHED
from experiments.tables import cells, plots, requests, rows, runs
from experiments.tables.cells import Cell, mean, percent, score
from experiments.tables.documents import NONE, Document, Table
from experiments.tables.rows import Comparison, Row

EPOCHS = 100
NEGATIVES: tuple[int, ...] = (1, 16, 512)
SHARES: tuple[float, ...] = (1.0, 0.25)
COMMON = {
    "loss": "sampled-softmax", "dropout_rate": 0.5, "weight_decay": 0.1, "attend_padding": False,
    "beta": 0.99, "num_layers": 3,
}  # fmt: skip
SHOWN = ("HR@10", "NDCG@10")
QUINTILES = 5


def make(request: requests.Request) -> int:
    """Runs what is missing, and writes the table and the picture."""
    seeds = requests.choose(request, requests.Choices(seeds=(0,))).seeds
    wanted = [
        Row(
            "beauty",
            "sasrec",
            f"{negatives} negative{'s' * (negatives != 1)}, {_users(share)}",
            optimizer,
            {**COMMON, "num_negatives": negatives, "user_share": share},
            epochs=EPOCHS,
        )
        for share in SHARES
        for negatives in NEGATIVES
        for optimizer in (UNSMOOTHED, SEVO)
    ]
    plan = rows.make_plan(wanted, seeds, request.epochs)

    def document(outcomes: runs.Outcomes) -> Document:
        lines, missing = plan.read(outcomes, request.runs)
        return compose(list(map(Comparison, lines[1::2], lines[::2])), missing)

    return runs.carry_out(plan.order(), request, document)


def _users(share: float) -> str:
    return "all users" if share == 1 else f"{share:.0%} of the users"


def _condition(pair: Comparison) -> tuple[int, float]:
    """The number of negatives and the share of the users."""
    settings = pair.one.row.settings
    return settings["num_negatives"], settings["user_share"]


def _words(pair: Comparison) -> list[str]:
    """Negatives and users, for reading: the users that there really were, once there were."""
    negatives, share = _condition(pair)
    counts = {r["num_users"] for line in pair for r in line.cell.results.values()}
    users = " / ".join(f"{count:,}" for count in sorted(counts))
    return [str(negatives), f"{users} ({share:.0%})" if users else f"{share:.0%}"]


def by_popularity(cell: Cell, metric: str) -> list[float | None]:
    """The metric by quintile of the target item's popularity, the least popular first.

    The mean over seeds; None where a quintile is empty, since equally popular items are together.
    """
    values = [r["by_popularity"][metric] for r in cell.results.values()]
    columns = zip(*values, strict=True) if values else [()] * QUINTILES
    return [mean([value for value in column if value is not None]) for column in columns]


def compose(pairs: Sequence[Comparison], not_done: list[str]) -> Document:
    """The page: the verdict, the tables and the picture."""
    text = [
        "SASRec on Beauty, sampled softmax over negatives shared by a batch, AdamW "
        f"with and without smoothing (β 0.99, L 3), {EPOCHS} epochs, all other settings equal: "
        "learning rate 0.001, dropout 0.5, decay 0.1, padding masked. Test metrics at the epoch of "
        f"the best validation {CRITERION}. *25%* trains and tests on a quarter of the users. Where "
        "two numbers stand in a cell, the first is of the plain runs.",
        verdict(pairs),
        rows.trained_on(rows.devices(line.cell for pair in pairs for line in pair)),
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
            *_words(pair),
            *(text for metric in SHOWN for text in _beside(pair, metric)),
            *map(_both, *(cells.progress_of(line.cell) for line in (pair.other, pair.one))),
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


def verdict(pairs: Sequence[Comparison]) -> str:
    """The numbers in words, whichever way they fall."""
    found = [(pair.gain(CRITERION), pair) for pair in pairs]
    gains = [(value, pair) for value, pair in found if value is not None]
    if not gains:
        return "No pair of runs is done yet."
    ahead = sum(value > 0 for value, _ in gains)
    ordered = sorted(gains, key=lambda own: own[0])
    (least, low), (most, high) = ordered[0], ordered[-1]
    sentences = [
        f"By test {CRITERION}, SEvo is ahead of the plain run in {ahead} of {len(gains)} pairs."
    ]
    if len(gains) > 1:
        sentences.append(
            f"Its gain is largest with {high.one.row.label} ({percent(most)}), and smallest "
            f"with {low.one.row.label} ({percent(least)})."
        )
    changes = [_changes(pair) for _, pair in gains]
    ends = [[value for c in changes if (value := c[end]) is not None] for end in (0, -1)]
    rare, popular = map(mean, ends)
    if rare is not None and popular is not None:
        sentences.append(
            f"Averaged over the pairs, smoothing changes {CRITERION} by {rare:+.4f} for targets of "
            f"the least popular quintile and by {popular:+.4f} for those of the most popular one."
        )
    if len(pairs[0].one.cell.results) <= 1:
        sentences.append("One seed a run: gains of a few per cent may be chance.")
    return " ".join(sentences)


def _both(plain: str, sevo: str) -> str:
    """The words of both runs, once if they are the same."""
    return plain if plain == sevo else f"{plain} / {sevo}"


def _changes(pair: Comparison, metric: str = CRITERION) -> list[float | None]:
    """SEvo's metric less the plain one's, by quintile."""
    both = (by_popularity(line.cell, metric) for line in pair)
    return [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]


def _beside(pair: Comparison, metric: str) -> list[str]:
    averages = [mean(line.cell.values(metric)) for line in (pair.other, pair.one)]
    return [*map(score, averages), percent(pair.gain(metric))]


def _popularity_table(pairs: Sequence[Comparison], metric: str) -> Table:
    header = ["Negatives", "Users", "", "Q1, least popular", "Q2", "Q3", "Q4", "Q5, most popular"]
    written: list[list[str]] = []
    for pair in pairs:
        plain, sevo = (by_popularity(line.cell, metric) for line in (pair.other, pair.one))
        changes = [NONE if c is None else f"{c:+.4f}" for c in _changes(pair, metric)]
        written.append([*_words(pair), "plain", *map(score, plain)])
        written.append(["", "", "SEvo", *map(score, sevo)])
        written.append(["", "", "difference", *changes])
    title = f"{metric} by popularity of the target item, in quintiles"
    return Table(title, header, written, text_columns=3)


def _pair_json(pair: Comparison) -> dict[str, Any]:
    def side(cell: Cell) -> dict[str, Any]:
        own = {str(seed): r["by_popularity"] for seed, r in cell.results.items()}
        return cells.cell_json(cell, METRICS, None) | {"by_popularity": own}

    negatives, share = _condition(pair)
    return {
        "negatives": negatives,
        "user_share": share,
        "plain": side(pair.other.cell),
        "sevo": side(pair.one.cell),
        "gain": {metric: pair.gain(metric) for metric in METRICS},
    }


def draw(pairs: Sequence[Comparison], path: Path) -> None:
    """Draws the criterion against negatives, and SEvo's change of it by popularity."""
    styles = dict(zip(SHARES, ("-", "--"), strict=True))
    with plots.picture(path, (10, 4), 1, 2) as (_, ((left, right),)):
        for share, style in styles.items():
            own = [pair for pair in pairs if _condition(pair)[1] == share]
            for side, label, color in ((1, "plain", "tab:gray"), (0, "SEvo", "tab:blue")):
                means = [mean(pair[side].cell.values(CRITERION)) for pair in own]
                left.plot(
                    [_condition(pair)[0] for pair in own],
                    np.array(means, float),  # NaN where a value is missing
                    style,
                    color=color,
                    marker="o",
                    label=f"{label}, {_users(share)}",
                )
        colors = dict(zip(NEGATIVES, plots.COLORS, strict=False))
        quintiles = np.arange(1, QUINTILES + 1)
        for pair in pairs:
            changes, (negatives, share) = _changes(pair), _condition(pair)
            if any(change is not None for change in changes):
                look = {"color": colors[negatives], "marker": "o", "label": pair.one.row.label}
                right.plot(quintiles, np.array(changes, float), styles[share], **look)
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
