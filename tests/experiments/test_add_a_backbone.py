"""The page on new backbones: its file runs as it stands, and trains."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import train
from experiments.data import Interactions
from experiments.errors import UserError
from experiments.run import Run
from experiments.settings.published import MODELS, published
from experiments.training.backbones import BUILDERS
from experiments.training.prepare import make_model
from models import SASRec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-backbone.md"


@pytest.fixture
def registries(monkeypatch):
    """Removes the page's model from the registries after the test."""
    monkeypatch.setattr("experiments.training.backbones.BUILDERS", BUILDERS)
    for registry in (BUILDERS, MODELS):
        monkeypatch.setitem(registry, "mean", None)


@pytest.mark.slow
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


def test_a_model_that_is_not_built_with_the_loss_of_its_run_is_refused(monkeypatch):
    """It would be trained by another loss than the run's folder says."""
    items, ids = np.array([1, 2, 3], np.int32), np.arange(3)
    data = Interactions("ours", items, np.array([3]), item_ids=ids, user_ids=ids[:1])
    monkeypatch.setitem(BUILDERS, "ours", lambda s, data, rngs: SASRec(data.num_items, rngs=rngs))
    run = Run("ours", "ours", "adamw", 0, published("sasrec", "ours", "adamw").replace(loss="bpr"))
    with pytest.raises(
        UserError, match=r"loss of ours is bce, .* say bpr: .* loss=settings\.training\.loss"
    ):
        make_model(run, data)
