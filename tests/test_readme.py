"""The examples of the README and of the site's first pages run as they stand."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[1]


def test_example_runs() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    names: dict = {}
    exec(code.group(1), names)
    table = names["params"]["item_embedding"]
    assert table.shape == (5, 8)
    assert bool(jnp.isfinite(table).all())
    assert bool((table < 1).all()), "every row has moved down its gradient"
    assert isinstance(names["state"], tuple)
    assert jax.tree.structure(names["updates"]) == jax.tree.structure(names["params"])


@pytest.mark.lenient
@pytest.mark.parametrize("page", ["start", "guides"])
def test_pages_run(page: str) -> None:
    """All blocks of a page, one after the other; without PyTorch, all that do not need it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.S)
    names: dict = {"__name__": page}
    for block in blocks:
        if "import torch" in block:
            pytest.importorskip("torch", reason="the last part of the page is in PyTorch")
        exec(block, names)
    assert blocks


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


TUTORIALS = ROOT / "docs/tutorials"
SOURCES = sorted(path for path in TUTORIALS.glob("*.py") if path.stem != "build")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_tutorials_are_as_they_were_built(source: Path) -> None:
    """Every cell is on the page, and every picture of the page is there."""
    page = source.with_suffix(".md").read_text()
    _, *cells = re.split(r"^# %%", source.read_text(), flags=re.M)
    for cell in cells:
        _, _, content = cell.partition("\n")
        if cell.startswith(" [markdown]"):
            content = re.sub(r"^# ?", "", content, flags=re.M)
        assert content.strip() in page
    for picture in re.findall(r"\]\((\S+\.png)\)", page):
        assert (TUTORIALS / picture).exists()


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_tutorials_run(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the built-in data, without the notebook around them."""
    pytest.importorskip("ipykernel", reason="one of them shows a picture")
    pytest.importorskip("networkx", reason="one of them is about a graph of it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.delenv("SEVO_DATA", raising=False)
    runpy.run_path(str(source))
