"""Checks of what each of two processes reads and keeps, run by `test_processes` in both at once."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments import processes
from experiments.batches import make_batch
from experiments.configs import MODELS
from experiments.corpus import SplitCorpus, items_at, look_up, make_corpus, owners_at, split_corpus
from experiments.data import load, load_part
from experiments.data.interactions import Interactions
from experiments.epochs import EpochLayouts
from experiments.errors import UserError
from experiments.evaluate import by_popularity, make_evaluation_set, split_evaluation_set
from experiments.graphs import item_graph, neighbour_graph, user_item_graph
from experiments.mesh import Placement, make_mesh


@pytest.fixture(scope="module", autouse=True)
def number() -> int:
    """Of this process."""
    processes.join(os.environ["COORDINATOR"], 2, int(os.environ["PROCESS_ID"]))
    yield jax.process_index()
    processes.leave(0)


@pytest.fixture
def write(tmp_path):
    """Writes a file; both processes write alike, each to a folder of its own."""

    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def as_table(data: Interactions) -> str:
    users = (f"u{number}" for number in data.user_ids[data.owners])
    rows = zip(users, data.item_ids[data.items - 1], range(data.items.size), strict=True)
    lines = [f"{user},i{item},{time}\n" for user, item, time in rows]
    return "".join(["user,item,time\n", *reversed(lines)])


def check_part(part: Interactions, whole: Interactions) -> None:
    """That both parts are the whole, that neither is, and that all else is known to both."""
    begin, end = (int(whole.lengths[:user].sum()) for user in (part.held.start, part.held.stop))
    np.testing.assert_array_equal(part.items, whole.items[begin:end])
    sizes = processes.each_said(part.items.size)
    assert sum(sizes) == whole.num_interactions
    assert max(sizes) < 0.6 * sum(sizes)
    for name in ("lengths", "item_ids", "user_ids"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    assert (part.name, part.notes, part.source) == (whole.name, whole.notes, whole.source)
    assert part.dropped_users == whole.dropped_users
    assert part.fingerprint == whole.fingerprint


def check_corpus(part: Interactions, whole: Interactions) -> SplitCorpus:
    """That what lies in parts is found, and no device has more than its share of it."""
    corpus = split_corpus(part, Placement(make_mesh("data=2")))
    cells = np.arange(-1, whole.num_interactions)
    for read, flat in ((items_at, whole.items), (owners_at, whole.owners)):
        found = jax.jit(partial(look_up, read))(corpus, cells)
        for shard in found.addressable_shards:
            np.testing.assert_array_equal(shard.data, np.append(0, flat)[shard.index])
    most = max(processes.each_said(part.items.size))
    for leaf in (corpus.parts.items, corpus.parts.owners, corpus.parts.unseen.gaps):
        assert [shard.data.shape for shard in leaf.addressable_shards] == [(1, most)]
    return corpus


def check_batch(corpus: SplitCorpus, whole: Interactions) -> None:
    """That tokens, targets and negatives are those of one device."""
    settings = MODELS["sasrec"]("beauty", "sevo-adamw")
    rows = jax.tree.map(lambda a: a[0], EpochLayouts(whole, settings, seed=0)(1))
    draw = jax.jit(partial(make_batch, "next", settings, rows=rows, key=jax.random.key(0)))
    expected = draw(corpus=make_corpus(whole))
    batch = jax.tree.map(everywhere, draw(corpus=corpus))
    negatives = np.where(expected.real[..., None], expected.negatives, 0)
    own = np.where(batch.real[..., None], batch.negatives, 0)
    chex.assert_trees_all_equal(
        batch._replace(negatives=own), expected._replace(negatives=negatives)
    )


def check_evaluation(part: Interactions, corpus: SplitCorpus, whole: Interactions) -> None:
    """That targets and what is excluded are those of one device."""
    blocks, excluded = split_evaluation_set(part, corpus, "valid", 50)
    expected = make_evaluation_set(whole, "valid", 50)
    np.testing.assert_array_equal(everywhere(blocks.targets), expected.targets)
    users, items = (
        everywhere(jax.jit(partial(look_up, read))(excluded, blocks.cells))
        for read in (owners_at, items_at)
    )
    for block in range(items.shape[0]):
        of_block = items[block] > 0
        pairs = zip(
            users[block][of_block] % expected.targets.shape[1], items[block][of_block], strict=True
        )
        seen = expected.seen_items[block] > 0
        wanted = zip(
            expected.seen_users[block][seen], expected.seen_items[block][seen], strict=True
        )
        assert sorted(pairs) == sorted(wanted)


def everywhere(array: jax.Array) -> np.ndarray:
    """All of an array that lies on the devices of both."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@pytest.mark.parametrize("kind", ["text", "table", "synthetic"])
