"""The gain of SEvo over tuned AdamW by negatives, batch size, users, width and popularity.

SASRec by the strong recipe. SEvo has the settings of its best trial of equal tuning. AdamW has
those of its own or SEvo's, whichever validate better at a place. Away from where both were tuned, a
gain may else be that of a learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import data
from experiments.beyond import comparisons, tuning
from experiments.beyond.tuning import EPOCHS, FULL_EPOCHS, SMALLER
from experiments.metrics import CRITERION
from experiments.numbers import METRICS, dataset_name
from experiments.pages import plots
from experiments.pages.documents import NONE, Document, Table
from experiments.paper import accuracy
from experiments.tables import cells, requests, rows, runs
from experiments.tables.rows import Comparison, Line, Row


class Condition(NamedTuple):
    """A place of the map.

    Attributes:
        x: the place along its axis.
        tick: its name there.
        label: its name in tables.
        settings: those of both runs.
        series: of the picture, where an axis has several.
        of_graph: settings of SEvo's graph.
    """

    x: float
    tick: str
    label: str
    settings: Mapping[str, Any]
    series: str = ""
    of_graph: Mapping[str, Any] = {}


BATCH = SMALLER["batch_size"]
ALL_USERS = BATCH / SMALLER["user_share"]
"""The batch for all users; fewer users have it in proportion, so that epochs have as many steps."""
GRAPHS: Mapping[str, Mapping[str, Any]] = {
    "their own graph": {},
    "all users' graph": {"graph_of_all_users": True},
    "category graph": {"graph": "category"},
}
AXES: Mapping[str, Sequence[Condition]] = {
    "negatives of each position": [
        *(
            Condition(
                count,
                str(count),
                f"{count} negative{'s' * (count > 1)}",
                {"loss": "sampled-softmax", "own_negatives": True, "num_negatives": count},
            )
            for count in (1, 8, 64, 512)
        ),
        Condition(10_000, "all", "all items", {}),
    ],
    "batch size": [
        Condition(size, str(size), f"batches of {size}", {"batch_size": size})
        for size in (32, BATCH, 512, 2048)
    ],
    "share of the users": [
        Condition(
            share,
            f"{share:.0%}",
            f"{share:.0%} of the users, {name}",
            {"user_share": share, "batch_size": round(share * ALL_USERS)},
            name,
            graph,
        )
        for share in (0.05, 0.1, 0.25, 1.0)
        for name, graph in GRAPHS.items()
        if share < 1 or name != "all users' graph"
    ],
    "width": [
        Condition(16, "16", "width 16", {"dim": 16}),
        Condition(64, "64", "width 64", {}),
        Condition(128, "128", "width 128", {"dim": 128}),
    ],
}
"""The axes of the map: for the picture, all items are 10,000 negatives."""


class Place(NamedTuple):
    """A condition on a data set: its rows, in this order."""

    axis: str
    condition: Condition
    plain: Row
    borrowed: Row
    sevo: Row


def places_of(asked: requests.Request) -> list[Place]:
    """Lists the places of the map, with the settings that are best so far."""
    sides = tuning.sides(asked.runs).values()
    found: list[Place] = []
    for dataset in asked.datasets:
        for axis, conditions in AXES.items():
            for condition in conditions:
                both = {**SMALLER, **condition.settings}
                own = [
                    Row(
                        dataset,
                        "sasrec",
                        condition.label,
                        best.optimizer,
                        {**best.settings, **both, **graph},
                        epochs=FULL_EPOCHS if both["user_share"] == 1 else EPOCHS,
                    )
                    for best, graph in zip(sides, ({}, {}, condition.of_graph), strict=True)
                ]
                found.append(Place(axis, condition, *own))
    return found


def make(request: requests.Request) -> int:
    """Runs what is missing, and writes the tables and the picture."""
    names = requests.Names(data.NAMES, ("beauty", "sports"))
    asked = requests.choose(request, requests.Choices(datasets=names))
    places = places_of(asked)
    wanted = [row for place in places for row in (place.plain, place.borrowed, place.sevo)]
    plan = rows.make_plan(wanted, asked.seeds, asked.epochs)
    tuned = tuning.sides_in_words(asked.runs)

    def document(outcomes: runs.Outcomes) -> Document:
        lines, missing = plan.read(outcomes, request.runs)
        threes = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
        measured = [measure(place, *three) for place, three in zip(places, threes, strict=True)]
        return compose(measured, missing, tuned)

    return runs.carry_out(plan.order(), request, document)


class Measured(NamedTuple):
    """A place of the map, and what was measured there.

    Attributes:
        place: the place.
        pair: SEvo and the AdamW that validates better there.
        other: SEvo and the other AdamW.
    """

    place: Place
    pair: Comparison
    other: Comparison


def measure(place: Place, plain: Line, borrowed: Line, sevo: Line) -> Measured:
    """Holds SEvo at a place against both AdamWs."""
    best = comparisons.better(plain, borrowed)
    other = borrowed if best is plain else plain
    return Measured(place, Comparison(sevo, best), Comparison(sevo, other))


def compose(measured: Sequence[Measured], missing: Sequence[str], tuned: str) -> Document:
    """Composes the page: the verdict, the tables and the picture; ``tuned`` says how."""
    lines = [line for own in measured for line in (*own.pair, own.other.other)]
    text = [
        verdict(measured),
        "SASRec by the strong recipe, the cross-entropy over all items, AdamW with and without "
        f"smoothing, on {SMALLER['user_share']:.0%} of the users, in batches of "
        f"{SMALLER['batch_size']}, {EPOCHS} epochs ({FULL_EPOCHS} with all users), where nothing "
        "else is said; batches are in "
        f"proportion to the share of the users. {tuned} Away from the centre of the map nothing "
        "was tuned anew. But AdamW ran with SEvo's learning rate, dropout and decay, too: *AdamW* "
        "is the one that validates better at a place, of those done, and *the other* the other.",
        rows.protocol_of(lines),
        f"{accuracy.MEASURED}; error bars in the picture. The gain is SEvo's {CRITERION} over that "
        "of AdamW with the same seed.",
        rows.trained_on(rows.devices(line.cell for line in lines)),
    ]
    tables = [
        _table(f"{dataset_name(own[0].place.plain.dataset)}: by {axis}", own)
        for (_, axis), own in _grouped(measured).items()
    ]
    usual = [
        pair
        for place, pair, _ in measured
        if pair.seeds and place.axis == "width" and place.condition.x == 64
    ]
    tables += [
        comparisons.popularity_table(
            [pair],
            f"{dataset_name(pair.one.row.dataset)}: {CRITERION} by popularity of the target item, "
            "in quintiles",
        )
        for pair in usual
    ]
    return Document(
        name="when-it-pays",
        title="When SEvo pays",
        text=text,
        tables=tables,
        missing=missing,
        content={
            "table": "when-it-pays",
            "verdict": verdict(measured),
            "places": [
                {
                    "dataset": place.plain.dataset,
                    "axis": place.axis,
                    "condition": place.condition.label,
                    "plain": rows.row_json(pair.other),
                    "sevo": rows.row_json(pair.one),
                    **pair.to_json(),
                    "other": {**rows.row_json(other.other), **other.to_json()},
                }
                for place, pair, other in measured
            ],
            "missing": missing,
        },
        draw=lambda path: draw(measured, path),
        alt=f"The gain of SEvo over tuned AdamW in test {CRITERION}, by {', '.join(AXES)}.",
    )


def _grouped(measured: Sequence[Measured]) -> dict[tuple[str, str], list[Measured]]:
    """The places where both sides are done, by data set and axis."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for own in measured:
        if own.pair.seeds:
            groups.setdefault((own.place.plain.dataset, own.place.axis), []).append(own)
    return groups


