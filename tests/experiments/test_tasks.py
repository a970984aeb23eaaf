"""The inputs and targets of each task, against loops over users."""

from __future__ import annotations

from collections import Counter
from functools import partial

import chex
import jax
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from experiments.evaluation import make_evaluation_set, make_evaluator
from experiments.inputs.batches import Batch, make_batch
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts, training_sequences
from experiments.settings import TrainingSettings
from models import MFBPR, SRGNN, Backbone, BERT4Rec, GRU4Rec
from tests.experiments.brute_force import brute_force_rank, inputs_and_targets

MAX_LEN = 8
TRAINING = TrainingSettings(max_len=MAX_LEN, batch_size=64, num_negatives=2)
MASK_RATE = 0.3


def training(data) -> list[list[int]]:
    """Every user's training items, as places in the flat array."""
    stops = data.starts + data.lengths - 2
    return [list(range(*run)) for run in zip(data.starts, stops, strict=True)]


def batches(data, task: str, epoch: int = 0) -> list[Batch]:
    """The batches of an epoch, with keys 0, 1 and so on."""
    make = jax.jit(partial(make_batch, task, TRAINING, mask_rate=MASK_RATE))
    rows = EpochLayouts(data, TRAINING, 0, task)(epoch)
    made = [
        make(make_corpus(data), jax.tree.map(lambda a, i=i: a[i], rows), jax.random.key(i))
        for i in range(len(rows.cells))
    ]
    return jax.tree.map(np.asarray, made)


def segments_of(batch: Batch):
    """For each sequence of a batch the cells that it fills."""
    segments = batch.tokens.segments
    for row, ids in enumerate(segments):
        for segment in set(ids.tolist()) - {0}:
            yield row, ids == segment


def read(batch: Batch) -> Counter:
    """The sequences of a batch: what is read, and what is predicted at each token or ``None``."""
    return Counter(
        (
            tuple(batch.tokens.items[cells].tolist()),
            tuple(
                int(p) if real else None
                for p, real in zip(batch.positives[cells], batch.real[cells], strict=True)
            ),
        )
        for cells in segments_of(batch)
    )


def check_cells(batch: Batch) -> None:
    """Empty cells are empty, and the newest token of a sequence has the last position."""
    empty = batch.tokens.segments == 0
    assert not batch.real[empty].any()
    assert not batch.positives[~batch.real].any()
    for part in batch.tokens:
        assert not part[empty].any()
    for cells in segments_of(batch):
        positions = batch.tokens.positions[cells]
        np.testing.assert_array_equal(positions, np.arange(MAX_LEN - positions.size, MAX_LEN))


def check_negatives(batch: Batch, owners_of: dict[tuple[int, ...], set[int]], seen) -> None:
    """No negative is a training item of a user whose sequence this may be."""
    assert batch.negatives.shape == (*batch.positives.shape, TRAINING.num_negatives)
    for cells in segments_of(batch):
        owners = owners_of[tuple(batch.tokens.items[cells].tolist())]
        assert any(not set(batch.negatives[cells].ravel().tolist()) & seen[u] for u in owners)


def seen_in_training(data) -> list[set[int]]:
    return [set(data.items[cells].tolist()) for cells in training(data)]


def test_prefixes_are_all_beginnings_and_predict_the_next_training_item(small):
    """A prefix and its target are two or more training items."""
    want, owners_of = Counter(), {}
    for user, cells in enumerate(training(small)):
        items = small.items[cells].tolist()
        for target in range(1, len(items)):
            beginning = tuple(items[max(0, target - MAX_LEN) : target])
            want[beginning, (None,) * (len(beginning) - 1) + (items[target],)] += 1
            owners_of.setdefault(beginning, set()).add(user)
    assert max(len(cells) for cells in training(small)) > 2 * MAX_LEN  # some are cut

    made = batches(small, "prefix")
    assert sum((read(batch) for batch in made), Counter()) == want
    for batch in made:
        check_cells(batch)
        check_negatives(batch, owners_of, seen_in_training(small))


