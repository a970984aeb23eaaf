"""Shared by tests of pages: the commands that stand in blocks and in sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), RESULTS / "README.md"])


class Command(NamedTuple):
    """A command in a block of a page.

    Attributes:
        words: what runs.
        comment: beside it, and in the lines above it.
    """

    words: list[str]
    comment: str


def in_blocks(text: str) -> Iterator[Command]:
    """The commands of Python in the blocks of a page, but for installing."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        above = ""
        for line in block.replace("\\\n", " ").splitlines():
            code, _, comment = line.partition("#")
            if not code.strip():
                above += comment
                continue
            for command in code.split("&&"):
                words = shlex.split(command)
                if words[:1] == ["python"] and words[:3] != ["python", "-m", "pip"]:
                    yield Command(words, above + comment)
            above = ""


def in_sentences(text: str) -> Iterator[tuple[str, str]]:
    """The commands in sentences of a page, each with its paragraph or row of a table."""
    for place in re.split(r"\n\n|\n(?=\|)", re.sub(r"```.*?```", "", text, flags=re.S)):
        flat = " ".join(place.split())
        for command in re.findall(r"`(python (?:-m (?:exp|bench)\w+\.|examples/)[^`]+)`", flat):
            yield command, flat
