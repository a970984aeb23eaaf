"""``python -m experiments.reproduce a4``: LightGCN beside MF-BPR, on a few users."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.paper import a4
from experiments.reproduce import main
from experiments.settings.published import MODELS, published
from experiments.tables import runs

SETTINGS = published("lightgcn", "synthetic", "sgd").replace(dim=8, batch_size=64)


@pytest.fixture
def few_users(small, monkeypatch):
    """A small data set passes for the built-in one."""
    monkeypatch.setattr(runs, "load_one", lambda *_: small)
    entry = MODELS["lightgcn"]._replace(published=lambda *_: SETTINGS)
    monkeypatch.setitem(MODELS, "lightgcn", entry)


@pytest.mark.slow
def test_both_precisions_hold_and_one_smoothing_does_not(few_users, tmp_path):
    assert main(["a4", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "a4.json").read_text())["trajectories"]
    assert {len(values) for own in found.values() for values in own.values()} == {100}
    assert max(found["float64"]["difference"]) <= 1e-10
    assert 1e-10 < max(found["float32"]["difference"]) <= 1e-4
    assert max(found["smoothed once"]["difference"]) > 1e-2
    for precision in ("float64", "float32"):
        assert found[precision]["moved"][-1] > 0.1
        assert found[precision]["loss"][-1] < 0.9 * found[precision]["loss"][0]
    assert "| float64   |" in (tmp_path / "a4.md").read_text()
    assert (tmp_path / "a4.png").stat().st_size > 10_000
    assert (tmp_path / "a4.tex").exists()


@pytest.mark.parametrize("difference", [2e-4, np.nan])
def test_a_bound_that_is_passed_is_told(few_users, tmp_path, monkeypatch, capsys, difference):
    apart = a4.Trajectory(np.full(100, difference), np.ones(100), np.ones(100))
    monkeypatch.setattr(a4, "follow", lambda *_, **__: apart)
    assert main(["a4", "--out", str(tmp_path)]) == 1
    assert "A.4 fails in float64 and float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "lightgcn"], "--models: a4 does not have it"),
        (["--no-train"], "--no-train: a4 keeps no runs"),
        (["--seeds", "0", "1"], "--seeds: a4 takes one, got 2"),
    ],
)
def test_bad_options(tmp_path, capsys, options, message):
    assert main(["a4", "--out", str(tmp_path), *options]) == 1
    assert message in capsys.readouterr().err
