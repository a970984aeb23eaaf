"""The benchmark suite at small sizes: what is measured, what is written, and the page."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import sevo_jax
from benchmarks import packing, page, recommenders, report, run, scaling, workload
from benchmarks.graphs import interactions, random_graph
from benchmarks.memory import measure as measure_memory
from experiments.data import TABLE_1, load
from experiments.errors import UserError
from experiments.training.timing import in_turn

CASE = {"case", "ours", "unit", "peers", "ratio", "spread"}
FAST = ("graph_building",)  # `test_run` measures memory


def check(measured: Iterable[report.Case]) -> None:
    cases = list(measured)
    assert cases
    for case in cases:
        assert set(case) >= CASE
        assert case["ours"] > 0
        assert case["spread"][0] <= case["spread"][1]
    json.dumps(cases)


@pytest.mark.parametrize("name", FAST)
def test_quick(name):
    check(importlib.import_module(f"benchmarks.{name}").measure(True))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(run.BENCHMARKS) - set(FAST)))
def test_quick_but_slower(name):
    check(importlib.import_module(f"benchmarks.{name}").measure(True))


def test_an_unknown_data_set_is_one_line(monkeypatch, tmp_path):
    options = ["--out", str(tmp_path), "--dataset", "nowhere"]
    monkeypatch.setattr("sys.argv", ["benchmarks.packing", *options])
    with pytest.raises(SystemExit, match=r"^error: .*nowhere"):
        report.command("packing", packing.measure, workload.Options)


@pytest.mark.slow
def test_without_other_recommenders_ours_is_measured_alone():
    cases = list(recommenders.measure(True))
    check(cases)
    assert len(cases) == len(recommenders.ROUNDS) * len(recommenders.MEASURED)


def test_a_peer_reads_what_is_held_out(tmp_path):
    """Each user's last two items, as in training here; times are in the user's order."""
    data = load("synthetic")
    recommenders.write_interactions(data, tmp_path / "interactions.csv")
    table = pl.read_csv(tmp_path / "interactions.csv")
    users = table.group_by("user", maintain_order=True)
    assert users.agg("item")["item"].to_list() == [
        own.tolist() for own in np.split(data.items, data.starts[1:])
    ]
    assert users.agg(pl.col("held_out").sum())["held_out"].unique().to_list() == [2]
    for _, own in users:
        assert own["time"].to_list() == list(range(own.height))
        assert own["held_out"].to_list() == [*[False] * (own.height - 2), True, True]


def test_candidates_take_turns():
    calls: list[str] = []
    waits = {"a": 0.004, "b": 0.001}

    def candidate(name: str) -> None:
        calls.append(name)
        time.sleep(waits[name])

    seconds = in_turn({n: lambda n=n: candidate(n) for n in waits}, rounds=3)
    assert {name: s.shape for name, s in seconds.items()} == {"a": (3,), "b": (3,)}
    timed = "".join(calls)[4:]  # after two calls of each to warm up
    assert timed == "aabb" + "bbaa" + "aabb"
    assert np.median(seconds["a"]) > np.median(seconds["b"])


def test_a_case_compares_with_the_best_peer():
    seconds = {
        "ours": np.array([2.0, 3.0, 4.0]),
        "slow": np.array([9.0, 9.0, 9.0]),
        "best": np.array([2.0, 2.0, 2.0]),
    }
    case = report.case("it", seconds, "ms", 1e3)
    assert (case["ours"], case["ratio"], case["spread"]) == (3000, 1.5, [1.0, 2.0])
    assert case["peers"] == {"slow": 9000, "best": 2000}
    alone = report.case("it", {"ours": seconds["ours"]}, "s", 1)
    assert (alone["ratio"], alone["spread"], alone["peers"]) == (None, [2.0, 4.0], {})


def test_seeded_data_has_the_sizes_it_names():
    items, lengths = interactions(TABLE_1["tools"])
    assert (items.size, lengths.size, int(lengths.sum())) == (134_476, 16_638, 134_476)
    assert lengths.min() >= 5
    graph = random_graph(300, 2_000)
    assert (graph.num_nodes, graph.capacity) == (300, 4_000)
    degrees = np.sort(np.diff(graph.to_scipy().indptr))
    assert degrees[-30:].sum() > 4 * degrees[:30].sum()  # popular ends


def result(benchmark: str, device: str, cases: list[report.Case]) -> str:
    content = {"benchmark": benchmark, "device": device, "versions": {"jax": "0"}, "quick": False}
    content["platform"] = "gpu" if "nvidia" in device else "cpu"
    return json.dumps(content | {"date": "2026-01-01", "cases": cases})


def case(ours: float, ratio: float | None, **more) -> report.Case:
    peers = {"optax.adamw": 1.0}
    return {
        "case": "beauty: 10 nodes, 20 entries", "ours": ours, "unit": "ms", "peers": peers,
        "ratio": ratio, "spread": [1, 2], **more,
    }  # fmt: skip


def test_the_page_shows_what_was_measured_and_what_was_not(tmp_path):
    limits = {
        "entries": 20,
        "bytes": 1e6,
        "bandwidth": 1e10,
        "memory_limit_ms": 0.1,
        "times_memory_limit": 3.5,
    }
    kernels = [case(1.0, 1.01, **limits), case(2.0, 0.5, **limits)]
    (tmp_path / "kernels-cpu.json").write_text(result("kernels", "cpu, x86_64", kernels))
    grown = [case(v, 2.0, varied=n, value=v) for n in ("rows", "layers") for v in (1, 2)]
    (tmp_path / "growth-cpu.json").write_text(result("growth", "cpu, x86_64", grown))
    sizes = [case(30.0 * n, None, interactions=10**n, peak_memory_gib=n / 2) for n in (8, 7, 6)]
    (tmp_path / "out_of_core-cpu.json").write_text(result("out_of_core", "cpu, x86_64", sizes))
    moved = [
        case(1.0, None, devices=n, split=split, received=4.0 * n, counted=4 * n)
        for n in (1, 2, 4)
        for split in ("features", "rows, halo")
    ]
    halos = [
        case(0.5, None, kind=kind, nodes=n, parts=8)
        for kind in ("grid", "power law")
        for n in (100, 10)
    ]
    (tmp_path / "scaling-cpu.json").write_text(result("scaling", "cpu, x86_64", moved + halos))
    fast = [case(1.0, 1.02)]
    (tmp_path / "smoothing-nvidia-h100.json").write_text(
        result("smoothing", "nvidia-h100, x86_64", fast)
    )
    text = page.write(tmp_path).read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "1.01 x its time | 1.05 x" in rows["Ã X, the worst of six sizes, over the best peer"]
    step = rows["SEvo-AdamW over AdamW, SASRec's packed step"]
    assert "| not measured | 1.12 x its time | 1.02 x its time | 1.03 x its time |" in step
    assert "3.5 x | report | not measured" in rows["Ã X at Clothing's size, over the memory limit"]
    assert "| 240 s | 600 s |" in rows["the graph of 100,000,000 interactions, out of core"]
    for name in ("kernels", "growth", "out_of_core", "scaling"):
        picture = f"{name}-cpu.png"
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert f"]({picture})" in text


def test_received_bytes_are_read_off_the_program():
    program = """
      %all-gather.1 = f32[80,16]{1,0} all-gather(%x), channel_id=1
      %all-reduce.2 = (pred[80]{0}, bf16[3,2]{1,0}) all-reduce(%a, %b), to_apply=%or
      ROOT %permute = f32[7,16]{1,0} collective-permute(%y), source_target_pairs={{0,1}}
      %not-one = f32[100]{0} get-tuple-element(%all-reduce.2), index=0
    """
    expected = 0.75 * 80 * 16 * 4 + 1.5 * (80 + 12) + 7 * 16 * 4
    assert scaling.received_bytes(program, 4) == expected


def test_the_cost_model_counts_what_communication_does():
    ring = np.arange(1_000)
    graph = sevo_jax.edge_graph(ring, (ring + 1) % 1_000, 1_000)
    moved = sevo_jax.diagnostics.communication(graph, dim=16, num_parts=4)
    problem, device = scaling.Problem(1_000, 2, 16, 3), scaling.Accelerator()
    assert scaling.cost(problem, device, 4, 1).received == moved.all_gather
    share = moved.halo / moved.all_gather
    assert scaling.cost(problem, device, 4, 1, share).received == pytest.approx(moved.halo)
    assert scaling.cost(problem, device, 1, 4).received == moved.features


def test_the_plan_shows_what_the_model_predicts():
    plan = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    assert "\n".join(scaling.prediction_table()) in plan
    assert "\n".join(scaling.catalogue_table()) in plan


def test_an_update_needs_two_tables():
    cases = {c["case"].split(", ")[1]: c["ours"] for c in measure_memory(True)}
    assert cases["neumann"] <= 2.01
    assert cases["iterative"] <= 2.01


def test_quick_results_do_not_replace_measured_ones():
    assert report.Options(quick=True).folder != report.RESULTS
    assert report.Options().folder == report.RESULTS


def test_a_broken_result_is_named(tmp_path):
    (tmp_path / "kernels-cpu.json").write_text("{}")
    with pytest.raises(UserError, match=r"kernels-cpu\.json: no result"):
        page.write(tmp_path)


def test_run(tmp_path, capsys):
    assert run.main(["--only", "memory", "--quick", "--out", str(tmp_path)]) == 0
    content = json.loads(next(tmp_path.glob("memory-*.json")).read_text())
    assert set(content) >= {"benchmark", "device", "versions", "date", "cases"}
    assert content["quick"]
    check(content["cases"])
    page_text = (tmp_path / "README.md").read_text()
    assert "temporaries of an update" in page_text
    assert "no figure here is a measurement" in page_text
    assert run.main(["--only", "unheard_of"]) == 1
    assert "no benchmark 'unheard_of'" in capsys.readouterr().err
