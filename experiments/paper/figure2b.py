"""Figure 2b: how smooth SASRec's variations are before and after smoothing, and its embeddings.

After each epoch, the variation of its last step is computed again from the optimiser's state, whose
corrected moments make it: the training itself is the ordinary one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import sevo_jax
from experiments import numbers
from experiments.bars import progress_bar
from experiments.console import say
from experiments.data import Interactions
from experiments.errors import ArgumentError, UserError
from experiments.files import read_json
from experiments.pages import plots
from experiments.pages.documents import NONE, Document, Table
from experiments.run import Run, differences, make_run
from experiments.settings import OptimizerSettings
from experiments.settings.published import published
from experiments.tables import requests, rows, runs
from experiments.training import loop, prepare
from experiments.training.steps import Epochs, TrainState

MODEL, OPTIMIZER = "sasrec", "sevo-adamw"
BETAS = (0.0, 0.5, 0.9, 0.99, 0.999)
EPS = 1e-8
"""The optimiser's, which it adds to denominators."""
STAGES = ("original variation", "smoothed variation", "embeddings")


class Smoothness(NamedTuple):
    """The smoothness of the three `STAGES`, ``float[3]`` each.

    Attributes:
        total: ``Tr(X' L~ X)``, as Eq. 2 has it.
        relative: the same by the squared norm of ``X``; NaN where that is 0.
    """

    total: jax.Array
    relative: jax.Array


Series = dict[str, list[Any]]
"""Lists by epoch: ``epoch``, ``train_loss``, and the three values of ``total`` and of ``relative``.
``devices`` is the one that it was trained on."""


def make(request: requests.Request) -> int:
    """Trains under each β that is not in the file yet, and writes the page after each."""
    request = requests.quick_look(request)
    dataset, seed = requests.choose_one(request, "beauty", quick=True)
    values = requests.quick_settings(MODEL, OPTIMIZER) if request.quick else {}
    if request.epochs is not None:
        values["epochs"] = request.epochs
    run = make_run(MODEL, dataset, OPTIMIZER, seed, **values)
    run.settings.check()
    found = kept(request.out / "figure2b.json", run)

    def write() -> str:
        return runs.publish(compose(run, found), request)

    write()
    todo = [beta for beta in BETAS if beta not in found] if request.train else []
    if todo:
        data = runs.load_one(dataset, request.data_dir)
        with progress_bar() as bar:
            for beta in todo:
                own = dataclasses.replace(run, settings=run.settings.replace(beta=beta))
                epochs = run.settings.training.epochs
                task = bar.add_task(f"β = {beta:g}", total=epochs, status="compiling")

                def report(epoch: int, loss: float, task: Any = task) -> None:
                    bar.update(task, completed=epoch, status=f"loss {loss:.4f}")

                found[beta] = follow(own, data, report)
                write()
    say(f"written: {write()}")
    return 0


def kept(file: Path, run: Run) -> dict[float, Series]:
    """The series that an earlier call found for the same training, by β.

    Raises:
        UserError: the file is of another training, which must not be lost.
    """
    if not file.exists():
        return {}
    held = read_json(file)
    changed = differences(held.get("run", {}), run.to_json())
    if changed:
        raise ArgumentError(
            "out",
            f"{file} holds a training in which {'; '.join(changed)}; move it away, or name another "
            "folder",
        )
    return {float(beta): series for beta, series in held["series"].items()}


def follow(
    run: Run, data: Interactions, report: Callable[[int, float], None] = lambda *_: None
) -> Series:
    """Trains a run, and measures after each epoch.

    Raises:
        UserError: the loss is not finite.
    """
    used = prepare.used_users(run, data)
    setup = prepare.make_setup(run, used)
    layouts = setup.layouts(used, run.seed)
    state = prepare.initial_checkpoint(run, setup, used).state
    epochs = Epochs(setup.graphdef, setup.optimizer, setup.inputs, [layouts], state)
    weights = layouts.sequences_per_step
    measure = jax.jit(lambda state, step: measured(state, step, run.settings.optimizer))
    series: Series = {name: [] for name in ("epoch", "train_loss", "total", "relative")}
    series["devices"] = [loop.device()]
    for epoch in range(1, run.settings.training.epochs + 1):
        state, losses = epochs(state, epochs.lay_out(epoch - 1), epoch - 1)
        own: Smoothness = jax.tree.map(np.asarray, measure(state, epoch * weights.size))
        loss = float(np.average(np.asarray(losses[0], np.float64), weights=weights))
        if not np.isfinite(loss):
            raise UserError(f"{run.name}, β = {run.settings.optimizer.beta:g}: the loss is {loss}")
        series["epoch"].append(epoch)
        series["train_loss"].append(loss)
        series["total"].append(own.total.tolist())
        series["relative"].append([float(x) if np.isfinite(x) else None for x in own.relative])
        report(epoch, loss)
    return series


