"""Tables 2, 4, 5 and 6 as data: their rows, and which of them are held against which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import data, numbers, students
from experiments.data.categories import SOURCES
from experiments.metrics import CRITERION
from experiments.numbers import LABELS, METRICS, PLAIN, SEVO, UNSMOOTHED
from experiments.pages import documents, plots
from experiments.paper import accuracy
from experiments.paper.accuracy import Accuracy, Versus
from experiments.run import Run
from experiments.settings import OPTIMIZERS
from experiments.settings.published import MODELS
from experiments.tables import cells, rows, runs
from experiments.tables.requests import Choices, Names, Request
from experiments.tables.rows import Comparison, Line, Row


def known_models(names: Iterable[str] = numbers.MODELS) -> list[str]:
    """The paper's models that there are here."""
    return [name for name in names if name in MODELS]


class Variant(NamedTuple):
    """Rows of a model in Table 2 beside its usual ones.

    Attributes:
        label: the rows' name.
        settings: those that are not the published ones.
        optimizers: which rows there are.
        paper: values by data set, if they are not those of Table 2; no rows on others.
        batch_sizes: by data set, if they are not the published ones; no rows on others.
    """

    label: str
    settings: Mapping[str, Any] = {}
    optimizers: Sequence[str] = (PLAIN, UNSMOOTHED, SEVO)
    paper: Mapping[str, numbers.Scores] | None = None
    batch_sizes: Mapping[str, int] = {}


VARIANTS = {
    "mf-bpr": (
        Variant(
            "MF-BPR, user-item graph", {"graph": "user-item"}, (SEVO,), numbers.USER_ITEM_GRAPH
        ),
    ),
    # So many users have as many beginnings as a published batch has rows: of the last 50 items, and
    # of MovieLens-1M of the last 200.
    "gru4rec": (
        Variant(
            "GRU4Rec, one pass",
            {"one_pass": True},
            (PLAIN, SEVO),
            batch_sizes={"beauty": 89, "toys": 93, "tools": 102, "ml-1m": 5},
        ),
    ),
    "stosa": (Variant("STOSA, as published", {"published": True}),),
}


def rows_of_model(model: str, dataset: str, optimizers: Sequence[str]) -> list[Row]:
    """The rows of a model in Table 2; those without SEvo in the paper have the plain one."""
    plain = rows.plain_optimizer(model)
    optimizers = tuple(dict.fromkeys(plain if name == PLAIN else name for name in optimizers))
    has = optimizers if model in numbers.BACKBONES else (plain,)
    usual = Variant(numbers.MODELS[model], optimizers=has)
    found: list[Row] = []
    for label, settings, allowed, paper, sizes in (usual, *VARIANTS.get(model, ())):
        if sizes and dataset not in sizes:
            continue
        own = {**settings, "batch_size": sizes[dataset]} if sizes else settings
        for name in optimizers:
            # The paper's plain value is that of whatever the plain run is trained by.
            column = PLAIN if model in numbers.BASELINES and name == plain else name
            scores = paper or {dataset: numbers.TABLE_2.get((model, dataset, column))}
            if name in allowed and dataset in scores:
                found.append(Row(dataset, model, label, name, own, scores[dataset]))
    return found


IN_ABLATIONS = {"gru4rec": "GRU4Rec, one pass", "stosa": "STOSA, as published"}
"""The variants that stand for a model in ablations: the cheaper one, and the one that agrees with
the paper."""


def in_ablations(model: str, dataset: str) -> Mapping[str, Any]:
    """The settings of the variant that stands for a model in ablations; none if none does."""
    label = IN_ABLATIONS.get(model)
    found = (row for row in rows_of_model(model, dataset, (SEVO,)) if row.label == label)
    return next((row.settings for row in found), {})


def variants_in_words(wanted: Sequence[Row]) -> list[str]:
    """Tells which variants stand for the models of an ablation's rows."""
    models = {row.model for row in wanted if in_ablations(row.model, row.dataset)}
    names = [label for model, label in IN_ABLATIONS.items() if model in models]
    return [f"As Table 2 has them in full: {'; '.join(names)}."] if names else []


