"""Optimisers made from settings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sevo_jax
from experiments.errors import UserError
from experiments.options import make_runs
from experiments.run import Run
from experiments.settings import OptimizerSettings
from experiments.settings.parts import OVER_GRAPH
from experiments.settings.published import published
from experiments.training import prepare
from experiments.training.graphs import item_graph, user_item_graph
from experiments.training.optimizers import (
    add_smoothness_gradient,
    learning_rate,
    make_optimizer,
    smooth_rare_items,
)
from sevo_jax import diagnostics

TABLE = [["item_embedding"]]


def settings_of(optimizer: str, model: str = "sasrec", **changed):
    settings = published(model, "synthetic", optimizer)
    return settings.replace(dim=4, max_len=5, num_heads=1, num_blocks=1, **changed)


def steps_of(optimizer: optax.GradientTransformation, params):
    """Two steps: the second meets fewer items, so that the moments of others rest, or do not."""
    rng = np.random.default_rng(0)
    state = optimizer.init(params)
    update, found = jax.jit(optimizer.update), []
    for met in (None, 5):
        gradient = jax.tree.map(
            lambda p, met=met: jnp.zeros(p.shape).at[:met].set(rng.normal(size=p[:met].shape)),
            params,
        )
        updates, state = update(gradient, state, params)
        found.append(updates)
    return found


def check_equal(small, optimizer, expected, **changed):
    """The optimiser of the settings takes the steps of the one expected, and not the usual ones."""
    usual, settings = settings_of(optimizer), settings_of(optimizer, **changed)
    model = prepare.make_model(Run("sasrec", "small", optimizer, 0, settings), small)
    params = nnx.state(model, nnx.Param)
    ours, others, before = (
        steps_of(tx, params)
        for tx in (
            make_optimizer(optimizer, settings, small, model),
            expected(settings),
            make_optimizer(optimizer, usual, small, model),
        )
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)
    tables = (jax.tree.leaves(steps[1]["item_embedding"])[0] for steps in (ours, before))
    assert not np.allclose(*tables, rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "sevo-adamw", "sevo-sgd"])
def test_the_rate_is_divided_by_ten_every_few_epochs(small, optimizer):
    """By as many steps as an epoch has, the last of which may not be full."""
    steps = int(np.ceil((small.lengths > 3).sum() / 16))
    settings = settings_of(optimizer, batch_size=16, decay_every=2)
    assert learning_rate(settings_of(optimizer), small, "next") == settings.optimizer.learning_rate
    rate = learning_rate(settings, small, "next")
    for epoch, divisor in ((0, 1), (1, 1), (2, 10), (3, 10), (4, 100)):
        for step in (epoch * steps, (epoch + 1) * steps - 1):
            np.testing.assert_allclose(
                rate(step), settings.optimizer.learning_rate / divisor, rtol=1e-5
            )
    model = prepare.make_model(Run("sasrec", "small", optimizer, 0, settings), small)
    params = nnx.state(model, nnx.Param)
    tx, state = make_optimizer(optimizer, settings, small, model), None
    gradient, sizes = jax.tree.map(jnp.ones_like, params), []
    update, state = jax.jit(tx.update), tx.init(jax.tree.map(jnp.zeros_like, params))
    for _ in range(2 * steps + 1):
        updates, state = update(gradient, state, jax.tree.map(jnp.zeros_like, params))
        sizes.append(float(jnp.abs(jax.tree.leaves(updates)[0]).max()))
    np.testing.assert_allclose(sizes[-1] / sizes[-2], 0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("optimizer", "method"),
    [
        ("sevo-adamw", "neumann_unscaled"),
        ("sevo-adamw", "exact"),
        ("sevo-adam", "iterative"),
        ("sevo-sgd", "iterative"),
    ],
)
def test_methods(small, optimizer, method):
    def expected(s):
        common = {"tables": TABLE, "method": method, "weight_decay": s.optimizer.weight_decay}
        graph = item_graph(small, 50)
        if optimizer == "sevo-sgd":
            return sevo_jax.sevo_sgd(
                s.optimizer.learning_rate, graph, momentum=s.optimizer.b1, **common
            )
        make = {"sevo-adamw": sevo_jax.sevo_adamw, "sevo-adam": sevo_jax.sevo_adam}[optimizer]
        return make(
            s.optimizer.learning_rate, graph, b1=s.optimizer.b1, b2=s.optimizer.b2, **common
        )

    check_equal(small, optimizer, expected, method=method)


@pytest.mark.parametrize(
    "changed",
    [
        {"keep": "first", "max_len_graph": 3},
        {"walk_length": 3},
        {"walk_length": 3, "weighting": "frequency"},
    ],
    ids=str,
)
def test_graphs(small, changed):
    ways = {"max_len": 50} | {k.replace("max_len_graph", "max_len"): v for k, v in changed.items()}

    def expected(s):
        graph = sevo_jax.sequence_graph(
            small.items[small.training_part()],
            small.num_items + 1,
            lengths=small.lengths - 2,
            **ways,
        )
        return sevo_jax.sevo_adamw(
            s.optimizer.learning_rate,
            graph,
            tables=TABLE,
            b1=s.optimizer.b1,
            b2=s.optimizer.b2,
            weight_decay=s.optimizer.weight_decay,
        )

    check_equal(small, "sevo-adamw", expected, **changed)


def test_no_moment_correction(small):
    def expected(s):
        return optax.chain(
            optax.scale_by_adam(s.optimizer.b1, s.optimizer.b2),
            sevo_jax.sevo_smooth(item_graph(small, 50), tables=TABLE),
            optax.add_decayed_weights(s.optimizer.weight_decay),
            optax.scale_by_learning_rate(s.optimizer.learning_rate),
        )

    check_equal(small, "sevo-adamw", expected, moment_correction=False)


def test_smoothness_in_the_loss(small):
    """AdamW of the gradient of a loss that has the term."""
    graph = item_graph(small, 50)

    def expected(s):
        def term(params):
            table = params["item_embedding"].embedding[...]
            return s.optimizer.smoothness_weight * diagnostics.smoothness(graph, table)

        adamw = optax.adamw(
            s.optimizer.learning_rate,
            s.optimizer.b1,
            s.optimizer.b2,
            weight_decay=s.optimizer.weight_decay,
        )

        def update(updates, state, params):
            updates = jax.tree.map(jnp.add, updates, jax.grad(term)(params))
            return adamw.update(updates, state, params)

        return optax.GradientTransformation(adamw.init, update)

    check_equal(small, "adamw", expected, smoothness_weight=0.5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6)])
def test_gradient_of_smoothness(small, dtype, tolerance):
    """Both joint tables and single tables are covered."""
    rng = np.random.default_rng(0)
    items, pairs = item_graph(small, 50), user_item_graph(small)
    with jax.enable_x64(dtype == "float64"):
        sizes = {"a": small.num_items + 1, "b": small.num_items + 1, "users": small.num_users}
        params = {k: jnp.asarray(rng.normal(size=(n, 4)), dtype) for k, n in sizes.items()}

        def apart(p):
            return 0.1 * (
                diagnostics.smoothness(items, p["a"]) + diagnostics.smoothness(items, p["b"])
            )

        def joint(p):
            table = jnp.concatenate([p["users"], p["a"]])
            return 0.1 * diagnostics.smoothness(pairs, table)

        for term, graph, tables in (
            (apart, items, [["a"], ["b"]]),
            (joint, pairs, [["users", "a"]]),
        ):
            tx = add_smoothness_gradient(0.1, graph, tables)
            found, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
            for name, wanted in jax.grad(term)(params).items():
                assert found[name].dtype == dtype
                np.testing.assert_allclose(found[name], 1 + wanted, rtol=0, atol=10 * tolerance)


def test_a_beta_for_each_item(small):
    """Against dense matrices; the rows of popular items are smoothed less."""
    beta, kappa, layers = 0.9, 5.0, 2
    graph, counts = item_graph(small, 50), small.training_counts()
    own = beta * kappa / (kappa + counts)
    step = np.random.default_rng(0).normal(size=(graph.num_nodes, 3))
    root, size = np.sqrt(own), np.sqrt((1 - own) / (1 - own ** (layers + 1)))
    between = root[:, None] * graph.to_scipy().toarray() * root
    terms = [np.linalg.matrix_power(between, power) for power in range(layers + 1)]
    wanted = size[:, None] * (sum(terms) @ (size[:, None] * step))
    settings = OptimizerSettings(beta=beta, kappa=kappa, num_layers=layers)
    updates = {"table": jnp.asarray(step, jnp.float32), "bias": jnp.ones(3)}
    mask = {"table": True, "bias": False}
    tx = smooth_rare_items(graph, counts, settings, [["table"]], mask)
    found, _ = tx.update(updates, tx.init(updates))
    np.testing.assert_allclose(found["table"], wanted, atol=1e-5)
    assert (found["bias"] == 1).all()


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_without_shrinkage_all_items_have_the_same_beta(small, model):
    """The mask of BERT4Rec is a node, too, and its second table is smoothed on its own."""
    found = []
    for kappa in (0.0, 1e12):
        settings = settings_of("sevo-adamw", model, kappa=kappa)
        built = prepare.make_model(Run(model, "small", "sevo-adamw", 0, settings), small)
        params = nnx.state(built, nnx.Param)
        found.append(steps_of(make_optimizer("sevo-adamw", settings, small, built), params))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"every_epochs": 10}, "every_epochs: must be left out: kappa is 20"),
        ({"method": "exact"}, "method: must be left out: kappa is 20"),
        ({"moment_correction": False}, "moment_correction: must be left out"),
    ],
)
def test_shrinkage_goes_with_the_usual_smoothing(changed, message):
    with pytest.raises(UserError, match=message):
        make_runs("sasrec", "synthetic", ["sevo-adamw"], [0], {"kappa": 20.0, **changed})
    with pytest.raises(UserError, match="kappa: must be left out: it is of items"):
        make_runs("mf-bpr", "synthetic", ["sevo-adamw"], [0], {"kappa": 20.0, "graph": "user-item"})


@pytest.mark.parametrize(
    ("optimizer", "changed", "readers"),
    [
        ("adamw", {"method": "iterative"}, "sevo-adamw, sevo-adam, sevo-sgd"),
        ("adam", {"keep": "first"}, ", ".join(OVER_GRAPH)),
        ("sgd", {"walk_length": 2}, ", ".join(OVER_GRAPH)),
        ("adamw", {"weighting": "frequency"}, ", ".join(OVER_GRAPH)),
        ("sevo-adam", {"moment_correction": False}, "sevo-adamw"),
        ("sevo-adamw", {"smoothness_weight": 0.1}, "adamw"),
    ],
)
def test_settings_that_a_run_does_not_read(optimizer, changed, readers):
    with pytest.raises(UserError, match=f"read by {readers} alone; sasrec with {optimizer}"):
        make_runs("sasrec", "synthetic", [optimizer], [0], changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"walk_length": 0}, "walk_length: must be at least 1, got 0"),
        ({"smoothness_weight": -1.0}, "smoothness_weight: must be at least 0, got -1.0"),
    ],
)
def test_settings_out_of_their_range(changed, message):
    with pytest.raises(UserError, match=message):
        make_runs("sasrec", "synthetic", ["adamw", "sevo-adamw"], [0], changed)
