"""Section A.4: LightGCN is matrix factorisation whose steps are smoothed twice.

With ``F = psi(E)`` the final embeddings of LightGCN, ``psi`` being the smoothing of Eq. 7, a step
of gradient descent on ``E`` moves ``F`` by ``-η psi(psi(∇_F))``: what `sevo_smooth`, chained twice,
makes of the gradient of matrix factorisation at ``F``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.console import say
from experiments.data import Interactions
from experiments.errors import ArgumentError
from experiments.inputs.batches import Batch, make_batch
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts
from experiments.pages import plots
from experiments.pages.documents import Document, Table
from experiments.settings import Settings
from experiments.settings.published import published
from experiments.tables import requests, runs
from experiments.training.graphs import user_item_graph
from experiments.training.steps import initial_key
from models import MFBPR, Backbone, Constant, LightGCN
from sevo_jax import sevo_smooth

MODEL = "lightgcn"
STEPS = 100
BETA, NUM_LAYERS = 0.9, 3
LEARNING_RATE = 100.0
"""The loss is a mean over a batch, so that its gradient of one row is small."""
TABLES = [["user_embedding", "item_embedding"]]
BOUNDS = {"float64": 1e-10, "float32": 1e-4}
"""The largest difference allowed between the two, for each precision."""
COLORS = {"float64": "tab:blue", "float32": "tab:orange"}


class Trajectory(NamedTuple):
    """LightGCN beside matrix factorisation, ``float[steps]`` each, after every step.

    Differences are the largest of any entry, and relative to the largest entry of LightGCN's final
    embeddings.

    Attributes:
        difference: between the embeddings of the two.
        moved: between LightGCN's embeddings and those at the start.
        loss: of LightGCN, before the step.
    """

    difference: np.ndarray | jax.Array
    moved: np.ndarray | jax.Array
    loss: np.ndarray | jax.Array


def make(request: requests.Request) -> int:
    """Trains both in both precisions, and writes how far they are apart."""
    dataset, seed = requests.choose_one(request, "synthetic", epochs=False)
    if not request.train:
        message = "a4 keeps no runs to write its page from; leave it out"
        raise ArgumentError("no_train", message)
    interactions = runs.load_one(dataset, request.data_dir)
    settings = published(MODEL, dataset, "sgd")
    batches = make_batches(interactions, settings, seed)
    found = {
        precision: follow(interactions, batches, settings, seed, precision) for precision in BOUNDS
    }
    control = follow(interactions, batches, settings, seed, "float64", smoothings=1)
    document = compose(interactions.name, settings, seed, found, control)
    written = runs.publish(document, request)
    apart = [p for p, bound in BOUNDS.items() if not found[p].difference.max() <= bound]
    say(f"A.4 {'fails in ' + ' and '.join(apart) if apart else 'holds'}; written: {written}")
    return 1 if apart else 0


def make_batches(data: Interactions, settings: Settings, seed: int) -> Batch:
    """The first batches of a training, each leaf with a leading axis of `STEPS`."""
    layouts = EpochLayouts(data, settings.training, seed, "pair")
    epochs = [layouts(i) for i in range(-(-STEPS // layouts.sequences_per_step.size))]
    rows = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:STEPS], *epochs)
    corpus = make_corpus(data)
    keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), STEPS)
    return jax.lax.map(
        lambda batch: make_batch("pair", settings.training, corpus, *batch), (rows, keys)
    )


def follow(
    data: Interactions,
    batches: Batch,
    settings: Settings,
    seed: int,
    precision: str,
    *,
    smoothings: int = 2,
) -> Trajectory:
    """Trains LightGCN, and beside it matrix factorisation from LightGCN's final embeddings.

    Args:
        data: what the graph is made of.
        batches: as `make_batches` returns them; both models are trained on the same.
        settings: the width of the embeddings.
        seed: of the initial embeddings.
        precision: a dtype of JAX; ``float64`` is enabled for as long as it is needed.
        smoothings: how often the gradient of matrix factorisation is smoothed.
    """
    with jax.enable_x64(precision == "float64"):
        graph = user_item_graph(data)
        scale = (1 - BETA) / (1 - BETA ** (NUM_LAYERS + 1))
        weights = [scale * BETA**layer for layer in range(NUM_LAYERS + 1)]
        counts, rngs = (data.num_users, data.num_items), nnx.Rngs(initial_key(seed))
        shape: dict[str, Any] = {"dim": settings.model.dim, "rngs": rngs}
        lightgcn = LightGCN(
            graph, *counts, num_blocks=NUM_LAYERS, layer_weights=weights, l2=0.0, **shape
        )
        _in_precision(lightgcn, precision)
        mf = MFBPR(*counts, **shape)
        for table, start in zip(_tables(mf), lightgcn.propagate(), strict=True):
            table.set_value(start)
        smoothed = [
            sevo_smooth(graph, beta=BETA, num_layers=NUM_LAYERS, tables=TABLES)
            for _ in range(smoothings)
        ]
        descent = optax.sgd(LEARNING_RATE)
        return jax.tree.map(
            np.asarray, _train_both(lightgcn, descent, mf, optax.chain(*smoothed, descent), batches)
        )


def _tables(model: LightGCN | MFBPR) -> tuple[nnx.Param[Any], nnx.Param[Any]]:
    return model.user_embedding.embedding, model.item_embedding.embedding


def _in_precision(model: LightGCN, precision: str) -> None:
    """Both precisions start from the same numbers: those drawn in float32."""
    for table in _tables(model):
        table.set_value(table[...].astype(jnp.float32).astype(precision))


def _train_both(
    lightgcn: LightGCN,
    descent: optax.GradientTransformation,
    mf: MFBPR,
    smoothed_descent: optax.GradientTransformation,
    batches: Batch,
) -> Trajectory:
    definitions, params, constants = zip(
        *(nnx.split(model, nnx.Param, Constant) for model in (lightgcn, mf)), strict=True
    )
    optimizers = descent, smoothed_descent
    start = jnp.concatenate(lightgcn.propagate())

    def model_of(i: int, params: Any, constants: Any) -> Any:
        return nnx.merge(definitions[i], params, constants[i])

    @jax.jit
    def train(params: Any, states: Any, constants: Any, batches: Batch) -> Trajectory:
        def step(carry: Any, batch: Batch) -> tuple[Any, Trajectory]:
            after: list[tuple[Any, Any]] = []
            values: list[jax.Array] = []
            for i, (own, state) in enumerate(zip(*carry, strict=True)):

                def loss(own: Any, i: int = i) -> jax.Array:
                    model: Backbone = model_of(i, own, constants)
                    return model.training_loss(*batch)

                value, gradient = jax.value_and_grad(loss)(own)
                updates, state = optimizers[i].update(gradient, state, own)
                after.append((optax.apply_updates(own, updates), state))
                values.append(value)
            params, states = zip(*after, strict=True)
            final = jnp.concatenate(model_of(0, params[0], constants).propagate())
            factors = jnp.concatenate([t[...] for t in _tables(model_of(1, params[1], constants))])
            largest = jnp.abs(final).max()
            difference, moved = (
                jnp.abs(final - other).max() / largest for other in (factors, start)
            )
            return (params, states), Trajectory(difference, moved, values[0])

        return jax.lax.scan(step, (params, states), batches)[1]

    states = tuple(o.init(own) for o, own in zip(optimizers, params, strict=True))
    return train(params, states, constants, batches)


def compose(
    name: str,
    settings: Settings,
    seed: int,
    found: Mapping[str, Trajectory],
    control: Trajectory,
) -> Document:
    """The page: the largest differences, and the picture of all of them."""
    header = ("Precision", "Largest difference", "Bound", "Within", "Embeddings moved by", "Loss")
    rows = [
        [
            precision,
            f"{own.difference.max():.1e}",
            f"{BOUNDS[precision]:.0e}",
            "yes" if own.difference.max() <= BOUNDS[precision] else "no",
            f"{own.moved[-1]:.2f}",
            f"{own.loss[0]:.4f} … {own.loss[-1]:.4f}",
        ]
        for precision, own in found.items()
    ]
    text = [
        f"LightGCN of {NUM_LAYERS} layers, trained on {name} by gradient descent (learning rate "
        f"{LEARNING_RATE:g}, no L2 term, layer weights (1-β)β^l/(1-β^(L+1)) with β {BETA}), beside "
        "MF-BPR that starts from LightGCN's final embeddings and smooths its gradient twice over "
        f"the graph of users and items. Both are trained on the same {STEPS} batches of "
        f"{settings.training.batch_size} pairs; embeddings have width {settings.model.dim}; "
        f"seed {seed}.",
        "A difference is the largest of any entry of the final embeddings, relative to the largest "
        "entry. *Moved* is how far LightGCN's embeddings are from their start, measured alike. "
        f"Smoothed once instead of twice, the two are {control.difference.max():.1e} apart.",
    ]
    trajectories = {**found, "smoothed once": control}
    return Document(
        name="a4",
        title="Section A.4: LightGCN as MF-BPR smoothed twice",
        text=text,
        tables=[Table(f"LightGCN and MF-BPR over {STEPS} steps", header, rows)],
        missing=[],
        content={
            "table": "a4",
            "dataset": name,
            "seed": seed,
            "beta": BETA,
            "num_layers": NUM_LAYERS,
            "learning_rate": LEARNING_RATE,
            "bounds": BOUNDS,
            "trajectories": {
                which: {field: values.tolist() for field, values in own._asdict().items()}
                for which, own in trajectories.items()
            },
        },
        draw=lambda path: draw(found, control, path),
        alt="How far LightGCN and MF-BPR smoothed twice are apart after every step, in float64 and "
        "in float32, with the bounds dashed; beside it MF-BPR smoothed once, and how far LightGCN "
        "has moved; the axis is logarithmic.",
    )


def draw(found: Mapping[str, Trajectory], control: Trajectory, path: Path) -> None:
    """The differences by step, the bounds, and what they are to be held against."""
    with plots.picture(path, (10, 4.5)) as (_, ((axes,),)):
        steps = np.arange(1, STEPS + 1)
        moved = found["float64"].moved
        axes.plot(steps, moved, color="tab:gray", label="LightGCN from its start (float64)")
        label = "LightGCN and MF smoothed once (float64)"
        axes.plot(steps, control.difference, color="tab:red", label=label)
        for precision, own in found.items():
            color = COLORS[precision]
            label = f"LightGCN and MF smoothed twice ({precision})"
            axes.axhline(
                BOUNDS[precision], color=color, ls="--", lw=1, label=f"bound ({precision})"
            )
            axes.plot(steps, own.difference, color=color, label=label)
        axes.set(yscale="log", xlabel="step", xlim=(0, STEPS))
        axes.set(ylabel="largest difference of final embeddings (relative)")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
