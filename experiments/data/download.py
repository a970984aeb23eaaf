"""Downloads that can be interrupted, and raw files that are recognised by their checksum.

The first part of an interrupted download waits in a ``.part`` file, beside the server's validator
(an ETag or a date). If the server still has that version, the next download goes on from there;
otherwise it starts from zero. Only a whole file with the right checksum gets the file's own name.
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any

import pooch

from experiments.errors import UserError
from experiments.files import read_json, write_json

CHUNK = 2**16


def download(url: str, path: Path, checksum: str | None = None) -> None:
    """Downloads a file, or the rest of it, under a progress bar.

    Args:
        url: the file's address.
        path: the file on this machine.
        checksum: ``algorithm:digits``; ``None`` if it is not known.

    Raises:
        Exception: any error of requests, urllib3, pooch or the file system.
    """
    part = part_of(path)
    pooch.get_logger().setLevel(logging.WARNING)  # it advises programmers on every download
    fetch: Any = functools.partial(_fetch, part=part)  # pooch's type has other names of arguments
    try:
        pooch.retrieve(
            url, known_hash=checksum, fname=path.name, path=path.parent, downloader=fetch
        )
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def part_of(path: Path) -> Path:
    """Returns the file in which an interrupted download of ``path`` waits."""
    return path.with_name(path.name + ".part")


def check_recorded(path: Path) -> None:
    """Checks a raw file against the SHA-256 that was recorded at its first use.

    Raises:
        UserError: the file has changed since, or cannot be read.
    """
    record = _record_of(path)
    if not record.exists():
        return
    found, expected = _sha256(path), read_json(record).get("sha256")
    if found != expected:
        raise UserError(
            f"{path}: found SHA-256 {found}; expected {expected}, as {record.name} beside it "
            f"recorded at first use; delete {path.name} to have it downloaded again, or "
            f"{record.name} if the new file is right"
        )


def record(path: Path) -> tuple[str, ...]:
    """Records the SHA-256 of a raw file that proved usable; returns a note if it cannot."""
    if not _record_of(path).exists():
        try:
            write_json(_record_of(path), {"sha256": _sha256(path)})
        except UserError as error:
            return (f"the checksum of {path.name} is not recorded: {error}",)
    return ()


def _sha256(path: Path) -> str:
    try:
        return pooch.file_hash(str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _fetch(url: str, output_file: str, _: Any, *, part: Path) -> None:
    """Downloads for `pooch.retrieve`: goes on with ``part``, and moves it to ``output_file``."""
    validator = part.with_name(part.name + ".validator")
    headers = {"Accept-Encoding": "identity"}
    size = part.stat().st_size if part.exists() else 0
    if size > 1 and validator.exists():
        # From the last byte that we have: a range that begins behind the end is an error.
        headers |= {"Range": f"bytes={size - 1}-", "If-Range": validator.read_text("utf-8")}
    expected = None
    with part.open("ab") as file:

        def begin(response: Any, *_: Any, **__: Any) -> None:
            nonlocal expected
            # Some servers call a .gz file gzip-encoded. It must not be unpacked.
            response.raw.headers.pop("Content-Encoding", None)
            if response.status_code == 206:
                file.truncate(size - 1)
                expected = response.headers["Content-Range"].rpartition("/")[2]
            elif response.status_code == 200:
                file.truncate(0)
                expected = response.headers.get("Content-Length")
                validator.unlink(missing_ok=True)
                for version in map(response.headers.get, ("Last-Modified", "ETag")):
                    if version and not version.startswith("W/"):  # a weak one vouches for no bytes
                        validator.write_text(version, "utf-8")
            elif response.status_code == 416:
                file.truncate(0)  # longer than the file: the next download starts from zero

        http = pooch.HTTPDownloader(
            progressbar=True, chunk_size=CHUNK, headers=headers, hooks={"response": begin}
        )
        http(url, file, None)
    size = part.stat().st_size
    if expected is not None and expected.isdigit() and size != int(expected):
        if size > int(expected):
            part.unlink()  # two downloads wrote to it at once
        raise OSError(f"got {size:,} of {int(expected):,} bytes")
    os.replace(part, output_file)
    validator.unlink(missing_ok=True)
