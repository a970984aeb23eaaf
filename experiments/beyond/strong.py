"""The strong recipe by itself: the cross-entropy over all items, beside what others published."""

from __future__ import annotations

from collections.abc import Iterable

from experiments import data, numbers
from experiments.beyond.tuning import RECIPE
from experiments.numbers import PLAIN
from experiments.paper import accuracy
from experiments.paper.accuracy import Accuracy
from experiments.settings.published import MODELS
from experiments.tables import requests
from experiments.tables.requests import Choices, Names, Request
from experiments.tables.rows import Row

RECIPES = tuple(name for name, entry in MODELS.items() if "strong" in entry.recipes)
PUBLISHED: dict[tuple[str, str], numbers.Scores] = {
    ("sasrec", "beauty"): (None, None, 0.0986, None, 0.0597),
    ("gru4rec", "beauty"): (None, None, 0.0691, None, 0.0397),
}
"""HR@10 and NDCG@10 in MTandHJ/CE-SCE-LLMRec, means of five seeds."""


def rows_of(asked: Request) -> Iterable[Row]:
    """A row for each model and data set."""
    for dataset in asked.datasets:
        for model in asked.models:
            theirs = PUBLISHED.get((model, dataset))
            yield Row(dataset, model, f"{numbers.MODELS[model]}, strong", PLAIN, RECIPE, theirs)


STRONG = Accuracy(
    title="The strong recipe",
    text=(
        "The strong recipe is the cross-entropy over all items, without smoothing, by Adam, with "
        "settings that others tuned on Beauty for SASRec; of GRU4Rec's, we chose the dropout "
        f"there. `{requests.command('tuned')}` holds SEvo against it.",
        f"{accuracy.MEASURED}; *paper* is the mean of five seeds in MTandHJ/CE-SCE-LLMRec, "
        f"*difference* is ours against it. {accuracy.STOPPED('the recipe has')}",
    ),
    choices=lambda _: Choices(
        models=Names(RECIPES),
        datasets=Names(data.NAMES, ("beauty", "toys", "sports", "ml-1m")),
    ),
    rows=rows_of,
)
