"""Made before a run's first epoch: its model, optimiser and evaluator, and its first state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.data import Interactions, load
from experiments.data.splits import split_last, split_time
from experiments.errors import ArgumentError, UserError
from experiments.evaluation import Split, make_evaluation_set, make_evaluator, ranked_users
from experiments.inputs.corpus import make_corpus
from experiments.inputs.layout import EpochLayouts
from experiments.inputs.mesh import ONE_DEVICE, Placement
from experiments.metrics import in_order, metrics_of
from experiments.run import Run
from experiments.settings import SEVO, Settings
from experiments.training.backbones import BUILDERS
from experiments.training.optimizers import (
    make_optimizer,
    smoothed_tables,
    steps_between_smoothings,
)
from experiments.training.state import Checkpoint, TrainState, split_model
from experiments.training.steps import Inputs, initial_key
from experiments.training.watched import Watched
from models import Backbone, Task
from models.backbone import Constant


class NotFiniteError(UserError):
    """A score is NaN or infinite."""


LEAST_USERS = 10
"""The users that a share must leave: the score of fewer is mostly chance."""


def used_users(run: Run, data: Interactions) -> Interactions:
    """Returns the users that a run is trained and tested on, as it splits their interactions.

    Both are the same for every seed.

    Raises:
        UserError: the split does not go with the data.
    """
    share, protocol = run.settings.training.user_share, run.settings.protocol
    if protocol.split == "last-n":
        data = split_last(data, protocol.last_n)
    if protocol.split == "time":
        data = split_time(data, protocol.valid_from, protocol.test_from)
    used = data if share == 1 else data.sample_users(share)
    for split in ("valid", "test"):
        if not ranked_users(used, split).size:
            raise ArgumentError(
                "user_share",
                f"{share} leaves no user who has something to read and something held out",
            )
    if used.num_users < min(LEAST_USERS, data.num_users):
        raise ArgumentError(
            "user_share",
            f"{share} leaves {used.num_users} of {data.num_users:,} users; expected "
            f"{LEAST_USERS} or more",
        )
    return used


def load_for(run: Run, dataset: str, data_dir: Path | None) -> Interactions:
    """Loads a data set for a run: with times if its split needs them."""
    return load(dataset, data_dir, times=run.settings.protocol.split == "time")


def check_smoothings(run: Run, data: Interactions) -> None:
    """Raises an `ArgumentError` if a run, on the users given, ends before its first smoothing."""
    s = run.settings.optimizer
    if run.optimizer in SEVO and (s.every_epochs or s.every > 1):
        # A student reads what its model does; its teacher may not be trained yet.
        alone = dataclasses.replace(run, settings=run.settings.replace(distill="none"))
        steps_between_smoothings(run.settings, data, make_model(alone, data).task)


def make_model(run: Run, data: Interactions) -> Backbone:
    """Builds the model of a run, its weights initialised from the run's seed.

    Raises:
        UserError: the model was not built with the run's loss.
    """
    model = BUILDERS[run.model](run.settings, data, nnx.Rngs(initial_key(run.seed)))
    wanted = run.settings.training.loss
    if model.loss_name != wanted:
        raise UserError(
            f"the loss of {run.model} is {model.loss_name}, but the run's settings say {wanted}: "
            f"in BUILDERS[{run.model!r}], pass loss=settings.training.loss to the model's "
            "constructor, which keeps it as self.loss_name"
        )
    training = run.settings.training
    model.calibration = training.calibration
    if training.popular_negatives:
        counts = data.training_counts()
        with np.errstate(divide="ignore"):  # padding, and items without interactions: never drawn
            shares = np.log(counts / counts.sum(), dtype=np.float32)
        model.log_shares = Constant(jnp.asarray(shares))
    return model


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts that runs share if they differ in their seeds alone."""

    graphdef: nnx.GraphDef[Backbone]
    task: Task
    packs: bool
    optimizer: optax.GradientTransformation
    inputs: Inputs
    settings: Settings
    ranked: Callable[[Split, Any, Any, int], list[np.ndarray]]
    placement: Placement

    def layouts(self, data: Interactions, seed: int) -> EpochLayouts:
        """Makes the layouts of a run's epochs."""
        return EpochLayouts(data, self.settings.training, seed, self.task, grouped=not self.packs)

    def rank(self, split: Split, params: Any, carried: Any) -> np.ndarray:
        """Returns the ranks of a split, as `metrics_of` takes them, of its `ranked_users`."""
        return self.ranked(split, params, carried, 0)[0]

    def rank_and_list(self, params: Any, carried: Any, top_k: int) -> list[np.ndarray]:
        """Returns the ranks of the test and the best items, ``int[users, top_k]``; 0 is none."""
        return self.ranked("test", params, carried, top_k)

    def evaluate(self, split: Split, params: Any, carried: Any) -> dict[str, float]:
        """Returns the metrics of a split."""
        return self.metrics_of(self.rank(split, params, carried))

    def metrics_of(self, ranks: np.ndarray) -> dict[str, float]:
        """Returns the metrics that the settings ask for."""
        return metrics_of(ranks, self.settings.protocol.cutoffs)


