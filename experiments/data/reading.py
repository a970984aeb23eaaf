"""Reading of text files: gzipped or not, in UTF-8, with errors that name the file."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, TextIO

from experiments.errors import UserError

GZIP = b"\x1f\x8b"
HEAD = 4096


@contextlib.contextmanager
def readable(path: Path) -> Generator[None]:
    """Turns errors of reading a file into a `UserError`."""
    try:
        yield
    except EOFError as error:
        raise UserError(f"{path}: is cut off; expected a whole gzipped file") from error
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = None) -> Generator[TextIO]:
    """Opens a text file, gzipped or not; bytes that are not UTF-8 become U+FFFD.

    Raises:
        UserError: the file cannot be read, or is UTF-16.
    """
    with readable(path), _open_bytes(path) as file:
        check_encoding(path)
        with io.TextIOWrapper(file, "utf-8-sig", "replace", newline) as text:
            yield text


def check_encoding(path: Path) -> None:
    """Raises a `UserError` for UTF-16 and UTF-32, which spreadsheets and PowerShell write."""
    with readable(path), _open_bytes(path) as file:
        head = file.read(HEAD)
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    # Without a byte-order mark, UTF-16 is recognised by ASCII text: every second byte is zero.
    zeros = len(head) > 3 and not all(half.strip(b"\0") for half in (head[::2], head[1::2]))
    if marked or zeros:
        raise UserError(
            f"{path}: is UTF-16 text; expected UTF-8: save it so, or write "
            f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
        )


def _open_bytes(path: Path) -> BinaryIO:
    file = path.open("rb")
    gzipped = file.read(2) == GZIP
    file.seek(0)
    if not gzipped:
        return file
    file.close()
    return gzip.open(path)  # pyright: ignore[reportReturnType], it has all methods used here
