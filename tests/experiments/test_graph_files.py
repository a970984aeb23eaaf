"""Graphs and categories that come from files of a user's own: ids matched, or refused."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from flax import nnx

import sevo_jax
from experiments import train
from experiments.data import Interactions
from experiments.data.interactions import from_sequences
from experiments.errors import UserError
from experiments.run import make_run
from experiments.settings import GraphSettings
from experiments.training import loop
from experiments.training.backbones import BUILDERS
from experiments.training.graphs import check_graph
from experiments.training.optimizers import smoothed_tables
from experiments.training.prepare import make_setup

EDGES = [("p", "q", 2.0), ("q", "r", 1.0), ("r", "z", 4.0), ("z", "s", 8.0)]
NODES = ["s", "z", "r", "q", "p"]


def data_of(ids: list | np.ndarray) -> Interactions:
    """Three items and more, whose source calls them so."""
    ids = np.asarray(ids, object if isinstance(ids[0], str) else None)
    return from_sequences("shop", np.arange(ids.size), np.array([ids.size]), ids)


def written(path: Path, nodes: list, *, items: bool = True) -> str:
    """`EDGES` as `experiments.build_graph` writes them."""
    rows, columns, weights = zip(*EDGES, strict=True)
    ends = [list(map(NODES.index, end)) for end in (rows, columns)]
    sevo_jax.edge_graph(*ends, len(NODES), weights=np.array(weights)).save(path)
    if items:
        frame = pl.DataFrame({"node": range(len(nodes)), "item": nodes})
        frame.write_parquet(path.with_suffix(".items.parquet"))
    return str(path)


def weights_of(
    graph_settings: GraphSettings, data: Interactions, model: str = "mf-bpr"
) -> np.ndarray:
    """Returns the graph over which an optimiser of these settings smooths, as a dense matrix."""
    settings = make_run(model, "mine", "sevo-adamw", dim=4).settings
    settings = dataclasses.replace(settings, graph=graph_settings)
    abstract = nnx.eval_shape(lambda: BUILDERS[model](settings, data, nnx.Rngs(0)))
    graph, _ = smoothed_tables(settings, data, abstract)
    return graph.to_scipy(normalized=False).toarray()


def test_nodes_are_items_by_the_ids_of_the_source(tmp_path):
    """s is no item, a has no neighbours; row 0 is padding."""
    settings = GraphSettings(kind=written(tmp_path / "g.npz", NODES))
    data = data_of(["a", "p", "q", "r", "z"])
    want = np.zeros((6, 6))
    for one, other, weight in ((2, 3, 2.0), (3, 4, 1.0), (4, 5, 4.0)):
        want[one, other] = want[other, one] = weight
    np.testing.assert_array_equal(weights_of(settings, data), want)
    masked = weights_of(settings, data, "bert4rec")  # has a row for the mask
    np.testing.assert_array_equal(masked, np.pad(want, (0, 1)))
    note = check_graph(settings, data)
    assert "has 4 of the 5 items; the others have no neighbours; 1 nodes that are no items" in note


def test_degrees_are_those_of_the_part(tmp_path):
    """Edges to what is left out do not count: the operator's spectral radius is 1."""
    settings = make_run(
        "mf-bpr", "mine", "sevo-adamw", graph=written(tmp_path / "g.npz", NODES), dim=4
    ).settings
    data = data_of(["p", "q", "r"])
    model = nnx.eval_shape(lambda: BUILDERS["mf-bpr"](settings, data, nnx.Rngs(0)))
    operator = smoothed_tables(settings, data, model)[0].to_scipy().toarray()
    assert np.linalg.eigvalsh(operator).max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_without_a_file_of_items_nodes_are_integer_ids(tmp_path, dtype):
    settings = GraphSettings(kind=written(tmp_path / "g.npz", NODES, items=False))
    weights = weights_of(settings, data_of(np.array([1, 2, 2**40], dtype)))  # z and r
    want = np.zeros((4, 4))
    want[1, 2] = want[2, 1] = 4
    np.testing.assert_array_equal(weights, want)


def test_graphs_that_go_with_other_data(tmp_path):
    path = tmp_path / "g.npz"
    settings = GraphSettings(kind=written(path, NODES))
    with pytest.raises(UserError, match=r"has none of the 3 items of shop, such as x, y, P; found"):
        check_graph(settings, data_of(["x", "y", "P"]))
    written(path, NODES[:-1])
    with pytest.raises(UserError, match=r"g\.items\.parquet has 4 items for the 5 nodes of .*g\.n"):
        check_graph(settings, data_of(NODES))
    path.with_suffix(".items.parquet").unlink()
    with pytest.raises(
        UserError, match=r"has none .*; string ids need a graph built with the ids any"
    ):
        check_graph(settings, data_of(NODES))


@pytest.mark.parametrize("content", ["missing", "text", "operator"])
def test_files_that_are_no_such_graph(tmp_path, content):
    path = tmp_path / "g.npz"
    if content == "text":
        path.write_text("1 2 3")
    elif content == "operator":
        sevo_jax.Graph.from_operator(sp.csr_array(np.eye(3)[::-1])).save(path)
    with pytest.raises(UserError, match=r"graph: .*g\.npz (cannot be read|is no graph of exper)"):
        check_graph(GraphSettings(kind=str(path)), data_of(NODES))


