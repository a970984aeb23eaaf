"""Smoothing once in several epochs instead of at every step, and which part of it helps.

On Beauty the rate is tuned on validation at every step, and every 1 and 10 epochs. Elsewhere it is
the published one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments import data, numbers
from experiments.beyond import comparisons
from experiments.metrics import CRITERION
from experiments.numbers import METRICS, SEVO, UNSMOOTHED
from experiments.paper import accuracy, accuracy_tables, points
from experiments.paper.ablations import NO_SMOOTHING, papers_value
from experiments.paper.accuracy import Accuracy, Picture, Versus
from experiments.settings.published import MODELS, published
from experiments.tables import rows
from experiments.tables.requests import Choices, Names, Request
from experiments.tables.rows import Comparison, Line, Row

RATES = (5e-4, 1e-3, 2e-3)
EPOCHS_BETWEEN = {0: RATES, 1: RATES, 5: (1e-3,), 10: RATES, 20: (1e-3,), 50: (1e-3,)}
"""The epochs between two smoothings, 0 for every step, and the learning rates tried with each."""
BEST = 10
SMOOTHED = "SEvo"


def plain_factor(factor: float) -> dict[str, Any]:
    """Returns the settings that put a plain factor in place of ψ, as Lookahead has it."""
    # (1 - β) times the sum of the one term without Ã.
    return {"method": "neumann_unscaled", "num_layers": 0, "beta": 1 - factor}


PARTS: dict[str, Mapping[str, Any]] = {
    "SEvo (L = 3, β = 0.99)": {},
    **{
        f"factor {factor:g} in place of ψ (Lookahead)": plain_factor(factor)
        for factor in (0.25, 0.5, 0.75)
    },
    "L = 1": {"num_layers": 1},
    "L = 6": {"num_layers": 6},
    "β = 0.5": {"beta": 0.5},
    "β = 0.9": {"beta": 0.9},
    "exact ψ": {"method": "exact"},
    "no moment correction": {"moment_correction": False},
}
"""The parts of a smoothing in ten epochs that are varied, each with the settings that vary it."""

TIMES_THE_RATE = (1, 2)
"""The learning rates of other backbones, as multiples of the published one."""

NEGATIVES = 512
SAMPLED: Mapping[str, Any] = {
    "dropout_rate": 0.5,
    "attend_padding": False,
    "loss": "sampled-softmax",
    "num_negatives": NEGATIVES,
}
SOFTMAX: dict[str, tuple[str, Mapping[str, Any]]] = {
    "no smoothing": (UNSMOOTHED, {}),
    "every step": (SEVO, {}),
    f"every {BEST} epochs": (SEVO, {"every_epochs": BEST}),
    f"factor 0.5 every {BEST} epochs (Lookahead)": (
        SEVO,
        {"every_epochs": BEST, **plain_factor(0.5)},
    ),
}
"""The ways to smooth that are held against none, each an optimiser and its settings."""


def _between(epochs: int) -> dict[str, Any]:
    return {"every_epochs": epochs} if epochs else {}


def _words(epochs: int) -> str:
    return f"every {epochs} epoch{'s' * (epochs > 1)}" if epochs else "every step"


def rows_of(asked: Request) -> Iterable[Row]:
    """SEvo by the epochs between two smoothings; on Beauty, at several learning rates."""
    for dataset in asked.datasets:
        for model in asked.models:
            whole = (dataset, model) == ("beauty", "sasrec")
            places = EPOCHS_BETWEEN if whole else dict.fromkeys((0, BEST), (None,))
            usual = accuracy_tables.in_ablations(model, dataset)
            for epochs, rates in places.items():
                for rate in rates:
                    own = _between(epochs) | ({"learning_rate": rate} if rate else {})
                    label = _words(epochs) + (f", rate {rate:g}" if rate else "")
                    paper = papers_value(model, dataset, SEVO, own)
                    settings = {**usual, **own}
                    yield Row(dataset, model, label, SEVO, settings, paper, SMOOTHED, epochs)
            optimizer, series = NO_SMOOTHING.optimizer, NO_SMOOTHING.series
            yield Row(dataset, model, series, optimizer, usual, series=series)


def rows_of_parts(asked: Request) -> Iterable[Row]:
    """Smoothing every ten epochs, with parts of it changed, each at several learning rates."""
    for dataset in asked.datasets:
        for part, changed in PARTS.items():
            for rate in RATES:
                settings = {
                    **_between(1 if asked.quick else BEST),
                    **changed,
                    "learning_rate": rate,
                }
                label = f"{part}, rate {rate:g}"
                yield Row(dataset, "sasrec", label, SEVO, settings, None, _words(BEST), part)


def rows_of_models(asked: Request) -> Iterable[Row]:
    """Other backbones at every step, as in Table 2, and every ten epochs."""
    for dataset in asked.datasets:
        for model in asked.models:
            usual = accuracy_tables.in_ablations(model, dataset)
            rate = published(model, dataset, SEVO).optimizer.learning_rate
            for epochs in (0, BEST):
                for factor in TIMES_THE_RATE:
                    own = {**_between(epochs), "learning_rate": factor * rate}
                    label = f"{_words(epochs)}, rate {factor * rate:g}"
                    paper = papers_value(model, dataset, SEVO, own)
                    x = _words(epochs)
                    yield Row(dataset, model, label, SEVO, {**usual, **own}, paper, SMOOTHED, x)


def rows_of_softmax(asked: Request) -> Iterable[Row]:
    """Smoothing with a softmax over sampled negatives, each at several learning rates."""
    for dataset in asked.datasets:
        for kind, (optimizer, own) in SOFTMAX.items():
            for rate in RATES:
                settings = {**SAMPLED, **own, "learning_rate": rate}
                series = f"{NEGATIVES} negatives"
                label = f"{kind}, rate {rate:g}"
                yield Row(
                    dataset, "sasrec", label, optimizer, settings, None, series, kind, epochs=100
                )


def _against(title: str, base: float | str, **more: Any) -> Versus:
    """Holds the best line of each place on validation against the best of its series at one."""

    def others(line: Line, own: Sequence[Line]) -> list[Line]:
        best = points.best_of(own)
        held = [x for x in best if x.row.x == base and x.row.series == line.row.series]
        return [other for other in held if line in best and line is not other]

    return Versus(
        title,
        others,
        header=("Run", "", *METRICS, "Seeds"),
        written=lambda own: [[label, *rest] for label, _, *rest in rows.gain_lines(own)],
        **more,
    )


def verdict(compared: Sequence[Comparison]) -> str:
    """Says for each place what the spacing brings that validates best."""
    by_place = accuracy.by_place((pair.one for pair in compared if pair.seeds), " on ")
    if not by_place:
        return "No pair of runs is done yet."
    sentences: list[str] = []
    for place, lines in by_place.items():
        own = [pair for pair in compared if pair.one in lines and pair.seeds]
        chosen = comparisons.chosen(own)
        sentences.append(
            f"{place}, smoothed {_words(int(float(chosen.one.row.x or 0)))}: by test {CRITERION} "
            f"{rows.gain_in_words(chosen)} a smoothing at every step."
        )
    rates = ", ".join(f"{len(own)} {_words(k)}" for k, own in EPOCHS_BETWEEN.items())
    return (
        "Of the spacings beyond every step, those with the most seeds that validate best. "
        f"{' '.join(sentences)} SASRec on Beauty has the learning rate that validates best of "
        f"those done (of {rates}); elsewhere it is the published one."
    )


EVERY = Accuracy(
    title="Smoothing that waits",
    text=(
        "SEvo smooths every step. With `every_epochs`, raw steps pass, and once in so many epochs "
        "the sum of the steps since the last time is smoothed: one smoothing in place of hundreds. "
        "Validation, and the test, see the parameters as smoothed at that moment.",
        accuracy.ABLATION,
        accuracy.P_VALUES,
    ),
    choices=lambda _: Choices(
        models=Names(MODELS, ("sasrec",)),
        datasets=Names(data.NAMES, ("beauty", "toys", "tools", "ml-1m")),
    ),
    rows=rows_of,
    notes=accuracy_tables.variants_in_words,
    verdict=verdict,
    versus=_against(
        "gain over every step",
        0,
        key="gains",
        entry=lambda own: {
            "dataset": own.one.row.dataset,
            "model": own.one.row.model,
            "one": own.one.row.label,
            "other": own.other.row.label,
            **own.to_json(),
        },
    ),
    summary=lambda compared: [comparisons.epochs_to_other(compared)],
    picture=Picture("lines", "epochs between two smoothings (0: every step)"),
)


def _verdict_against(
    base: str, name: Callable[[Row], Any] = lambda row: row.x
) -> Callable[[Sequence[Comparison]], str]:
    """Makes a verdict that says by how much each row is above or below that of one kind."""

    def verdict(compared: Sequence[Comparison]) -> str:
        done = [pair for pair in compared if pair.seeds]
        if not done:
            return f"Nothing is done yet beside {base}."
        gains = [f"{name(pair.one.row)}: {rows.gain_in_words(pair)}" for pair in done]
        return (
            f"By test {CRITERION}, beside {base}, each at the learning rate that validates best of "
            f"those done: {'; '.join(gains)}."
        )

    return verdict


PARTS_TABLE = Accuracy(
    title="Smoothing that waits: which part helps",
    text=(
        "SASRec smoothed every ten epochs, with one part changed at a time. The bars are of the "
        "learning rate that validates best of those done, of up to three. Lookahead (Zhang et al., "
        "2019) has a plain factor in place of ψ; on noise, ψ has the norm of a factor of 0.27.",
        accuracy.ABLATION,
    ),
    choices=lambda _: Choices(datasets=Names(data.NAMES, ("beauty",)), seeds=(0,)),
    rows=rows_of_parts,
    verdict=_verdict_against(next(iter(PARTS))),
    versus=_against(f"gain over {next(iter(PARTS))}", next(iter(PARTS))),
    picture=Picture("bars", "part that is changed"),
)

MODELS_TABLE = Accuracy(
    title="Smoothing that waits: other backbones",
    text=(
        "Backbones smoothed at every step and every ten epochs, with their published settings, "
        "and at twice their learning rate where that is done.",
        accuracy.ABLATION,
        accuracy.P_VALUES,
    ),
    choices=lambda _: Choices(
        models=Names(numbers.BACKBONES, [name for name in numbers.BACKBONES if name != "sasrec"]),
        datasets=Names(data.NAMES, ("beauty",)),
        seeds=(0,),
    ),
    rows=rows_of_models,
    notes=accuracy_tables.variants_in_words,
    verdict=_verdict_against(_words(0), lambda row: f"{numbers.MODELS[row.model]} {row.x}"),
    versus=_against(f"gain over {_words(0)}", _words(0)),
    summary=lambda compared: [comparisons.epochs_to_other(compared)],
    picture=Picture("bars", "smoothing"),
)

SOFTMAX_TABLE = Accuracy(
    title="Smoothing that waits, with a sampled softmax",
    text=(
        f"SASRec with {NEGATIVES} negatives that a step shares, in a softmax. The bars are of the "
        "learning rate that validates best of those done.",
        accuracy.ABLATION,
        accuracy.P_VALUES,
    ),
    choices=lambda _: Choices(datasets=Names(data.NAMES, ("beauty",)), seeds=(0, 1, 2)),
    rows=rows_of_softmax,
    verdict=_verdict_against(next(iter(SOFTMAX))),
    versus=_against(f"gain over {next(iter(SOFTMAX))}", next(iter(SOFTMAX))),
    picture=Picture("bars", "smoothing"),
)
