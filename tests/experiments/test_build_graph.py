"""The command that builds a graph of a table: the same by every engine, and its errors."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

import sevo_jax
from experiments import build_graph
from experiments.data import Interactions, load
from experiments.data.interactions import from_sequences
from experiments.errors import UserError
from experiments.training.graphs import graph_from_file, neighbour_graph

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

needs_spark = pytest.mark.skipif(
    not find_spec("pyspark") or not shutil.which("java"), reason="needs pyspark and Java"
)


def run(*arguments: object) -> int:
    return build_graph.main([str(argument) for argument in arguments])


def table(data: Interactions) -> pl.DataFrame:
    """The training interactions in the order of their steps, most of equal times."""
    training = data.training_part()
    position = np.arange(data.items.size) - data.starts[data.owners]
    frame = pl.DataFrame(
        {"user": data.owners[training], "item": data.items[training], "step": position[training]}
    )
    return frame.sort("step", maintain_order=True).select(
        "user", "item", time=pl.col("step") // 4, number="step"
    )


def assert_same(path, wanted: sevo_jax.Graph) -> None:
    wanted.save(path.with_name("wanted.npz"))
    graphs = [sevo_jax.Graph.load(path.with_name(name)) for name in (path.name, "wanted.npz")]
    for normalized in (False, True):
        ours, theirs = (graph.to_scipy(normalized) for graph in graphs)
        np.testing.assert_array_equal(ours.indptr, theirs.indptr)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        assert ours.data.tobytes() == theirs.data.tobytes()


@pytest.fixture(scope="module")
def beauty(data_folder) -> Interactions:
    return load("beauty", data_folder)


def test_the_graph_of_beauty(beauty, tmp_path, capsys):
    events, graph = tmp_path / "beauty.parquet", tmp_path / "beauty.npz"
    table(beauty).write_parquet(events)
    options = ["--memory", "200MB", "--temporary", tmp_path, "--walk-length", 3, "--max-len", None]
    assert run(events, graph, *options) == 0
    assert sorted(tmp_path.iterdir()) == [graph, events]  # and nothing temporary
    assert f"12,102 nodes, {sp.load_npz(graph).nnz:,} entries" in capsys.readouterr().out
    assert_same(graph, neighbour_graph(beauty))


def test_the_options_and_the_items(small, tmp_path):
    events, graph = tmp_path / "events.csv", tmp_path / "graph.npz"
    table(small).select("user", "number", asin=pl.format("B{}", "item")).write_csv(events)
    options = ["--item", "asin", "--time", "number", "--ids", "any"]
    options += ["--max-len", 4, "--keep", "first", "--weighting", "frequency", "--walk-length", 2]
    assert run(events, graph, *options, "--self-loops", "isolated", "--num-nodes", 60) == 0
    items = pl.read_parquet(tmp_path / "graph.items.parquet")
    assert items["item"].to_list() == sorted(items["item"])
    nodes = dict(items.select("item", "node").iter_rows())
    training = small.training_part()
    wanted = sevo_jax.sequence_graph(
        np.array([nodes[f"B{item}"] for item in small.items[training]]),
        60,
        lengths=small.lengths - 2,
        max_len=4,
        keep="first",
        weighting="frequency",
        walk_length=2,
        self_loops="isolated",
    )
    assert_same(graph, wanted)


@pytest.mark.slow
@needs_spark
def test_spark_makes_the_same_graphs(request, small, tmp_path):
    try:
        data = request.getfixturevalue("beauty")
    except pytest.skip.Exception:
        data = small
    events, graph = tmp_path / "events.parquet", tmp_path / "graph.npz"
    table(data).write_parquet(events)
    spark = ["--engine", "spark", "--master", "local[2]", "--memory", "1GB"]
    options = ["--walk-length", 3, "--max-len", None]
    assert run(events, graph, *spark, *options) == 0
    assert_same(graph, neighbour_graph(data))
    for name, separator in (("events.csv", ","), ("events.tsv", "\t")):
        strings = table(data).with_columns(pl.format("00{}", "item")).drop("number")
        strings.write_csv(tmp_path / name, separator=separator)
        both = [*([] if name == "events.csv" else ["--time", "rows"]), "--ids", "any"]
        assert run(tmp_path / name, tmp_path / "duckdb.npz", *both) == 0
        assert run(tmp_path / name, graph, *spark, *both) == 0
        assert_same(graph, sevo_jax.Graph.load(tmp_path / "duckdb.npz"))
        items = [pl.read_parquet(tmp_path / f"{n}.items.parquet") for n in ("graph", "duckdb")]
        assert items[0].equals(items[1])


@pytest.mark.slow
@needs_spark
def test_spark_that_does_not_start(tmp_path, capsys):
    arguments = [tmp_path / "events.parquet", tmp_path / "graph.npz", "--engine", "spark"]
    assert run(*arguments, "--memory", "100MB") == 1
    assert "--engine spark --master local[*]: " in capsys.readouterr().err


GOOD = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": [0, 1]})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.parquet", "graph.npz"], "none.parquet: there is no such file"),
        (["events.parquet", "graph.pkl"], "OUTPUT: expected a name that ends in .npz"),
        (["events.parquet", ""], "OUTPUT: expected a name that ends in .npz, got ."),
        (["events.parquet", "g.npz", "--user", "item"], "user and item must be two columns"),
        (["events.parquet", "no/graph.npz"], "OUTPUT: there is no folder"),
        (["events.parquet", "graph.npz", "--memory", "much"], "--memory: expected a size such as"),
        (["events.parquet", "graph.npz", "--memory", "0GB"], "--memory: expected a size such as"),
        (["events.parquet", "graph.npz", "--memory", "4"], "--memory: expected a size such as"),
        (["events.parquet", "graph.npz", "--memory", "500KB"], "--memory: 500KB or the disk of"),
        (["events.parquet", "graph.npz", "--temporary", "no"], "--temporary: "),
        (["events.parquet", "graph.npz", "--time", "t"], "time='t': no such column; there are"),
        (["events.parquet", "graph.npz", "--num-nodes", "2"], "must lie in [0, num_nodes)"),
    ],
)
def test_bad_input(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    GOOD.write_parquet("events.parquet")
    assert run(*arguments) == 1
    assert says in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["events.parquet"]


def test_an_old_graph_stays_when_the_new_one_fails(tmp_path, capsys):
    events, graph = tmp_path / "events.parquet", tmp_path / "graph.npz"
    GOOD.write_parquet(events)
    assert run(events, graph) == 0
    before = graph.read_bytes()
    assert run(events, graph, "--capacity", 1) == 1
    assert "capacity must be at least the graph's 2 entries, got 1" in capsys.readouterr().err
    assert graph.read_bytes() == before


def test_the_items_of_an_earlier_graph_go(tmp_path):
    """They would be taken for those of the new one's nodes."""
    events, graph = tmp_path / "events.parquet", tmp_path / "graph.npz"
    GOOD.write_parquet(events)
    assert run(events, graph, "--ids", "any") == 0
    assert graph.with_suffix(".items.parquet").exists()
    assert run(events, graph) == 0
    assert sorted(tmp_path.iterdir()) == [events, graph]


