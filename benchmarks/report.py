"""The JSON file that every benchmark writes, and the command around it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments.errors import UserError
from experiments.files import write_json

RESULTS = Path(__file__).parent / "results"
DATASET = "beauty"
Case = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures and writes BENCHMARK-DEVICE.json."""

    quick: bool = False
    """Small sizes and few rounds: to see that the benchmark works, not to measure."""
    out: Path | None = None
    """Folder of the results: benchmarks/results, or with --quick a new temporary one."""

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        if self.out is not None:
            return self.out
        return Path(tempfile.mkdtemp(prefix="benchmarks-")) if self.quick else RESULTS


def command(
    benchmark: str, measure: Callable[..., Iterable[Case]], kind: type[Options] = Options
) -> None:
    """Runs ``python -m benchmarks.NAME``: calls ``measure(quick)`` and writes its cases.

    The file is written after each case, so that a benchmark that is interrupted keeps them.

    Args:
        benchmark: its name.
        measure: measures its cases. It also takes what ``kind`` adds to `Options`, by name.
        kind: its options. A data set that is not the usual one is part of the file's name.
    """
    options = tyro.cli(kind, description=f"{Options.__doc__} Benchmark: {benchmark}.")
    usual = {field.name for field in dataclasses.fields(Options)}
    added = [field.name for field in dataclasses.fields(kind) if field.name not in usual]
    own = {name: getattr(options, name) for name in added}
    if own.get("dataset", DATASET) != DATASET:
        benchmark = f"{benchmark}-{own['dataset']}"
    folder, cases = options.folder, []
    try:
        for measured in measure(options.quick, **own):
            cases.append(measured)
            print(json.dumps(measured), flush=True)
            write(benchmark, cases, folder, quick=options.quick)
    except UserError as error:  # such as of an unknown data set
        raise SystemExit(f"error: {error}") from None
    print(f"written to {folder}")


def case(name: str, seconds: dict[str, np.ndarray], unit: str, scale: float) -> Case:
    """Makes a case of the JSON file: the first candidate is ours, the others are its peers.

    ``ratio`` is the median of ours over that of the best peer; ``spread`` has the extremes of the
    ratio over rounds. Without peers there is no ratio, and the spread is that of our own values.

    Args:
        name: the name of the case.
        seconds: seconds of each candidate, ``float[rounds]``.
        unit: the unit in which values are written.
        scale: the factor from seconds to that unit.
    """
    medians = {k: float(np.median(v)) * scale for k, v in seconds.items()}
    (_, ours), *peers = medians.items()
    best = min(peers, key=lambda peer: peer[1])[0] if peers else None
    result: Case = {"case": name, "ours": round(ours, 4), "unit": unit}
    result["peers"] = {k: round(v, 4) for k, v in peers}
    if best:
        ratios = next(iter(seconds.values())) / seconds[best]
        result["ratio"] = round(ours / medians[best], 4)
        result["spread"] = [round(float(ratios.min()), 4), round(float(ratios.max()), 4)]
    else:
        values = next(iter(seconds.values())) * scale
        result["ratio"] = None
        result["spread"] = [round(float(values.min()), 4), round(float(values.max()), 4)]
    return result


def device() -> str:
    """Returns the device's kind, as it stands in names of files."""
    return jax.devices()[0].device_kind.lower().replace(" ", "-")


def write(benchmark: str, cases: list[Case], folder: Path, *, quick: bool = False) -> None:
    """Writes ``FOLDER/BENCHMARK-DEVICE.json``."""
    packages = ("jax", "jaxlib", "optax", "flax", "numpy", "scipy")
    content = {
        "benchmark": benchmark,
        "device": f"{device()}, {platform.machine()}, {os.cpu_count()} cores",
        "platform": jax.default_backend(),
        "quick": quick,
        "versions": {p: version(p) for p in packages} | torch_version(),
        "date": date.today().isoformat(),
        "cases": cases,
    }
    folder.mkdir(exist_ok=True, parents=True)
    write_json(folder / f"{benchmark}-{device()}.json", content)


def torch_version() -> dict[str, str]:
    """Returns PyTorch's version, if it is installed."""
    try:
        return {"torch": version("torch")}
    except ModuleNotFoundError:
        return {}