def plain_and_unsmoothed(line: Line, own: Sequence[Line]) -> Iterable[Line]:
    """The lines of a model that its line with SEvo is held against.

    A variant without such lines of its own is held against those of the model.
    """
    for optimizer in (PLAIN, UNSMOOTHED) if line.row.optimizer == SEVO else ():
        others = {other.row.label: other for other in own if other.row.optimizer == optimizer}
        for label in (line.row.label, numbers.MODELS[line.row.model]):
            if label in others:
                yield others[label]
                break


def _defects(wanted: Sequence[Row]) -> list[str]:
    return numbers.defects(row.model for row in wanted)


def _sevo_json(comparison: Comparison) -> dict[str, Any]:
    row, other = comparison.one.row, comparison.other.row
    return {
        "dataset": row.dataset,
        "model": row.model,
        "label": row.label,
        "sevo": row.optimizer,
        "against": other.optimizer,
        **comparison.to_json(),
    }


def _mean_gains(compared: Sequence[Comparison]) -> Iterable[documents.Table]:
    """The gains over the plain rows, averaged over the metrics, beside the paper's.

    The paper's mean over all data sets is its "Avg. Improv."; the last column has both means over
    the data sets that ours is complete on.
    """
    plain = [own for own in compared if own.other.row.optimizer == PLAIN]
    datasets = list(dict.fromkeys(own.one.row.dataset for own in plain))
    written: list[list[str]] = []
    for label in dict.fromkeys(own.one.row.label for own in plain):
        by_dataset = {own.one.row.dataset: own for own in plain if own.one.row.label == label}
        found = [by_dataset.get(dataset) for dataset in datasets]
        ours = [cells.complete_mean(own.gains) if own else None for own in found]
        theirs = [cells.complete_mean(own.paper_gains) if own else None for own in found]
        for first, name, gains in ((label, "ours", ours), ("", "paper", theirs)):
            common = [gain for gain, own in zip(gains, ours, strict=True) if own is not None]
            means = cells.complete_mean(gains), cells.complete_mean(common)
            written.append([first, name, *map(cells.percent, (*gains, *means))])
    names = (numbers.dataset_name(dataset) for dataset in datasets)
    header = ("Model", "", *names, "Mean", "Mean over those of ours")
    title = "Gain of SEvo over the plain baseline, mean of the five metrics"
    return [documents.Table(title, header, written, text_columns=2)] if plain else []


def draw_gains(compared: Sequence[Comparison], path: Path) -> None:
    """Draws the gain of SEvo over the plain row of each model, by data set."""
    pairs = [own for own in compared if own.other.row.optimizer == PLAIN and own.seeds]
    names = {dataset: numbers.dataset_name(dataset) for dataset in data.NAMES}
    shown = [dataset for dataset in names if any(own.one.row.dataset == dataset for own in pairs)]
    labels = list(dict.fromkeys(own.one.row.label for own in pairs))
    with plots.picture(path, (7.6, 3.6)) as (figure, ((axes,),)):
        place, ticks = 0.0, [0.0 for _ in shown]
        for i, dataset in enumerate(shown):
            own = [pair for pair in pairs if pair.one.row.dataset == dataset]
            for pair in own:
                gains = [100 * gain for gain in pair.gains_by_seed(CRITERION)]
                axes.bar(
                    place,
                    cells.mean(gains) or 0.0,
                    0.9,
                    yerr=cells.deviation(gains),
                    capsize=3,
                    color=plots.COLORS[labels.index(pair.one.row.label) % len(plots.COLORS)],
                )
                place += 1
            ticks[i] = place - (len(own) + 1) / 2
            place += 1
        for label, color in zip(labels, plots.COLORS, strict=False):
            axes.bar(0, 0, color=color, label=label)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xticks(ticks, [names[dataset] for dataset in shown])
        axes.set_ylabel(f"gain in test {CRITERION}, %")
        plots.legend_below(figure)


