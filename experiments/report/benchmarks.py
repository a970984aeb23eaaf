"""The benchmarks: each result file as a section of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import read_json
from experiments.report.sections import COMPLETE, Section
from experiments.reproduce.documents import NONE, Table

COMMAND = "python -m benchmarks"
HEADER = ("Case", "Against", "Ours", "Theirs", "Ratio", "Over rounds", "More")


def benchmark_section(path: Path) -> Section:
    """What a benchmark has written.

    Raises:
        UserError: the file cannot be read, or was written by something else.
    """
    content = read_json(path)
    try:
        rows = [row for case in content["cases"] for row in _rows(case)]
        versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
        name = content["benchmark"]
        text = [f"{content['date']}; {versions}."]
        if content["quick"]:
            text.append("**Of a `--quick` run: no figure here is a measurement.**")
        return Section(
            name=path.stem,
            title=f"{name.replace('_', ' ')}, {content['device']}",
            status=COMPLETE,
            command=f"{COMMAND}.{name}",
            text=text,
            tables=[_without_empty_columns(Table("Medians", HEADER, rows, text_columns=2))],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no result of a benchmark ({error!r})") from error


def _rows(case: dict[str, Any]) -> list[list[str]]:
    """Ours beside the best peer; below, the other peers and other candidates of ours."""
    unit = case["unit"]
    known = {"case", "ours", "unit", "ratio", "spread"}
    more = [
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in case.items()
        if name not in known and not isinstance(value, dict)
    ]
    (peer, theirs), *others = [
        *sorted(case["peers"].items(), key=lambda item: item[1]),
        *((f"ours, {name}", value) for name, value in case.get("others", {}).items()),
    ] or [(NONE, None)]
    ratio = NONE if case["ratio"] is None else f"{case['ratio']:.3g}"
    spread = " to ".join(f"{value:.3g}" for value in case["spread"])
    ours = f"{case['ours']:.4g} {unit}"
    return [
        [case["case"], peer, ours, _measured(theirs, unit), ratio, spread, ", ".join(more)],
        *(["", name, "", _measured(value, unit), "", "", ""] for name, value in others),
    ]


def _measured(value: float | None, unit: str) -> str:
    return NONE if value is None else f"{value:.4g} {unit}"


def _without_empty_columns(table: Table) -> Table:
    kept = [i for i, column in enumerate(zip(*table.rows, strict=True)) if any(column)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return table._replace(header=[table.header[i] for i in kept], rows=rows)
