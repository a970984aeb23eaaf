"""New items and new days: items without training interactions, and runs that go on with new data.

The data of both experiments are made from those of a registered data set, and written as files,
which the usual training then reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

import sevo_jax
from experiments import data, runner
from experiments.bars import progress_bar
from experiments.beyond import tuning
from experiments.console import say
from experiments.data import Interactions
from experiments.data.categories import own_file
from experiments.errors import UserError
from experiments.files import read_json, read_lines, write_json
from experiments.metrics import metrics_of
from experiments.paper.numbers import dataset_name
from experiments.protocol import Measured, protocol
from experiments.run import Run, make_run
from experiments.settings import GraphSettings
from experiments.tables import cells, plots, requests, rows, runs
from experiments.tables.documents import NONE, Document, Table
from experiments.training import loop
from experiments.training.continued import fill
from experiments.training.finished import Finished, load_run
from experiments.training.graphs import category_graph, item_graph
from experiments.training.state import in_table

COLD_SHARE = 0.1
FIRST_SHARE = 0.8
EPOCHS = 60
MORE_EPOCHS = (1, 3, 5)
METRICS = ("HR@10", "NDCG@10")
CATEGORIES, BOTH = "categories.json", "both.npz"
MAX_CATEGORY_SIZE = GraphSettings().max_category_size
GROUPS = ("new", "old", "all")
"""Groups of users, by whether their test item is new."""


class Variant(NamedTuple):
    """A way to rank new items.

    Attributes:
        label: its name.
        smooths: whether it has SEvo's best settings, else AdamW's.
        settings: further ones; names of files are in the experiment's folder.
        part: the data: ``first`` or ``whole``; of the experiment with cold items ``cold``.
        start: the label of the variant that it goes on from.
        fills: whether rows of new items are the means of their neighbours by category.
    """

    label: str
    smooths: bool
    settings: Mapping[str, Any] = {}
    part: str = "whole"
    start: str = ""
    fills: bool = False


class Experiment(NamedTuple):
    """An experiment with new items.

    Attributes:
        title: the heading.
        text: what is done.
        variants: what is compared; a variant comes after the one that it goes on from.
        prepare: writes the data into a folder, and returns the ids of the new items.
    """

    title: str
    text: str
    variants: Sequence[Variant]
    prepare: Callable[[Interactions, Path], np.ndarray]


def write_part(given: Interactions, kept: np.ndarray, path: Path) -> None:
    """Writes the interactions that are kept as a table, by the ids of the data's source."""
    users, items = given.user_ids[given.owners[kept]], given.item_ids[given.items[kept] - 1]
    pl.DataFrame({"user": users.tolist(), "item": items.tolist()}).write_parquet(path)


def prepare_cold(given: Interactions, folder: Path) -> np.ndarray:
    """Takes all training interactions from a tenth of the items, drawn at random.

    Writes the categories, and the graph of interactions and categories together, too.
    """
    count = round(COLD_SHARE * given.num_items)
    cold = 1 + np.random.default_rng(0).choice(given.num_items, count, replace=False)
    kept = ~(np.isin(given.items, cold) & given.training_part())
    write_part(given, kept, folder / "cold.parquet")
    path, source = own_file(given)
    write_json(folder / CATEGORIES, source.read(path))
    part = data.load(str(folder / "cold.parquet"))
    categories = category_graph(part, None, str(folder / CATEGORIES), MAX_CATEGORY_SIZE)
    # The sum of the normalised graphs, so that neither outweighs the other; without padding.
    weights = (item_graph(part, 50).to_scipy() + categories.to_scipy())[1:, 1:]
    sevo_jax.Graph.from_weights(weights).save(folder / BOTH)
    nodes = pl.DataFrame({"node": range(part.num_items), "item": part.item_ids.tolist()})
    nodes.write_parquet((folder / BOTH).with_suffix(".items.parquet"))
    return given.item_ids[cold - 1]


def prepare_days(given: Interactions, folder: Path) -> np.ndarray:
    """Writes the first 80% of each user's items, and all of them; see `Experiment`."""
    place = np.arange(given.items.size) - np.repeat(given.starts, given.lengths)
    first = place < np.repeat(np.ceil(FIRST_SHARE * given.lengths), given.lengths)
    write_part(given, first, folder / "first.parquet")
    write_part(given, np.ones_like(first), folder / "whole.parquet")
    known = data.load(str(folder / "first.parquet")).item_ids
    return np.setdiff1d(given.item_ids, known)


