"""Data sets by name: where their files are looked for, and where they are downloaded from."""

from __future__ import annotations

import dataclasses
import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pooch

from experiments.data.interactions import Interactions, from_sequences, read_text
from experiments.data.synthetic import synthetic
from experiments.errors import UserError, check_name

AMAZON_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"


@dataclasses.dataclass(frozen=True)
class Source:
    """A registered data set: its ready text file, or the raw file and the folder it comes from."""

    text: str
    raw: str
    url: str = AMAZON_2014


SOURCES = {
    "beauty": Source("Beauty.txt", "reviews_Beauty_5.json.gz"),
    "toys": Source("Toys_and_Games.txt", "reviews_Toys_and_Games_5.json.gz"),
    "tools": Source(
        "Tools_and_Home_Improvement.txt", "reviews_Tools_and_Home_Improvement_5.json.gz"
    ),
}
NAMES = ("synthetic", *SOURCES)


def load(dataset: str, data_dir: Path | None = None) -> Interactions:
    """Loads a data set by registered name, or from a file of ``user item item …`` lines.

    A registered name is looked up in ``data_dir``, else ``$SEVO_DATA``, else a cache folder: the
    ready text file or the raw file. Only when neither is there, the raw file is downloaded to it.

    Raises:
        UserError: an unknown name, a file that is missing or malformed, or a failed download.
    """
    if dataset == "synthetic":
        return synthetic()
    if dataset in SOURCES:
        source = SOURCES[dataset]
        folder = data_dir or Path(os.environ.get("SEVO_DATA") or pooch.os_cache("sevo-jax"))
        if (folder / source.text).exists():
            return read_text(folder / source.text, dataset)
        if not (folder / source.raw).exists():
            _download(source, folder)
        return read_amazon(folder / source.raw, dataset)
    if os.sep in dataset or Path(dataset).suffix or Path(dataset).exists():
        return read_text(Path(dataset), Path(dataset).stem)
    check_name("data set", dataset, NAMES)
    raise AssertionError("a known name was handled above")


def read_amazon(path: Path, name: str) -> Interactions:
    """Reads Amazon's 2014 reviews: gzipped JSON lines of reviewerID, asin and unixReviewTime."""
    columns = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64}
    try:
        with gzip.open(path) as file:
            reviews = pl.read_ndjson(file.read(), schema=columns)
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: is no gzipped file of JSON reviews ({error})") from error
    incomplete = reviews.select(pl.any_horizontal(pl.all().is_null())).to_series().arg_true()
    if incomplete.len():
        raise UserError(
            f"{path}, review {incomplete[0] + 1}: found {reviews.row(incomplete[0], named=True)}; "
            f"expected {', '.join(columns)} in every review"
        )
    reviews = reviews.with_columns(
        user=pl.col("reviewerID").rank("dense"), item=pl.col("asin").rank("dense") - 1
    ).sort("user", "unixReviewTime", maintain_order=True)
    lengths = reviews.group_by("user", maintain_order=True).len()["len"]
    return from_sequences(
        name,
        reviews["item"].to_numpy().astype(np.int64),
        lengths.to_numpy().astype(np.int64),
        reviews["asin"].unique().sort().to_numpy(),
        source=path,
    )


def _download(source: Source, folder: Path) -> None:
    try:
        pooch.retrieve(
            f"{source.url}/{source.raw}",
            known_hash=None,
            fname=source.raw,
            path=folder,
            progressbar=True,
        )
    except Exception as error:  # requests, urllib3 and the file system each have their own
        raise UserError(
            f"{folder}: holds neither {source.text} nor {source.raw}, and the download of "
            f"{source.url}/{source.raw} failed ({error}); put either file there by hand, or name "
            "its folder with --data-dir or $SEVO_DATA"
        ) from error
