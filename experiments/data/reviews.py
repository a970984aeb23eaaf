"""Readers of the raw files of Amazon's reviews and of MovieLens."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from experiments.data.events import check_complete, first_line, without_blank_lines
from experiments.errors import UserError

AMAZON = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
MOVIELENS = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Int64}
BLOCK = 2**26


def read_amazon(path: Path) -> pl.DataFrame:
    """Reads gzipped JSON lines of reviewerID, asin and unixReviewTime, a block of lines at a time.

    Returns:
        Columns ``user``, ``item`` and ``time``.

    Raises:
        UserError: the file cannot be read, is damaged or cut off, or a review lacks a field.
    """
    blocks: list[pl.DataFrame] = []
    number = 1
    try:
        with gzip.open(path) as file:
            for block in _whole_lines(file):
                reviews = _parse(block, path, number)
                check_complete(reviews, path, "review", number)
                blocks.append(reviews)
                number += reviews.height
    except EOFError as error:
        raise UserError(f"{path}: is cut off; delete it to have it downloaded again") from error
    except (OSError, zlib.error) as error:
        raise UserError(
            f"{path}: is no gzipped file of JSON reviews ({error}); delete it to have it "
            "downloaded again"
        ) from error
    if not blocks:
        raise UserError(f"{path}: is empty; expected gzipped JSON reviews, one a line")
    return pl.concat(blocks).rename(dict(zip(AMAZON, ("user", "item", "time"), strict=True)))


def read_movielens(path: Path) -> pl.DataFrame:
    """Reads ``ratings.dat`` of a zip: lines of ``UserID::MovieID::Rating::Timestamp``.

    Returns:
        Columns ``user``, ``item`` and ``time``.

    Raises:
        UserError: the file cannot be read, is damaged, has no ``ratings.dat``, or a rating in it
            lacks a field.
    """
    ratings, content = _member(path, "ratings.dat")
    try:
        events = pl.read_csv(content.replace(b"::", b","), has_header=False, schema=MOVIELENS)
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{path}, {ratings}: expected lines of UserID::MovieID::Rating::Timestamp "
            f"({first_line(error)})"
        ) from error
    events = without_blank_lines(events)
    check_complete(events, path / ratings, "rating")
    return events.drop("rating")


def read_genres(path: Path) -> dict[str, list[str]]:
    """Reads ``movies.dat`` of MovieLens' zip: the genres of each movie, by its id.

    Raises:
        UserError: the file cannot be read, is damaged, has no ``movies.dat``, or a line of it is
            not ``MovieID::Title::Genre|Genre``.
    """
    movies, content = _member(path, "movies.dat")
    genres: dict[str, list[str]] = {}
    for number, line in enumerate(content.decode("latin-1").splitlines(), 1):
        fields = line.split("::")
        if len(fields) != 3:
            raise UserError(
                f"{path}, {movies}, line {number}: found {line[:60]!r}; expected "
                "MovieID::Title::Genre|Genre"
            )
        genres[fields[0]] = [genre for genre in fields[2].split("|") if genre]
    return genres


def _member(path: Path, wanted: str) -> tuple[str, bytes]:
    """Reads the file ``wanted`` from any folder of a zip; returns its full name and its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            name = next((name for name in members if Path(name).name == wanted), None)
            if name is None:
                raise UserError(
                    f"{path}: found {', '.join(members[:8]) or 'nothing'}; expected {wanted}"
                )
            return name, archive.read(name)
    except (
        *(OSError, EOFError, zipfile.BadZipFile, zlib.error),
        *(NotImplementedError, RuntimeError),  # a damaged header asks for unsupported features
    ) as error:
        raise UserError(
            f"{path}: is no zip, or a damaged one ({error}); delete it to have it downloaded again"
        ) from error


def _whole_lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block + file.readline()


def _parse(block: bytes, path: Path, first: int) -> pl.DataFrame:
    try:
        return pl.read_ndjson(block, schema=AMAZON)
    except pl.exceptions.PolarsError as error:
        lines = filter(bytes.strip, block.splitlines())
        number, line = next((n, line) for n, line in enumerate(lines, first) if not _parses(line))
        raise UserError(
            f"{path}, review {number}: found {line.decode('utf-8', 'replace')[:60]!r} "
            f"({first_line(error)}); expected a JSON object with {', '.join(AMAZON)}"
        ) from error


def _parses(line: bytes) -> bool:
    try:
        return pl.read_ndjson(line, schema=AMAZON).height == 1
    except pl.exceptions.PolarsError:
        return False
