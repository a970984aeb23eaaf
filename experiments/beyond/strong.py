"""The strong recipe by itself: the cross-entropy over all items, beside what others published."""

from __future__ import annotations

from collections.abc import Iterable

from experiments import data
from experiments.beyond.tuning import RECIPE
from experiments.paper import accuracy, numbers
from experiments.paper.accuracy import Accuracy
from experiments.paper.numbers import PLAIN, SEVO, UNSMOOTHED
from experiments.settings import OPTIMIZERS
from experiments.settings.published import MODELS
from experiments.tables.requests import Choices, Names, Request
from experiments.tables.rows import Row

RECIPES = tuple(name for name, entry in MODELS.items() if "strong" in entry.recipes)
PUBLISHED: dict[tuple[str, str], numbers.Scores] = {
    ("sasrec", "beauty"): (None, None, 0.0986, None, 0.0597),
    ("gru4rec", "beauty"): (None, None, 0.0691, None, 0.0397),
}
"""HR@10 and NDCG@10 in MTandHJ/CE-SCE-LLMRec, means of five seeds."""


def rows_of(asked: Request) -> Iterable[Row]:
    """A row for each model, data set and optimiser."""
    for dataset in asked.datasets:
        for model in asked.models:
            for optimizer in asked.optimizers:
                theirs = PUBLISHED.get((model, dataset)) if optimizer == PLAIN else None
                name = numbers.MODELS[model]
                yield Row(dataset, model, f"{name}, strong", optimizer, RECIPE, theirs)


STRONG = Accuracy(
    title="The strong recipe",
    text=(
        "The strong recipe is the cross-entropy over all items, with settings that others tuned "
        "for Adam on Beauty. AdamW and SEvo-AdamW have the recipe's settings as they are, not "
        "tuned for them (`python -m experiments.reproduce tuned` does that).",
        f"{accuracy.MEASURED}; *paper* is the mean of five seeds in MTandHJ/CE-SCE-LLMRec, "
        f"*difference* is ours against it. {accuracy.STOPPED('the recipe has')}",
    ),
    choices=lambda _: Choices(
        models=Names(RECIPES, ("sasrec",)),
        datasets=Names(data.NAMES, ("beauty", "toys", "sports", "ml-1m")),
        optimizers=Names(OPTIMIZERS, (PLAIN, UNSMOOTHED, SEVO)),
    ),
    rows=rows_of,
    versus=accuracy.Versus(
        "gain over Adam",
        accuracy.against(lambda row: row.optimizer == PLAIN),
    ),
)