COLD = Experiment(
    "Cold items",
    "A tenth of the items loses all training interactions. They are *new*: the test item of some "
    "users is one of them. *Filled* puts the mean of the rows of an item's neighbours by category "
    "in the row of each new item, after training.",
    (
        Variant("AdamW", False, part="cold"),
        Variant("AdamW, new items filled", False, part="cold", start="AdamW", fills=True),
        Variant("SEvo, interactions", True, part="cold"),
        Variant(
            "SEvo, categories",
            True,
            {"graph": "category", "categories": CATEGORIES},
            part="cold",
        ),
        Variant("SEvo, interactions and categories", True, {"graph": BOTH}, part="cold"),
    ),
    prepare_cold,
)
DAYS = Experiment(
    "New days",
    f"A model is trained on the first {FIRST_SHARE:.0%} of each user's items, leave-one-out among "
    "them, and then goes on with all of them for some epochs. Items that the first part "
    "lacks are *new*: with SEvo they begin at the mean of their neighbours. *Retrained* runs begin "
    "anew with all items.",
    (
        *(
            Variant(f"{name}, first part", smooths, part="first")
            for name, smooths in (("AdamW", False), ("SEvo", True))
        ),
        *(
            Variant(
                f"{name}, {epochs} more epoch{'s' * (epochs > 1)}",
                smooths,
                {"epochs": epochs},
                start=f"{name}, first part",
            )
            for epochs in MORE_EPOCHS
            for name, smooths in (("AdamW", False), ("SEvo", True))
        ),
        Variant("AdamW, retrained", False),
        Variant("SEvo, retrained", True),
    ),
    prepare_days,
)


class Step(NamedTuple):
    """A variant to be done: its data, its run and its folder."""

    dataset: str
    variant: Variant
    seed: int
    run: Run
    folder: Path


def steps_of(
    experiment: Experiment, dataset: str, seed: int, asked: requests.Request
) -> list[Step]:
    """Makes the steps of an experiment, in order."""
    root = asked.runs / f"{dataset}-{asked.table}"
    sides = tuning.sides(asked.runs)
    found: dict[str, Step] = {}
    for variant in experiment.variants:
        best = sides[variant.smooths]
        own = {
            name: str(root / value) if value in (CATEGORIES, BOTH) else value
            for name, value in variant.settings.items()
        }
        values = {
            **best.settings,
            "epochs": EPOCHS if asked.epochs is None else asked.epochs,
            **own,
        }
        if "every_epochs" in values:  # a short run is smoothed at its end
            values["every_epochs"] = min(values["every_epochs"], values["epochs"])
        if variant.start and not variant.fills:
            values["start"] = str(found[variant.start].folder)
        run = make_run(
            "sasrec", str(root / f"{variant.part}.parquet"), best.optimizer, seed, **values
        )
        name = variant.label.lower().replace(",", "").replace(" ", "-")
        place = found[variant.start].folder if variant.fills else root / f"{name}-seed{seed}"
        found[variant.label] = Step(dataset, variant, seed, run, place)
    return list(found.values())


def make(experiment: Experiment, request: requests.Request) -> int:
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
        return runs.publish(compose(experiment, steps, asked), request)

    todo = [step for step in steps if found_of(step) is None] if asked.train else []
    publish()
    with progress_bar() as bar, runner.stop_on_signal(bar) as stop:
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


def file_of(step: Step) -> Path:
    """Returns the file of a step's measurements."""
    return step.folder / ("filled.json" if step.variant.fills else "groups.json")


def found_of(step: Step) -> dict[str, Any] | None:
    """Returns a step's measurements, if they are there and of the same settings."""
    file = file_of(step)
    found = read_json(file) if file.exists() else None
    return found if found and found["run"] == step.run.to_json() else None


