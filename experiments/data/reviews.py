"""The raw files of Amazon's reviews and of MovieLens: read into columns user, item and time."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from experiments.data.events import check_complete
from experiments.errors import UserError

AMAZON = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
MOVIELENS = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Int64}
BLOCK = 2**26


def read_amazon(path: Path) -> pl.DataFrame:
    """Reads gzipped JSON lines of reviewerID, asin and unixReviewTime, a block of lines at a time.

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

    Raises:
        UserError: the file cannot be read, is damaged, has no ``ratings.dat``, or a rating in it
            lacks a field.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            ratings = [name for name in members if Path(name).name == "ratings.dat"]
            if not ratings:
                raise UserError(
                    f"{path}: found {', '.join(members[:8]) or 'nothing'}; expected ratings.dat"
                )
            content = archive.read(ratings[0])
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: is no zip, or a damaged one ({error}); delete it to have it downloaded again"
        ) from error
    try:
        events = pl.read_csv(content.replace(b"::", b","), has_header=False, schema=MOVIELENS)
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{path}, {ratings[0]}: expected lines of UserID::MovieID::Rating::Timestamp ({error})"
        ) from error
    check_complete(events, path / ratings[0], "rating")
    return events.drop("rating")


def _whole_lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block + file.readline()


def _parse(block: bytes, path: Path, first: int) -> pl.DataFrame:
    try:
        return pl.read_ndjson(block, schema=AMAZON)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(block.splitlines(), first):
            try:
                json.loads(line)
            except ValueError:
                raise UserError(
                    f"{path}, review {number}: found {line[:40]!r}; expected a JSON object"
                ) from error
        raise UserError(
            f"{path}: cannot be read ({error}); expected {', '.join(AMAZON)} in every review"
        ) from error