HEADER = (
    *("", "AdamW", "Settings", "SEvo", "Gain", "± over seeds", "p-value"),
    *("The other", "Gain over it", "Its p-value", "Seeds", "Epochs"),
)


def _table(title: str, measured: Sequence[Measured]) -> Table:
    written: list[list[str]] = []
    for place, pair, other in measured:
        spread = cells.deviation(pair.gains_by_seed(CRITERION))
        written.append(
            [
                place.condition.label,
                cells.score_over_seeds(pair.other.cell.values(CRITERION)),
                "SEvo's" if pair.other.row == place.borrowed else "its own",
                cells.score_over_seeds(pair.one.cell.values(CRITERION)),
                cells.percent(pair.gain(CRITERION)),
                NONE if spread is None else f"{spread:.1%}",
                cells.probability(pair.p_values[METRICS.index(CRITERION)]),
                cells.score_over_seeds(other.other.cell.values(CRITERION)),
                cells.percent(other.gain(CRITERION)),
                cells.probability(other.p_values[METRICS.index(CRITERION)]),
                *cells.progress_of(pair.one.cell)[:2],
            ]
        )
    return Table(title, HEADER, written)


def _runs_of(place: Place) -> str:
    return repr([(row.dataset, row.optimizer, dict(row.settings)) for row in place[2:]])


