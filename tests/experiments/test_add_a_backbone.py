"""The page on new backbones: its file runs as it stands, and trains."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments import train
from experiments.backbones import BUILDERS
from experiments.settings.published import MODELS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-backbone.md"


@pytest.fixture
def registries(monkeypatch):
    """What the page registers is gone after the test."""
    monkeypatch.setattr("experiments.backbones.BUILDERS", BUILDERS)
    for registry in (BUILDERS, MODELS):
        monkeypatch.setitem(registry, "mean", None)


@pytest.mark.usefixtures("registries")
def test_the_file_of_the_page_trains(users_file, tmp_path):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert code is not None
    code = compile(code.group(1), "mean.py", "exec", dont_inherit=True)
    exec(code, {"__name__": "mean"})
    options = ["--model", "mean", "--dataset", str(users_file), "--out", str(tmp_path)]
    options += ["--optimizer", "sevo-adamw", "--dim", "16", "--batch-size", "32"]
    assert train.main([*options, "--epochs", "40", "--eval-every", "20"]) == 0
    lines = (tmp_path / "mean-sevo-adamw-seed0" / "metrics.jsonl").read_text().splitlines()
    first, last = map(json.loads, lines)
    assert last["train_loss"] < first["train_loss"] < 0.7