TABLE_2 = Accuracy(
    title="Table 2: accuracy",
    text=(
        f"{accuracy.MEASURED}; {accuracy.PAPER}",
        f"*{LABELS[PLAIN]}* is the plain baseline, at the settings that the paper's authors tuned "
        f"for it; *{LABELS[UNSMOOTHED]}* is the run with SEvo less the smoothing, which the paper "
        "does not have. "
        f"{accuracy.STOPPED('published')} {accuracy.P_VALUES}",
        'The last table has mean gains. *Mean* is over all data sets, the paper\'s "Avg. Improv."; '
        "*mean over those of ours* is over the data sets that our row is complete on.",
    ),
    choices=lambda _: Choices(
        models=Names(known_models()),
        datasets=Names(data.NAMES, numbers.TABLE_2_DATASETS),
        optimizers=Names(OPTIMIZERS, (PLAIN, UNSMOOTHED, SEVO)),
    ),
    rows=lambda asked: (
        row
        for dataset in asked.datasets
        for model in asked.models
        for row in rows_of_model(model, dataset, asked.optimizers)
    ),
    notes=_defects,
    versus=Versus("gain of SEvo", plain_and_unsmoothed, key="comparisons", entry=_sevo_json),
    summary=_mean_gains,
    draw=accuracy.Drawing(
        f"Gain of SEvo over the plain baseline in test {CRITERION}, by data set and model; error "
        "bars are deviations over seeds.",
        draw_gains,
    ),
)


CONDITIONS = (
    ("item-item", 0.0),
    ("item-item", 0.5),
    ("item-item", 0.99),
    ("category", 0.5),
    ("category", 0.99),
)
"""The graphs and β of Table 4. Of β = 0 there is one: it smooths over no graph."""
GRAPHS = {"item-item": "Interactions", "category": "Categories"}
DATASETS_4 = ("ml-1m", "beauty")


def rows_by_category(dataset: str) -> list[Row]:
    """SASRec under each of the `CONDITIONS`."""
    return [
        Row(
            dataset,
            "sasrec",
            f"{GRAPHS[graph]}, β = {beta:g}" if beta else "Not smoothed, β = 0",
            SEVO,
            {"graph": graph, "beta": beta},
            numbers.TABLE_4.get((dataset, graph, beta)),
        )
        for graph, beta in CONDITIONS
    ]


def _on_categories(wanted: Sequence[Row]) -> Iterable[str]:
    """Tells which categories of each data set make edges."""
    for dataset in dict.fromkeys(row.dataset for row in wanted if row.dataset in SOURCES):
        name, source = numbers.DATASETS[dataset], SOURCES[dataset][0]
        if source.max_size is None:
            yield f"{name}: every category makes edges."
        else:
            yield (
                f"{name}, which the paper's table lacks: the same experiment with the categories "
                f"of {source.file}. Those of more than {source.max_size} items make no edges: they "
                "are too broad to say much of any one item, and all of them would join a quarter "
                "of all pairs."
            )


TABLE_4 = Accuracy(
    title="Table 4: smoothing over interactions and over categories",
    text=(
        "SASRec, whose items are smoothed over those that follow each other in the training "
        "sequences, or over those that share a category (weight 1 if they do, else 0). "
        f"{accuracy.MEASURED}; {accuracy.PAPER} {accuracy.STOPPED('configured')} "
        f"{accuracy.P_VALUES}",
        "β = 0 is AdamW with the moment correction and no smoothing: one run, whatever the graph.",
    ),
    choices=lambda quick: Choices(datasets=Names(data.NAMES, DATASETS_4[quick:]), quick=True),
    rows=lambda asked: (row for name in asked.datasets for row in rows_by_category(name)),
    notes=_on_categories,
    versus=Versus(
        "gain over β = 0",
        accuracy.against(lambda row: row.settings["beta"] == 0),
        header=("Model", "", *METRICS, "Seeds"),
        written=lambda own: [[label, *rest] for label, _, *rest in rows.gain_lines(own)],
        entry=lambda own: {
            "dataset": own.one.row.dataset, **own.one.row.settings, **own.to_json(),
        },
    ),
)  # fmt: skip


