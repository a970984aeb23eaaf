"""New items and new days: items without training interactions, and runs that go on with new data.

The data of both experiments are made from those of a registered data set, and written as files,
which the usual training then reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

import sevo_jax
from experiments import data
from experiments.beyond import tuning
from experiments.beyond.tuning import BORROWED, PLAIN, SMOOTHED
from experiments.data import Interactions
from experiments.data.categories import own_file
from experiments.files import read_json, read_lines, write_json
from experiments.metrics import metrics_of
from experiments.run import Run, make_run
from experiments.settings import GraphSettings
from experiments.tables import requests
from experiments.training import loop
from experiments.training.continued import fill
from experiments.training.finished import Finished, load_run
from experiments.training.graphs import category_graph, item_graph
from experiments.training.state import in_table

COLD_SHARE = 0.1
FIRST_SHARE = 0.8
EPOCHS = 60
MORE_EPOCHS = (1, 3, 5)
CATEGORIES, BOTH = "categories.json", "both.npz"
MAX_CATEGORY_SIZE = GraphSettings().max_category_size


class Variant(NamedTuple):
    """A way to rank new items.

    Attributes:
        label: its name.
        side: the optimiser and the settings, by their name in `tuning.sides`.
        settings: further ones; names of files are in the experiment's folder.
        part: the data: ``first`` or ``whole``; of the experiment with cold items ``cold``.
        start: the label of the variant that it goes on from.
        fills: what rows of new items become after training: the means of their neighbours by
            category, or these, scaled to the median length of the other rows.
    """

    label: str
    side: str
    settings: Mapping[str, Any] = {}
    part: str = "whole"
    start: str = ""
    fills: Literal["", "mean", "scaled"] = ""


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


SAMPLED: Mapping[str, Any] = {
    "loss": "sampled-softmax",
    "num_negatives": 512,
    "popular_negatives": True,
}
"""A loss in which items without training interactions are no negatives: they are never drawn."""


def cold_variants(kind: str, loss: Mapping[str, Any]) -> tuple[Variant, ...]:
    """Lists the ways to rank items without training interactions, by runs of one loss."""

    def made(
        name: str, side: str, own: Mapping[str, Any], *fills: Literal["mean", "scaled"]
    ) -> Iterator[Variant]:
        label = f"{name}{kind}"
        yield Variant(label, side, {**loss, **own}, "cold")
        for how in fills:
            words = "new items filled" + (" and scaled" if how == "scaled" else "")
            yield Variant(f"{label}, {words}", side, {**loss, **own}, "cold", label, how)

    return (
        *made("AdamW", PLAIN, {}, "mean", "scaled"),
        *made("SEvo, interactions", SMOOTHED, {}, "scaled"),
        *made("SEvo, categories", SMOOTHED, {"graph": "category", "categories": CATEGORIES}),
        *made("SEvo, interactions and categories", SMOOTHED, {"graph": BOTH}),
    )


COLD = Experiment(
    "Cold items",
    "A tenth of the items loses all training interactions. They are *new*: the test item of some "
    "users is one of them. *Filled* puts the mean of the rows of an item's neighbours by category "
    "in the row of each new item, after training; *scaled*, it has the median length of the other "
    "rows. The cross-entropy over all items has new items as negatives, which pushes them down. "
    "*Sampled* runs have 512 negatives, drawn by popularity and corrected for it, so no new item "
    "is one, as if nobody knew them yet; their other settings are those of the cross-entropy.",
    (*cold_variants("", {}), *cold_variants(", sampled", SAMPLED)),
    prepare_cold,
)
DAYS = Experiment(
    "New days",
    f"A model is trained on the first {FIRST_SHARE:.0%} of each user's items, leave-one-out among "
    "them, and then goes on with all of them for some epochs. Items that the first part "
    "lacks are *new*: with SEvo they begin at the mean of their neighbours. *With SEvo's settings* "
    "and *then* AdamW have SEvo's learning rate, dropout and decay for these epochs, without its "
    "smoothing. *Retrained* runs begin anew with all items.",
    (
        *(Variant(f"{name}, first part", name, part="first") for name in (PLAIN, SMOOTHED)),
        *(
            Variant(
                f"{name}, {epochs} more epoch{'s' * (epochs > 1)}",
                side,
                {"epochs": epochs},
                start=f"{start}, first part",
            )
            for epochs in MORE_EPOCHS
            for name, side, start in (
                (PLAIN, PLAIN, PLAIN),
                (BORROWED, BORROWED, PLAIN),
                ("SEvo, then AdamW", BORROWED, SMOOTHED),
                (SMOOTHED, SMOOTHED, SMOOTHED),
            )
        ),
        *(Variant(f"{name}, retrained", name) for name in (PLAIN, SMOOTHED)),
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
        best = sides[variant.side]
        own = {
            name: str(root / value) if value in (CATEGORIES, BOTH) else value
            for name, value in variant.settings.items()
        }
        epochs = EPOCHS if asked.epochs is None else asked.epochs
        values = {**best.settings, "epochs": epochs, **own}
        if variant.start and not variant.fills:
            values["start"] = str(found[variant.start].folder)
        run = make_run(
            "sasrec", str(root / f"{variant.part}.parquet"), best.optimizer, seed, **values
        )
        name = "-".join(re.findall(r"\w+", variant.label.lower().replace("'s", "")))
        place = found[variant.start].folder if variant.fills else root / f"{name}-seed{seed}"
        found[variant.label] = Step(dataset, variant, seed, run, place)
    return list(found.values())


def file_of(step: Step) -> Path:
    """Returns the file of a step's measurements."""
    names = {"": "groups.json", "mean": "filled.json", "scaled": "scaled.json"}
    return step.folder / names[step.variant.fills]


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
        scaled = step.variant.fills == "scaled"
        params = filled(finished, step.folder.parent / CATEGORIES, new, scaled)
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


def filled(finished: Finished, categories: Path, new: np.ndarray, scaled: bool) -> Any:
    """Returns a run's parameters with the means of neighbours by category for new items."""
    own = finished.data
    graph = category_graph(own, None, str(categories), MAX_CATEGORY_SIZE)
    known = np.concatenate([[False], ~np.isin(own.item_ids, new)])  # row 0 is padding

    def put(path: Any, leaf: jax.Array) -> jax.Array:
        if not in_table(path, "item_embedding"):
            return leaf
        rows = fill(graph, leaf, jnp.asarray(known))
        # Those that `fill` left alone, as they have no known neighbour, are not scaled either.
        return with_median_length(rows, (rows != leaf).any(axis=1), known) if scaled else rows

    return jax.tree_util.tree_map_with_path(put, finished.checkpoint.best_params)


def with_median_length(rows: jax.Array, new: jax.Array, known: np.ndarray) -> jax.Array:
    """Scales the rows that are ``new`` to the median length of the ``known`` ones; zeros stay.

    Examples:
        >>> rows = jnp.array([[5.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
        >>> new, known = jnp.array([False, False, True, True]), np.arange(4) == 1
        >>> jnp.linalg.norm(with_median_length(rows, new, known), axis=1).tolist()
        [5.0, 2.0, 2.0, 0.0]
    """
    lengths = jnp.linalg.norm(rows, axis=1, keepdims=True)
    scaled = rows * jnp.median(lengths[known]) / jnp.where(lengths > 0, lengths, 1)
    return jnp.where(new[:, None], scaled, rows)