def verdict(measured: Sequence[Measured]) -> str:
    """The numbers in words, whichever way they fall; the centre of the map counts once."""
    places = {_runs_of(place): (place, pair) for place, pair, _ in reversed(measured)}
    gains = [(pair.gain(CRITERION), len(pair.seeds), place) for place, pair in places.values()]
    found = [(gain, count, place) for gain, count, place in gains if gain is not None]
    if not found:
        return "No pair of runs is done yet."
    ahead = sum(gain > 0 for gain, _, _ in found)
    (low, _, worst), (high, _, best) = (pick(found, key=lambda own: own[0]) for pick in (min, max))
    several = sum(count > 1 for _, count, _ in found)
    return (
        f"By test {CRITERION}, SEvo is ahead of AdamW at {ahead} of {len(found)} places of "
        f"the map, {several} of them measured with two seeds or more: its gain is "
        f"{cells.percent(high)} at best ({best.condition.label}, "
        f"{dataset_name(best.plain.dataset)}) and {cells.percent(low)} at worst "
        f"({worst.condition.label}, {dataset_name(worst.plain.dataset)})."
    )


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Draws the gains along each axis, a line for each data set and graph."""
    with plots.picture(path, (9.2, 7.0), 2, 2, sharey=True) as (figure, grid):
        for axis, axes in zip(AXES, grid.flat, strict=True):
            drawn = False
            for label, own in _series(measured, axis).items():
                values = [one.pair.gains_by_seed(CRITERION) for one in own]
                done = [i for i, gains in enumerate(values) if gains]
                drawn |= bool(done)
                axes.errorbar(
                    [own[i].place.condition.x for i in done],
                    [100 * (cells.mean(values[i]) or 0.0) for i in done],
                    [100 * (cells.deviation(values[i]) or 0.0) for i in done],
                    marker="o",
                    ms=4,
                    capsize=3,
                    label=label if done else None,
                )
            axes.axhline(0, color="black", lw=0.8)
            if drawn:  # an empty axis has no logarithm
                axes.set_xscale("log")
                ticks = {condition.x: condition.tick for condition in AXES[axis]}
                axes.set_xticks(list(ticks), list(ticks.values()))
                axes.minorticks_off()
            axes.set(xlabel=axis, ylabel=f"gain in test {CRITERION}, %")
        plots.legend_below(figure)


def _series(measured: Sequence[Measured], axis: str) -> Mapping[str, list[Measured]]:
    series: dict[str, list[Measured]] = {}
    for own in measured:
        if own.place.axis == axis:
            series_name = own.place.condition.series or "their own graph"
            name = f"{dataset_name(own.place.plain.dataset)}, {series_name}"
            series.setdefault(name, []).append(own)
    return series
