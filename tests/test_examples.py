"""The examples run, and SEvo does in them what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["nnx_loop", "equinox_loop"])
def test_smoothing_helps(name):
    plain, sevo = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]().values()
    assert sevo > plain


def test_words_are_smoother_over_their_graph():
    plain, sevo = runpy.run_path(str(EXAMPLES / "words.py"))["main"]().values()
    assert sevo < plain