def draws_unseen(run: Run) -> bool:
    """Tells whether a run needs negatives that the user has not met.

    A student with the loss ``softmax`` does: methods such as `models.student.RKD` read them.
    """
    s = run.settings
    alone = s.training.loss == "softmax" and s.distillation.method == "none"
    return not alone and s.training.loss != "sampled-softmax"


def make_setup(run: Run, data: Interactions, placement: Placement = ONE_DEVICE) -> Setup:
    """Builds the parts that a run shares with runs of other seeds."""
    settings = run.settings
    model = make_model(run, data)
    task, max_len = model.task, settings.training.max_len
    if settings.graph.kind == "user-item" and task != "pair":
        raise ArgumentError(
            "graph", "user-item needs a model with a table of users, such as mf-bpr"
        )
    drawn = settings.training.num_negatives
    if drawn > data.num_items:
        raise ArgumentError(
            "num_negatives",
            f"must be at most the {data.num_items:,} items of {data.name}: {drawn:,}",
        )
    longest = max(settings.protocol.cutoffs, default=0)
    if longest > data.num_items:
        raise ArgumentError(
            "cutoffs", f"must be at most the {data.num_items:,} items of {data.name}: {longest:,}"
        )
    optimizer = make_optimizer(run.optimizer, settings, data, model)
    if not model.packs:
        if placement.splits_both():
            # Some groups of rows do not divide, and lie whole on every device. XLA (of JAX 0.10.2,
            # on CPUs) then adds up the gradient of a table split by its features wrongly.
            raise ArgumentError(
                "mesh", f"data or model must be 1 for {run.model}, which does not pack"
            )
        settings = settings.replace(packed=False)
    graphdef, _, _, constants = split_model(model)
    corpus = make_corpus(
        data,
        placement,
        draws_unseen=draws_unseen(run),
        draws_popular=settings.training.popular_negatives,
    )
    inputs = Inputs(corpus, placement.put_whole(constants))
    compiled: dict[tuple[Split, int], Callable[[Any, Any], tuple[jax.Array, ...]]] = {}
    counts: dict[Split, int] = {}

    def ranked(split: Split, params: Any, carried: Any, top_k: int) -> list[np.ndarray]:
        if (split, top_k) not in compiled:  # at its first use: a failed run never needs the test
            users = ranked_users(data, split)
            own: Any = {"task": task, "grouped": not model.packs, "users": users}
            blocks = placement.put_split(make_evaluation_set(data, split, max_len, **own))
            ranker = make_evaluator(lambda p: nnx.merge(graphdef, *p), max_len, placement, top_k)
            compiled[split, top_k] = lambda *p: ranker((*p, inputs.constants), corpus, blocks)
            counts[split] = users.size
        ranks, finite, *lists = compiled[split, top_k](params, carried)
        if not finite:
            raise NotFiniteError(f"a {split} score is not finite")
        ranks, *lists = (np.asarray(a)[: counts[split]] for a in (ranks, *lists))
        return [in_order(ranks) if ranks.ndim == 2 else ranks, *lists]

    return Setup(graphdef, task, model.packs, optimizer, inputs, settings, ranked, placement)


def make_watched(run: Run, data: Interactions, placement: Placement = ONE_DEVICE) -> Watched:
    """Finds the tables that the run's graph smooths, whether its optimiser does so or not."""
    graph, groups = smoothed_tables(run.settings, data, make_model(run, data))
    return Watched(placement.put_whole(graph), groups)


def initial_checkpoint(run: Run, setup: Setup, data: Interactions) -> Checkpoint:
    """Makes the state in which a run begins; its weights are drawn from its seed."""
    _, params, carried, _ = split_model(make_model(run, data))
    opt_state, place = setup.optimizer.init(params), setup.placement
    opt_state = place.put_opt_state(setup.optimizer, opt_state, params)
    params, carried = place.put_params(params), place.put_whole(carried)
    state = TrainState(params, opt_state, carried)
    best_params, best_carried = jax.tree.map(jnp.copy, (params, carried))
    return Checkpoint(state, best_params, best_carried, 0, 0, -1.0, 0.0)
