"""The page of all results: ``README.md`` in their folder, with targets, pictures and tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl

from benchmarks.report import Case
from experiments.errors import UserError
from experiments.files import write_text

mpl.use("Agg")

import matplotlib.pyplot as plt

FLOPS_PER_ENTRY = 2 * 64


class Result(NamedTuple):
    """The content of a result file."""

    benchmark: str
    device: str
    platform: str
    quick: bool
    date: str
    versions: dict[str, str]
    cases: list[Case]


class Target(NamedTuple):
    """A figure to reach. A limit of ``None`` only reports the figure, ``""`` leaves it out."""

    what: str
    benchmark: str
    cpu: float | Literal[""] | None
    gpu: float | Literal[""] | None
    value: Callable[[list[Case]], float]
    unit: str


def _worst_ratio(cases: list[Case]) -> float:
    return max(case["ratio"] for case in cases)


def _least_padded_over_ours(cases: list[Case]) -> float:
    return min(case["padded_over_ours"] for case in cases)


def _worst_named(cases: list[Case], begins: str) -> float:
    """Returns the worst ratio of the cases whose names begin so; infinite where none has peers."""
    named = [case["ratio"] for case in cases if case["case"].startswith(begins)]
    return max((ratio for ratio in named if ratio), default=float("inf"))


def _first_ratio(cases: list[Case]) -> float:
    return cases[0]["ratio"]


def _beyond_arrays(cases: list[Case]) -> float:
    """Returns the most memory of a log of the largest size, in GiB."""
    largest = max(case["interactions"] for case in cases)
    return max(c["beyond_arrays_gib"] for c in cases if c["interactions"] == largest)


def _growth(cases: list[Case]) -> float:
    """Returns the most bytes an interaction between two logs of one kind; NaN if there are none."""
    return max(
        (c["bytes_of_growth"] for c in cases if "bytes_of_growth" in c), default=float("nan")
    )


TARGETS = (
    Target("Ã X, the worst of six sizes, over the best peer", "kernels", 1.05, 1.05, _worst_ratio,
           "x its time"),
    Target("Ã X at Clothing's size, over the memory limit", "kernels", None, 2.5,
           lambda cases: cases[-1]["times_memory_limit"], "x"),
    Target("SEvo-AdamW over AdamW, SASRec's packed step", "smoothing", 1.12, 1.03, _first_ratio,
           "x its time"),
    Target("the same, smoothed once an epoch", "waiting", 1.02, None, _first_ratio, "x its time"),
    Target("an update smoothed once in 100 steps over AdamW's, the worst size", "waiting", 1.3,
           None, lambda cases: max(case["ratio"] or 0 for case in cases), "x its time"),
    Target("SASRec epoch, padded over packed (at least)", "packing", 8.0, None,
           lambda cases: 1 / cases[0]["ratio"], "x"),
    Target("SASRec epoch, the faster of RecTools and RecBole over ours (at least)", "recommenders",
           5.0, None, lambda cases: 1 / _worst_named(cases, "an epoch"), "x"),
    Target("our process's peak memory over the leaner of theirs", "recommenders", 1.0, None,
           lambda cases: _worst_named(cases, "peak memory"), "x"),
    Target("SR-GNN and LESSR epoch, graphs built in Python over ours, the worse (at least)",
           "session_graphs", 5.0, None, _least_padded_over_ours, "x"),
    Target("cross-entropy over all items, in chunks over plain", "softmax", None, None,
           lambda cases: max(c["ratio"] for c in cases if c["unit"] == "ms"), "x its time"),
    Target("five seeds together over one", "seeds", None, 2.0, _first_ratio, "x its time"),
    Target("compile time, 15,000,000 edges over 200,000", "compiling", 1.2, 1.2, _first_ratio, "x"),
    Target("graph building at Clothing's size", "graph_building", 3.0, "",
           lambda cases: cases[0]["ours"], "s"),
    Target("its process's peak memory", "graph_building", 4.0, "",
           lambda cases: cases[0]["peak_memory_gib"], "GiB"),
    Target("the dictionary loop over ours (at least)", "graph_building", 15.0, "",
           lambda cases: 1 / cases[0]["ratio"], "x"),
    Target("the graph of 100,000,000 interactions, out of core", "out_of_core", 600, "",
           lambda cases: cases[0]["ours"], "s"),
    Target("its process's peak memory", "out_of_core", 6.0, "",
           lambda cases: cases[0]["peak_memory_gib"], "GiB"),
    Target("100,000,000 interactions loaded: the most beyond the arrays", "loading", 3.0, "",
           _beyond_arrays, "GiB"),
    Target("its growth from one size to the next, the most", "loading", 12.0, "", _growth,
           "bytes an interaction"),
    Target("its time over pandas', the worst", "loading", None, "",
           lambda cases: max(case["ratio"] or 0 for case in cases), "x its time"),
    Target("temporaries of an update (SEvo, Eq. 7)", "memory", 2.0, 2.0,
           lambda cases: cases[0]["ours"], "tables"),
)  # fmt: skip


def read(folder: Path) -> list[Result]:
    """Reads the results in a folder, sorted by benchmark and device.

    Raises:
        UserError: a file is no result of a benchmark.
    """
    results: list[Result] = []
    for path in sorted(folder.glob("*-*.json")):
        try:
            content = json.loads(path.read_text())
            results.append(Result(*(content[name] for name in Result._fields)))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no result of a benchmark ({error!r})") from error
    return results


def write(folder: Path) -> Path:
    """Draws the pictures and writes the page of the folder's results; returns its path."""
    results = read(folder)
    quick = any(result.quick for result in results)
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks.run` (`--only NAME …` for some of them). Ratios compare",
        "what was measured in turns in one run; they are medians, with the extremes over rounds.",
        "SASRec is trained on Amazon Beauty, with threefry keys; `--rng unsafe_rbg` takes the",
        "device's own random generator, whose numbers are others for seeds trained together.",
        *(["", "**Of `--quick` runs: no figure here is a measurement.**"] if quick else []),
        "",
        "## Figures to reach",
        "",
        "| figure | CPU | to reach | GPU | to reach |",
        "|---|---|---|---|---|",
        *(_target_row(target, results) for target in TARGETS),
    ]
    for picture, title, draw in PICTURES:
        for result in results:
            if result.benchmark == picture:
                draw(result, folder)
                name = _picture_name(result)
                lines += ["", f"## {title}, {result.device}", "", f"![{title}]({name})"]
    for result in results:
        lines += ["", f"## {result.benchmark}, {result.device}", "", *_table(result)]
    page = folder / "README.md"
    write_text(page, "\n".join(lines) + "\n")
    return page


def _target_row(target: Target, results: list[Result]) -> str:
    cells = [target.what]
    for platform, limit in (("cpu", target.cpu), ("gpu", target.gpu)):
        if limit == "":
            cells += ["–", "–"]
            continue
        found = [r for r in results if (r.benchmark, r.platform) == (target.benchmark, platform)]
        values = [f"{target.value(r.cases):.3g} {target.unit}" for r in found]
        value = ", ".join(values) or "not measured"
        cells += [value, "report" if limit is None else f"{limit:g} {target.unit}"]
    return f"| {' | '.join(cells)} |"


def _table(result: Result) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    lines = [f"{result.date}; {versions}.", "", "| case | ours | peers | ratio | spread | more |"]
    lines.append("|---|---|---|---|---|---|")
    known = {"case", "ours", "unit", "peers", "ratio", "spread"}
    for case in result.cases:
        peers = ", ".join(f"{name} {value:.4g}" for name, value in case["peers"].items())
        more = ", ".join(_extra(k, v) for k, v in case.items() if k not in known)
        ratio = "" if case["ratio"] is None else f"{case['ratio']:.3g}"
        spread = " to ".join(f"{value:.3g}" for value in case["spread"])
        ours = f"{case['ours']:.4g} {case['unit']}"
        lines.append(f"| {case['case']} | {ours} | {peers} | {ratio} | {spread} | {more} |")
    return lines


def _extra(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in value.items())
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _picture_name(result: Result) -> str:
    return f"{result.benchmark}-{result.device.partition(',')[0]}.png"


def _draw_roofline(result: Result, folder: Path) -> None:
    """Draws operations a second over operations a byte, under the limit of the memory.

    A graph that fits into a cache may stand above that limit.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    bandwidth = result.cases[0]["bandwidth"]
    for case in result.cases:
        flops = FLOPS_PER_ENTRY * case["entries"]
        intensity = flops / case["bytes"]
        achieved = flops / (case["ours"] * 1e-3) / 1e9
        axes.plot(intensity, achieved, "o", label=case["case"].partition(":")[0])
    low, high = axes.get_xlim()
    span = (min(low, 1.0), high * 1.3)
    roof = [bandwidth * x / 1e9 for x in span]
    axes.plot(
        span,
        roof,
        "k--",
        label=f"memory, at the {bandwidth / 1e9:.0f} GB/s of a copy",
    )
    axes.set(xscale="log", yscale="log", xlabel="operations a byte that must move")
    axes.set(ylabel="GFLOP/s", title="Ã X, d = 64, float32")
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(folder / _picture_name(result), dpi=150)
    plt.close(figure)


def _draw_growth(result: Result, folder: Path) -> None:
    """Draws an update's time over edges, features, layers and rows, beside AdamW's."""
    series = list(dict.fromkeys(case["varied"] for case in result.cases))
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for axes, name in zip(panels.flat, series, strict=False):
        cases = [case for case in result.cases if case["varied"] == name]
        x = [case["value"] for case in cases]
        axes.plot(x, [case["ours"] for case in cases], "o-", label="sevo_adamw")
        peer = [case["peers"]["optax.adamw"] for case in cases]
        axes.plot(x, peer, "s--", label="optax.adamw")
        axes.set(xlabel=name, ylabel="ms an update", yscale="log")
        if name != "layers":
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
    panels.flat[0].legend(frameon=False)
    figure.savefig(folder / _picture_name(result), dpi=150)
    plt.close(figure)


def _draw_out_of_core(result: Result, folder: Path) -> None:
    """Draws seconds and memory over interactions, with the targets at the largest size."""
    cases = sorted(result.cases, key=lambda case: case["interactions"])
    x = [case["interactions"] for case in cases]
    limits = [target.cpu for target in TARGETS if target.benchmark == "out_of_core"]
    measured = (("seconds", "ours", "log"), ("peak memory, GiB", "peak_memory_gib", "linear"))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, (label, name, scale), limit in zip(panels, measured, limits, strict=True):
        axes.plot(x, [case[name] for case in cases], "o-", label="build_graph, DuckDB")
        axes.axhline(limit, color="k", linestyle="--", label="to reach at 100 million")
        axes.set(xscale="log", yscale=scale, xlabel="interactions", ylabel=label)
        axes.set_ylim(bottom=None if scale == "log" else 0)
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.savefig(folder / _picture_name(result), dpi=150)
    plt.close(figure)


def _draw_scaling(result: Result, folder: Path) -> None:
    """Draws bytes received over devices, counted and compiled, and halo shares over nodes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    moved = [case for case in result.cases if case.get("devices", 1) > 1]
    for split in dict.fromkeys(case["split"] for case in moved):
        cases = [case for case in moved if case["split"] == split]
        x = [case["devices"] for case in cases]
        (line,) = left.plot(x, [case["counted"] for case in cases], "-", label=split)
        left.plot(x, [case["received"] for case in cases], "o", color=line.get_color())
    counts = sorted({case["devices"] for case in moved})
    left.set(xscale="log", yscale="log", xlabel="devices", ylabel="bytes that each receives a step")
    left.set_xticks(counts, map(str, counts))
    left.set_xticks([], minor=True)
    left.set_title("a grid; lines counted, dots compiled", fontsize="medium")
    shares = [case for case in result.cases if "kind" in case]
    for kind, parts in dict.fromkeys((case["kind"], case["parts"]) for case in shares):
        cases = [case for case in shares if (case["kind"], case["parts"]) == (kind, parts)]
        cases.sort(key=lambda case: case["nodes"])
        x = [case["nodes"] for case in cases]
        label = f"{kind}, {parts} parts"
        right.plot(x, [case["ours"] for case in cases], "o-", label=label)
    right.set(xscale="log", yscale="log", xlabel="nodes", ylabel="halo / all rows of others")
    right.set_title("nodes numbered at random", fontsize="medium")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(folder / _picture_name(result), dpi=150)
    plt.close(figure)


PICTURES = (
    ("kernels", "Roofline of the product", _draw_roofline),
    ("growth", "Growth of an update with edges, features, layers and rows", _draw_growth),
    ("out_of_core", "Graphs from tables: growth with interactions", _draw_out_of_core),
    ("scaling", "Traffic between devices", _draw_scaling),
)
