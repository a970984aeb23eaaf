"""The page, as HTML that needs no other file and no network, and as Markdown."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from experiments.report.gather import Report
from experiments.report.sections import COMPLETE, NOT_RUN, PARTIAL, UNREADABLE, Section
from experiments.reproduce.documents import NONE, Table, markdown_table

TEMPLATE = Path(__file__).with_name("page.html.jinja")

NUMBER = re.compile(r"[+\-−]?(\d[\d,]*(\.\d*)?|\.\d+)(e[+\-]?\d+)?")


def sort_key(cell: str) -> float | None:
    """The number that a cell starts with, which its column is sorted by.

    Examples:
        >>> [sort_key(cell) for cell in ("0.0407 ± 0.0006", "+2.1%", "22,363 (100%)", "–")]
        [0.0407, 2.1, 22363.0, None]
    """
    found = NUMBER.match(cell)
    return float(found.group().replace(",", "").replace("−", "-")) if found else None


def groups(table: Table) -> list[list[Sequence[str]]]:
    """The rows of a table, those that go on with the row above together with it.

    Examples:
        >>> groups(Table("", ["", ""], [["SASRec", "ours"], ["", "paper"], ["STOSA", "ours"]]))
        [[['SASRec', 'ours'], ['', 'paper']], [['STOSA', 'ours']]]
    """
    found: list[list[Sequence[str]]] = []
    for row in table.rows:
        if row[0] or not found:
            found.append([])
        found[-1].append(row)
    return found


def merged_columns(group: Sequence[Sequence[str]], text_columns: int) -> int:
    """How many columns of text, from the first, hold one cell for all rows of a group.

    Examples:
        >>> merged_columns([["SASRec", "AdamW", "ours"], ["", "", "paper"]], 3)
        2
    """
    columns = zip(*group[1:], strict=True)
    blank = sum(1 for _ in takewhile(lambda column: not any(column), columns))
    return min(max(blank, 1), text_columns)


def is_empty(table: Table) -> bool:
    """Whether nothing was measured for a table: each group opens with our own row.

    Examples:
        >>> is_empty(Table("", ["", "HR", "Seeds"], [["SASRec", "–", "0 of 5"], ["", "0.1", "5"]]))
        True
    """
    cells = [cell for group in groups(table) for cell in group[0][table.text_columns :]]
    return all(cell in ("", NONE, "0") or cell.startswith("0 of ") for cell in cells)


def inline(text: str) -> Markup:
    """Emphasis and code of Markdown as HTML, everything else escaped.

    Examples:
        >>> print(inline("*ours* <b> `--epochs`"))
        <em>ours</em> &lt;b&gt; <code>--epochs</code>
    """
    rules = MarkdownIt("zero").enable(["emphasis", "backticks", "escape"])
    return Markup(rules.renderInline(text))


def html(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        summary=summary(report),
        gaps=gaps,
        groups=groups,
        inline=inline,
        is_empty=is_empty,
        merged_columns=merged_columns,
        sort_key=sort_key,
    )


def markdown(report: Report, folder: Path) -> str:
    """The page in GitHub's Markdown; ``folder`` is where it lies, for the pictures' paths."""
    overview = Table(
        "",
        ("Table or figure", "Status", "Gaps", "Command"),
        [[s.title, s.status, gaps(s), f"`{s.command}`"] for s in report.sections],
        text_columns=4,
    )
    parts = ["# Results", summary(report), markdown_table(overview)]
    if report.best is not None:
        parts += [f"## {report.best.title}", markdown_table(report.best)]
    for section in report.sections:
        parts += _markdown_section(section, folder)
    if report.benchmarks:
        parts.append("# Benchmarks")
    for section in report.benchmarks:
        parts += _markdown_section(section, folder)
    if report.problems:
        parts += ["## Could not be read", _bullets(report.problems)]
    return "\n\n".join(parts) + "\n"


def _markdown_section(section: Section, folder: Path) -> list[str]:
    parts = [f"## {section.title}", *section.text]
    if section.picture is not None:
        place = Path(os.path.relpath(section.picture.path, folder)).as_posix()
        parts.append(f"![{section.picture.alt}]({place})")
    for table in section.tables:
        parts += [f"### {table.title}", markdown_table(table)]
    if section.run:
        parts += ["### What was run", _bullets([f"{name}: {fact}" for name, fact in section.run])]
    if section.missing:
        parts += ["### Missing", f"To fill the gaps: `{section.command}`"]
        parts.append(_bullets(section.missing))
    elif section.status in (NOT_RUN, UNREADABLE):
        parts.append(f"{section.status.capitalize()}. To make it: `{section.command}`")
    else:
        parts.append(f"Made by `{section.command}`")
    return parts


def gaps(section: Section) -> str:
    """How many gaps a section has, for reading."""
    if section.status in (NOT_RUN, UNREADABLE):
        return "all"
    return str(len(section.missing)) if section.missing else NONE


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def summary(report: Report) -> str:
    """How much there is, in a sentence.

    Examples:
        >>> summary(Report([Section("table1", "Table 1", NOT_RUN, "")], None, [], []))
        'There are no results yet: everything below is still to be run.'
    """
    counts = Counter(section.status for section in report.sections)
    if not counts.keys() & {COMPLETE, PARTIAL}:
        return "There are no results yet: everything below is still to be run."
    statuses = COMPLETE, PARTIAL, NOT_RUN, UNREADABLE
    numbers = ", ".join(f"{counts[status]} {status}" for status in statuses if counts[status])
    return f"Of {len(report.sections)} tables and figures: {numbers}."
