"""Makes the site's pages of results when the site is built.

``python -m experiments.reproduce NAME`` writes ``results/NAME.md``, which the page shows, and
``NAME.json``, which records the runs and the gaps. A file that cannot be read is named on the page
and in a warning, which ends ``mkdocs build --strict``.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.results")

TARGETS = (
    *(f"table{number}" for number in range(1, 9)),
    *(f"figure{name}" for name in ("2a", "2b", "3a", "3b", "3c", "5a", "5b", "6", "7")),
    *("every", "every-parts", "every-models", "every-softmax", "strong", "tuned", "tuning"),
    *("when-it-pays", "cold", "incremental"),
    *("a4", "accuracy-time"),
)
"""The paper's tables and figures as it numbers them, then those that it does not have."""
STATUSES = COMPLETE, PARTIAL, NOT_RUN, UNREADABLE = "complete", "partial", "not run", "unreadable"
LARGEST = 20_000_000
"""Bytes. A larger file is no result, and would make a page that no browser opens."""
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors of reading a file that is damaged or of another form."""


class Section(NamedTuple):
    """A table or figure: its cells in the summary, and the Markdown below its heading."""

    name: str
    title: str
    status: str
    gaps: str
    body: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the two pages and their pictures to the site."""
    root = Path(config.config_file_path).parent
    results, benchmarks = root / "results", root / "benchmarks/results"
    pages = {"results": results_page(results), "benchmarks": _page(benchmarks / "README.md")}
    for place, folder in (("results", results), ("benchmarks", benchmarks)):
        files.append(File.generated(config, f"{place}/index.md", content=pages[place]))
        for path in sorted(folder.glob("*.png")):
            picture = File.generated(config, f"{place}/{path.name}", abs_src_path=str(path))
            files.append(picture)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leads links to the repository's results, which work there, to the site's pages of them."""
    return re.sub(
        r"\]\(\.\./(results|benchmarks)/(results/)?README\.md", r"](\1/index.md", markdown
    )


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Marks the tables of both pages as sortable, and leaves one level in their contents."""
    if page.file.src_uri not in ("results/index.md", "benchmarks/index.md"):
        return html
    for title in page.toc:
        for section in title.children:
            section.children.clear()
    return html.replace("<table>", "<table data-sortable>")


def results_page(folder: Path) -> str:
    """Makes the page of all results in a folder, in Markdown."""
    found = {path.stem for suffix in ("json", "md") for path in folder.glob(f"*.{suffix}")}
    others = sorted(found - {*TARGETS, "README"})
    sections = [_section(folder, name) for name in (*TARGETS, *others)]
    counts = Counter(section.status for section in sections)
    numbers = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    parts = [
        "# Results",
        "The tables and figures of the SEvo paper (NeurIPS 2024), the "
        "paper's values beside ours where it has them, and some of our own. All of it was run on "
        "two CPU cores unless it says otherwise. [Experiments](../experiments.md) describes each. "
        "The heading of a column sorts its table.",
        f"Of {len(sections)} tables and figures: {numbers}.",
        "| Table or figure | Status | Gaps | Command |\n|---|---|---|---|\n"
        + "\n".join(
            f"| [{title}](#{name}) | {_status(status)} | {gaps} | {_command(name)} |"
            for name, title, status, gaps, _ in sections
        ),
        *(f"## {section.title} {{ #{section.name} }}\n\n{section.body}" for section in sections),
    ]
    if (folder / "README.md").exists():  # has sections with more about some of the results
        notes = _page(folder / "README.md").partition("\n## ")
        parts.append(re.sub(r"\]\(([\w-]+)\.md\)", r"](#\1)", notes[1] + notes[2]))
    return "\n\n".join(parts) + "\n"


