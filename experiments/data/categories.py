"""Categories of a data set's items: side information, from a file beside the interactions.

They are in a JSON object of items and their categories, or for MovieLens-1M in the zip of its
ratings. The item ids in these files are those of one particular file of interactions, and fit no
other. For a data set of the user's own, the user names the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from experiments.data.columns import read_columns
from experiments.data.events import first_line
from experiments.data.interactions import Interactions
from experiments.data.reviews import read_genres
from experiments.data.tables import COLUMNS as TABLE_COLUMNS
from experiments.data.tables import is_text
from experiments.errors import ArgumentError, UserError
from experiments.files import read_json


class Source(NamedTuple):
    """The file of a data set's categories.

    Attributes:
        file: the file's name.
        of: the file of interactions that has the same item ids, in the same folder.
        read: reads the categories of each item, by its id.
        covers_more: whether the file may have items that the data set lacks, by other ids than
            numbers that count from 1.
        max_size: items of the largest category that makes edges; any number if ``None``.
    """

    file: str
    of: str
    read: Callable[[Path], Mapping[str, Any]]
    covers_more: bool
    max_size: int | None


SOURCES = {
    # All 637 categories, of up to 3,814 items, would join a quarter of all pairs: 37,314,630
    # entries, beside some 220,000 of the items that follow each other. The 619 of at most 500 items
    # make 2,635,926, and leave 631 of the 12,101 items without neighbours.
    "beauty": (Source("Beauty_item2attributes.json", "Beauty.txt", read_json, False, 500),),
    # One category holds all items. 1,003 of 1,027 make edges, and leave 1,899 of 11,924 items
    # without neighbours.
    "toys": (
        Source("Toys_and_Games_item2attributes.json", "Toys_and_Games.txt", read_json, False, 500),
    ),
    "sports": (
        Source(
            "Sports_and_Outdoors_item2attributes.json",
            "Sports_and_Outdoors.txt",
            read_json,
            False,
            500,
        ),
    ),
    # The 18 genres all make edges, as in Table 4. The 5-core leaves some movies of the zip out.
    "ml-1m": (
        Source("ml-1m_item2attributes.json", "ml-1m.txt", read_json, False, None),
        Source("ml-1m.zip", "ml-1m.zip", read_genres, True, None),
    ),
}
"""The files of a data set's categories: one for each file of interactions that it is read from."""


class Categories(NamedTuple):
    """The categories of a data set and the items in each.

    Attributes:
        names: the categories' names, as in the file.
        members: the items of each category, ``int64[items]``, numbered ``1 … num_items`` and
            sorted.
        max_size: items of the largest category that makes edges; any number if ``None``.
        unknown: items of the file that the data set lacks.
    """

    names: Sequence[str]
    members: Sequence[np.ndarray]
    max_size: int | None
    unknown: int


def load_categories(data: Interactions, file: str = "", max_size: int | None = None) -> Categories:
    """Loads the categories of a data set's items.

    Args:
        data: the data set.
        file: a file of items and their categories, with the item ids of the data's source. If
            empty, the file that belongs to a registered data set.
        max_size: the size of the largest category of ``file`` that makes edges; any if ``None``.

    Raises:
        UserError: no file is named and none belongs to the data set; the file is missing or
            malformed; its items are unknown to the data set; or it belongs to another file of
            interactions than the one that was read.
    """
    if file:
        own = Source(file, data.name, read_categories, True, max_size)
        found = _by_category(read_categories(Path(file)), data, Path(file), own)
        if max_size is not None and min(map(len, found.members)) > max_size:
            raise ArgumentError(
                "max_category_size",
                f"{max_size} leaves none of the categories of {file}, which have "
                f"{min(map(len, found.members)):,} items and more",
            )
        return found
    path, source = own_file(data)
    return _by_category(source.read(path), data, path, source)


