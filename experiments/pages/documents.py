"""Documents of tables as plain data, and how they are written: Markdown, JSON and LaTeX.

What all documents have in common is in the JSON too, under ``document``, where the site's page of
results finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.errors import ArgumentError
from experiments.files import write_json, write_text

NONE = "–"
"""The cell that nothing was measured for."""


class Table(NamedTuple):
    """Cells as they are read; columns after the first ``text_columns`` are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1


class Document(NamedTuple):
    """A file's contents.

    Attributes:
        name: of the files, without suffix.
        title: the heading.
        text: paragraphs above the tables.
        tables: in their order.
        missing: what is not in them, an item a line.
        content: what the JSON file holds beside all of the above.
        draw: writes the picture, if there is one, to a path.
        alt: what the picture shows, in a sentence; the title stands in for it.
    """

    name: str
    title: str
    text: Sequence[str]
    tables: Sequence[Table]
    missing: Sequence[str]
    content: dict[str, Any]
    draw: Callable[[Path], None] | None = None
    alt: str = ""


def write(document: Document, folder: Path) -> list[Path]:
    """Writes ``NAME.md``, ``.json``, ``.tex`` and, if there is a picture, ``.png``; their paths.

    Raises:
        UserError: a file cannot be written.
    """
    paths = [folder / f"{document.name}{suffix}" for suffix in (".md", ".json", ".tex", ".png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(paths[0], markdown(document))
        write_json(paths[1], document.content | {"document": _part(document)})
        write_text(paths[2], latex(document))
        if document.draw is None:
            return paths[:3]
        document.draw(paths[3])
    except OSError as error:
        raise ArgumentError("out", f"{folder} cannot be written to ({error.strerror})") from error
    return paths


def _part(document: Document) -> dict[str, Any]:
    return {
        "title": document.title,
        "text": document.text,
        "tables": [table._asdict() for table in document.tables],
        "missing": document.missing,
        "picture": None if document.draw is None else {"alt": _alt(document)},
    }


def _alt(document: Document) -> str:
    return document.alt or document.title


def markdown(document: Document) -> str:
    """The document in GitHub's Markdown, its columns aligned in the source too."""
    parts = [f"# {document.title}", *document.text]
    if document.draw is not None:
        parts.append(f"![{_alt(document)}]({document.name}.png)")
    for table in document.tables:
        parts += [f"## {table.title}", markdown_table(table)]
    if document.missing:
        parts += ["## Missing", "\n".join(f"- {line}" for line in document.missing)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown, without its title."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    ruler = [
        "-" * width if i < table.text_columns else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if i < table.text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (cells[0], ruler, *cells[1:])
    ]
    return "\n".join(lines)


SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "β": r"$\beta$",
        "κ": r"$\kappa$",
        "λ": r"$\lambda$",
        "ψ": r"$\psi$",
        "–": "--",
        "…": r"\dots{}",
        "‖": r"$\Vert$",
        "²": r"$^2$",
    }
)


def latex(document: Document) -> str:
    r"""The tables for LaTeX, to be read by ``\input``; they need ``\usepackage{booktabs}``."""
    parts = [f"% {document.title}", r"% needs \usepackage{booktabs}"]
    return "\n".join([*parts, *map(_latex_table, document.tables)]) + "\n"


def _latex_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(SPECIAL) for cell in cells) + r" \\"

    numbers = len(table.header) - table.text_columns
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{table.title.translate(SPECIAL)}}}",
            rf"\begin{{tabular}}{{{'l' * table.text_columns}{'r' * numbers}}}",
            r"\toprule",
            line(table.header),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
