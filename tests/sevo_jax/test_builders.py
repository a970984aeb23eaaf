"""Builders against plain loops, input in every form, and what all builders have in common."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO, BCSR

import sevo_jax

N = 6
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=8), min_size=1, max_size=5)


def algorithm_4(sequences, max_len, keep, walk_length, weighting) -> np.ndarray:
    weights: dict = defaultdict(float)
    for sequence in sequences:
        items = sequence[-max_len:] if keep == "last" else sequence[:max_len]
        for i, item in enumerate(items):
            for h in range(1, walk_length + 1):
                if i + h < len(items):
                    w = 1 / h if weighting == "distance" else 1
                    weights[item, items[i + h]] += w
                    weights[items[i + h], item] += w
    dense = np.zeros((N, N))
    for (i, j), w in weights.items():
        dense[i, j] = w
    return dense


@settings(max_examples=60, deadline=None)
@given(
    SEQUENCES,
    st.integers(1, 9),
    st.sampled_from(["first", "last"]),
    st.integers(1, 4),
    st.sampled_from(["distance", "frequency"]),
)
def test_sequence_graph_is_algorithm_4(sequences, max_len, keep, walk_length, weighting) -> None:
    options = {"max_len": max_len, "keep": keep, "walk_length": walk_length, "weighting": weighting}
    graph = sevo_jax.sequence_graph(sequences, N, **options)
    want = algorithm_4(sequences, **options)
    np.testing.assert_allclose(graph.to_scipy(normalized=False).toarray(), want, rtol=1e-6)
    flat = np.array([i for s in sequences for i in s], int)
    lengths = [len(s) for s in sequences]
    joined = sevo_jax.sequence_graph(flat, N, lengths=lengths, **options)
    np.testing.assert_array_equal(joined.to_scipy().toarray(), graph.to_scipy().toarray())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, N - 1)] * 2, st.floats(0, 1e3)), max_size=12))
def test_normalisation(edges) -> None:
    senders, receivers, weights = ([e[i] for e in edges] for i in range(3))
    graph = sevo_jax.edge_graph(senders, receivers, N, np.array(weights, np.float32))
    dense = np.zeros((N, N))
    for i, j, w in zip(senders, receivers, np.array(weights, np.float32), strict=True):
        dense[i, j] += w
        dense[j, i] += w
    degrees = dense.sum(1)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    operator = graph.to_scipy().toarray()
    np.testing.assert_allclose(operator, scale[:, None] * dense * scale, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(operator, operator.T)
    assert abs(np.linalg.eigvalsh(operator.astype(float))).max() <= 1 + 1e-5


@pytest.mark.parametrize(
    "form",
    [np.asarray, jnp.asarray, sp.coo_array, sp.csc_matrix, BCOO.fromdense, BCSR.fromdense],
)
def test_operators_are_used_as_given(form) -> None:
    dense = np.array([[0.5, 0.2, 0], [0.2, 0, 0.7], [0, 0.7, 0]], np.float32)
    graph = sevo_jax.Graph.from_operator(form(dense))
    np.testing.assert_array_equal(graph.to_scipy().toarray(), dense)
    assert graph.weights is None
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(sevo_jax.spmm(graph, x), dense @ x, rtol=1e-6)


def w(graph: sevo_jax.Graph) -> np.ndarray:
    return graph.to_scipy(normalized=False).toarray()


FORMS = {
    "lists": lambda runs: (runs, None),
    "arrays": lambda runs: ([np.array(r, np.int32) for r in runs], None),
    "jax": lambda runs: ([jnp.array(r, int) for r in runs], None),
    "ragged": lambda runs: (np.concatenate(runs).astype(int), [len(r) for r in runs]),
    "polars": lambda runs: (pl.Series(runs, dtype=pl.List(pl.Int64)), None),
    "polars array": lambda runs: (pl.DataFrame({"a": runs})["a"].cast(pl.List(pl.UInt16)), None),
    "pandas": lambda runs: (pd.Series(runs), None),
    "tuple": lambda runs: (tuple(runs), None),
    "mapping": lambda runs: (dict(zip("abcde", runs, strict=False)), None),
}


@pytest.mark.parametrize("form", FORMS)
def test_sequences_in_every_form(form):
    runs = [[1, 2, 3], [], [3, 2], [4], [1, 2]]
    given, lengths = FORMS[form](runs)
    graph = sevo_jax.sequence_graph(given, N, lengths=lengths)
    np.testing.assert_array_equal(w(graph), algorithm_4(runs, 50, "last", 1, "distance"))


@pytest.mark.parametrize("form", FORMS)
def test_categories_in_every_form(form):
    given, lengths = FORMS[form]([[1, 2, 3], [], [3, 4]])
    graph = sevo_jax.category_graph(given, N, lengths=lengths)
    want = np.zeros((N, N))
    for i, j in [(1, 2), (1, 3), (2, 3), (3, 4)]:
        want[i, j] = want[j, i] = 1
    np.testing.assert_array_equal(w(graph), want)


@pytest.mark.parametrize(
    "form", [list, np.array, jnp.array, pl.Series, pd.Series], ids=lambda f: f.__name__
)
def test_columns_of_edges_and_pairs(form):
    graph = sevo_jax.edge_graph(form([0, 1]), form([1, 2]), N, form([1.0, 2.0]))
    assert w(graph)[1].tolist() == [1, 0, 2, 0, 0, 0]
    graph = sevo_jax.bipartite_graph(form([0, 1]), form([1, 2]), 2, 3)
    assert w(graph)[:2, 2:].tolist() == [[0, 1, 0], [0, 0, 1]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.floats(0.1, 5)), max_size=12),
    st.booleans(),
)
def test_bipartite(pairs, weighted):
    rows, cols, weights = ([p[i] for p in pairs] for i in range(3))
    ids = np.array(rows, int), np.array(cols, int)
    graph = sevo_jax.bipartite_graph(*ids, 3, 4, weights=np.array(weights) if weighted else None)
    want = np.zeros((7, 7))
    for i, j, weight in pairs:
        want[i, 3 + j] = want[3 + j, i] = want[i, 3 + j] + weight if weighted else 1
    np.testing.assert_allclose(w(graph), want, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, N - 1), max_size=5), max_size=5), st.integers(1, 6))
def test_categories(categories, largest):
    graph = sevo_jax.category_graph(categories, N, max_category_size=largest)
    want = np.zeros((N, N))
    for members in map(set, categories):
        if len(members) <= largest:
            for i in members:
                for j in members - {i}:
                    want[i, j] = 1
    np.testing.assert_array_equal(w(graph), want)


def test_categories_of_a_mapping_and_an_incidence_matrix():
    want = w(sevo_jax.category_graph([[0, 1], [1, 2, 3]], N))
    named = sevo_jax.category_graph({"a": [0, 1], "b": np.array([1, 2, 3])}, N)
    incidence = np.zeros((N, 2))
    incidence[[0, 1], 0] = incidence[[1, 2, 3], 1] = 5
    np.testing.assert_array_equal(w(named), want)
    for form in (sp.csr_array, sp.coo_matrix):
        np.testing.assert_array_equal(w(sevo_jax.category_graph(form(incidence), N)), want)


def test_broad_categories_are_refused_with_advice():
    broad = [np.arange(3000), np.arange(10)]
    with pytest.raises(ValueError, match="max_category_size") as caught:
        sevo_jax.category_graph(broad, 3000, max_entries=1_000_000)
    assert "the largest of 3000 nodes, make up to 8,997,090 entries" in str(caught.value)
    assert sevo_jax.category_graph(broad, 3000, max_category_size=500).capacity == 90


def test_categories_of_beauty():
    file = Path(__file__).resolve().parents[3] / "shared" / "data" / "Beauty_item2attributes.json"
    if not file.exists():
        pytest.skip(f"real data: no {file}")
    of_item = {int(k): v for k, v in json.loads(file.read_text()).items()}
    nodes = np.repeat(list(of_item), [len(v) for v in of_item.values()])
    labels = np.concatenate(list(of_item.values()))
    values, category = np.unique(labels, return_inverse=True)
    order = np.argsort(category, kind="stable")
    lengths = np.bincount(category)
    with pytest.raises(ValueError, match="637 categories"):
        sevo_jax.category_graph(nodes[order], 12_102, lengths=lengths)
    graph = sevo_jax.category_graph(nodes[order], 12_102, lengths=lengths, max_category_size=500)
    assert values.size == 637
    assert graph.capacity == pytest.approx(2.6e6, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.1, 10), st.booleans())
def test_nearest_neighbours(seed, k, temperature, ties):
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, (N + 3, 3)) + 0.0 if ties else rng.standard_normal((N + 3, 3))
    x[~x.any(axis=1)] = 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.round(2 - 2 * unit @ unit.T, 12)
    want = np.zeros_like(distance)
    for i in range(len(x)):
        others = sorted((distance[i, j], j) for j in range(len(x)) if j != i)
        for d, j in others[:k]:
            want[i, j] += np.exp(-d / temperature)
            want[j, i] += np.exp(-d / temperature)
    graph = sevo_jax.knn_graph(x, k, temperature)
    np.testing.assert_allclose(w(graph), want, rtol=1e-5, atol=1e-12)


def test_nearest_neighbours_in_blocks(monkeypatch):
    x = np.random.default_rng(0).standard_normal((50, 4))
    whole = sevo_jax.knn_graph(x, 3)
    monkeypatch.setattr("sevo_jax._builders._CELLS_PER_BLOCK", 7 * 50)
    np.testing.assert_array_equal(w(sevo_jax.knn_graph(x, 3)), w(whole))


def test_nearest_neighbours_among_many():
    """Enough nodes for candidates to be found by chunks."""
    nodes, k = 1500, 10
    x = np.random.default_rng(0).standard_normal((nodes, 16)).astype(np.float32).astype(float)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    chosen = np.zeros((nodes, nodes), bool)
    np.put_along_axis(chosen, np.argsort(-similarity, axis=1)[:, :k], True, axis=1)
    graph = sevo_jax.knn_graph(x, k)
    np.testing.assert_array_equal(w(graph) > 0, chosen | chosen.T)


def test_equal_vectors_are_neighbours_by_id():
    x = np.tile(np.random.default_rng(0).standard_normal(64), (40, 1))
    x *= np.random.default_rng(1).uniform(0.1, 10, (40, 1))
    graph = sevo_jax.knn_graph(x.astype(np.float32), 2)
    np.testing.assert_array_equal(np.flatnonzero(w(graph)[39]), [0, 1])


def test_combined_graphs():
    one = sevo_jax.edge_graph([0, 1], [1, 2], N)
    other = sevo_jax.category_graph([[2, 3, 4]], N)
    graph = sevo_jax.combine_graphs([one, other], [0.25, 0.75])
    want = 0.25 * one.to_scipy().toarray() + 0.75 * other.to_scipy().toarray()
    np.testing.assert_allclose(graph.to_scipy().toarray(), want, rtol=1e-6)
    assert graph.weights is None
    assert graph.dtype == jnp.float32
    only = sevo_jax.combine_graphs([one], [1.0])
    np.testing.assert_array_equal(only.to_scipy().toarray(), one.to_scipy().toarray())
    half = sevo_jax.edge_graph([0], [1], N, np.ones(1, jnp.bfloat16))
    assert sevo_jax.combine_graphs([half, half], [0.5, 0.5]).dtype == jnp.bfloat16


def test_combined_operators_and_their_isolated_nodes():
    one = sevo_jax.edge_graph([0], [1], N)
    graph = sevo_jax.combine_graphs([one, one.to_scipy()], [0.5, 0.5], self_loops="isolated")
    want = one.to_scipy().toarray() + np.diag([0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(graph.to_scipy().toarray(), want, rtol=1e-6)


def test_missing_and_fixed_size_lists():
    want = w(sevo_jax.sequence_graph([[0, 1], [], [2, 3]], N))
    for column in (pl.Series([[0, 1], None, [2, 3]]), pd.Series([[0, 1], None, [2, 3]])):
        np.testing.assert_array_equal(w(sevo_jax.sequence_graph(column, N)), want)
    fixed = pl.Series([[0, 1], [2, 3]], dtype=pl.Array(pl.Int64, 2))
    np.testing.assert_array_equal(w(sevo_jax.sequence_graph(fixed, N)), want)


BUILDERS = {
    "edge": lambda **o: sevo_jax.edge_graph([0, 1], [1, 2], N, **o),
    "sequence": lambda **o: sevo_jax.sequence_graph([[0, 1, 2]], N, **o),
    "bipartite": lambda **o: sevo_jax.bipartite_graph([0, 0], [0, 1], 1, N - 1, **o),
    "category": lambda **o: sevo_jax.category_graph([[0, 1], [1, 2]], N, **o),
    "knn": lambda **o: sevo_jax.knn_graph(np.eye(N) + 0.1, 1, **o),
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_self_loops(builder):
    make = BUILDERS[builder]
    none, isolated, everyone = (make(self_loops=s) for s in ("none", "isolated", "all"))
    alone = w(none).sum(1) == 0
    assert builder == "knn" or alone.any()
    np.testing.assert_array_equal(w(isolated), w(none) + np.diag(alone))
    np.testing.assert_array_equal(w(everyone), w(none) + np.eye(N))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((N, 2)), jnp.float32)
    np.testing.assert_allclose(sevo_jax.smooth(isolated, x, 0.9)[alone], x[alone], rtol=1e-5)
    scale = (1 - 0.9) / (1 - 0.9**4)
    np.testing.assert_allclose(sevo_jax.smooth(none, x, 0.9)[alone], scale * x[alone], rtol=1e-5)


@pytest.mark.parametrize("builder", BUILDERS)
def test_capacity(builder):
    make = BUILDERS[builder]
    tight, roomy = make(), make(capacity=40)
    assert roomy.capacity == roomy.weights.nse == 40
    assert tight.capacity == tight.to_scipy().nnz < 40
    np.testing.assert_array_equal(roomy.to_scipy().toarray(), tight.to_scipy().toarray())
    np.testing.assert_array_equal(w(roomy), w(tight))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((N, 2)), jnp.float32)
    np.testing.assert_array_equal(sevo_jax.smooth(roomy, x), sevo_jax.smooth(tight, x))
    with pytest.raises(
        ValueError, match=r"capacity must be at least the graph's \d+ entries, got 1"
    ):
        make(capacity=1)


RUNS = [[3, 1, 2], [1], [2, 2, 4, 1]]
PADDED = np.array([[0, 3, 1, 2], [0, 0, 0, 1], [2, 2, 4, 1]])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, -1, 99])
@pytest.mark.parametrize("form", [np.asarray, jnp.asarray, list, np.ndarray.tolist])
def test_padding_is_taken_off(side, pad, form):
    array = np.full((3, 4), pad)
    for row, run in zip(array, RUNS, strict=True):
        row[slice(len(run)) if side == "right" else slice(4 - len(run), 4)] = run
    want = w(sevo_jax.sequence_graph(RUNS, N))
    graph = sevo_jax.sequence_graph(form(array), N, padding=pad)
    np.testing.assert_array_equal(w(graph), want)
    flat = sevo_jax.sequence_graph(array.ravel(), N, lengths=[4, 4, 4], padding=pad)
    np.testing.assert_array_equal(w(flat), want)


def test_what_is_masked_is_padding():
    masked = np.ma.masked_equal(PADDED, 0)
    want = w(sevo_jax.sequence_graph(RUNS, N))
    for runs in (masked, list(masked)):
        np.testing.assert_array_equal(w(sevo_jax.sequence_graph(runs, N)), want)
    members = sevo_jax.category_graph(masked, N)
    np.testing.assert_array_equal(w(members), w(sevo_jax.category_graph(RUNS, N)))


@pytest.mark.parametrize("array", [PADDED, PADDED[:, ::-1], np.array([[1, 2], [0, 3]])])
def test_arrays_that_may_be_padded_are_refused(array):
    for builder in (sevo_jax.sequence_graph, sevo_jax.category_graph):
        with pytest.raises(ValueError, match=r"padding=0 if it is padding, padding=None if 0 is"):
            builder(array, N)
        graph = builder(array, N, padding=None)
        np.testing.assert_array_equal(w(graph), w(builder(array.tolist(), N)))
    inner = np.array([[1, 0, 2], [3, 4, 5]])
    graph = sevo_jax.sequence_graph(inner, N)
    np.testing.assert_array_equal(w(graph), w(sevo_jax.sequence_graph(inner.tolist(), N)))


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (np.array([[1, 2], [3, 0]]), {"padding": 0, "lengths": [1, 3]}),
        ([[1, 2], [3, 0, 2]], {"padding": 0}),
        ([[1, 2], np.ma.array([3, 1, 2], mask=[0, 1, 0])], {}),
    ],
)
def test_padding_between_two_items_is_refused(given, options):
    if "lengths" in options:
        given = np.array([1, 2, 0, 3])
    with pytest.raises(ValueError, match="stands between two ids at position 1"):
        sevo_jax.sequence_graph(given, N, **options)


@pytest.fixture
def events() -> pl.DataFrame:
    """Users in turns, most times equal."""
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, 9, 80), rng.integers(0, N, 80)
    frame = pl.DataFrame({"who": user, "what": item, "at": rng.integers(0, 5, 80)})
    return frame.with_columns(who=pl.format("u{}", "who"))


FRAMES = {
    "polars": lambda frame: frame,
    "pandas": lambda frame: frame.to_pandas(),
    "pyarrow": lambda frame: frame.to_arrow(),
    "categories": lambda frame: frame.with_columns(pl.col("who").cast(pl.Categorical)),
    "index": lambda frame: frame.to_pandas().set_index("at", drop=False).rename_axis("who"),
    "dates": lambda frame: frame.with_columns(pl.col("at").cast(pl.Date)),
    "instants": lambda frame: frame.to_pandas().astype({"at": "datetime64[ns, UTC]"}),
    "nullable": lambda frame: frame.to_pandas().astype({"what": "Int16", "at": "Float64"}),
}


@pytest.mark.parametrize("form", FRAMES)
def test_sequences_of_a_frame(events, form):
    frame, options = FRAMES[form](events), {"max_len": 3, "walk_length": 2}
    ordered = events.sort("at", maintain_order=True)
    for rows, time in ((ordered, "at"), (events, None)):
        runs = rows.group_by("who", maintain_order=True).agg("what")["what"]
        want = w(sevo_jax.sequence_graph(runs, N, **options))
        graph = sevo_jax.sequence_graph(frame, N, user="who", item="what", time=time, **options)
        np.testing.assert_array_equal(w(graph), want)


@pytest.mark.parametrize("form", [*FRAMES, "lazy"])
def test_bare_frames_are_refused(events, form):
    frame = events.lazy() if form == "lazy" else FRAMES[form](events)
    with pytest.raises(TypeError, match=r'name its columns, .*user="user", item="item", time='):
        sevo_jax.sequence_graph(frame, N)
    with pytest.raises(TypeError, match=r"members must not be a bare .*column of lists"):
        sevo_jax.category_graph(frame, N)


@pytest.mark.parametrize(
    ("changed", "options", "kind", "says"),
    [
        ({}, {"item": None}, TypeError, "user and item must both name a column"),
        ({}, {"user": "what"}, ValueError, "must be two columns, got 'what' for both"),
        ({}, {"user": "u"}, ValueError, "user='u': no such column; there are who, what, at"),
        ({"what": pl.lit("a")}, {}, TypeError, "item='what' must hold integers, got .*string"),
        ({"what": pl.lit(2).cast(pl.Decimal(9, 1))}, {}, TypeError, "got decimal.*; cast it"),
        ({"who": pl.struct(pl.lit(2))}, {}, TypeError, "user='who' must hold integers or strings"),
        ({"who": pl.concat_list("what")}, {}, TypeError, "user='who' must hold .* got .*list"),
        ({"what": pl.lit(2.0)}, {}, TypeError, "got double; cast it to integers .pandas makes"),
        ({"what": pl.lit(None)}, {}, ValueError, "'what' must have a value in every row"),
        ({"at": pl.lit(float("nan"))}, {}, ValueError, "'at' must have a value .* but 80 of 80"),
        ({"at": pl.lit("9")}, {}, TypeError, "time='at' must hold numbers, dates or timestamps"),
        ({"what": pl.lit(N)}, {}, ValueError, rf"\[0, {N}\), got {N}"),
        ({}, {"lengths": [80]}, TypeError, "lengths and padding are not for a data frame"),
    ],
)
def test_bad_frames(events, changed, options, kind, says):
    options = {"user": "who", "item": "what", "time": "at"} | options
    with pytest.raises(kind, match=says):
        sevo_jax.sequence_graph(events.with_columns(**changed), N, **options)


def test_columns_of_no_frame_and_lazy_frames(events):
    with pytest.raises(TypeError, match="name the columns of a data frame, got list"):
        sevo_jax.sequence_graph([[1]], N, user="who", item="what")
    with pytest.raises(TypeError, match=r"got a LazyFrame; pass its collect\(\)"):
        sevo_jax.sequence_graph(events.lazy(), N, user="who", item="what")


def test_columns_are_named_by_strings(events):
    """Arrow would take the numbers of pandas' nameless columns for positions."""
    frame = events.to_pandas()
    frame.columns = range(len(frame.columns))
    with pytest.raises(TypeError, match=r"user must be the name of a column.*map\(str\)"):
        sevo_jax.sequence_graph(frame, N, user=0, item=1, time=2)
    frame.columns = frame.columns.map(str)
    named = dict(zip(("user", "item", "time"), frame.columns, strict=True))
    want = sevo_jax.sequence_graph(events, N, user="who", item="what", time="at")
    np.testing.assert_array_equal(w(sevo_jax.sequence_graph(frame, N, **named)), w(want))