def test_masked_sequences_are_the_whole_training_part(small):
    """A held-out item is neither read nor predicted, and what is predicted is hidden."""
    want, owners_of = Counter(), {}
    for user, cells in enumerate(training(small)):
        items = tuple(small.items[cells[-MAX_LEN:]].tolist())
        want[items] += 1
        owners_of.setdefault(items, set()).add(user)

    found, masked, total = Counter(), 0, 0
    for batch in batches(small, "masked"):
        check_cells(batch)
        mask = batch.tokens.items == small.num_items + 1
        np.testing.assert_array_equal(mask, batch.real)
        items = np.where(mask, batch.positives, batch.tokens.items)
        shown = batch._replace(tokens=batch.tokens._replace(items=items))
        found += Counter(tuple(items[cells].tolist()) for cells in segments_of(batch))
        check_negatives(shown, owners_of, seen_in_training(small))
        masked, total = masked + mask.sum(), total + (items > 0).sum()
    assert found == want
    assert total == sum(min(len(cells), MAX_LEN) for cells in training(small))
    assert stats.binomtest(int(masked), int(total), MASK_RATE).pvalue > 1e-3


def test_masks_have_their_rate_everywhere_and_differ_between_keys(small):
    rows = jax.tree.map(lambda a: a[0], EpochLayouts(small, TRAINING, 0, "masked")(0))
    make = partial(make_batch, "masked", TRAINING, make_corpus(small), rows, mask_rate=MASK_RATE)
    real = jax.jit(jax.vmap(lambda key: make(key).real))(jax.random.split(jax.random.key(0), 400))
    counts = np.asarray(real).sum(0)[rows.cells >= 0]
    p_values = stats.binom.cdf(counts, 400, MASK_RATE)
    assert 1e-6 < p_values.min() < p_values.max() < 1 - 1e-6
    assert abs(counts.mean() / 400 - MASK_RATE) < 5 * (0.21 / 400 / counts.size) ** 0.5


def test_pairs_are_users_and_one_of_their_training_items(small):
    owned = seen_in_training(small)
    made = batches(small, "pair")
    assert sum(batch.real.sum() for batch in made) == sum(map(len, training(small)))
    for batch in made:
        assert batch.real.shape == (TRAINING.batch_size, 1)
        users, positives = batch.tokens.items[batch.real], batch.positives[batch.real]
        assert all(p in owned[u] for u, p in zip(users, positives, strict=True))
        negatives = batch.negatives[batch.real]
        assert not any(set(n.tolist()) & owned[u] for u, n in zip(users, negatives, strict=True))


def test_pairs_are_uniform_over_users_and_over_the_items_of_each(small):
    layouts = EpochLayouts(small, TRAINING, 0, "pair")
    cells = np.concatenate([layouts(epoch).cells.ravel() for epoch in range(150)])
    counts = np.bincount(cells[cells >= 0], minlength=small.items.size)
    drawn = [counts[own] for own in training(small)]
    assert sum(c.sum() for c in drawn) == counts.sum()  # no held-out item
    assert stats.chisquare([c.sum() for c in drawn]).pvalue > 1e-3
    p_values = [stats.chisquare(c).pvalue for c in drawn if c.size > 1]
    assert min(p_values) > 1e-3 / len(p_values)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("task", ["next", "prefix", "masked", "pair"])
def test_training_sequences_lie_within_a_users_training_part(small, task):
    """And are as many, and as long, as the task says."""
    ends, counts = training_sequences(small, MAX_LEN, task)
    owners = small.owners
    assert (owners[ends] == owners[ends - counts + 1]).all()
    assert small.training_part()[ends].all()
    assert 1 <= counts.min() <= counts.max() <= (1 if task == "pair" else MAX_LEN)
    lengths = small.lengths - 2
    sequences = {
        "next": (lengths > 1).sum(),
        "prefix": (lengths - 1).sum(),
        "masked": lengths.size,
        "pair": lengths.sum(),
    }
    assert ends.size == sequences[task]


class Spy(Backbone):
    """A model that writes down what it reads."""

    task = "masked"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.item_embedding = nnx.Embed(num_items + 2, 2, rngs=nnx.Rngs(0))

    def __call__(self, items, segments, positions, key=None):
        jax.debug.callback(lambda *tokens: SPIED.append(tokens), items, segments, positions)
        return self.item_embedding(items)


