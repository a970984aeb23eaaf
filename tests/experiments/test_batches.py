"""Tokens of a layout, and negatives drawn without rejection."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from experiments.data.interactions import from_sequences
from experiments.errors import ArgumentError, UserError
from experiments.inputs.batches import make_batch, read_tokens, sample_negatives, sample_popular
from experiments.inputs.corpus import make_corpus
from experiments.inputs.packing import Rows
from experiments.run import make_run
from experiments.training import prepare
from experiments.training.graphs import item_graph
from experiments.training.state import split_model


def training_items(data) -> list[set[int]]:
    ends = zip(data.starts, data.lengths, strict=True)
    return [set(data.items[s : s + n - 2].tolist()) for s, n in ends]


def test_read_tokens(small):
    start, stop = int(small.starts[1]), int(small.starts[1] + small.lengths[1])
    cells = jnp.array([[-1, stop - 5, stop - 4], [0, -1, -1]])
    ends = jnp.array([[-1, stop - 4, stop - 4], [3, -1, -1]])
    tokens = read_tokens("next", make_corpus(small), Rows(cells, ends), 9)
    np.testing.assert_array_equal(tokens.items[0], [0, *small.items[stop - 5 : stop - 3]])
    np.testing.assert_array_equal(tokens.segments, [[0, stop - 3, stop - 3], [4, 0, 0]])
    assert tokens.positions[1].tolist() == [5, 0, 0]
    np.testing.assert_array_equal(tokens.positions[0], [0, 7, 8])
    assert start <= stop - 5


@pytest.fixture(scope="module")
def draws(small) -> np.ndarray:
    """``int[users, 4000]`` negatives."""
    owners = jnp.repeat(jnp.arange(small.num_users)[:, None], 4000, axis=1)
    return np.asarray(sample_negatives(make_corpus(small).unseen, owners, jax.random.key(0)))


def test_negatives_are_all_the_unseen_items_and_no_other(small, draws):
    everything = set(range(1, small.num_items + 1))
    for seen, drawn in zip(training_items(small), draws, strict=True):
        assert set(drawn.tolist()) == everything - seen


def test_held_out_items_may_be_negatives(small, draws):
    user = next(
        u
        for u, seen in enumerate(training_items(small))
        if small.items[small.starts[u] + small.lengths[u] - 1] not in seen
    )
    assert small.items[small.starts[user] + small.lengths[user] - 1] in draws[user]


def test_negatives_are_uniform(draws):
    p_values = [stats.chisquare(np.bincount(drawn)[np.unique(drawn)]).pvalue for drawn in draws]
    assert min(p_values) > 1e-3 / len(p_values)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("model", ["sasrec", "gru4rec", "sr-gnn", "bert4rec"])
@pytest.mark.parametrize("popular", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_negatives_of_sampled_softmax(small, model, own, popular):
    """A step's or a token's own; over the whole of the first epoch's first batch."""
    changes = {"dim": 8, "loss": "sampled-softmax", "num_negatives": 5}
    run = make_run(model, "small", "adam", **changes, own_negatives=own, popular_negatives=popular)
    setup = prepare.make_setup(run, small)
    made = nnx.merge(setup.graphdef, *split_model(prepare.make_model(run, small))[1:])
    rows = jax.tree.map(lambda a: a[0], setup.layouts(small, 0)(0))
    batch = make_batch(
        setup.task, setup.settings.training, setup.inputs.corpus, rows, jax.random.key(0)
    )
    assert batch.negatives.shape == ((*batch.real.shape, 5) if own else (5,))
    loss = made.training_loss(batch.tokens, batch.positives, batch.negatives, batch.real)
    # At first all scores are about alike, and the estimate is the logarithm of the items.
    assert float(loss) == pytest.approx(np.log(small.num_items), abs=1.0)


def test_more_negatives_than_items_are_refused(small):
    run = make_run("sasrec", "small", "adam", loss="sampled-softmax", num_negatives=41)
    with pytest.raises(ArgumentError, match="num_negatives: must be at most the 40 items of small"):
        prepare.make_setup(run, small)


def test_popular_items_are_drawn_by_their_training_interactions(small):
    """Items that are only validated or tested on are never drawn."""
    corpus = make_corpus(small, draws_popular=True)
    drawn = np.asarray(sample_popular(corpus.up_to, (40_000,), jax.random.key(0)))
    counts = np.bincount(small.items[small.training_part()], minlength=small.num_items + 1)
    found = np.bincount(drawn, minlength=small.num_items + 1)
    assert not found[counts == 0].any()
    expected = counts / counts.sum() * drawn.size
    assert stats.chisquare(found[counts > 0], expected[counts > 0]).pvalue > 1e-3


def test_extremes_of_what_a_user_has_seen():
    # 5 items; user 0 met 1, 2, 3, 4 (only 5 is left), user 1 only item 3.
    data = from_sequences("extreme", np.array([0, 1, 2, 3, 4, 4, 2, 0, 0]), np.array([6, 3]))
    owners = jnp.repeat(jnp.arange(2)[:, None], 500, axis=1)
    drawn = sample_negatives(make_corpus(data).unseen, owners, jax.random.key(0))
    assert set(np.asarray(drawn[0]).tolist()) == {5}
    assert set(np.asarray(drawn[1]).tolist()) == {1, 2, 4, 5}


def test_a_user_who_met_every_item_is_an_error():
    data = from_sequences("all", np.array([0, 1, 0, 1, 0, 0, 1]), np.array([3, 4]))
    with pytest.raises(UserError, match="user 2 of 2 has all 2 items in training"):
        make_corpus(data)


@pytest.mark.parametrize(
    ("model", "loss", "fine"),
    [
        ("sasrec", "softmax", True),
        ("bert4rec", "softmax", True),
        ("sasrec", "sampled-softmax", True),
        ("sasrec-dkd", "sampled-softmax", True),
        ("sasrec", "bce", False),
        ("sasrec", "bpr", False),
        ("sasrec-rkd", "softmax", False),  # whose method compares with unseen items
    ],
)
def test_who_draws_no_unseen_items_needs_none(model, loss, fine):
    model, _, method = model.partition("-")
    items = np.array([0, 1, 2, 0, 1, 0, 1, 2])
    data = from_sequences("all", items, np.array([5, 3]), np.array(["x", "y", "z"], object))
    data = dataclasses.replace(data, user_ids=np.array(["ann", "bob"], object))
    asked = prepare.draws_unseen(
        make_run(model, "all", "adam", loss=loss, distill=method or "none")
    )
    if fine:
        assert make_corpus(data, draws_unseen=asked).items.size == 8
    else:
        with pytest.raises(
            UserError, match=r"'ann'\).*; expected at least .* the loss softmax or s"
        ):
            make_corpus(data, draws_unseen=asked)


def test_positions_must_fit_int32(small):
    data = dataclasses.replace(small, lengths=np.array([2**31 - 3, 3]))
    with pytest.raises(UserError, match=r"has 2,147,483,648 interactions; expected fewer"):
        make_corpus(data)


def test_the_graph_knows_training_items_only(small):
    """Other held-out items, the same graph; other training items, another one."""
    held_out = ~small.training_part()
    changed = {}
    for name, where in (("held out", held_out), ("training", ~held_out)):
        items = np.where(where, small.items % small.num_items + 1, small.items).astype(np.int32)
        changed[name] = item_graph(dataclasses.replace(small, items=items), 50).to_scipy().toarray()
    graph = item_graph(small, 50).to_scipy().toarray()
    np.testing.assert_array_equal(changed["held out"], graph)
    assert not np.array_equal(changed["training"], graph)
    assert not graph[0].any()
