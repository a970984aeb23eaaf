"""Equal tuning: every method gets the same trials, and its best settings then five seeds.

SASRec by the strong recipe, the cross-entropy over all items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import data
from experiments.beyond import comparisons
from experiments.beyond.every import plain_factor
from experiments.metrics import CRITERION
from experiments.numbers import PLAIN as ADAM
from experiments.numbers import SEVO, UNSMOOTHED, dataset_name
from experiments.paper import accuracy, points
from experiments.paper.accuracy import Accuracy, Picture, Versus
from experiments.tables import requests, rows, runs
from experiments.tables.requests import Choices, Names, Request
from experiments.tables.rows import Comparison, Line, Row

TRIALS = 12
EPOCHS = 60
SMALLER: Mapping[str, Any] = {"user_share": 0.25, "batch_size": 128}
"""A trial trains on a quarter of the users, in a quarter of the recipe's batch: as many steps an
epoch as with all users."""
FULL_EPOCHS = 150
RECIPE = {"recipe": "strong"}
COMMON: Mapping[str, Sequence[Any]] = {
    "learning_rate": (3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3),
    "dropout_rate": (0.3, 0.4, 0.5, 0.6, 0.7),
    "weight_decay": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
}
"""The values tried of the settings that all methods have."""


class Method(NamedTuple):
    """A way to move the table of items.

    Attributes:
        optimizer: its name.
        settings: those that make the method.
        searched: what is tried of its own settings.
    """

    optimizer: str
    settings: Mapping[str, Any] = {}
    searched: Mapping[str, Sequence[Any]] = {}


PLAIN = "AdamW"
AS_PUBLISHED = "Adam: the recipe as published"
METHODS: Mapping[str, Method] = {
    PLAIN: Method(UNSMOOTHED),
    "Lookahead": Method(
        SEVO,
        {**plain_factor(0.5), "every_epochs": 5},
        {"beta": (0.25, 0.5, 0.75), "every_epochs": (2, 5, 10)},
    ),
    "SEvo": Method(SEVO, {}, {"beta": (0.5, 0.8, 0.9, 0.99), "num_layers": (1, 2, 3)}),
    "SEvo, waiting": Method(
        SEVO, {"every_epochs": 10}, {"beta": (0.5, 0.9, 0.99), "every_epochs": (2, 5, 10)}
    ),
    "SEvo, a β for each item": Method(
        SEVO, {"kappa": 20.0}, {"kappa": (2.0, 5.0, 20.0, 50.0), "num_layers": (1, 2, 3)}
    ),
}

SMOOTHED = "SEvo"
"""The method that pages hold against plain AdamW, each at the best of as many trials."""
BORROWED = "AdamW with SEvo's settings"


def trial_settings(method: Method) -> list[dict[str, Any]]:
    """Lists the settings of a method's trials: first the recipe's own, then drawn ones.

    Each value is drawn as often as the others, give or take one. The settings that all methods have
    take the same values in the trials of all of them.

    Examples:
        >>> plain, sevo = (trial_settings(METHODS[name]) for name in ("AdamW", "SEvo"))
        >>> [len(plain), plain[0], plain[1] == {name: sevo[1][name] for name in plain[1]}]
        [12, {}, True]
    """
    rng = np.random.default_rng(0)
    space = {**COMMON, **method.searched}
    columns = [rng.permutation(np.resize(own, TRIALS - 1)).tolist() for own in space.values()]
    return [{}, *(dict(zip(space, row, strict=True)) for row in zip(*columns, strict=True))]


def in_words(settings: Mapping[str, Any]) -> str:
    """Describes the settings of a trial.

    Examples:
        >>> in_words({"learning_rate": 0.001, "beta": 0.9})
        'rate 0.001, β 0.9'
    """
    short = {
        "learning_rate": "rate", "dropout_rate": "dropout", "weight_decay": "decay", "beta": "β",
        "num_layers": "L", "kappa": "κ", "every_epochs": "every",
    }  # fmt: skip
    words = [f"{word} {settings[name]:g}" for name, word in short.items() if name in settings]
    return ", ".join(words) or "the recipe's own"


def trials_of(dataset: str, name: str) -> list[Row]:
    """Lists the trials of a method as rows, in the order of `trial_settings`."""
    method = METHODS[name]
    return [
        Row(
            dataset,
            "sasrec",
            f"{name}: {in_words(own)}",
            method.optimizer,
            {**RECIPE, **method.settings, **own, **SMALLER},
            series=name,
            x="best trial",
            epochs=EPOCHS,
        )
        for own in trial_settings(method)
    ]


def rows_of_trials(asked: Request) -> Iterable[Row]:
    """All trials: the first of each method, then the second."""
    for dataset in asked.datasets:
        for turn in zip(*(trials_of(dataset, name) for name in METHODS), strict=True):
            yield from turn


class Best(NamedTuple):
    """The trial of a method that validates best.

    Attributes:
        label: the method, and the settings in words.
        optimizer: its name.
        settings: those of the trial, without `SMALLER`.
    """

    label: str
    optimizer: str
    settings: Mapping[str, Any]


def best_of(dataset: str, name: str, folder: Path) -> Best:
    """Finds the best finished trial of a method; the first if none is finished."""
    trials = trials_of(dataset, name)
    plan = rows.make_plan(trials, (0,), None)
    lines, _ = plan.read(runs.look_at_all(plan.order(), folder), folder)
    done = [line for line in lines if line.cell.epochs == EPOCHS]
    best = max(done, key=lambda line: points.validation(line)[0]).row if done else trials[0]
    own = {name: value for name, value in best.settings.items() if name not in SMALLER}
    return Best(f"{best.label} (best of {len(done)} trials)", best.optimizer, own)


def sides(folder: Path) -> Mapping[str, Best]:
    """Returns AdamW and SEvo at the settings of their best finished trials on Beauty.

    Between them is AdamW with SEvo's settings, as far as it reads them: a gain over both is not
    that of another learning rate.
    """
    plain, smoothed = (best_of("beauty", name, folder) for name in (PLAIN, SMOOTHED))
    return {PLAIN: plain, BORROWED: _borrowed(smoothed), SMOOTHED: smoothed}


def _borrowed(smoothed: Best) -> Best:
    """Returns AdamW with the settings of another method, as far as it reads them."""
    read = {*RECIPE, *COMMON}
    common = {name: value for name, value in smoothed.settings.items() if name in read}
    return Best(f"{BORROWED}: {in_words(common)}", UNSMOOTHED, common)


def sides_in_words(folder: Path) -> str:
    """Describes the settings of both sides, and how they were found."""
    own = sides(folder)
    words = "; ".join(own[name].label for name in (PLAIN, SMOOTHED))
    return (
        "Both sides have the settings of their best trial on Beauty "
        f"(`{requests.command('tuning')}`), {TRIALS} trials each when all are done: {words}."
    )


def rows_of_tuned(asked: Request) -> Iterable[Row]:
    """Each method at the settings of its best finished trial, on all users.

    The recipe as it is comes first: others tuned it, on all users.
    """
    for dataset in asked.datasets:
        best = {name: best_of(dataset, name, asked.runs) for name in METHODS}
        published = Best(AS_PUBLISHED, ADAM, RECIPE)
        for label, optimizer, settings in (published, *best.values(), _borrowed(best[SMOOTHED])):
            yield Row(dataset, "sasrec", label, optimizer, settings, epochs=FULL_EPOCHS)


def _is_plain(row: Row) -> bool:
    return row.optimizer in (ADAM, UNSMOOTHED)


def verdict(compared: Sequence[Comparison]) -> str:
    """Says what holds and what does not."""
    found = [pair for pair in compared if pair.seeds]
    if not found:
        return "No two methods are done yet at their best settings."
    sentences: list[str] = []
    for dataset in dict.fromkeys(pair.one.row.dataset for pair in found):
        own = [pair for pair in found if pair.one.row.dataset == dataset]
        best = comparisons.chosen(own).one
        gains = [
            f"beside {_method(pair.other)}, {rows.gain_in_words(pair)}"
            for pair in own
            if pair.one is best
        ]
        sentences.append(
            f"On {dataset_name(dataset)}, {_method(best)} validates best of the methods that "
            f"smooth. Its test {CRITERION} is, {'; '.join(gains)}."
        )
    return " ".join(sentences)


def _method(line: Line) -> str:
    return line.row.label.partition(":")[0]


SEARCH = (
    f"Every method has {TRIALS} trials on a quarter of the users, in batches of "
    f"{SMALLER['batch_size']}, {EPOCHS} epochs, seed 0: the first with the recipe's own settings, "
    "the others with drawn ones, where learning rate, dropout and decay are the same for all "
    "methods. *Lookahead* has a plain factor in place of ψ; *a β for each item* is β κ / (κ + n) "
    "for an item of n training interactions. The moment correction alone is no method here: the "
    "cross-entropy over all items leaves no row without a gradient, so it is AdamW up to rounding."
)

TRIALS_TABLE = Accuracy(
    title="Equal tuning: the trials",
    text=(
        f"SASRec by the strong recipe. {SEARCH}",
        f"{accuracy.MEASURED}. The picture has each method's trial that validates best.",
    ),
    choices=lambda _: Choices(datasets=Names(data.NAMES, ("beauty", "toys")), seeds=(0,)),
    rows=rows_of_trials,
    picture=Picture("bars", "method"),
)

TUNED = Accuracy(
    title="Equal tuning: five seeds at the best settings",
    text=(
        "SASRec by the strong recipe, all users, each method at the settings of its trial that "
        f"validates best (`python -m experiments.reproduce tuning`). {SEARCH} The recipe *as "
        "published* was tuned by others, on all users. AdamW also has SEvo's learning rate, "
        "dropout and decay: a gain over that is not one of another rate.",
        f"{accuracy.MEASURED}. {accuracy.P_VALUES}",
    ),
    choices=lambda _: Choices(datasets=Names(data.NAMES, ("beauty", "toys"))),
    rows=rows_of_tuned,
    verdict=verdict,
    versus=Versus(
        "gain over what does not smooth",
        accuracy.against(_is_plain),
        entry=lambda own: {
            "dataset": own.one.row.dataset,
            "one": own.one.row.label,
            "other": own.other.row.label,
            **own.to_json(),
        },
    ),
    summary=lambda compared: [
        comparisons.popularity_table(
            [pair for pair in compared if _method(pair.other) == PLAIN],
            f"{CRITERION} by popularity of the target item, in quintiles, beside {PLAIN}",
        ),
        comparisons.epochs_to_other(compared),
    ],
)
