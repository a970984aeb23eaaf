"""Checks of what each of two processes holds, run by `test_processes` in both at once."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments.data import load
from experiments.errors import UserError
from experiments.evaluation import make_evaluation_set
from experiments.inputs.batches import make_batch
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts
from experiments.inputs.mesh import DATA, Placement, make_mesh
from experiments.settings.published import published
from experiments.training import processes


@pytest.fixture(scope="module", autouse=True)
def number() -> int:
    """The number of this process."""
    processes.join(os.environ["COORDINATOR"], 2, int(os.environ["PROCESS_ID"]))
    yield jax.process_index()
    processes.leave(0)


@pytest.fixture
def place() -> Placement:
    return Placement(make_mesh("data=2"))


def everywhere(array: jax.Array) -> np.ndarray:
    """The whole of an array that lies on the devices of both."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def test_interactions_are_whole_and_batches_are_split(users_file, place):
    """Tokens, targets and negatives are those of one device, though each computes half of them."""
    data = load(str(users_file))
    corpus = make_corpus(data, place)
    for leaf in jax.tree.leaves(corpus):
        assert leaf.is_fully_replicated
        assert len(leaf.devices()) == 2
    settings = published("sasrec", "beauty", "sevo-adamw")
    rows = jax.tree.map(lambda a: a[0], EpochLayouts(data, settings.training, seed=0)(1))
    draw = partial(make_batch, "next", settings.training)
    expected = draw(make_corpus(data), rows, jax.random.key(0))

    @jax.jit
    def split(corpus, rows):
        return place.split(draw(corpus, place.split(rows, DATA), jax.random.key(0)), DATA)

    batch = split(corpus, rows)
    assert not batch.negatives.is_fully_replicated
    chex.assert_trees_all_equal(jax.tree.map(everywhere, batch), expected)


def test_evaluation_sets_are_those_of_one_device(users_file, place):
    expected = make_evaluation_set(load(str(users_file)), "valid", 50)
    blocks = place.put_split(expected)
    assert not blocks.targets.is_fully_replicated
    chex.assert_trees_all_equal(jax.tree.map(everywhere, blocks), expected)


def test_process_0_reads_first(tmp_path, number):
    """The other finds what it has downloaded or cached."""
    shared = Path(processes.gather_values(str(tmp_path))[0]) / "cached"

    def read() -> bool:
        found = shared.exists()
        shared.touch()
        return found

    assert processes.first_then_all(read) is (number == 1)


def test_an_error_of_one_is_told_by_all(number):
    def read() -> None:
        if number == 1:
            raise UserError("a.txt: cannot be read")

    with pytest.raises(UserError, match=r"a\.txt: cannot be read"):
        processes.first_then_all(read)


def test_all_say_what_they_hold(number):
    found = processes.gather_values({"rows": [number] * 3 * number})
    assert found == [{"rows": []}, {"rows": [1] * 3}]


def test_other_data_are_told(tmp_path, number):
    file = tmp_path / "a.txt"
    file.write_text(f"1 1 2 {3 + number}\n")
    data = load(str(file))
    with pytest.raises(UserError, match="processes 0 and 1 differ: the data's fingerprint is"):
        processes.agree({"the data's fingerprint": data.fingerprint})
