"""The paper's ablations and Table 7 as data: series of runs that vary one or two settings.

Where the paper names no values, they are some factor apart: each is a whole run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments import data, numbers
from experiments.metrics import CRITERION
from experiments.numbers import METRICS, PLAIN, SEVO, UNSMOOTHED
from experiments.paper import accuracy, accuracy_tables
from experiments.paper.accuracy import Accuracy, Picture, Versus
from experiments.settings.published import MODELS, published
from experiments.tables import cells
from experiments.tables.requests import Choices, Names, Request
from experiments.tables.rows import Comparison, Row


class Point(NamedTuple):
    """A run at a place of a series.

    Points of one series at one place are alternatives, of which the picture shows the best on
    validation.

    Attributes:
        series: its label.
        x: the place; None for a series that is one and the same at all places.
        optimizer: of `settings.OPTIMIZERS`.
        settings: those that are not the optimiser's published ones.
        quick: whether a quick look has it.
    """

    series: str
    x: float | str | None
    optimizer: str
    settings: Mapping[str, Any] = {}
    quick: bool = True


class Ablation(NamedTuple):
    """An ablation, as it is described.

    Attributes:
        title: the heading.
        text: what varies, and what the paper says of it.
        points: what is trained.
        picture: its kind, and what the places of a series are.
        symbol: its short form, for labels.
        baseline: the series that the others' gains are over, if they are shown.
        models: those that it is of, unless an option says otherwise.
    """

    title: str
    text: str
    points: tuple[Point, ...]
    picture: Picture
    symbol: str = ""
    baseline: str | None = None
    models: tuple[str, ...] = ("sasrec",)


NO_SMOOTHING = Point("AdamW, no smoothing", None, UNSMOOTHED)
RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.3, 1.0, 3.0),
    "adam": (5e-4, 1e-3, 5e-3),
    "adamw": (5e-4, 1e-3, 5e-3),
}
"""Learning rates of figure3a, by the optimiser without SEvo; SGD's loss is no number at 10."""

REGULARISATION = {1e-6: False, 1e-5: False, 1e-4: True, 1e-3: False, 1e-2: True}
"""Weights of figure7, and whether a quick look has them."""

ABLATIONS = {
    "figure2a": Ablation(
        "Figure 2a: convergence with and without rescaling",
        "SEvo-AdamW with the Neumann series rescaled by (1 - β)/(1 - β^(L+1)), or by 1 - β "
        "alone; all other settings are equal. According to the paper's Section 3.2, training "
        "converges far more slowly without rescaling, and with it slightly later than without "
        "smoothing at first, but not in the end. The figure's values are not printed.",
        (
            Point("SEvo with rescaling", None, SEVO),
            Point("SEvo without rescaling", None, SEVO, {"method": "neumann_unscaled"}),
            NO_SMOOTHING,
        ),
        Picture("curves", "epoch"),
    ),
    "figure3a": Ablation(
        "Figure 3a: SGD, Adam and AdamW, plain and with SEvo",
        "Each optimiser has the settings that its configuration has, but for the learning "
        f"rate: the one of the best validation {CRITERION} among those that the tables list is "
        "in the picture. According to the paper's Section 3.3, all three gain, and SEvo-AdamW "
        "is the best. The figure's values are not printed; *paper* is from Table 2.",
        tuple(
            Point(series, label, optimizer, {"learning_rate": rate}, i < 1 + (plain == "sgd"))
            for plain, label in (("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW"))
            for series, optimizer in (("plain", plain), ("with SEvo", f"sevo-{plain}"))
            for i, rate in enumerate(RATES[plain])
        ),
        Picture("bars", "optimiser"),
    ),
    "figure3b": Ablation(
        "Figure 3b: Neumann series and iterative approximation over β",
        "SEvo-AdamW of three layers; the Neumann series is rescaled. According to the paper's "
        "Section 3.3, they are alike at a small β, and the iterative approximation does not "
        "converge at a β above 0.7 on Beauty. The figure's values are not printed; *paper* is "
        "from Table 2.",
        (
            *(
                Point(series, beta, SEVO, {"method": method, "beta": beta}, beta in (0.5, 0.99))
                for series, method in (("Neumann series", "neumann"), ("iterative", "iterative"))
                for beta in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
            ),
            NO_SMOOTHING,
        ),
        Picture("lines", "degree of smoothness β"),
        "β",
    ),
    "figure3c": Ablation(
        "Figure 3c: moment correction",
        "AdamW and SEvo-AdamW, with and without the correction of Theorem 3, at SEvo's "
        "settings; the correction without smoothing is SEvo of no layers. According to the "
        "paper's Section 3.3, both forms of SEvo are about as good and far above the baseline; "
        "the correction matters to GRU4Rec and STOSA above all. The figure's values are not "
        "printed; *paper* is from Tables 2 and 7.",
        (
            Point("no correction", "no smoothing", UNSMOOTHED),
            Point("no correction", "SEvo", SEVO, {"moment_correction": False}),
            Point("moment correction", "no smoothing", SEVO, {"num_layers": 0}),
            Point("moment correction", "SEvo", SEVO),
            Point("Adam, as published", None, PLAIN),
        ),
        Picture("bars", "steps of the item table"),
        baseline="Adam, as published",
        models=("sasrec", "mf-bpr", "gru4rec", "bert4rec", "stosa"),
    ),
    "figure5a": Ablation(
        "Figure 5a: the first or the last K items make edges",
        "SEvo-AdamW over a graph of the first or the last K training items of each user. "
        "According to the paper's Appendix C.1, the last ones say more, even few of them, and "
        "Beauty gains steadily with K. The figure's values, and its K, are not printed; "
        "*paper* is from Table 2, whose runs have the last 50.",
        (
            *(
                Point(f"{end} items", k, SEVO, {"keep": end, "max_len_graph": k}, k in (5, 50))
                for end in ("last", "first")
                for k in (5, 10, 20, 50)
            ),
            NO_SMOOTHING,
        ),
        Picture("lines", "items of a user that make edges, K"),
        "K",
    ),
    "figure5b": Ablation(
        "Figure 5b: walk length, weights by frequency or distance",
        "SEvo-AdamW over a graph in which items at a distance h ≤ H in a sequence make edges, "
        "of weight 1 (frequency) or 1/h (distance). According to the paper's Appendix C.1, H "
        "= 1 is the most reliable, and weights by distance suffer less from a greater H. The "
        "figure's values are not printed; *paper* is from Table 2.",
        (
            *(
                Point(
                    weighting,
                    length,
                    SEVO,
                    # Both weigh a pair of neighbours by 1: one run.
                    {"walk_length": length} | ({"weighting": weighting} if length > 1 else {}),
                    length in (1, 3),
                )
                for weighting in ("distance", "frequency")
                for length in (1, 2, 3, 5, 10)
            ),
            NO_SMOOTHING,
        ),
        Picture("lines", "greatest distance in a sequence, H"),
        "H",
    ),
    "figure7": Ablation(
        "Figure 7: smoothness as a term of the loss",
        "The loss plus λ Tr(E'(I - Ã)E), E being the item table, minimised by AdamW at SEvo's "
        "settings. According to the paper's Appendix D.2, the term helps slightly, and SEvo "
        "more. The figure's values are not printed; *paper* is from Table 2.",
        (
            *(
                Point("AdamW with the term", w, UNSMOOTHED, {"smoothness_weight": w}, quick)
                for w, quick in REGULARISATION.items()
            ),
            NO_SMOOTHING,
            Point("SEvo", None, SEVO),
        ),
        Picture("lines", "weight of the term, λ"),
        "λ",
    ),
    "table7": Ablation(
        "Table 7: layers of the approximation",
        "SEvo-AdamW of L layers. With L = 0 nothing is smoothed, and the moments are "
        "corrected still. According to the paper's Appendix D.3, three layers are best on "
        "Beauty.",
        tuple(
            Point("SEvo", layers, SEVO, {"num_layers": layers}, layers in (0, 1, 3))
            for layers in range(6)
        ),
        Picture("lines", "layers L"),
        "L",
    ),
}