SPIED: list[tuple[np.ndarray, ...]] = []


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_model_of_masks_is_evaluated_on_the_mask_after_the_input(small, split):
    """In the held-out item's place, which is not shown."""
    SPIED.clear()
    graphdef, params = nnx.split(Spy(small.num_items), nnx.Param)
    evaluate = make_evaluator(lambda p: nnx.merge(graphdef, p), MAX_LEN)
    blocks = make_evaluation_set(small, split, MAX_LEN, task="masked")
    jax.block_until_ready(evaluate(params, make_corpus(small), blocks))
    jax.effects_barrier()
    (tokens,) = SPIED
    items, segments, positions = (np.asarray(t) for t in tokens)
    last = np.asarray(blocks.last)[0, : small.num_users]
    for cell, (given, _) in zip(last, inputs_and_targets(small, split), strict=True):
        row, column = divmod(int(cell), MAX_LEN)
        own = segments[row] == segments[row, column]
        np.testing.assert_array_equal(items[row, own], [*given[1 - MAX_LEN :], small.num_items + 1])
        np.testing.assert_array_equal(positions[row, own], np.arange(MAX_LEN - own.sum(), MAX_LEN))
        assert column == np.flatnonzero(own)[-1]


def bert4rec(data):
    return BERT4Rec(data.num_items, max_len=MAX_LEN, dim=8, num_blocks=1, rngs=nnx.Rngs(1))


def test_one_pass_of_a_gru_learns_what_a_row_for_each_beginning_does(small):
    """The same loss and gradients, where all fits into one batch and nothing is drawn."""
    training = TrainingSettings(max_len=32, batch_size=4096, loss="softmax")
    found = []
    for one_pass in (False, True):
        model = GRU4Rec(
            small.num_items, dim=8, hidden_dim=8, dropout_rate=0.0, one_pass=one_pass,
            loss="softmax", rngs=nnx.Rngs(0),
        )  # fmt: skip
        rows = EpochLayouts(small, training, 0, model.task)(0)
        assert len(rows.cells) == 1
        one = jax.tree.map(lambda a: a[0], rows)
        batch = make_batch(model.task, training, make_corpus(small), one, jax.random.key(0))
        graphdef, params = nnx.split(model, nnx.Param)

        @jax.jit
        def step(params, batch, graphdef=graphdef):
            model = nnx.merge(graphdef, params)
            return model.training_loss(batch.tokens, batch.positives, batch.negatives, batch.real)

        found.append((batch.tokens.items.size, jax.value_and_grad(step)(params, batch)))
    (cells, want), (fewer, got) = found
    assert 3 * fewer < cells
    chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(want), rtol=1e-4, atol=1e-6)


def mf_bpr(data):
    return MFBPR(data.num_users, data.num_items, dim=8, std=1.0, rngs=nnx.Rngs(1))


def sr_gnn(data):
    return SRGNN(data.num_items, dim=8, rngs=nnx.Rngs(1))


def scores_of(model: Backbone, data, split: str) -> np.ndarray:
    """Every user's scores, from rows of their own."""
    users = np.arange(data.num_users)[:, None]
    if model.task == "pair":
        return np.asarray(model.scores(model(users, users, users)[:, -1]))
    items = np.zeros((data.num_users, MAX_LEN), np.int32)
    for row, (given, _) in zip(items, inputs_and_targets(data, split), strict=True):
        masked = model.task == "masked"
        shown = [*given[1 - MAX_LEN :], data.num_items + 1] if masked else given[-MAX_LEN:]
        row[MAX_LEN - len(shown) :] = shown
    positions = np.where(items > 0, np.arange(MAX_LEN), 0)
    hidden = jax.jit(model.__call__)(items, np.asarray(items > 0, np.int32), positions)
    return np.asarray(model.scores(hidden[:, -1]))


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize(
    "build", [mf_bpr, *(pytest.param(b, marks=pytest.mark.slow) for b in (bert4rec, sr_gnn))]
)
def test_the_evaluator_equals_brute_force(small, build, split):
    model = build(small)
    graphdef, params = nnx.split(model, nnx.Param)
    evaluate = make_evaluator(lambda p: nnx.merge(graphdef, p), MAX_LEN)
    blocks = make_evaluation_set(small, split, MAX_LEN, task=model.task, grouped=not model.packs)
    ranks, finite = evaluate(params, make_corpus(small), blocks)
    assert finite
    want = [
        brute_force_rank(row.tolist(), target, set(given))
        for row, (given, target) in zip(
            scores_of(model, small, split), inputs_and_targets(small, split), strict=True
        )
    ]
    np.testing.assert_array_equal(np.asarray(ranks)[: small.num_users], want)