def test_views_of_strings(events):
    table = events.to_arrow()
    users = table["who"].cast(pa.string())
    options = {"user": "who", "item": "what", "time": "at"}
    place = table.column_names.index("who")
    want, got = (
        w(sevo_jax.sequence_graph(table.set_column(place, "who", users.cast(kind)), N, **options))
        for kind in (pa.string(), pa.string_view())
    )
    np.testing.assert_array_equal(got, want)


def test_columns_of_arrow_lists():
    runs = [[5, 1], None, [], [2, 2, 3]]
    want = w(sevo_jax.sequence_graph(pl.Series(runs), N))
    kind = pa.list_(pa.int32())
    columns = [pa.array(runs, kind), pa.chunked_array([runs[:1], runs[1:]], kind)]
    columns += [pd.Series(runs, dtype=pd.ArrowDtype(t)) for t in (kind, pa.large_list(pa.int64()))]
    for column in columns:
        np.testing.assert_array_equal(w(sevo_jax.sequence_graph(column, N)), want)
    with pytest.raises(ValueError, match="sequences must not hold nulls, got 1"):
        sevo_jax.sequence_graph(pa.array([[1, None], [2]]), N)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("x64")
def test_no_overflow_in_64_bits():
    assert sevo_jax.sequence_graph([[4, 5]], N).dtype == jnp.float64