@pytest.mark.parametrize("items", [["7", "8", "9"], [7, 8, 9]])
def test_a_graph_without_the_file_of_its_items_is_refused(items, tmp_path):
    """Its nodes 1 and 2 would pass for the items 1 and 2, silently."""
    events, graph = tmp_path / "events.parquet", tmp_path / "graph.npz"
    pl.DataFrame({"user": [1, 1, 1], "item": items, "time": [1, 2, 3]}).write_parquet(events)
    assert run(events, graph, "--ids", "any") == 0
    moved = tmp_path / "moved" / "graph.npz"
    moved.parent.mkdir()
    shutil.copy(graph, moved)
    for ids in (items, [1, 2, 3]):
        data = from_sequences("shop", np.arange(3), np.array([3]), np.array(ids))
        with pytest.raises(UserError, match=r"graph: .* is missing: put .*moved/graph.items.parq"):
            graph_from_file(moved, data)
    shutil.copy(graph.with_suffix(".items.parquet"), moved.parent)
    known = from_sequences("shop", np.arange(3), np.array([3]), np.array(items))
    assert "has 3 of the 3 items" in graph_from_file(moved, known)[1]


def test_a_graph_stays_when_its_items_cannot_be_written(tmp_path, monkeypatch, capsys):
    events, graph = tmp_path / "events.parquet", tmp_path / "graph.npz"
    GOOD.write_parquet(events)
    assert run(events, graph, "--num-nodes", 5) == 0
    before = graph.read_bytes()

    def write(frame, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pl.DataFrame, "write_parquet", write)
    assert run(events, graph, "--ids", "any") == 1
    assert "graph.npz cannot be written (No space left on device)" in capsys.readouterr().err
    assert graph.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [events, graph]


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted: "),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "(No space left on device)"),
    ],
)
def test_nothing_is_left_of_a_graph_that_is_not_written_whole(
    error, status, says, tmp_path, monkeypatch, capsys
):
    def save(graph, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(sevo_jax.Graph, "save", save)
    GOOD.write_parquet(tmp_path / "events.parquet")
    assert run(tmp_path / "events.parquet", tmp_path / "graph.npz") == status
    assert says in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["events.parquet"]


@pytest.mark.skipif(not find_spec("pyspark"), reason="needs pyspark")
def test_spark_without_java(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert run("events.parquet", tmp_path / "graph.npz", "--engine", "spark") == 1
    assert "found no Java; install a runtime of version 17" in capsys.readouterr().err


@pytest.mark.parametrize(("engine", "extra"), [("duckdb", "tables"), ("spark", "spark")])
def test_an_engine_that_is_not_installed(engine, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ibis", None)
    assert run("events.parquet", tmp_path / "graph.npz", "--engine", engine) == 1
    assert f'--engine {engine}: pip install "sevo-jax[{extra}]"' in capsys.readouterr().err
