"""Data sets by name: the places of their files, and their readers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pooch

from experiments.data.cache import cache_folder, cached
from experiments.data.download import check_recorded, download, part_of, record
from experiments.data.events import from_events
from experiments.data.interactions import Interactions, read_text
from experiments.data.reviews import read_amazon, read_movielens
from experiments.data.synthetic import synthetic
from experiments.data.table1 import TABLE_1, differences, draw
from experiments.data.tables import is_text, name_of, read_file
from experiments.errors import UserError, check_name

AMAZON_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
AMAZON_2018 = "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/categoryFilesSmall"
MOVIELENS = "https://files.grouplens.org/datasets/movielens"
CORE = 5
"""Users and items of the registered data sets have at least that many interactions."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of a registered data set: a text file that is ready to use, or the raw file.

    Attributes:
        text: name of the ready file.
        raw: name of the raw file.
        url: address of the folder from which the raw file is downloaded.
        read: reads the raw file into columns user, item and time.
        repeats: whether a user's repeated interactions with an item are kept. Table 1 counts them
            for the data of 2014, and does not for those of 2018.
        checksum: checksum of the raw file; ``None`` if it is not published.
    """

    text: str
    raw: str
    url: str = AMAZON_2014
    read: Callable[[Path], pl.DataFrame] = read_amazon
    repeats: bool = True
    checksum: str | None = None


SOURCES = {
    "beauty": Source("Beauty.txt", "reviews_Beauty_5.json.gz"),
    "toys": Source("Toys_and_Games.txt", "reviews_Toys_and_Games_5.json.gz"),
    "tools": Source(
        "Tools_and_Home_Improvement.txt", "reviews_Tools_and_Home_Improvement_5.json.gz"
    ),
    "sports": Source("Sports_and_Outdoors.txt", "reviews_Sports_and_Outdoors_5.json.gz"),
    "ml-1m": Source(
        "ml-1m.txt",
        "ml-1m.zip",
        MOVIELENS,
        read_movielens,
        checksum="md5:c4d9eecfca2ab87c1945afe126590906",
    ),
    "electronics": Source("Electronics.txt", "Electronics_5.json.gz", AMAZON_2018, repeats=False),
    "clothing": Source(
        "Clothing_Shoes_and_Jewelry.txt",
        "Clothing_Shoes_and_Jewelry_5.json.gz",
        AMAZON_2018,
        repeats=False,
    ),
}
DRAWN = {"synthetic-electronics": "electronics", "synthetic-clothing": "clothing"}
"""Data sets drawn from a seed, each with the size that another one has in Table 1."""

NAMES = ("synthetic", *SOURCES, *DRAWN)


def load(dataset: str, data_dir: Path | None = None, *, times: bool = False) -> Interactions:
    """Loads a data set by registered name or path.

    For a registered name, the ready text file or the raw file is looked for in ``data_dir`` or else
    ``$SEVO_DATA``, then in the cache folder. If neither is there, the raw file is downloaded to the
    first of these folders that can be written. Users and items of fewer than 5 interactions are
    removed from raw files.

    A path names a file of lines of ``user item item …``, or one that `read_file` reads. If it is
    not there, a file of that name is looked for in ``data_dir``.

    With ``times``, those of interactions are kept, if the file has any. Raw files then come before
    ready ones.

    Raises:
        UserError: the name is unknown, a file is missing or malformed, or a download failed.
    """
    if dataset == "synthetic":
        return synthetic()
    if dataset in DRAWN:
        return draw(dataset, TABLE_1[DRAWN[dataset]])
    if dataset in SOURCES:
        data = _load_registered(dataset, SOURCES[dataset], _folder(data_dir), times)
        if dataset in TABLE_1:
            data = dataclasses.replace(
                data, notes=(*data.notes, *differences(data, TABLE_1[dataset]))
            )
        return data
    path = find_path(dataset, data_dir)
    if os.sep in dataset or path.suffix or path.exists():
        return read_text(path, name_of(path)) if is_text(path) else read_file(path, times=times)
    check_name("data set", dataset, NAMES)
    raise AssertionError("a known name was handled above")


def at_hand(dataset: str, data_dir: Path | None = None) -> bool:
    """Tells whether a registered data set can be loaded without a download."""
    if dataset not in SOURCES:
        return dataset in NAMES
    return _find(SOURCES[dataset], _folder(data_dir)) is not None


def find_path(dataset: str, data_dir: Path | None = None) -> Path:
    """Finds the file that a path names: there, or else in ``data_dir`` or ``$SEVO_DATA``."""
    path = Path(dataset)
    folder = data_dir or os.environ.get("SEVO_DATA")
    places = [Path(folder, path), Path(folder, path.name)] if folder and path.name else []
    return next((place for place in (path, *places) if place.exists()), path)


def _folder(data_dir: Path | None) -> Path:
    return data_dir or Path(os.environ.get("SEVO_DATA") or cache_folder())


def _find(source: Source, folder: Path, times: bool = False) -> Path | None:
    """Finds the ready text file or the raw one, in the folder or else in the cache."""
    places = (folder, cache_folder())
    files = [place / name for place in places for name in (source.text, source.raw)]
    if times:  # the ready file has none
        files.sort(key=lambda file: file.name == source.text)
    return next((file for file in files if file.exists()), None)


def _load_registered(name: str, source: Source, folder: Path, times: bool) -> Interactions:
    file = _find(source, folder, times) or _download(source, folder)
    if file.name == source.text:
        data = read_text(file, name)
    else:
        data = cached(name, file, lambda: _read_raw(name, source, file, times), times)
        data = dataclasses.replace(data, notes=(*data.notes, *record(file)))
    return dataclasses.replace(data, source=file)


def _read_raw(name: str, source: Source, path: Path, times: bool) -> Interactions:
    check_recorded(path)
    events = source.read(path)
    data = from_events(name, events, path, repeats=source.repeats, core=CORE, times=times)
    if source.checksum:  # a file that the user put there may be another version: only a note
        algorithm, _, expected = source.checksum.partition(":")
        found = pooch.file_hash(str(path), alg=algorithm)
        if found != expected:
            note = f"{path}: is not the published file ({algorithm} {found}, not {expected})"
            return dataclasses.replace(data, notes=(*data.notes, note))
    return data


def _download(source: Source, folder: Path) -> Path:
    url = f"{source.url}/{source.raw}"
    path = (folder if _writable(folder) else cache_folder()) / source.raw
    try:
        download(url, path, source.checksum)
    except Exception as error:  # requests, urllib3 and the file system have errors of their own
        go_on = "what has come is kept, and the same command goes on from there; or "
        raise UserError(
            f"{folder}: holds neither {source.text} nor {source.raw}, and the download of {url} "
            f"failed ({error}); {go_on if part_of(path).exists() else ''}put either file there by "
            "hand, or name its folder as the data_dir or $SEVO_DATA"
        ) from error
    return path


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
