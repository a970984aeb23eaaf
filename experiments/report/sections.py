"""What the page shows: a section for every table and figure, and what is missing.

A section is made of a document that ``python -m experiments.reproduce`` has written, or is a gap.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from experiments.errors import UserError
from experiments.paper import DATASETS, MODELS, PLAIN, SEVO
from experiments.report.pictures import Picture
from experiments.reproduce.__main__ import TABLES
from experiments.reproduce.cells import percent, score, score_over_seeds
from experiments.reproduce.documents import Document, Table
from experiments.reproduce.rows import optimizer_label, plain_optimizer
from experiments.trainer import CRITERION

REPRODUCE = "python -m experiments.reproduce"
COMPLETE, PARTIAL, NOT_RUN, UNREADABLE = "complete", "partial", "not run", "unreadable"


class Section(NamedTuple):
    """A table or figure of the page, whether there is a result or not.

    Attributes:
        name: what the command calls it.
        title: the heading.
        status: one of ``complete``, ``partial``, ``not run`` and ``unreadable``.
        command: what fills the gaps.
        text: paragraphs.
        tables: in their order.
        picture: if there is one.
        run: what was run: a name and what is to be said of it.
        missing: a gap a line.
    """

    name: str
    title: str
    status: str
    command: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    picture: Picture | None = None
    run: Sequence[tuple[str, str]] = ()
    missing: Sequence[str] = ()


def target_section(name: str) -> Section:
    """A table or figure of which there is no result: its module, if it has one, says what it is.

    Examples:
        >>> target_section("table3").title
        'Table 3: SASRec on two large data sets'
    """
    module = inspect.getmodule(TABLES[name])
    own = module is not None and module.__name__.rpartition(".")[2] == name.replace("-", "_")
    summary = (module.__doc__ or "").partition("\n")[0] if module is not None and own else ""
    number = re.sub(r"([a-z])(\d)", r"\1 \2", name).capitalize()
    return Section(name, summary.removesuffix(".") or number, NOT_RUN, f"{REPRODUCE} {name}")


def document_section(document: Document) -> tuple[Section, list[list[str]]]:
    """A document's section, less its picture, and its lines among the best results.

    Raises:
        UserError: the runs that its JSON file tells of are not as they are written.
    """
    try:
        run, best = what_was_run(document.content), best_rows(document)
        gaps = [*document.missing, *stopped_early(document.content)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{document.name}.json: its runs cannot be read ({error!r})") from error
    section = Section(
        name=document.name,
        title=document.title,
        status=PARTIAL if gaps else COMPLETE,
        command=f"{REPRODUCE} {document.name}",
        text=document.text,
        tables=document.tables,
        run=run,
        missing=gaps,
    )
    return section, best


def objects(content: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value, the outer ones first."""
    if isinstance(content, dict):
        yield content
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from objects(value)


def what_was_run(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Devices, seeds and epochs, from the cells and measurements that a JSON file holds.

    Examples:
        >>> what_was_run({"device": "abacus", "seed": 3})
        [('Devices', 'abacus'), ('Seeds', '3')]
    """
    every = list(objects(content))
    devices = {own["device"] for own in every if "device" in own}
    devices |= {device for own in every for device in own.get("devices", ())}
    seeds = {int(seed) for own in every for seed in own.get("best_epochs", ())}
    seeds |= {own["seed"] for own in every if isinstance(own.get("seed"), int)}
    facts = {
        "Devices": ", ".join(sorted(devices)),
        "Seeds": " ".join(map(str, sorted(seeds))),
    }
    rows = _rows(content)
    if rows:
        done = [own for own in rows if own["seeds_done"]]
        early = [(r["epochs"], r["epochs_published"]) for r in done if not _is_whole(r)]
        counts = ", ".join(f"{epochs} of {whole}" for epochs, whole in sorted(set(early)))
        runs, asked = (sum(row[f"seeds_{what}"] for row in rows) for what in ("done", "asked"))
        facts["Runs"] = f"{runs} of {asked}, in {len(done)} of {len(rows)} rows"
        facts["Epochs"] = f"all of them in {len(done) - len(early)} rows"
        facts["Epochs"] += f", fewer in {len(early)} ({counts})" if early else ""
    return [(name, fact) for name, fact in facts.items() if fact]


def stopped_early(content: dict[str, Any]) -> list[str]:
    """A line for the rows of so many epochs, if these are fewer than published.

    Examples:
        >>> row = {"epochs": 60, "epochs_published": 200, "seeds_done": 1}
        >>> stopped_early({"rows": [row, row]})
        ['2 rows stopped early: 60 of 200 epochs']
    """
    early = Counter(
        (row["epochs"], row["epochs_published"])
        for row in _rows(content)
        if row["seeds_done"] and not _is_whole(row)
    )
    return [
        f"{count} row{'s' * (count > 1)} stopped early: {epochs} of {whole} epochs"
        for (epochs, whole), count in sorted(early.items())
    ]


def _rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table of accuracy."""
    return [own for own in objects(content) if own.keys() >= {"epochs_published", "seeds_done"}]


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a row's runs have the published number of epochs."""
    return row["epochs"] >= row["epochs_published"]


BEST_HEADER = (
    "Table",
    "Data set",
    "Model",
    "Optimiser",
    CRITERION,
    "Paper",
    "Difference",
    "Gain over plain",
    "Paper's gain",
    "Seeds",
)


BEST = f"Highest test {CRITERION} of each table and data set"


def best_rows(document: Document) -> list[list[str]]:
    """A document's best row of each data set, of those that were not stopped early."""
    best: dict[str, dict[str, Any]] = {}
    for row in document.content.get("rows", ()):
        if "test" not in row or not row["seeds_done"] or not _is_whole(row):
            continue
        held = best.setdefault(row["dataset"], row)
        if row["test"][CRITERION]["mean"] > held["test"][CRITERION]["mean"]:
            best[row["dataset"]] = row
    return [_best_line(document, row) for row in best.values()]


def _best_line(document: Document, row: dict[str, Any]) -> list[str]:
    dataset: str = row["dataset"]
    model, optimizer = row.get("model", "sasrec"), row["optimizer"]  # Table 3 has no other
    comparison = next(
        (
            own
            for own in document.content.get("comparisons", ())
            if own["dataset"] == dataset
            and own.get("label") == row.get("label")
            and own.get("sevo", SEVO) == optimizer
            and own.get("against", PLAIN) == plain_optimizer(model)
        ),
        {},
    )
    gains = [comparison.get(which, {}).get(CRITERION) for which in ("gain", "paper_gain")]
    found = row["test"][CRITERION]
    return [
        document.title.partition(":")[0],
        DATASETS.get(dataset, dataset),
        row["label"] if "label" in row else MODELS[model],
        optimizer_label(model, optimizer),
        score_over_seeds(list(found["seeds"].values())),
        score(found["paper"]),
        percent(found["difference"]),
        *map(percent, gains),
        f"{row['seeds_done']} of {row['seeds_asked']}",
    ]