def rows_of(ablation: Ablation, asked: Request) -> Iterable[Row]:
    """The points for each model on each data set; in a quick look some of them."""
    for dataset in asked.datasets:
        for model in asked.models:
            usual = accuracy_tables.in_ablations(model, dataset)
            for point in ablation.points:
                if point.quick or not asked.quick:
                    series, x, optimizer, own, _ = point
                    paper = papers_value(model, dataset, optimizer, own)
                    label, settings = label_of(ablation, point), {**usual, **own}
                    yield Row(dataset, model, label, optimizer, settings, paper, series, x)


def label_of(ablation: Ablation, point: Point) -> str:
    """The point in words, with what sets it apart from its alternatives."""
    words = [point.series]
    if point.x is not None:
        words.append(f"{ablation.symbol} = {point.x:g}" if ablation.symbol else str(point.x))
    others = [p for p in ablation.points if (p.series, p.x) == (point.series, point.x)]
    if len(others) > 1:
        words += [f"{name.replace('_', ' ')} {v:g}" for name, v in point.settings.items()]
    return ", ".join(words)


def papers_value(
    model: str, dataset: str, optimizer: str, settings: Mapping[str, Any]
) -> numbers.Scores | None:
    """The paper's value of a run: with its published settings, or of L layers."""
    usual = published(model, dataset, optimizer).flat()
    changed = {k: v for k, v in settings.items() if usual[k] != v}
    if not changed:
        return numbers.TABLE_2.get((model, dataset, optimizer))
    if changed.keys() == {"num_layers"} and (model, optimizer) == ("sasrec", SEVO):
        return numbers.TABLE_7.get((dataset, changed["num_layers"]))
    return None


def _gains(comparison: Comparison) -> list[list[str]]:
    """Gains by metric and, as the paper has them, their average."""
    gains = comparison.gains
    average = cells.mean([gain for gain in gains if gain is not None])
    return [[comparison.one.row.label, *map(cells.percent, [*gains, average])]]


def table_of(ablation: Ablation) -> Accuracy:
    """The ablation for the composer: on Beauty, seed 0, unless options say otherwise."""
    versus = Versus(
        f"gain over {ablation.baseline}",
        accuracy.against(lambda row: row.series == ablation.baseline),
        header=("Run", *METRICS, "average"),
        written=_gains,
    )
    return Accuracy(
        ablation.title,
        (ablation.text, accuracy.ABLATION),
        choices=lambda quick: Choices(
            models=Names(MODELS, ablation.models[:1] if quick else ablation.models),
            datasets=Names(data.NAMES, ("beauty",)),
            seeds=(0,),
            quick=True,
        ),
        rows=lambda asked: rows_of(ablation, asked),
        notes=accuracy_tables.variants_in_words,
        versus=versus if ablation.baseline else None,
        picture=ablation.picture,
    )
