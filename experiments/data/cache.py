"""A cache of parsed data sets: what took minutes to parse is read in a second.

A cached file that cannot be read is made again. If the cache cannot be written, the data set is
parsed each time. A note tells the user. `VERSION` must change whenever the parser would turn the
same raw file into something else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from experiments.data.interactions import Interactions

VERSION = 2
DAY = 86400  # seconds


def cache_folder() -> Path:
    """Returns ``$SEVO_CACHE``, or the operating system's folder for caches.

    A user without a home, as in some containers, gets a folder among the temporary files.
    """
    if named := os.environ.get("SEVO_CACHE"):
        return Path(named)
    try:
        return Path(pooch.os_cache("sevo-jax"))
    except RuntimeError:  # neither $HOME nor a known user
        return Path(tempfile.gettempdir()) / f"sevo-jax-{os.getuid()}"


def cached(
    name: str, raw: Path, make: Callable[[], Interactions], times: bool = False
) -> Interactions:
    """Returns the result of ``make``, from the cache if it has it for the same raw file.

    Args:
        name: the name of the data set.
        raw: the file that ``make`` reads; recognised by its size and time of change.
        make: reads the file.
        times: whether it keeps times, as few runs need them.

    Raises:
        UserError: whatever ``make`` raises.
    """
    stat = raw.stat()
    kind = f"{name}-times" if times else name
    path = cache_folder() / "parsed" / f"{kind}-{stat.st_size}-{stat.st_mtime_ns}.npz"
    notes: tuple[str, ...] = ()
    try:
        return _read(path, name)
    except FileNotFoundError:
        pass
    except Exception as error:  # damage may raise anything in NumPy, zipfile and zlib
        notes += (f"{path}: is no cache of this version ({error}); {raw.name} is read anew",)
    data = make()
    try:
        _write(path, data)
    except OSError as error:
        reason = error.strerror or error
        notes += (f"{path}: cannot be written ({reason}); {raw.name} is read anew each time",)
    return dataclasses.replace(data, notes=data.notes + notes)


def _read(path: Path, name: str) -> Interactions:
    with np.load(path) as stored:
        if stored["version"] != VERSION:
            raise ValueError(f"found version {stored['version']}, expected {VERSION}")
        return _from_arrays(name, stored)


def _write(path: Path, data: Interactions) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{path.name}?*"):  # drafts of writes that were killed
        if time.time() - old.stat().st_mtime > DAY:
            old.unlink()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as draft:
        try:
            np.savez(draft, version=VERSION, **_to_arrays(data))
            draft.close()
            Path(draft.name).chmod(path.parent.stat().st_mode & 0o666)  # a cache may be shared
            os.replace(draft.name, path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


def _to_arrays(data: Interactions) -> dict[str, Any]:
    own = {} if data.times is None else {"times": data.times}
    return own | {
        "items": data.items,
        "lengths": data.lengths,
        "item_ids": _packed(data.item_ids),
        "user_ids": _packed(data.user_ids),
        "notes": np.array(data.notes, dtype="U"),
    }


def _from_arrays(name: str, stored: Mapping[str, Any]) -> Interactions:
    return Interactions(
        name=name,
        items=stored["items"],
        lengths=stored["lengths"],
        item_ids=_unpacked(stored["item_ids"]),
        user_ids=_unpacked(stored["user_ids"]),
        notes=tuple(stored["notes"].tolist()),
        times=stored.get("times"),
    )


def _packed(ids: np.ndarray) -> np.ndarray:
    """Packs string ids into one JSON text."""
    # NumPy would pickle objects, or make all strings as wide as the longest.
    return np.array(json.dumps(ids.tolist()).encode()) if ids.dtype == object else ids


def _unpacked(ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind != "S":
        return ids
    names = json.loads(ids.item())
    return np.array(names, object)
