"""The pages of new items and new days."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from experiments import data, runner
from experiments.bars import progress_bar
from experiments.beyond import tuning
from experiments.beyond.new_items import (
    COLD,
    DAYS,
    MORE_EPOCHS,
    Experiment,
    Step,
    file_of,
    found_of,
    measure,
    steps_of,
)
from experiments.console import say
from experiments.errors import UserError
from experiments.files import write_json
from experiments.numbers import dataset_name
from experiments.pages import plots
from experiments.pages.documents import NONE, Document, Table
from experiments.protocol import Measured, protocol
from experiments.tables import cells, requests, rows, runs

METRICS = ("HR@10", "NDCG@10")
GROUPS = ("new", "old", "all")
"""Groups of users, by whether their test item is new."""
Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""The measurements of each seed, by data set and variant."""
Verdict = Callable[[Found], str]
"""Says in words what was measured: the first sentences of the page."""


def make(experiment: Experiment, verdict: Verdict, request: requests.Request) -> int:
    """Does what is missing of an experiment, and writes its table and its picture."""
    names = requests.Names(data.NAMES, ("beauty",))
    asked = requests.choose(request, requests.Choices(datasets=names, seeds=(0,)))
    steps = [
        step
        for seed in asked.seeds
        for dataset in asked.datasets
        for step in steps_of(experiment, dataset, seed, asked)
    ]
    failed = False

    def publish() -> str:
        return runs.publish(compose(experiment, verdict, steps, asked), request)

    todo = [step for step in steps if found_of(step) is None] if asked.train else []
    publish()
    with progress_bar() as bar, runner.stop_on_signal() as stop:
        for dataset in dict.fromkeys(step.dataset for step in todo):
            given = runs.load_one(dataset, asked.data_dir)
            root = asked.runs / f"{dataset}-{asked.table}"
            root.mkdir(parents=True, exist_ok=True)
            own = [step for step in todo if step.dataset == dataset]
            try:
                new = experiment.prepare(given, root)
            except UserError as error:
                say(f"error: {dataset}: {error}")
                failed = True
                continue
            for step in own:
                try:
                    if not step.variant.fills:
                        part = data.load(step.run.dataset)
                        runner.train_group([step.run], part, [step.folder], True, bar, stop)
                    write_json(file_of(step), measure(step, new))
                except UserError as error:
                    say(f"error: {step.variant.label}: {error}")
                    failed = True
                publish()
    say(f"written: {publish()}")
    return 1 if failed else 0


def compose(
    experiment: Experiment, verdict: Verdict, steps: Sequence[Step], asked: requests.Request
) -> Document:
    """Composes the page: the verdict, a table for each data set, and the picture."""
    files = [file_of(step) for step in steps]
    found = {file: own for step, file in zip(steps, files, strict=True) if (own := found_of(step))}
    measured = {
        (dataset, variant.label): [
            found[file]
            for step, file in zip(steps, files, strict=True)
            if (step.dataset, step.variant) == (dataset, variant) and file in found
        ]
        for dataset in asked.datasets
        for variant in experiment.variants
        if variant.part != "first"  # its test items are others
    }
    devices = sorted({own["device"] for own in found.values()})
    epochs = max(step.run.settings.training.epochs for step in steps)
    return Document(
        name=asked.table,
        title=experiment.title,
        text=[
            verdict(measured),
            f"{experiment.text} SASRec by the strong recipe, the cross-entropy over all items, "
            f"{epochs} epochs where nothing else is said. {tuning.sides_in_words(asked.runs)} Test "
            "metrics at the best validation; seconds are those of the last run alone.",
            protocol(
                Measured(dataset_name(step.dataset), {}, sizes)
                for step, file in zip(steps, files, strict=True)
                if step.variant.part != "first" and (sizes := sizes_of(found.get(file)))
            ),
            rows.trained_on(devices),
        ],
        tables=[_table(dataset, experiment, measured) for dataset in asked.datasets],
        missing=[
            f"{step.dataset}, {step.variant.label}, seed {step.seed}: not done"
            for step, file in zip(steps, files, strict=True)
            if file not in found
        ],
        content={
            "table": asked.table,
            "variants": [
                {"dataset": dataset, "variant": label, "seeds": own}
                for (dataset, label), own in measured.items()
            ],
        },
        draw=partial(draw, measured),
        alt=f"{experiment.title}: median rank of new test items, and test NDCG@10 of old ones.",
    )


