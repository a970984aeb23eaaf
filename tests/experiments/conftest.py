"""Shared by the tests of experiments: real data and small data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.data import Interactions, load
from experiments.data.interactions import from_sequences
from experiments.training import steps
from tests.runs import users_of_built_in_data


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, Amazon Beauty at least."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folders = [Path(os.environ["SEVO_DATA"])] if os.environ.get("SEVO_DATA") else []
    for folder in (*folders, beside):
        if (folder / "Beauty.txt").exists():
            return folder
    pytest.skip(f"real data: no Beauty.txt in $SEVO_DATA or {beside}")


@pytest.fixture(scope="session")
def beauty_file(data_folder, tmp_path_factory) -> Path:
    """The first 200 users of Amazon Beauty, as a text file."""
    lines = (data_folder / "Beauty.txt").read_text().splitlines()[:200]
    file = tmp_path_factory.mktemp("beauty") / "beauty200.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="session")
def users_file(request, tmp_path_factory) -> Path:
    """200 users of Amazon Beauty, or of the built-in data where Beauty is not at hand."""
    try:
        return request.getfixturevalue("beauty_file")
    except pytest.skip.Exception:
        return users_of_built_in_data(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture
def data_dir(users_file, tmp_path) -> Path:
    """A folder in which 200 users pass for Beauty; every item has one or two of ten categories."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(users_file, folder / "Beauty.txt")
    items = load("beauty", folder).item_ids.tolist()
    held = {str(item): [item % 7, 7 + item % 3] for item in items}
    (folder / "Beauty_item2attributes.json").write_text(json.dumps(held))
    return folder


@pytest.fixture(scope="session")
def small() -> Interactions:
    """70 users, 40 items, 3 to 30 interactions (most have few), with repeated items."""
    rng = np.random.default_rng(0)
    lengths = (2 + rng.geometric(0.15, 70)).clip(max=30)
    return from_sequences("small", rng.integers(0, 40, lengths.sum()), lengths)


@pytest.fixture
def change_epoch_3(monkeypatch):
    """Changes what the third call of a compiled epoch returns: ``change(state, losses)``."""
    make_epoch = steps.make_epoch

    def install(change):
        def making(*options):
            epoch, calls = make_epoch(*options), []

            def run(*args):
                state, losses = epoch(*args)
                calls.append(1)
                return change(state, losses) if len(calls) == 3 else (state, losses)

            return run

        monkeypatch.setattr(steps, "make_epoch", making)

    return install