def test_parts_are_those_of_the_whole(kind, users_file, write, monkeypatch):
    monkeypatch.setattr(processes, "PIECE", 2**12)  # of which there are several, then
    source = str(users_file)
    if kind == "table":
        source = write("a.csv", as_table(load(source)))
    elif kind == "synthetic":
        source = kind
    part, whole = load_part(source), load(source)
    check_part(part, whole)
    check_part(part.sample_users(0.5), whole.sample_users(0.5))
    if kind == "text":  # the others differ in how they are read alone
        corpus = check_corpus(part, whole)
        check_batch(corpus, whole)
        check_evaluation(part, corpus, whole)
    ranks = np.random.default_rng(0).integers(1, 20, whole.num_users)
    assert by_popularity(ranks, part) == by_popularity(ranks, whole)
    np.testing.assert_array_equal(part.items_before_end(2), whole.items_before_end(2))
    for graph in (user_item_graph, neighbour_graph, lambda data: item_graph(data, 5)):
        own, expected = (graph(data).to_scipy(normalized=False) for data in (part, whole))
        np.testing.assert_array_equal(own.indices, expected.indices)
        np.testing.assert_allclose(own.data, expected.data, rtol=1e-6)
        assert own.nnz > 0


def test_a_process_without_users(write):
    """All lines begin in the first half of the file; short users, gaps and empty lines."""
    lines = [f"{user} {user} 700 {user + 7} 3\n" for user in range(1, 40)]
    text = "".join(["\n", *lines, "50 1\n", "60 " + "9 " * 900])
    part, whole = load_part(write("a.txt", text)), load(write("a.txt", text))
    np.testing.assert_array_equal(part.lengths, whole.lengths)
    np.testing.assert_array_equal(part.item_ids, whole.item_ids)
    assert part.fingerprint == whole.fingerprint
    assert part.dropped_users == whole.dropped_users == 1
    assert processes.each_said(part.items.size)[1] == 0
    check_corpus(part, whole)
    for graph in (user_item_graph, lambda data: item_graph(data, 5)):
        own, expected = (graph(data).to_scipy(normalized=False) for data in (part, whole))
        np.testing.assert_array_equal(own.toarray(), expected.toarray())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{good}{good2}71 1 x 3\n72 1 2 3", "line 41: found 'x'; expected positive integer ids"),
        ("1 0 3\n{good2}71 1 x 3\n", "line 1: found '0'; expected positive integer ids"),
        ("{good}{good2}3 1 2 3\n", "line 41: user 3 already has line 3; expected one line a user"),
        ("{good}{good2}39 1 2 3\n", "line 41: user 39 already has line 39; expected one line"),
        ("{good}{good2}7 1 2\n8 0\n", "line 41: user 7 already has line 7; expected one line"),
        ("{good}1 2\n{good2}8 0\n9 1\n", "line 21: user 1 already has line 1; expected one line"),
        ("\n \n", "is empty; expected lines"),
        ("1 2 3\n2 3 4\n", "no user has 3 or more interactions"),
    ],
)
def test_bad_lines_are_told_in_both(text, message, write):
    good = [f"{user} 5 6 7\n" for user in range(1, 41)]
    text = text.format(good="".join(good[:20]), good2="".join(good[20:]))
    file = write("bad.txt", text)
    for read in (load, load_part):
        with pytest.raises(UserError) as caught:
            read(file)
        assert message in str(caught.value)
        assert file in str(caught.value)


def test_files_that_one_cannot_read(write, number):
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        load_part("/none.txt")
    with pytest.raises(UserError, match=r"the text file is 'a\.txt' and None"):
        load_part("/none/a.txt" if number else write("a.txt", "1 1 2 3\n"))
    with pytest.raises(UserError, match=r"the size of a\.txt is 8 and 9"):
        load_part(write("a.txt", "1 1 2 3\n" + "\n" * number))
    file = Path(write("a.csv", "user\n1\n"))
    with pytest.raises(UserError, match="expected one of items"):
        load_part(str(file))
    with pytest.raises(UserError, match="unknown data set 'beuty'"):
        load_part("beuty")


def test_a_user_of_all_items(write):
    text = "".join(f"{user} 1 1 2\n" for user in range(1, 9)) + "9 1 2 1 2 1\n"
    data = load_part(write("a.txt", text))
    with pytest.raises(UserError, match="user 9 of 9 has all 2 items in training"):
        split_corpus(data, Placement(make_mesh("data=2")))
