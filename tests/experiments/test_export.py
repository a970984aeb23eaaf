"""``python -m experiments.export``: vectors and an encoder that rank as the run's model does."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments import export, train
from experiments.serving.recommender import Recommender
from experiments.settings.published import reads

EXAMPLE = Path(__file__).parents[2] / "examples" / "approximate_index.py"
MAX_LEN = 8
LOADER = """
import sys
import jax, numpy as np
from jax import export

folder = sys.argv[1]
with open(folder + "/encoder.bin", "rb") as file:
    encode = jax.jit(export.deserialize(file.read()).call)
for users in (1, 7, 300):
    histories = np.load(f"{folder}/{users}.npy")
    np.save(f"{folder}/{users}-vectors.npy", encode(histories))
assert not {"experiments", "models", "sevo_jax", "flax"} & set(sys.modules)
"""
"""All that a server needs. It runs away from the repository."""

SLOW = pytest.mark.slow
MODELS = [
    "sasrec",
    *(
        pytest.param(name, marks=SLOW)
        for name in ("gru4rec", "bert4rec", "stosa", "sr-gnn", "lessr", "maerec")
    ),
]


def train_on(users_file, out: Path, model: str) -> Path:
    options = ["--model", model, "--dataset", str(users_file), "--optimizer", "adamw"]
    options += ["--dim", "16", "--batch-size", "64", "--epochs", "1", "--out", str(out)]
    if reads(model, "adamw", {}, "max_len"):
        options += ["--max-len", str(MAX_LEN)]
    if reads(model, "adamw", {}, "num_blocks"):
        options += ["--num-blocks", "1"]
    assert train.main(options) == 0
    return out / f"{model}-adamw-seed0"


def histories_of(count: int, num_items: int) -> np.ndarray:
    """Rows of 1 to 8 items, the newest last."""
    rng = np.random.default_rng(count)
    items = rng.integers(1, num_items + 1, (count, MAX_LEN))
    lengths = rng.integers(1, MAX_LEN + 1, count)
    return np.where(np.arange(MAX_LEN) >= MAX_LEN - lengths[:, None], items, 0).astype(np.int32)


@pytest.mark.parametrize("model", MODELS)
def test_an_encoder_without_this_package_ranks_as_the_model_does(model, users_file, tmp_path):
    """In a fresh interpreter, for any number of users."""
    run, out = train_on(users_file, tmp_path / "runs", model), tmp_path / "out"
    assert export.main([str(run), "--out", str(out)]) == 0
    recommender = Recommender.load(run)
    items = pl.read_parquet(out / "items.parquet")
    assert items["item"].to_list() == recommender.data.item_ids.tolist()
    for users in (1, 7, 300):
        np.save(out / f"{users}.npy", histories_of(users, items.height))
    subprocess.run([sys.executable, "-c", LOADER, str(out)], check=True, cwd=tmp_path)
    vectors = items["vector"].to_numpy()
    for users in (1, 7, 300):
        scores = np.load(out / f"{users}-vectors.npy") @ vectors.T
        rows = np.load(out / f"{users}.npy")
        histories = {
            user: items["item"].gather(row[row > 0] - 1).to_list() for user, row in enumerate(rows)
        }
        found = recommender.recommend(histories, top_k=items.height, include_seen=True)
        want = np.zeros_like(scores)
        place = {item: i for i, item in enumerate(items["item"].to_list())}
        columns = [place[item] for item in found["item"].to_list()]
        want[found["user"].to_numpy(), columns] = found["score"].to_numpy()
        np.testing.assert_allclose(scores, want, rtol=1e-6, atol=1e-6)
    if importlib.util.find_spec("usearch") is not None:
        assert runpy.run_path(str(EXAMPLE))["main"](out) > 0.9


def test_a_model_with_users_has_their_vectors(users_file, tmp_path, capsys):
    run, out = train_on(users_file, tmp_path / "runs", "mf-bpr"), tmp_path / "out"
    assert export.main([str(run), "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["items.parquet", "users.parquet"]
    items, users = (pl.read_parquet(out / f"{name}.parquet") for name in ("items", "users"))
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    found = Recommender.load(run).recommend(top_k=3, include_seen=True)
    best = items["item"].to_numpy()[np.argsort(-scores, axis=1, kind="stable")[:, :3]]
    assert found["item"].to_list() == best.ravel().tolist()
    assert found["user"].unique(maintain_order=True).to_list() == users["user"].to_list()
    (run / "result.json").unlink()
    assert export.main([str(run), "--out", str(tmp_path / "new")]) == 1
    assert "is not finished; resume it first" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()
