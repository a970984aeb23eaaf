"""``python -m benchmarks.out_of_core``: graphs of Parquet files of up to 100,000,000 interactions.

It measures the whole command `experiments.build_graph` in a process of its own: imports, counting
in DuckDB within a limit of memory, normalising, and writing. Each user's interactions are spread
over the whole file, as in a log. So all of it must be sorted before anything can be counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from benchmarks import report
from experiments.data.table1 import TABLE_1, ZIPF_EXPONENT

# The largest first, since a benchmark that is interrupted keeps the cases it has.
SIZES = (100_000_000, 30_000_000, 10_000_000, 3_000_000, 1_000_000)
QUICK_SIZES = (20_000,)
MEMORY = "3GB"
ROWS_AT_ONCE = 2**20
LIKE = TABLE_1["clothing"]
"""The data set whose number of items, and mean interactions of a user, the logs have."""


def write_log(path: Path, interactions: int, seed: int = 0) -> None:
    """Writes a log: users are drawn uniformly, items by the power law, some rows at a time."""
    rng = np.random.default_rng(seed)
    popularity = np.cumsum((1.0 + rng.permutation(LIKE.items)) ** -ZIPF_EXPONENT)
    users = max(1, interactions * LIKE.users // LIKE.interactions)
    schema = pa.schema({"user": pa.int32(), "item": pa.int32(), "time": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for begin in range(0, interactions, ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, interactions - begin)
            drawn = np.searchsorted(popularity, rng.random(rows) * popularity[-1], side="right")
            columns = [
                rng.integers(0, users, rows, np.int32),
                np.minimum(drawn, LIKE.items - 1).astype(np.int32),
                np.arange(begin, begin + rows) // 8,  # some times are equal
            ]
            writer.write_table(pa.table(columns, schema=schema))


def build(interactions: int) -> report.Case:
    """Measures the seconds of the command, and the peak memory of its process."""
    with tempfile.TemporaryDirectory() as folder:
        log, graph = Path(folder) / "log.parquet", Path(folder) / "graph.npz"
        write_log(log, interactions)
        command = [sys.executable, "-m", "experiments.build_graph", str(log), str(graph)]
        command += ["--num-nodes", str(LIKE.items), "--memory", MEMORY, "--temporary", folder]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}")
        entries = int(sp.load_npz(graph).nnz)
    case = report.case(f"{interactions} interactions", {"": np.array([seconds])}, "s", 1)
    case |= {"interactions": interactions, "entries": entries, "memory_limit": MEMORY}
    return case | {"peak_memory_gib": round(usage.ru_maxrss / 2**20, 2)}


def measure(quick: bool) -> Iterator[report.Case]:
    """Measures each size once; the large ones take minutes."""
    yield from map(build, QUICK_SIZES if quick else SIZES)


if __name__ == "__main__":
    report.command("out_of_core", measure)
