"""``python -m benchmarks.loading``: logs of up to 100,000,000 interactions, beside pandas.

Each candidate reads a file in a process of its own, and returns the items of each user in order of
time, numbered. The memory that counts is the peak of the process, imports included, less these
arrays.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks import report
from benchmarks.out_of_core import write_log


class Log(NamedTuple):
    """A file to read.

    Attributes:
        interactions: its number of rows.
        ending: of the file's name.
        text: whether its ids are text such as ``U0000012345``, or integers.
        with_pandas: whether pandas reads it, too.
    """

    interactions: int
    ending: str
    text: bool = False
    with_pandas: bool = True

    @property
    def name(self) -> str:
        """The case's name."""
        ids = "text" if self.text else "integers"
        return f"{self.interactions} interactions, {self.ending[1:]}, ids are {ids}"


# The largest first, since a benchmark that is interrupted keeps the cases it has. pandas needs more
# memory for them than many machines have.
LOGS = (
    *(Log(100_000_000, ending, with_pandas=False) for ending in (".parquet", ".csv")),
    *(
        Log(interactions, ending, text)
        for ending in (".parquet", ".csv")
        for interactions in (20_000_000, 5_000_000)
        for text in (False, True)
    ),
)
QUICK_LOGS = (Log(20_000, ".parquet"), Log(20_000, ".csv", text=True))

MEASURE = """
import json, sys, time
from pathlib import Path

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))

def size(array):
    return array.nbytes + (sum(map(sys.getsizeof, array)) if array.dtype == object else 0)

started = time.perf_counter()
arrays = load(sys.argv[1])
seconds, peak = time.perf_counter() - started, memory("VmHWM")
print(json.dumps({"seconds": seconds, "peak": peak, "arrays": sum(map(size, arrays))}))
"""
OURS = """
import experiments.data

def load(path):
    data = experiments.data.load(path)
    return data.items, data.lengths, data.item_ids, data.user_ids
"""
PANDAS = """
import numpy as np
import pandas as pd

def load(path):
    columns = ["user", "item", "time"]
    if path.endswith(".csv"):
        table = pd.read_csv(path, usecols=columns)
    else:
        table = pd.read_parquet(path, columns=columns)
    users, user_ids = pd.factorize(table.pop("user"), sort=True)
    items, item_ids = pd.factorize(table.pop("item"), sort=True)
    table["user"], table["item"] = users.astype(np.int32), items.astype(np.int32)
    table = table.sort_values(["user", "time"], kind="stable")
    lengths = np.bincount(table["user"])
    return table["item"].to_numpy() + 1, lengths, np.asarray(item_ids), np.asarray(user_ids)
"""


def write(log: Log, folder: Path) -> Path:
    """Writes a log, and returns its path. Rows are in order of time, users in none."""
    path, numbers = folder / f"log{log.ending}", folder / "numbers.parquet"
    write_log(numbers, log.interactions)
    table = pl.scan_parquet(numbers)
    if log.text:
        table = table.with_columns(
            pl.format("U{}", pl.col("user").cast(pl.String).str.zfill(10)),
            pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9)),
        )
    elif log.ending == ".parquet":
        return numbers.rename(path)
    if log.ending == ".parquet":
        table.sink_parquet(path)
    else:
        table.sink_csv(path)
    numbers.unlink()
    return path


def read(candidate: str, path: Path) -> dict[str, Any]:
    """Returns seconds and bytes of a process that reads a log."""
    command = [sys.executable, "-c", candidate + MEASURE, str(path)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(printed)
    return found | {"beyond": found["peak"] - found["arrays"]}


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures each log once; the largest takes minutes and 2 GiB of disk."""
    ours: dict[tuple[str, bool], tuple[int, int]] = {}
    for log in QUICK_LOGS if quick else LOGS:
        with tempfile.TemporaryDirectory() as folder:
            path = write(log, Path(folder))
            found = {"ours": read(OURS, path)}
            if log.with_pandas:
                found["pandas"] = read(PANDAS, path)
        seconds = {name: np.array([one["seconds"]]) for name, one in found.items()}
        case = report.case(log.name, seconds, "s", 1) | {"interactions": log.interactions}
        for name, one in found.items():
            prefix = "" if name == "ours" else f"{name}_"
            case[f"{prefix}beyond_arrays_gib"] = round(one["beyond"] / 2**30, 3)
            case[f"{prefix}bytes_an_interaction"] = round(one["beyond"] / log.interactions, 1)
        case["arrays_gib"] = round(found["ours"]["arrays"] / 2**30, 3)
        # Between two sizes of the same kind, what a process needs in any case cancels out.
        kind, point = (log.ending, log.text), (log.interactions, found["ours"]["beyond"])
        if larger := ours.get(kind):
            grown = (larger[1] - point[1]) / (larger[0] - point[0])
            case["bytes_of_growth"] = round(grown, 2)
        ours[kind] = point
        yield case


if __name__ == "__main__":
    report.command("loading", measure)
