"""Reading and writing of files: errors tell the user what to do, and writes are atomic."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from experiments.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    return _parse(_read(path), path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the objects in a file with one JSON object a line.

    Raises:
        UserError: the file cannot be read, or a line holds something else.
    """
    lines = _read(path).splitlines()
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON by `write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def replaced(path: Path) -> Generator[Path]:
    """Yields a draft beside a file, which then replaces the file; after an error it is removed."""
    draft = path.with_name(path.name + ".part")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces a file whole: an error or a kill leaves the old one.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with replaced(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no JSON ({error})") from error


def _parse(text: str, where: Path | str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a JSON object, found {text[:40]!r}")
    return content
