"""Categories of items: files good and bad, and the graph that they make."""

from __future__ import annotations

import itertools
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments import train
from experiments.data import load, load_categories
from experiments.data.categories import SOURCES
from experiments.errors import UserError
from experiments.training.graphs import category_graph
from tests.experiments.raw_files import EVENTS, amazon, movielens

SEQUENCES = ["1 1 2 3 4", "2 4 3 2 1", "3 5 1 2 6"]
CATEGORIES = {"1": [7, "hair"], "2": [7], "3": ["hair", "skin"], "5": [8, 8], "6": [8]}
FILE = "Beauty_item2attributes.json"


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six items that pass for Beauty, and categories of all but item 4."""
    (tmp_path / "Beauty.txt").write_text("\n".join(SEQUENCES))
    (tmp_path / FILE).write_text(json.dumps(CATEGORIES))
    return tmp_path


def brute_force(num_nodes: int, members: list[set[int]]) -> np.ndarray:
    weights = np.zeros((num_nodes, num_nodes))
    for items in members:
        for a, b in itertools.permutations(items, 2):
            weights[a, b] = 1
    return weights


def test_categories_are_read(folder):
    found = load_categories(load("beauty", folder))
    assert found.names == ["7", "hair", "skin", "8"]
    assert [m.tolist() for m in found.members] == [[1, 2], [1, 3], [3], [5, 6]]


def test_items_are_found_under_their_new_numbers(folder):
    """Numbers with gaps: items 10, 20, 30 become 1, 2, 3."""
    (folder / "Beauty.txt").write_text("1 10 20 30\n2 30 20 10\n")
    (folder / FILE).write_text(json.dumps({"30": [1], "10": [1], "20": [2]}))
    found = load_categories(load("beauty", folder))
    assert [m.tolist() for m in found.members] == [[1, 3], [2]]


@pytest.mark.parametrize("num_nodes", [None, 8])
def test_graph_equals_a_loop(folder, num_nodes):
    graph = category_graph(load("beauty", folder), num_nodes)
    expected = brute_force(num_nodes or 7, [{1, 2}, {1, 3}, {5, 6}])
    assert np.array_equal(graph.to_scipy(normalized=False).toarray(), expected)


def test_large_categories_make_no_edges(tmp_path):
    """501 items share category 1, and 500 of them category 2 as well; pairs share category 3."""
    items = range(1, 502)
    (tmp_path / "Beauty.txt").write_text("1 " + " ".join(map(str, items)))
    held = {str(i): [1, *([2] if i > 1 else []), *([3] if i < 3 else [])] for i in items}
    (tmp_path / FILE).write_text(json.dumps(held))
    weights = category_graph(load("beauty", tmp_path)).to_scipy(normalized=False).toarray()
    expected = brute_force(502, [set(range(2, 502)), {1, 2}])
    assert np.array_equal(weights, expected)


def test_users_that_are_drawn_keep_the_graph(folder):
    data = load("beauty", folder)
    few = data.sample_users(0.4)
    assert few.num_users < data.num_users
    assert [m.tolist() for m in load_categories(few).members] == [
        m.tolist() for m in load_categories(data).members
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{'1': 2}", "is no JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("{}", "it is empty"),
        (json.dumps(CATEGORIES | {"99": [1], "x": [2]}), "2 of its 7 items are unknown.*'99', 'x'"),
        (json.dumps(CATEGORIES | {"4": []}), "item '4' has no category"),
        (json.dumps(CATEGORIES | {"4": [" "]}), r"item '4' has \[' '\]; expected a list"),
        (json.dumps(CATEGORIES | {"4": [1.5]}), r"item '4' has \[1.5\]; expected a list"),
        (json.dumps(CATEGORIES | {"4": "hair"}), "item '4' has hair; expected a list"),
    ],
)
def test_bad_files(folder, content, problem):
    (folder / FILE).write_text(content)
    data = load("beauty", folder)
    with pytest.raises(UserError, match=rf"(?s)Beauty_item2attributes.json: .*{problem}"):
        load_categories(data)


def test_a_missing_file(folder):
    (folder / FILE).unlink()
    data = load("beauty", folder)
    with pytest.raises(UserError, match=rf"{FILE}: is missing; .* put it beside Beauty.txt"):
        load_categories(data)


def test_data_of_other_ids(tmp_path, folder):
    """The raw reviews name items otherwise than the file of categories."""
    raw = tmp_path / "raw"
    raw.mkdir()
    amazon(raw / "reviews_Beauty_5.json.gz")
    (raw / FILE).write_text(json.dumps(CATEGORIES))
    with pytest.raises(UserError, match=r"does not number its items as .*; expected Beauty.txt"):
        load_categories(load("beauty", raw))


def test_data_without_categories(folder):
    for data in (load("synthetic"), load(str(folder / "Beauty.txt"))):
        with pytest.raises(
            UserError, match=r"graph: category needs .*: beauty, toys, sports, ml-1m; got"
        ):
            load_categories(data)


def test_the_command_tells_at_once(folder, capsys):
    (folder / FILE).unlink()
    options = ["--dataset", "beauty", "--optimizer", "sevo-adamw", "--graph", "category"]
    places = ["--data-dir", str(folder), "--out", str(folder / "out")]
    assert train.main([*options, *places]) == 1
    assert f"{FILE}: is missing" in capsys.readouterr().err
    assert not (folder / "out").exists()


def zipped(folder: Path, movies: str | None) -> Path:
    path = movielens(folder / "ml-1m.zip", EVENTS)
    if movies is not None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("ml-1m/movies.dat", movies.encode("latin-1"))
    return path


MOVIES = """1::Toy Story (1995)::Animation|Comedy
2::Misérables, Les (1995)::Drama
3::Grumpy (1995)::Comedy
4::Heat (1995)::Action
5::Sudden (1995)::Action|Drama
9::Nobody saw it (1995)::Comedy
"""


def test_genres_of_movielens(tmp_path):
    zipped(tmp_path, MOVIES)
    data = load("ml-1m", tmp_path)
    found = load_categories(data)
    assert found.names == ["Animation", "Comedy", "Drama", "Action"]
    assert [m.tolist() for m in found.members] == [[1], [1, 3], [2, 5], [4, 5]]
    weights = category_graph(data).to_scipy(normalized=False).toarray()
    assert np.array_equal(weights, brute_force(6, [{1, 3}, {2, 5}, {4, 5}]))


@pytest.mark.parametrize(
    ("movies", "problem"),
    [
        (None, "ml-1m.zip: found .*ratings.dat; expected movies.dat"),
        ("1::Toy Story\n", "movies.dat, line 1: found '1::Toy Story'"),
        ("1::Toy Story::\n", "item '1' has no category"),
        ("9::Nobody saw it::Drama\n", "1 of its 1 items are unknown"),
    ],
)
def test_bad_genres(tmp_path, movies, problem):
    zipped(tmp_path, movies)
    with pytest.raises(UserError, match=problem):
        load_categories(load("ml-1m", tmp_path))


def test_ready_movielens_has_a_file_of_its_own(tmp_path):
    """The zip numbers movies otherwise, so its genres are not taken for those of ml-1m.txt."""
    zipped(tmp_path, MOVIES)
    (tmp_path / "ml-1m.txt").write_text("1 1 2 3\n")
    data = load("ml-1m", tmp_path)
    with pytest.raises(UserError, match=r"attributes.json: is missing; .* beside ml-1m.txt"):
        load_categories(data)
    (tmp_path / "ml-1m_item2attributes.json").write_text('{"1": [4], "2": [4, 9], "3": [9]}')
    assert [m.tolist() for m in load_categories(data).members] == [[1, 2], [2, 3]]


@pytest.mark.parametrize("items", [range(1, 6), range(1, 8), (1, 2, 4, 5), (2, 7), range(6)])
def test_files_of_another_numbering(folder, items):
    """Ids that count from 1 do not tell to which data they belong. The last one does."""
    (folder / FILE).write_text(json.dumps({str(item): [1] for item in items}))
    ends = f"{min(items)} to {max(items)}"
    problem = f"has the items {ends}, and .* has 1 to 6, so they may not be numbered alike"
    with pytest.raises(UserError, match=problem):
        load_categories(load(str(folder / "Beauty.txt")), str(folder / FILE))
    if min(items) > 0 and max(items) < 6:
        with pytest.raises(UserError, match=problem):
            load_categories(load("beauty", folder))


@pytest.mark.parametrize(
    ("dataset", "names", "entries", "more"),
    [("beauty", 637, 2_635_926, 3), ("toys", 1_027, 1_865_846, 3), ("ml-1m", 18, 3_780_462, 1.5)],
)
def test_real_files(data_folder, dataset, names, entries, more):
    """The file's ids are those of the text: consecutive items have more in common than others."""
    file = SOURCES[dataset][0].file
    if not (data_folder / file).exists():
        pytest.skip(f"real data: no {file} in {data_folder}")
    data = load(dataset, data_folder)
    found = load_categories(data)
    assert len(found.names) == names
    assert np.unique(np.concatenate(found.members)).size == data.num_items
    weights = category_graph(data).to_scipy(normalized=False)
    assert weights.nnz == entries
    after = np.flatnonzero(data.owners[1:] == data.owners[:-1])
    shared = weights[data.items[after], data.items[after + 1]].mean()
    shuffled = np.random.default_rng(0).permutation(data.items)
    assert shared > more * weights[shuffled[:-1], shuffled[1:]].mean()