MASKED = np.ma.masked_array([0, 1, 2], mask=[False, True, False])


@pytest.mark.parametrize(
    ("build", "name", "position"),
    [
        (lambda: sevo_jax.edge_graph([1, 2, 0], MASKED, 3), "receivers", "1"),
        (lambda: sevo_jax.bipartite_graph(MASKED, [0, 0, 0], 3, 1), "rows", "1"),
        (lambda: sevo_jax.edge_graph([0, 1], [1, 0], 2, MASKED[1:]), "weights", "0"),
        (lambda: sevo_jax.knn_graph(np.ma.masked_equal(np.eye(3) + 1, 2), 1), "features", "0, 0"),
        (lambda: sevo_jax.Graph.from_weights(np.ma.masked_equal(np.eye(2), 0)), "matrix", "0, 1"),
        (lambda: sevo_jax.edge_graph([0], [1], 3).add_edges(MASKED, [1, 1, 1]), "senders", "1"),
    ],
)
def test_masked_values_are_an_error(build, name, position):
    """NumPy would uncover them, and the graph would hold edges that its user took out."""
    with pytest.raises(
        ValueError, match=f"{name} must have a value .* first at position {position}"
    ):
        build()


def test_masked_arrays_that_mask_nothing_are_arrays():
    nothing = np.ma.masked_array([0, 1])
    assert sevo_jax.edge_graph(nothing, [1, 2], 3).capacity == 4


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "dia", "lil"])
def test_categories_of_an_incidence_matrix_of_any_format(form):
    members = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    got = sevo_jax.category_graph(sp.csr_array(members).asformat(form), 5)
    want = sevo_jax.category_graph([[0, 1], [1, 2], [3]], 5)
    np.testing.assert_array_equal(got.to_scipy().toarray(), want.to_scipy().toarray())


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(
    ("field", "value"), [("indices", 10**8), ("indices", -3), ("indptr", 10**6)]
)
def test_a_damaged_incidence_matrix_is_refused(form, field, value):
    """SciPy would read or write beyond its arrays."""
    members = sp.csr_array(np.ones((4, 2))).asformat(form)
    getattr(members, field)[1] = value
    with pytest.raises(ValueError, match=r"must (lie in|rise from)"):
        sevo_jax.category_graph(members, 4)
