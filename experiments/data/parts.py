"""Data sets of several processes: each reads the lines of its own users, and keeps no others.

A text file is cut into as many ranges of bytes as there are processes, at the ends of lines; what a
process reads there is its part. The rows of other files and archives are in any order and must be
sorted, which process 0 does alone, and hands out.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import BinaryIO

import jax
import numpy as np

from experiments import processes
from experiments.data.cache import pack, unpack
from experiments.data.interactions import (
    Interactions,
    Lines,
    check_lines,
    checked,
    cut_users,
    parse_lines,
)
from experiments.data.reading import check_encoding, readable
from experiments.data.registry import load, text_file


def load_part(dataset: str, data_dir: Path | None = None) -> Interactions:
    """The part of a data set that is this process's; on one process, all of it.

    All processes call it alike.

    Raises:
        UserError: as `load`, in all of them; their files are not equally long.
    """
    if jax.process_count() == 1:
        return load(dataset, data_dir)
    file = text_file(dataset, data_dir)
    processes.agree({"the text file": file and file.name})
    if file is not None:
        data = load(dataset, data_dir, read_part)
    else:
        first = processes.is_first()
        data = _hand_out(processes.attempt(lambda: load(dataset, data_dir) if first else None))
    # Found together here, for later process 0 alone asks for it.
    processes.agree({"the data's fingerprint": data.fingerprint})
    return data


def read_part(path: Path, name: str) -> Interactions:
    """`read_text` of the lines that begin in this process's range of the file's bytes."""
    size = processes.attempt(lambda: _size(path))
    processes.agree({f"the size of {path.name}": size})
    content = processes.attempt(lambda: _read_range(path, size))
    with io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", "replace") as text:
        lines = parse_lines(text)
    _check_all(path, lines)
    return checked(_join(lines.of_users(name)), path)


def _size(path: Path) -> int:
    check_encoding(path)
    with readable(path):
        return path.stat().st_size


def _read_range(path: Path, size: int) -> bytes:
    part, parts = jax.process_index(), jax.process_count()
    with readable(path), path.open("rb") as file:
        first, stop = (_line_from(size * i // parts, file) for i in (part, part + 1))
        file.seek(first)
        return file.read(stop - first)


def _line_from(byte: int, file: BinaryIO) -> int:
    """Where the first line begins that does not begin before the byte."""
    file.seek(max(0, byte - 1))
    if byte:
        file.readline()
    return file.tell()


def _check_all(path: Path, lines: Lines) -> None:
    """`check_lines` of the lines of all processes, counted from the file's first."""
    read, errors = zip(*processes.each_said([lines.read, lines.error]), strict=True)
    before = [sum(read[:process]) for process in range(len(read))]
    ends = zip(before, read, errors, strict=True)
    wrong = next(((b + r, error) for b, r, error in ends if error is not None), (0, None))
    users = processes.joined(lines.users)
    numbers = processes.joined(lines.numbers + before[jax.process_index()])
    check_lines(path, users, numbers, wrong)


def _join(own: Interactions) -> Interactions:
    """Numbers the items of all processes' users together."""
    item_ids = np.unique(processes.joined(own.item_ids))
    said = processes.each_said([own.num_users, own.dropped_users])
    users, dropped = zip(*said, strict=True)
    return dataclasses.replace(
        own,
        items=(np.searchsorted(item_ids, own.item_ids)[own.items - 1] + 1).astype(np.int32),
        lengths=processes.joined(own.lengths),
        item_ids=item_ids,
        user_ids=processes.joined(own.user_ids),
        dropped_users=sum(dropped),
        cuts=tuple(np.cumsum([0, *users]).tolist()),
        part=jax.process_index(),
    )


def _hand_out(whole: Interactions | None) -> Interactions:
    """The parts of what process 0 alone has."""
    part, own, about = jax.process_index(), np.zeros(0, np.int32), b""
    if whole is not None:
        own = whole.items
        about = pack(dataclasses.replace(whole, items=own[:0]))
    data = unpack(processes.joined(np.frombuffer(about, np.uint8)).tobytes())
    cuts = cut_users(data.lengths, jax.process_count())
    begin, end = (int(data.lengths[:cut].sum()) for cut in cuts[part : part + 2])
    items, at = np.empty(end - begin, np.int32), 0
    for _, piece in processes.stream(own):
        low, high = max(begin, at), min(end, at + piece.size)
        if low < high:
            items[low - begin : high - begin] = piece[low - at : high - at]
        at += piece.size
    return dataclasses.replace(data, items=items, cuts=tuple(cuts), part=part)