def sizes_of(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Returns the numbers of items and users of measurements, as the protocol reads them."""
    return {"num_items": found["num_items"], "num_users": found["users"]["all"]} if found else {}


def values_of(own: Sequence[Mapping[str, Any]], group: str, metric: str) -> list[float]:
    """Returns a metric of a group of users for each seed."""
    return [one["test"][group][metric] for one in own if group in one["test"]]


def median_ranks(own: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the median rank of new items for each seed that has any."""
    return [one["median_rank"] for one in own if one["median_rank"] is not None]


def _table(dataset: str, experiment: Experiment, measured: Found) -> Table:
    metrics = (f"{m}, {g}" for g in GROUPS for m in METRICS)
    header = ["Run", *metrics, "Median rank, new", "Seconds", "Seeds"]
    written: list[list[str]] = []
    users: Mapping[str, int] = {}
    for variant in experiment.variants:
        own = measured.get((dataset, variant.label), ())
        if not own:  # the page lists it as missing
            continue
        seconds = cells.mean([one["seconds"] for one in own])
        scores = (
            cells.score_over_seeds(values_of(own, group, metric))
            for group in GROUPS
            for metric in METRICS
        )
        whole = [
            NONE if x is None else f"{x:,.0f}" for x in (cells.mean(median_ranks(own)), seconds)
        ]
        written.append([variant.label, *scores, *whole, str(len(own))])
        users = own[0]["users"]
    counts = ", ".join(f"{users[group]:,} {group}" for group in GROUPS) if users else "nothing yet"
    return Table(f"{dataset_name(dataset)}: users by test item: {counts}", header, written)


def verdict_of_cold(measured: Found) -> str:
    """Names the best variant for new items, and what it costs or brings for the others."""
    sentences: list[str] = []
    for dataset in dict.fromkeys(dataset for dataset, _ in measured):
        scores = {
            label: [cells.mean(values_of(own, group, "NDCG@10")) for group in GROUPS]
            for (place, label), own in measured.items()
            if place == dataset and own and values_of(own, "new", "NDCG@10")
        }
        if len(scores) < 2:
            continue
        best = max(scores, key=lambda label: scores[label][0] or 0.0)
        first, name = next(iter(scores)), dataset_name(dataset)
        (new, old, _), (other_new, other_old, _) = scores[best], scores[first]
        if not new:
            ranks = {
                label: cells.mean(median_ranks(measured[dataset, label])) or inf for label in scores
            }
            nearest = min(ranks, key=ranks.__getitem__)
            sentences.append(
                f"On {name}, nothing ranks a new item among the first ten. *{nearest}* ranks them "
                f"best: the median is {ranks[nearest]:,.0f}, and {ranks[first]:,.0f} of *{first}*."
            )
            continue
        sentences.append(
            f"On {name}, *{best}* ranks new items best: NDCG@10 "
            f"{cells.score(new)}, and {cells.score(old)} for the others; *{first}* has "
            f"{cells.score(other_new)} and {cells.score(other_old)}."
        )
    return " ".join(sentences) or "Fewer than two variants are done yet."


def verdict_of_days(measured: Found) -> str:
    """Lists what all users score after the most epochs that runs go on for, and retrained."""
    last = [
        variant.label
        for variant in DAYS.variants
        if variant.part == "whole" and variant.settings.get("epochs") in (None, max(MORE_EPOCHS))
    ]
    sentences: list[str] = []
    for dataset in dict.fromkeys(dataset for dataset, _ in measured):
        scores = {
            label: values_of(measured.get((dataset, label), ()), "all", "NDCG@10") for label in last
        }
        words = [f"{label}: {cells.score(cells.mean(own))}" for label, own in scores.items() if own]
        if words:
            sentences.append(f"NDCG@10 on {dataset_name(dataset)}: {'; '.join(words)}.")
    return " ".join(sentences) or "Nothing is done yet."


def draw(measured: Found, path: Path) -> None:
    """Draws the median rank of new items and the criterion of old ones, by data set.

    Few new items, if any, are among the first ten.
    """
    datasets = list(dict.fromkeys(dataset for dataset, _ in measured))
    longest = max(sum(place == dataset for place, _ in measured) for dataset in datasets)
    size = 9.6, (1.2 + 0.3 * longest) * len(datasets)
    with plots.picture(path, size, len(datasets), 2, sharey="row") as (_, grid):
        for dataset, (new, old) in zip(datasets, grid, strict=True):
            found = {label: own for (place, label), own in measured.items() if place == dataset}
            values = {
                new: list(map(median_ranks, found.values())),
                old: [values_of(own, "old", "NDCG@10") for own in found.values()],
            }
            for axes, seeds in values.items():
                axes.barh(
                    range(len(seeds)),
                    [cells.mean(own) or 0.0 for own in seeds],
                    xerr=[cells.deviation(own) or 0.0 for own in seeds],
                )
                axes.set_yticks(range(len(found)), list(found))
                axes.set(title=dataset_name(dataset))
            new.set(xlabel="median rank of new items")
            old.set(xlabel="test NDCG@10, old items")
            new.invert_yaxis()


make_cold = partial(make, COLD, verdict_of_cold)
make_days = partial(make, DAYS, verdict_of_days)
