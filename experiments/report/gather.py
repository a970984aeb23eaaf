"""All that there is, read from the folders of results; what cannot be read is told of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from experiments.errors import UserError
from experiments.report.benchmarks import benchmark_section
from experiments.report.pictures import read_picture
from experiments.report.sections import (
    BEST,
    BEST_HEADER,
    UNREADABLE,
    Section,
    document_section,
    target_section,
)
from experiments.reproduce import documents
from experiments.reproduce.__main__ import TABLES
from experiments.reproduce.documents import Table


class Report(NamedTuple):
    """All that the page shows.

    Attributes:
        sections: of tables and figures, in the order of the command's list.
        best: the best result on each data set, if there are results.
        benchmarks: a section each.
        problems: why files could not be read.
    """

    sections: list[Section]
    best: Table | None
    benchmarks: list[Section]
    problems: list[str]


def gather(results: Path, benchmarks: Path) -> Report:
    """Reads all that there is; what cannot be read is among the problems."""
    problems = [
        f"--{option}: there is no folder {folder}"
        for option, folder in (("results", results), ("benchmarks", benchmarks))
        if not folder.is_dir()
    ]
    sections = {name: target_section(name) for name in TABLES}
    best: list[list[str]] = []
    for path in sorted(results.glob("*.json")):
        try:
            document, picture = documents.read(path)
            sections[path.stem], lines = document_section(document)
        except UserError as error:
            problems.append(str(error))
            if path.stem in TABLES:
                sections[path.stem] = sections[path.stem]._replace(status=UNREADABLE)
            continue
        best += lines
        if picture is not None:
            _add_picture(sections, path.stem, picture, document.alt, problems)
    measured: dict[str, Section] = {}
    for path in sorted(benchmarks.glob("*.json")):
        try:
            measured[path.stem] = benchmark_section(path)
        except UserError as error:
            problems.append(str(error))
            continue
        picture = path.with_suffix(".png")
        if picture.exists():
            alt = f"A drawing of the figures below: {measured[path.stem].title}"
            _add_picture(measured, path.stem, picture, alt, problems)
    table = Table(BEST, BEST_HEADER, best, text_columns=4) if best else None
    return Report(list(sections.values()), table, list(measured.values()), problems)


def _add_picture(
    sections: dict[str, Section], name: str, path: Path, alt: str, problems: list[str]
) -> None:
    try:
        sections[name] = sections[name]._replace(picture=read_picture(path, alt))
    except UserError as error:
        problems.append(str(error))