TEACHER, STUDENT = "Teacher", students.METHODS["plain"].label
DATASETS_5 = ("beauty",)
QUICK_METHODS = ("plain", "dkd", "sevo")


def _distilled(asked: Request) -> Iterable[Row]:
    """A teacher and its students on each data set."""
    for dataset in asked.datasets:
        paper = numbers.TABLE_5 if dataset in DATASETS_5 else {}
        settings = students.teacher_settings(dataset, epochs=asked.epochs)
        row = Row(dataset, "sasrec", TEACHER, PLAIN, settings, paper.get("teacher"))
        yield row
        teacher = _teacher(asked, rows.quick_row(row) if asked.quick else row)
        folder, epochs = runs.folder_of(teacher, asked.runs), teacher.settings.training.epochs
        for name in asked.models:
            method = students.METHODS[name]
            settings = students.student_settings(name, dataset, folder, epochs)
            yield Row(dataset, "sasrec", method.label, method.optimizer, settings, paper.get(name))


def _teacher(asked: Request, row: Row) -> Run:
    """The run that all students learn from."""
    return rows.run_of(row, students.TEACHER_SEED, asked.epochs)


TABLE_5 = Accuracy(
    title="Table 5: knowledge distillation",
    text=(
        "A SASRec of width 20 that learns from one of width 200. "
        f"{accuracy.MEASURED}; {accuracy.PAPER} {accuracy.STOPPED('configured')} All students "
        f"learn from the teacher of seed {students.TEACHER_SEED}.",
        "The paper gives neither the losses nor their weights, nor τ and β of the rows with SEvo: "
        "ours are in `models/distillation.py` and in the variants of "
        "`experiments/settings/sasrec.toml`. Rows with SEvo smooth over the ten nearest neighbours "
        "in the teacher's table.",
    ),
    choices=lambda quick: Choices(
        models=Names(students.METHODS, QUICK_METHODS if quick else None),
        datasets=Names(data.NAMES, DATASETS_5),
        quick=True,
    ),
    rows=_distilled,
    before=lambda asked, wanted: [_teacher(asked, r) for r in wanted if r.label == TEACHER],
    versus=Versus(
        "gain over the student on its own",
        accuracy.against(lambda row: row.label == STUDENT),
        header=("Model", "", *METRICS),
        written=lambda own: [[own.one.row.label, "gain", *map(cells.percent, own.gains)]],
        entry=lambda own: {
            "dataset": own.one.row.dataset,
            "label": own.one.row.label,
            "gain": own.to_json()["gain"],
        },
    ),
)


def _with_and_without(asked: Request) -> Iterable[Row]:
    """A graph neural network plain and with SEvo."""
    for dataset in asked.datasets:
        for model in asked.models:
            name, plain = numbers.MODELS[model], rows.plain_optimizer(model)
            scores = [numbers.TABLE_6.get((model, dataset, column)) for column in (PLAIN, SEVO)]
            yield Row(dataset, model, name, plain, paper=scores[0])
            yield Row(dataset, model, f"{name} + SEvo", SEVO, paper=scores[1])


def _plain(line: Line, own: Sequence[Line]) -> list[Line]:
    """The plain line of the model that a line with SEvo is held against."""
    return [
        other
        for other in own
        if other.row.model == line.row.model and line.row.optimizer == SEVO != other.row.optimizer
    ]


TABLE_6 = Accuracy(
    title="Table 6: SEvo on graph neural networks",
    text=(
        f"{accuracy.MEASURED}; {accuracy.PAPER} {accuracy.STOPPED('configured')} "
        f"{accuracy.P_VALUES}",
    ),
    choices=lambda _: Choices(
        models=Names(known_models(numbers.TABLE_6_MODELS)), datasets=Names(data.NAMES, ("beauty",))
    ),
    rows=_with_and_without,
    notes=_defects,
    versus=Versus("gain of SEvo", _plain, key="comparisons", entry=_sevo_json),
)