def test_the_command_tells_before_it_trains(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    options = ["--dataset", str(tmp_path / "log.csv"), "--optimizer", "sevo-adamw"]
    options += ["--out", str(tmp_path / "out")]
    assert train.main([*options, "--graph", written(tmp_path / "g.npz", NODES)]) == 1
    assert "has none of the 3 items of log" in capsys.readouterr().err
    assert train.main([*options, "--graph", "catgory"]) == 1
    message = "graph: must be item-item, user-item, category, teacher or a file that ends in .npz"
    assert f"{message}, got catgory" in capsys.readouterr().err
    assert train.main([*options, "--categories", "c.json"]) == 1
    assert "--categories: must be left out: the graph is another" in capsys.readouterr().err
    assert train.main([*options, "--graph", "category", "--max-category-size", "9"]) == 1
    assert "--max-category-size: must be left out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--graph", "category", "--categories", "c.csv"], None),
        (["--graph", "none.npz", "--optimizer", "adamw"], None),
        (["--graph", "teacher", "--optimizer", "adam", "sgd"], None),
        (["--graph", "none.npz"], "none.npz cannot be read"),
        (
            ["--graph", "none.npz", "--optimizer", "adamw", "--smoothness-weight", "1"],
            "none.npz cannot be read",
        ),
    ],
)
def test_a_graph_is_checked_for_those_who_read_it(tmp_path, monkeypatch, capsys, options, error):
    """By default AdamW is beside SEvo, and has no categories."""
    trained: list[str] = []

    def set_up(runs, data, *_, **__):
        if "teacher" not in options:  # which only trains with one
            make_setup(runs[0], data)
        trained.append(runs[0].name)

    monkeypatch.setattr(loop, "train_together", set_up)
    monkeypatch.chdir(tmp_path)
    Path("shop.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    Path("c.csv").write_text("item,category\na,tea\nb,tea\n")
    status = train.main(["--dataset", "shop.csv", "--out", "out", *options])
    if error is None:
        assert status == 0
        assert len(trained) == 1 + ("adamw" not in options)
    else:
        assert (status, trained) == (1, [])
        assert error in " ".join(capsys.readouterr().err.split())


CATEGORIES = {"p": ["tea", "green"], "r": ["tea"], "q": ["green"], "elsewhere": ["tea", "sold out"]}


@pytest.mark.parametrize("name", ["c.json", "c.csv", "c.tsv", "c.parquet", "c.csv.gz"])
def test_categories_of_ones_own(tmp_path, name):
    """The files also have items that the data lack."""
    file = tmp_path / name
    pairs = [(item, category) for item, own in CATEGORIES.items() for category in own]
    frame = pl.DataFrame(pairs, ["item_id", "category"], orient="row").with_columns(price=1)
    if name == "c.json":
        file.write_text(json.dumps(CATEGORIES))
    elif name == "c.parquet":
        frame.write_parquet(file)
    else:
        text = frame.write_csv(separator="\t" if name == "c.tsv" else ",").encode()
        file.write_bytes(gzip.compress(text) if name == "c.csv.gz" else text)
    settings = GraphSettings(kind="category", categories=str(file))
    data = data_of(["a", "p", "q", "r"])
    want = np.zeros((5, 5))
    for one, other in ((2, 4), (2, 3)):
        want[one, other] = want[other, one] = 1
    np.testing.assert_array_equal(weights_of(settings, data), want)
    assert "has 2 categories, of which 0 make no edges" in check_graph(settings, data)


def test_large_categories_of_ones_own(tmp_path):
    """Only items of the data count for the size of a category."""
    (tmp_path / "c.json").write_text(json.dumps({"p": [1, 2], "q": [1], "r": [1, 2], "x": [2]}))
    settings = GraphSettings(
        kind="category", categories=str(tmp_path / "c.json"), max_category_size=2
    )
    data = data_of(["p", "q", "r"])
    note = check_graph(settings, data)
    assert "has 2 categories, of which 1 make no edges: they have more than 2 items" in note
    assert "1 of its items are unknown, and 0 of 3 items have no category" in note
    np.testing.assert_array_equal(np.argwhere(weights_of(settings, data)), [[1, 3], [3, 1]])
    with pytest.raises(UserError, match=r"max_category_size: 1 leaves none of the categories"):
        check_graph(dataclasses.replace(settings, max_category_size=1), data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{}", r"c\.json: 0 of its 0 items .*it is empty"),
        ("c.json", '{"P": [1], "Q": [2]}', r"2 of its 2 items are unknown to shop \('P', 'Q'\)"),
        ("c.json", '{"p": "tea"}', "item 'p' has tea; expected a list of categories"),
        (
            "c.csv",
            "item,price\np,2\n",
            "found columns item, price; expected one of categories, called category",
        ),
        ("c.csv", "item,category,x\np,tea,1,2\n", "line 2: found .* are 4 fields; expected 3"),
        ("c.csv", "item,category\np,\n", "row 1: found"),
        (
            "c.tsv",
            "item\tcategories\np\ttea\nq\ttea|green\n",
            r"row 2: found the category 'tea\|green', which may be several; expected one a row",
        ),
        ("c.txt", "p tea\n", r"c\.txt: expected a name that ends in \.json, \.csv"),
        ("none.json", None, "cannot be read"),
    ],
)
def test_bad_categories_of_ones_own(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    settings = GraphSettings(kind="category", categories=str(tmp_path / name))
    with pytest.raises(UserError, match=message):
        check_graph(settings, data_of(["p", "q", "r"]))
