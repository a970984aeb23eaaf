"""The file of a graph: a matrix as SciPy writes it, and beside it what a `Graph` adds."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

META = "sevo_jax"
"""The entry of the archive that holds `Meta`."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """The contents of a graph's file beside the matrix.

    Attributes:
        dtype: the name of the graph's dtype; that of the matrix if ``None``.
        capacity: its stored entries; as many as the matrix has if ``None``.
        normalized: whether the matrix is ``Ã``, and not ``W``.
        kernel: as in `Graph`.
        precision: as in `Graph`.
    """

    dtype: str | None = None
    capacity: int | None = None
    normalized: bool = False
    kernel: Any = None
    precision: Any = None

    @classmethod
    def parse(cls, text: str) -> Meta:
        """Parses its JSON; raises a `ValueError` for any other text."""
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its entry {META!r} is no JSON ({error})") from error
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(meta, dict) or not meta.keys() <= fields:
            raise ValueError(
                f"its entry {META!r} must be an object of {', '.join(sorted(fields))}, got {meta}"
            )
        dtype, normalized = meta.get("dtype"), meta.get("normalized", False)
        if dtype is not None and not _is_floating(dtype):
            raise ValueError(f"dtype must name a floating-point type, got {dtype!r}")
        if not isinstance(normalized, bool):
            raise ValueError(f"normalized must be true or false, got {normalized!r}")
        return cls(**meta)  # the others are checked where they are used


def npz(path: str | Path) -> Path:
    """Adds ``.npz`` to a path that lacks it."""
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")


def write(path: Path, matrix: Any, meta: Meta) -> None:
    """Writes a matrix that `scipy.sparse.load_npz` can read, and ``meta`` beside it."""
    sp.save_npz(path, matrix)
    text = np.array(json.dumps(dataclasses.asdict(meta)))
    with zipfile.ZipFile(path, "a") as archive, archive.open(META + ".npy", "w") as file:
        np.save(file, text)


def read(path: Path) -> tuple[Any, str]:
    """Reads a matrix and the text of `Meta`, that of an empty one if the file has none.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it holds no sparse matrix.
    """
    try:
        matrix = sp.load_npz(path)
        with np.load(path) as archive:
            return matrix, str(archive[META]) if META in archive.files else "{}"
    except OSError:
        raise
    except Exception as error:  # NumPy, SciPy and zipfile raise many kinds
        raise ValueError(f"{path} holds no sparse matrix ({error})") from error


def _is_floating(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(jnp.issubdtype(jnp.dtype(name), jnp.floating))
    except TypeError:
        return False