def own_file(data: Interactions) -> tuple[Path, Source]:
    """Finds the file of categories that belongs to a registered data set.

    Raises:
        UserError: none belongs to it, it is missing, or it belongs to another file of interactions
            than the one that was read.
    """
    sources = SOURCES.get(data.name, ())
    if not sources or data.source is None:
        raise ArgumentError(
            "graph",
            f"category needs a data set whose categories are known: {', '.join(SOURCES)}; got "
            f"{data.name}: name a file of its categories",
        )
    read_from = data.source.name
    source = next((source for source in sources if source.of == read_from), sources[0])
    path = data.source.with_name(source.file)
    if read_from != source.of:
        raise UserError(
            f"{data.source}: does not number its items as {source.file} does; expected "
            f"{source.of}: put both into {data.source.parent}, or name their folder with "
            "data_dir or $SEVO_DATA"
        )
    if not path.exists():
        raise UserError(
            f"{path}: is missing; expected a JSON object of items and lists of their categories: "
            f"put it beside {source.of}"
        )
    return path, source


COLUMNS = {
    "item": TABLE_COLUMNS["item"],
    "category": ("category", "categories", "categoryid", "genre", "attribute", "tag"),
}


def read_categories(path: Path) -> Mapping[str, Any]:
    """Reads the categories of each item from a file.

    Args:
        path: a JSON object of items and lists of their categories, or a ``.csv``, ``.tsv`` or
            ``.parquet`` file with an item and a category in each row.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    if path.suffix.lower() == ".json":
        return read_json(path)
    if is_text(path):
        raise UserError(f"{path}: expected a name that ends in .json, .csv, .tsv or .parquet")
    pairs = read_columns(path, COLUMNS, ("item", "category"))
    try:
        names = pairs["category"].cast(pl.String)
        joined = names.str.contains("|", literal=True)
        if joined.any():
            row = joined.arg_true()[0]
            raise UserError(
                f"{path}, row {row + 1}: found the category {names[row][:60]!r}, which may be "
                "several; expected one a row, in as many rows as the item has, and no '|'"
            )
        pairs = pairs.cast(pl.String).group_by("item", maintain_order=True).agg("category")
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{path}: expected an item and a category in each row ({first_line(error)})"
        ) from error
    return dict(pairs.iter_rows())


def _by_category(
    categories_of: Mapping[str, Any], data: Interactions, path: Path, source: Source
) -> Categories:
    numbers = data.numbers()
    unknown = [item for item in categories_of if item not in numbers]
    known = [item for item in categories_of if item in numbers]
    if not known or (unknown and not source.covers_more):
        some = ", ".join(map(repr, unknown[:5])) + ", …" * (len(unknown) > 5)
        raise UserError(
            f"{path}: {len(unknown)} of its {len(categories_of)} items are unknown to {source.of} "
            f"({some or 'it is empty'}); expected ids such as {', '.join(list(numbers)[:3])}"
        )
    members: defaultdict[str, set[int]] = defaultdict(set)
    for item in known:
        own = categories_of[item]
        if not isinstance(own, list) or not all(_is_name(name) for name in own):
            raise UserError(
                f"{path}: item {item!r} has {str(own)[:60]}; expected a list of categories, each "
                "a name or a number"
            )
        if not own:
            raise UserError(
                f"{path}: item {item!r} has no category; expected one or more, or no such item"
            )
        for name in own:
            members[str(name)].add(numbers[item])
    # Numbers that count from 1 do not tell whose they are, but where both are of one file.
    counted = _ends(numbers) == (1, len(numbers)) and source.file != source.of
    ends = _ends(categories_of)
    if counted and ends and (ends[0] < 1 or ends[1] != len(numbers)):
        fewer = ends[0] > 0 and ends[1] < len(numbers)
        raise UserError(
            f"{path}: has the items {ends[0]:,} to {ends[1]:,}, and {source.of} has 1 to "
            f"{len(numbers):,}, so they may not be numbered alike; expected "
            + ("a category of the last item, too" if fewer else f"the items of {source.of} alone")
        )
    return Categories(
        list(members),
        [np.array(sorted(items)) for items in members.values()],
        source.max_size,
        len(unknown),
    )


def _ends(ids: Collection[str]) -> tuple[int, int] | None:
    """Returns the least and the largest of ids that are all whole numbers."""
    if not all(name.isdecimal() for name in ids):
        return None
    found = list(map(int, ids))
    return min(found), max(found)


def _is_name(name: Any) -> bool:
    is_number = isinstance(name, int) and not isinstance(name, bool)
    return is_number or (isinstance(name, str) and bool(name.strip()))
