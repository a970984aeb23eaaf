"""The examples run, and SEvo does in them what they say."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import sevo_jax

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["nnx_loop", pytest.param("equinox_loop", marks=pytest.mark.slow)])
def test_smoothing_helps(name):
    plain, sevo = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]().values()
    assert sevo > plain


@pytest.mark.slow
def test_words_are_smoother_over_their_graph():
    plain, sevo = runpy.run_path(str(EXAMPLES / "words.py"))["main"]().values()
    assert sevo < plain


@pytest.mark.slow
def test_rare_rows_move_as_the_page_says():
    """Far with the correction, less so in Adam, least in lazy Adam; without smoothing no better."""
    example = runpy.run_path(str(EXAMPLES / "rare_rows.py"))
    plain, lazy, corrected = found = list(example["main"]().values())
    assert 3 * lazy.path[-1] < plain.path[-1]
    assert 10 * plain.path[-1] < corrected.path[-1]
    assert plain.error.mean() < corrected.error.mean()
    ends = {float(example["RATES"][0]), float(example["RATES"][-1])}
    assert ends.isdisjoint(one.rate for one in found)  # or it was not tuned


class Weight:
    """The parts of a weight of PyTorch, and of PyTorch itself, that the example needs."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def detach(self) -> Weight:
        return self

    cpu = detach
    no_grad = staticmethod(contextlib.nullcontext)
    from_numpy = staticmethod(lambda array: array)

    def numpy(self) -> np.ndarray:
        return self.array

    def copy_(self, array: np.ndarray) -> None:
        self.array[:] = array


def test_any_trainer(capsys):
    """With PyTorch it trains, and without it says so; its call is `evolve` in place."""
    example = runpy.run_path(str(EXAMPLES / "any_trainer.py"))
    graph, before = sevo_jax.edge_graph([0, 1], [1, 2], 4), np.ones((4, 2), np.float32)
    weight = Weight(np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32))
    want = sevo_jax.evolve(graph, before, weight.array.copy(), beta=0.9)
    after = example["evolve_weight"](Weight, graph, before, weight)
    np.testing.assert_array_equal(weight.array, want)
    np.testing.assert_array_equal(after, want)
    assert after is not weight.array  # the next steps move one and not the other
    hits = example["main"]()
    if importlib.util.find_spec("torch") is None:
        assert hits is None
        assert capsys.readouterr().out == "skipped: PyTorch is not installed (pip install torch)\n"
    else:
        plain, sevo = hits.values()
        assert sevo > plain


def test_an_approximate_index_finds_the_best_items(tmp_path, capsys):
    """Those of the largest dot products, which is not the nearest direction."""
    rng = np.random.default_rng(0)
    items = rng.standard_normal((2_000, 16)).astype(np.float32)
    items *= rng.uniform(0.5, 2, (2_000, 1)).astype(np.float32)
    users = rng.standard_normal((50, 16)).astype(np.float32)
    for name, vectors in {"item": items, "user": users}.items():
        table = pl.DataFrame({name: np.arange(len(vectors)), "vector": vectors})
        table.write_parquet(tmp_path / f"{name}s.parquet")
    recall = runpy.run_path(str(EXAMPLES / "approximate_index.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    if importlib.util.find_spec("usearch") is None:
        assert recall is None
        assert printed == "skipped: usearch is not installed (pip install usearch)\n"
    else:
        assert recall > 0.95
        assert f"50 users, 2,000 items: recall@10 {recall:.3f}; index" in printed


def test_the_index_on_the_page_finds_the_best_items(tmp_path, monkeypatch):
    pytest.importorskip("usearch")
    page = (EXAMPLES.parent / "docs/experiments.md").read_text()
    code = next(own for own in re.findall(r"```python\n(.*?)```", page, re.S) if "usearch" in own)
    rng = np.random.default_rng(0)
    items = rng.standard_normal((500, 8)).astype(np.float32)
    names = {"vectors": rng.standard_normal((20, 8)).astype(np.float32)}
    (tmp_path / "out").mkdir()
    pl.DataFrame({"item": range(500), "vector": items}).write_parquet(
        tmp_path / "out/items.parquet"
    )
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    best = np.argsort(-names["vectors"] @ items.T)[:, :10]
    assert np.mean([np.isin(b, f).mean() for b, f in zip(best, names["rows"], strict=True)]) > 0.95
