"""`tables` in all its forms, for plain dicts, Flax NNX, Flax Linen and Equinox."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sevo_jax

NODES, D = 6, 4
GRAPH = sevo_jax.edge_graph([0, 1, 2, 3], [1, 2, 3, 4], NODES)


class NnxModel(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.item_embedding = nnx.Embed(NODES, D, rngs=rngs)
        self.neg_item_embedding = nnx.Embed(NODES, D, rngs=rngs)
        self.dense = nnx.Linear(D, 5, rngs=rngs)


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(NODES, D, name="item_embedding")(ids)
        y = nn.Embed(NODES, D, name="neg_item_embedding")(ids)
        return nn.Dense(5, name="dense")(x + y)


class EquinoxModel(eqx.Module):
    item_embedding: eqx.nn.Embedding
    neg_item_embedding: eqx.nn.Embedding
    dense: eqx.nn.Linear

    def __init__(self) -> None:
        keys = jax.random.split(jax.random.key(0), 3)
        self.item_embedding = eqx.nn.Embedding(NODES, D, key=keys[0])
        self.neg_item_embedding = eqx.nn.Embedding(NODES, D, key=keys[1])
        self.dense = eqx.nn.Linear(D, 5, key=keys[2])


def plain() -> Any:
    x = jax.random.normal(jax.random.key(0), (2, NODES, D))
    return {
        "item_embedding": x[0],
        "neg_item_embedding": x[1],
        "dense": {"kernel": jnp.ones((D, 5)), "bias": jnp.ones(5)},
    }


MODELS = {
    "dict": plain,
    "nnx": lambda: nnx.state(NnxModel(), nnx.Param),
    "nnx pure": lambda: nnx.to_pure_dict(nnx.state(NnxModel(), nnx.Param)),
    "linen": lambda: LinenModel().init(jax.random.key(0), jnp.zeros(3, int)),
    "equinox": lambda: eqx.filter(EquinoxModel(), eqx.is_inexact_array),
}


def smoothed_paths(tables: Any, tree: Any) -> list[str]:
    """The paths of the leaves that the transformation changes, whole components only."""
    tx = sevo_jax.sevo_smooth(GRAPH, tables=tables)
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree))
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    paths = []
    for (path, a), b in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(updates), strict=True):
        if not np.array_equal(a, b):
            np.testing.assert_allclose(b, sevo_jax.smooth(GRAPH, a), rtol=1e-5, atol=1e-6)
            paths.append(jax.tree_util.keystr(path, simple=True, separator="/"))
    return paths


@pytest.mark.parametrize("library", MODELS)
def test_a_name_finds_the_module_whole(library):
    (path,) = smoothed_paths("item_embedding", MODELS[library]())
    assert "item_embedding" in path.split("/")


@pytest.mark.parametrize("library", MODELS)
def test_groups(library):
    tables = [["item_embedding"], ["neg_item_embedding"]]
    assert len(smoothed_paths(tables, MODELS[library]())) == 2


@pytest.mark.parametrize("library", MODELS)
def test_a_callable_makes_a_mask(library):
    def mask(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.shape == (NODES, D), tree)

    assert len(smoothed_paths(mask, MODELS[library]())) == 2


@pytest.mark.parametrize("library", MODELS)
def test_none_lists_the_candidates(library):
    tree = MODELS[library]()
    with pytest.raises(ValueError, match="several leaves have the graph's 6 rows") as caught:
        sevo_jax.sevo_smooth(GRAPH).init(tree)
    assert "item_embedding" in str(caught.value)
    assert "neg_item_embedding" in str(caught.value)


@pytest.mark.parametrize("library", MODELS)
def test_a_joint_table(library):
    graph = sevo_jax.bipartite_graph([0, 1, 2], [1, 2, 3], NODES, NODES)
    tree = MODELS[library]()
    tx = sevo_jax.sevo_smooth(graph, tables=["item_embedding", "neg_item_embedding"])
    updates, _ = tx.update(tree, tx.init(tree))

    def tables_of(tree: Any) -> np.ndarray:
        found = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        names = [n for n in found if "embedding" in n]
        order = sorted(names, key=lambda n: "neg_" in n)
        return np.concatenate([found[n] for n in order])

    want = sevo_jax.smooth(graph, jnp.asarray(tables_of(tree)))
    np.testing.assert_allclose(tables_of(updates), want, rtol=1e-5, atol=1e-6)


def test_masks_in_the_structure_of_the_parameters():
    mask = {"item_embedding": True, "neg_item_embedding": False, "dense": False}
    assert smoothed_paths(mask, plain()) == ["item_embedding"]


def test_none_takes_the_only_leaf_with_a_row_a_node():
    tree = {"a": jnp.arange(24.0).reshape(NODES, 4), "b": jnp.ones((4, 4)), "c": jnp.ones(())}
    assert smoothed_paths(None, tree) == ["a"]


def test_longer_paths_and_single_leaf_modules():
    x = jnp.arange(24.0).reshape(NODES, 4)
    tree = {"user": {"table": {"value": x}}, "item": {"table": {"value": 2 * x}}}
    assert smoothed_paths("item/table", tree) == ["item/table/value"]
    assert smoothed_paths("item", tree) == ["item/table/value"]


def test_a_table_without_features_is_named():
    """A bias has a row a node, too: of one axis, only what has no name is taken unnamed."""
    bias = jnp.arange(float(NODES))
    assert smoothed_paths("bias", {"bias": bias}) == ["bias"]
    assert smoothed_paths(None, bias) == [""]
    with pytest.raises(ValueError, match=r"no leaf of two or more axes.*write tables='out/bias'"):
        sevo_jax.sevo_smooth(GRAPH).init({"out": {"bias": bias, "scale": jnp.ones(3)}})


def test_a_bias_with_a_row_a_node_is_no_candidate():
    tree = {"emb": jnp.arange(24.0).reshape(NODES, 4), "bias": jnp.ones(NODES)}
    assert smoothed_paths(None, tree) == ["emb"]
    graph = sevo_jax.edge_graph([0, 1], [1, 2], NODES - 2)
    tree["bias"] = jnp.ones(NODES - 2)
    for optimizer in (sevo_jax.sevo_adamw, sevo_jax.sevo_adam, sevo_jax.sevo_sgd):
        with pytest.raises(ValueError, match=r"'emb' is the table, it has 2 rows too many"):
            optimizer(0.1, graph).init(tree)


@pytest.mark.parametrize(("excess", "told"), [(1, "1 row too many"), (-1, "1 row too few")])
def test_a_near_miss_is_told_with_its_cure(excess, told):
    graph = sevo_jax.edge_graph([0], [1], NODES - excess)
    tree = {"m": {"table": jnp.ones((NODES, 3))}, "kernel": jnp.ones((NODES + 30, 3))}
    with pytest.raises(ValueError, match=f"'m/table' .*{told}.*num_nodes={NODES}") as caught:
        sevo_jax.sevo_smooth(graph).init(tree)
    assert "'kernel'" not in str(caught.value)
    padded = sevo_jax.edge_graph([0], [1], num_nodes=NODES)  # the cure cures
    sevo_jax.sevo_smooth(padded).init(tree)


def test_trees_without_leaves_and_with_masked_nodes_pass():
    tx = sevo_jax.sevo_smooth(GRAPH, tables="a")
    empty = {"a": optax.MaskedNode()}
    updates, _ = tx.update(empty, tx.init(empty))
    assert updates == empty


def test_nnx_optimizer_trains_a_model():
    model = NnxModel()
    tx = sevo_jax.sevo_adamw(1e-2, GRAPH, tables="item_embedding")
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    ids = jnp.array([0, 1, 2])

    @nnx.jit
    def step(model: NnxModel, optimizer: nnx.Optimizer) -> jax.Array:
        def loss(model: NnxModel) -> jax.Array:
            return (model.dense(model.item_embedding(ids)) ** 2).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(50)]
    assert losses[-1] < 0.7 * losses[0]
    # Row 3 is in no batch; its neighbours carry it along. Row 5 is isolated and only decays.
    fresh = NnxModel().item_embedding.embedding[...]
    trained = model.item_embedding.embedding[...]
    assert not np.allclose(trained[3], fresh[3] * trained[5, 0] / fresh[5, 0], rtol=1e-3)
    np.testing.assert_allclose(trained[5], fresh[5] * trained[5, 0] / fresh[5, 0], rtol=1e-4)


def test_of_equal_names_the_one_at_the_root_is_meant():
    x = jnp.arange(24.0).reshape(NODES, 4)
    tree = {"emb": x, "dec": {"emb": 2 * x}}
    assert smoothed_paths("emb", tree) == ["emb"]
    assert smoothed_paths("dec/emb", tree) == ["dec/emb"]
    modules = {"emb": {"table": x}, "dec": {"emb": {"table": 2 * x}}}
    assert smoothed_paths("emb", modules) == ["emb/table"]


def test_a_leaf_called_value_beside_others_keeps_its_name():
    x = jnp.arange(24.0).reshape(NODES, 4)
    tree = {"att": {"query": x, "key": x, "value": x}, "item": {"value": x}}
    assert smoothed_paths("att/value", tree) == ["att/value"]
    assert smoothed_paths("item/value", tree) == ["item/value"]
    with pytest.raises(ValueError, match="'att' is a module of several leaves"):
        sevo_jax.sevo_smooth(GRAPH, tables="att").init(tree)


def test_leaves_that_are_no_arrays_are_no_tables():
    tree = {"table": jnp.ones((NODES, 2)), "rate": 0.1, "act": jax.nn.relu}
    state = sevo_jax.sevo_smooth(GRAPH).init(tree)
    assert state.graph.num_nodes == NODES
    with pytest.raises(TypeError, match=r"table 'act' must be an array.*eqx\.filter"):
        sevo_jax.sevo_smooth(GRAPH, tables="act").init(tree)
    with pytest.raises(ValueError, match=r"matches no leaf; there are act\[\], rate\[\]"):
        sevo_jax.sevo_smooth(GRAPH, tables="none").init(tree)


def test_nnx_optimizer_takes_another_graph_for_a_call():
    other = sevo_jax.edge_graph([0, 1, 2, 4], [2, 3, 4, 5], NODES)
    moved = {}
    for name, graph in (("own", None), ("other", other)):
        model = NnxModel()
        before = model.item_embedding.embedding[...]
        tx = sevo_jax.sevo_sgd(1.0, GRAPH, tables="item_embedding")
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        grads = nnx.state(NnxModel(), nnx.Param)
        optimizer.update(model, grads, graph=graph)
        moved[name] = model.item_embedding.embedding[...] - before
        want = -sevo_jax.smooth(graph or GRAPH, before)
        np.testing.assert_allclose(moved[name], want, rtol=1e-4, atol=1e-6)
    assert not np.allclose(moved["own"], moved["other"])