def _section(folder: Path, name: str) -> Section:
    title = re.sub(r"([a-z])(\d)", r"\1 \2", name).replace("-", " ").capitalize()
    command = f"- Command: {_command(name)}"
    if not any((folder / f"{name}.{suffix}").exists() for suffix in ("json", "md")):
        return Section(name, title, NOT_RUN, "all", f"- Status: {_status(NOT_RUN)}\n{command}")
    try:
        content = json.loads(_text(folder / f"{name}.json"))
        document = content.pop("document")
        gaps = [*document["missing"], *_stopped_early(content, document["missing"])]
        status = PARTIAL if gaps else COMPLETE
        facts = [f"- Status: {_status(status)}", *_facts(content), command]
        # Without the title and the list of gaps, and with headings one level lower.
        text = _text(folder / f"{name}.md").partition("\n")[2].partition("\n## Missing\n")[0]
        body = "\n".join(facts) + "\n\n" + re.sub("^##", "###", text.strip(), flags=re.M)
        if document["picture"] is not None:
            _check_picture(folder / f"{name}.png")
        if gaps:
            lines = "".join(f"\n    - {gap}" for gap in gaps)
            body += f'\n\n??? warning "Missing: {_counted(len(gaps), "gap")}"\n{lines}'
        title = document["title"].replace("|", r"\|")
        return Section(name, title, status, str(len(gaps) or "–"), body)
    except DAMAGE as error:
        return Section(name, title, UNREADABLE, "all", f"{_failure(name, error)}\n\n{command}")


def _page(path: Path) -> str:
    """Returns the text of a page, or the reason why it cannot be shown."""
    try:
        return _text(path)
    except DAMAGE as error:
        return f"\n## {path.name}\n\n{_failure(path.name, error)}"


def _failure(name: str, error: Exception) -> str:
    """Returns Markdown with the reason why something is missing on the page; logs it too."""
    reason = f"{name} cannot be shown: {type(error).__name__}: {error}"
    log.warning(reason)
    return f"!!! failure\n\n    {reason}"


def _text(path: Path) -> str:
    """Reads a file's text, and escapes HTML in it."""
    return _bytes(path).decode("utf-8").replace("<", "&lt;")


def _check_picture(path: Path) -> None:
    data = _bytes(path)
    if not (data.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in data[-12:]):
        raise ValueError(f"{path.name} is no whole PNG file")


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.name} is larger than {LARGEST:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    """Yields all objects in a JSON value, the outer ones first."""
    if isinstance(content, dict):
        yield content
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _objects(value)


def _epochs(content: Any) -> Counter[tuple[int, int]]:
    """Counts the rows that have runs, by their epochs and the published epochs."""
    rows = [r for r in _objects(content) if r.keys() >= {"epochs_published", "seeds_done"}]
    return Counter((row["epochs"], row["epochs_published"]) for row in rows if row["seeds_done"])


def _stopped_early(content: Any, missing: Sequence[str]) -> list[str]:
    """Returns a line for each number of epochs that is too low and not yet in ``missing``."""
    return [
        f"{_counted(count, 'row')} stopped early: {epochs} of {published} epochs"
        for (epochs, published), count in sorted(_epochs(content).items())
        if epochs < published
        and not any(line.endswith(f" {epochs} of {published} epochs") for line in missing)
    ]


def _facts(content: Any) -> list[str]:
    """Lists devices, seeds and epochs of the runs, as far as the file records them."""
    objects = list(_objects(content))
    devices = {own["device"] for own in objects if "device" in own}
    devices |= {device for own in objects for device in own.get("devices", ())}
    seeds = {int(seed) for own in objects for seed in own.get("best_epochs", ())}
    seeds |= {own["seed"] for own in objects if isinstance(own.get("seed"), int)}
    epochs = [f"{e} of {of} ({_counted(n, 'row')})" for (e, of), n in _epochs(content).items()]
    facts = {
        "Devices": "; ".join(sorted(devices)),
        "Seeds": ", ".join(map(str, sorted(seeds))),
        "Epochs": ", ".join(epochs),
    }
    return [f"- {name}: {fact}" for name, fact in facts.items() if fact]


def _command(name: str) -> str:
    return f"`python -m experiments.reproduce {name}`"


def _status(status: str) -> str:
    return f'<span class="status {status}">{status}</span>'


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count > 1)}"