def measure(step: Step, new: np.ndarray) -> dict[str, Any]:
    """Computes the test metrics of the users whose test item is new, of the others, and of all.

    Args:
        step: a step whose run is finished.
        new: the ids of the new items.
    """
    finished = load_run(step.folder)
    params = finished.checkpoint.best_params
    if step.variant.fills:
        params = filled(finished, step.folder.parent / CATEGORIES, new)
    ranks = finished.setup.rank("test", params, finished.checkpoint.best_carried)
    own = finished.data
    is_new = np.isin(own.item_ids[own.items[own.ends[2] - 1] - 1], new)
    masks = {"new": is_new, "old": ~is_new, "all": np.ones_like(is_new)}
    return {
        "run": step.run.to_json(),
        "num_items": own.num_items,
        "users": {name: int(mask.sum()) for name, mask in masks.items()},
        "test": {name: metrics_of(ranks[mask]) for name, mask in masks.items() if mask.any()},
        "median_rank": float(np.median(ranks[is_new])) if is_new.any() else None,
        "epochs": step.run.settings.training.epochs,
        "seconds": read_lines(step.folder / "metrics.jsonl")[-1]["seconds"],
        "device": loop.device(),
    }


def filled(finished: Finished, categories: Path, new: np.ndarray) -> Any:
    """Returns a run's parameters with the means of neighbours by category for new items."""
    own = finished.data
    graph = category_graph(own, None, str(categories), MAX_CATEGORY_SIZE)
    known = jnp.asarray(np.concatenate([[False], ~np.isin(own.item_ids, new)]))

    def put(path: Any, leaf: jax.Array) -> jax.Array:
        return fill(graph, leaf, known) if in_table(path, "item_embedding") else leaf

    return jax.tree_util.tree_map_with_path(put, finished.checkpoint.best_params)


def compose(experiment: Experiment, steps: Sequence[Step], asked: requests.Request) -> Document:
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
        alt=f"{experiment.title}: test NDCG@10 of users with a new and with an old test item.",
    )


def sizes_of(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Returns the numbers of items and users of measurements, as the protocol reads them."""
    return {"num_items": found["num_items"], "num_users": found["users"]["all"]} if found else {}


Found = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def values_of(own: Sequence[Mapping[str, Any]], group: str, metric: str) -> list[float]:
    """Returns a metric of a group of users for each seed."""
    return [one["test"][group][metric] for one in own if group in one["test"]]


def median_rank(own: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the mean over seeds of the median rank of new items."""
    return cells.mean([one["median_rank"] for one in own if one["median_rank"] is not None])


def _table(dataset: str, experiment: Experiment, measured: Found) -> Table:
    metrics = (f"{m}, {g}" for g in GROUPS for m in METRICS)
    header = ["Run", *metrics, "Median rank, new", "Seconds", "Seeds"]
    written: list[list[str]] = []
    users: Mapping[str, int] = {}
    for variant in experiment.variants:
        if (dataset, variant.label) not in measured:
            continue
        own = measured[dataset, variant.label]
        seconds = cells.mean([one["seconds"] for one in own])
        scores = (
            cells.score_over_seeds(values_of(own, group, metric))
            for group in GROUPS
            for metric in METRICS
        )
        whole = [NONE if x is None else f"{x:,.0f}" for x in (median_rank(own), seconds)]
        written.append([variant.label, *scores, *whole, str(len(own))])
        users = own[0]["users"] if own else users
    counts = ", ".join(f"{users[group]:,} {group}" for group in GROUPS) if users else "nothing yet"
    return Table(f"{dataset_name(dataset)}: users by test item: {counts}", header, written)


def verdict(measured: Found) -> str:
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
            ranks = {label: median_rank(measured[dataset, label]) or inf for label in scores}
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


def draw(measured: Found, path: Path) -> None:
    """Draws the criterion of both groups, a panel for each data set."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in measured))
    size = 9.2, 4.2 * len(datasets)
    with plots.picture(path, size, len(datasets), 2, sharex="row", sharey="row") as (_, grid):
        for dataset, panels in zip(datasets, grid, strict=True):
            labels = [label for place, label in measured if place == dataset]
            for axes, group in zip(panels, GROUPS, strict=False):
                values = [values_of(measured[dataset, label], group, "NDCG@10") for label in labels]
                axes.barh(
                    range(len(labels)),
                    [cells.mean(own) or 0.0 for own in values],
                    xerr=[cells.deviation(own) or 0.0 for own in values],
                )
                axes.set_yticks(range(len(labels)), labels)
                axes.set(xlabel=f"test NDCG@10, {group} items", title=dataset_name(dataset))
            panels[0].invert_yaxis()


make_cold = partial(make, COLD)
make_days = partial(make, DAYS)