def measured(state: TrainState, step: Any, settings: OptimizerSettings) -> Smoothness:
    """The smoothness of the last step's variations, and of the embeddings after it.

    Args:
        state: of a SASRec that is trained by SEvo-AdamW.
        step: steps so far, at least 1.
        settings: β, L and the decay of the moments.
    """
    graph = optax.tree.get(state.opt_state, "graph")
    mu, nu, table = (
        tree["item_embedding"]["embedding"][...]
        for tree in (
            optax.tree.get(state.opt_state, "mu"),
            optax.tree.get(state.opt_state, "nu"),
            state.params,
        )
    )
    variation = (mu / (1 - settings.b1**step)) / (jnp.sqrt(nu / (1 - settings.b2**step)) + EPS)
    smoothed = sevo_jax.smooth(graph, variation, settings.beta, settings.num_layers)
    stages = variation, smoothed, table
    total = jnp.stack([sevo_jax.diagnostics.smoothness(graph, x) for x in stages])
    return Smoothness(total, total / jnp.stack([(x**2).sum() for x in stages]))


def compose(run: Run, found: dict[float, Series]) -> Document:
    """The page: the values of the last epoch, and the picture of all of them."""
    name = numbers.dataset_name(run.dataset)
    betas = [beta for beta in BETAS if beta in found]
    s, usual = run.settings.training, published(MODEL, run.dataset, OPTIMIZER).training.epochs
    absent = [f"β = {beta:g}: not trained" for beta in BETAS if beta not in found]
    if betas and s.epochs < usual:
        absent.append(f"every β stopped early: {s.epochs} of {usual} epochs")
    header = ("β", *STAGES, "training loss")
    relative, total = (
        [
            [
                f"{beta:g}",
                *(number.format(x) if x is not None else NONE for x in values),
                f"{found[beta]['train_loss'][-1]:.4f}",
            ]
            for beta in betas
            for values in [found[beta][key][-1]]
        ]
        for key, number in (("relative", "{:.4f}"), ("total", "{:,.1f}"))
    )
    machines = sorted({name for beta in betas for name in found[beta]["devices"]})
    return Document(
        name="figure2b",
        title="Figure 2b: smoothness during training",
        text=[
            f"SASRec on {name}, trained by SEvo-AdamW under each β, seed {run.seed}, for "
            f"{s.epochs} of {usual} epochs. After each epoch: the original variation, which is "
            "the optimiser's step before smoothing, learning rate and weight decay, of the epoch's "
            "last batch; the smoothed variation; and the embeddings.",
            "The paper's text defines J(X) = Tr(X' L~ X) (Eq. 2) and does not say whether its "
            "figure divides by a norm, nor its values. Smoothing makes a variation shorter too, "
            "which alone lowers J: the picture and the first table have J(X) / ‖X‖², which is in "
            "[0, 2], 0 where related rows are alike and 1 for rows that have nothing to do with "
            "each other. The second table and the JSON file have J itself. All rows of the table "
            "count; an isolated one, such as that of padding, adds its squared norm to J.",
            rows.trained_on(machines, "; "),
        ],
        tables=[
            Table("J(X) / ‖X‖² after the last epoch", header, relative),
            Table("J(X) after the last epoch", header, total),
        ],
        missing=absent,
        content={
            "table": "figure2b",
            "run": run.to_json(),
            "devices": machines,
            "stages": STAGES,
            "series": {str(beta): found[beta] for beta in betas},
            "missing": absent,
        },
        draw=lambda path: draw({beta: found[beta] for beta in betas}, path),
        alt="Smoothness of the original variation, the smoothed variation and the embeddings by "
        "epoch, a line for each β",
    )


def draw(found: dict[float, Series], path: Path) -> None:
    """A panel for each stage, a curve for each β."""
    colors = dict(zip(BETAS, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(BETAS))), strict=True))
    with plots.picture(path, (11, 4), 1, len(STAGES), sharey=True) as (figure, (panels,)):
        for i, (axes, numeral) in enumerate(zip(panels, ("I", "II", "III"), strict=True)):
            for beta, series in found.items():
                values = [np.nan if v[i] is None else v[i] for v in series["relative"]]
                label = f"β = {beta:g}"
                axes.plot(series["epoch"], values, color=colors[beta], marker=".", label=label)
            axes.set(title=f"({numeral}) {STAGES[i]}", xlabel="epoch")
        panels[0].set(ylabel="J(X) / ‖X‖²")
        panels[0].set_ylim(bottom=0)
        if found:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center", fontsize="medium")
