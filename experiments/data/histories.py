"""Histories of users whom a run may never have seen, by the ids of the run's data."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from experiments.data.columns import read_columns
from experiments.data.events import first_line
from experiments.data.interactions import Interactions, read_text
from experiments.data.reading import open_text
from experiments.data.tables import COLUMNS, is_text, name_of, read_file
from experiments.errors import UserError


class Histories(NamedTuple):
    """The items of users, numbered as in the run's data.

    Attributes:
        data: the histories; a user without a known item has none.
        unknown: ids that the run's data lacks, each once.
    """

    data: Interactions
    unknown: list[str]


def match(histories: Mapping[Any, Sequence[Any]] | Path, known: Interactions) -> Histories:
    """Finds the items of histories in a run's data; leaves the others out.

    Args:
        histories: for each user the items in order of time, by their ids; or a file of lines or a
            table, as data sets have them, in which a user may have few items.
        known: the run's data. Its ids and those of the histories are compared as text.

    Raises:
        UserError: there is no history, or the file is missing or malformed.
    """
    if isinstance(histories, Path):
        given = (
            read_text(histories, name_of(histories), least=0)
            if is_text(histories)
            else read_file(histories, least=0)
        )
        ids, items, lengths = given.item_ids.tolist(), given.items - 1, given.lengths
        users, name, notes = given.user_ids, given.name, given.notes
    else:
        if not histories:
            raise UserError("histories: expected one user or more")
        bad = next((user for user, own in histories.items() if isinstance(own, str)), None)
        if bad is not None:
            raise UserError(f"histories: user {bad!r} has a text; expected a sequence of item ids")
        ids = list(dict.fromkeys(str(item) for own in histories.values() for item in own))
        place = {item: i for i, item in enumerate(ids)}
        items = np.array([place[str(i)] for own in histories.values() for i in own], np.int64)
        lengths = np.array([len(own) for own in histories.values()])
        users, name, notes = _ids(list(histories)), "histories", ()
    numbers = known.numbers()
    number = np.array([numbers.get(str(item), 0) for item in ids], np.int32)
    found = number[items] if items.size else np.zeros(0, np.int32)
    owners = np.repeat(np.arange(lengths.size), lengths)
    data = dataclasses.replace(
        known,
        name=name,
        items=found[found > 0],
        lengths=np.bincount(owners[found > 0], minlength=lengths.size).astype(np.int64),
        user_ids=users,
        notes=notes,
        times=None,
        held_out=None,
    )
    return Histories(data, [str(item) for item, n in zip(ids, number, strict=True) if not n])


def read_items(path: Path) -> list[str]:
    """Reads item ids: a line each, or the column ``item`` of a table.

    Raises:
        UserError: the file is missing, malformed or empty.
    """
    if not is_text(path):
        items = read_columns(path, {"item": COLUMNS["item"]}, ("item",))["item"]
        try:
            if not items.dtype.is_nested():
                return items.cast(pl.String).to_list()
            wrong = f"they are of type {items.dtype}"
        except pl.exceptions.PolarsError as error:
            wrong = first_line(error)
        raise UserError(
            f"{path}: found items that are no ids ({wrong}); expected integers or strings, one a "
            "row"
        )
    with open_text(path) as file:
        items = [line.strip() for line in file if line.strip()]
    if not items:
        raise UserError(f"{path}: is empty; expected an item id a line")
    return items


def _ids(values: list[Any]) -> np.ndarray:
    """Returns ids as integers that fit 64 bits, or else as text.

    Raises:
        UserError: two users are the same text, such as 1 and "1".
    """
    (name, count), *_ = Counter(map(str, values)).most_common(1)
    if count > 1:
        raise UserError(f"histories: {count} users are called {name!r}; expected other names")
    whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values)
    if whole and all(-(2**63) <= value < 2**63 for value in values):
        return np.array(values, np.int64)
    return np.array([str(value) for value in values], object)
