"""The settings of a run that belong to no model: training, optimiser, graph and distillation.

The ``readers`` of a field are what reads it: optimisers, methods of distillation, or a term of the
loss. A field without readers is read by all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from models.settings import ABOVE_0, COUNT, FROM_0, MIXTURE, RATE, SHARE, Loss, Range
from models.settings import setting as model_setting

OPTIMIZERS = ("adam", "adamw", "sevo-adamw", "sevo-adam", "sgd", "sevo-sgd")
SEVO = tuple(name for name in OPTIMIZERS if name.startswith("sevo-"))
ADAMS = tuple(name for name in OPTIMIZERS if "adam" in name)
GRAPHS = ("item-item", "user-item", "category", "teacher")
"""The kinds of graphs; any other value names a file."""
METHODS = ("kd", "rkd", "htd", "dkd")
"""The methods of distillation."""
ROUGHNESS = "adamw with a smoothness_weight"
"""A term of the loss that reads the graph without smoothing over it."""
OVER_GRAPH = (*SEVO, ROUGHNESS)
"""The readers of the graph and of its settings."""


def setting(
    default: Any,
    meaning: str,
    within: Range | None = None,
    readers: tuple[str, ...] = (),
    name: str | None = None,
    flag: str | None = None,
) -> Any:
    """Makes a field of a dataclass of settings; see `models.settings.setting`.

    Args:
        default: the value, which data sets may override.
        meaning: the sentence that explains the setting to users.
        within: the range of its values; ``None`` allows every value.
        readers: what reads it, by the names of `readers_in`; all if empty.
        name: its name in `Settings.flat`; the name of the field if ``None``.
        flag: its option on the command line; its name if ``None``.
    """
    special = readers not in ((), SEVO, OVER_GRAPH)
    shown = f"{', '.join(readers)}: {meaning}" if special else meaning
    named = {} if name is None else {"name": name}
    return model_setting(default, shown, within, readers=readers, flag=flag, **named)


def readers_in(optimizer: str, values: Mapping[str, Any]) -> set[str]:
    """Names what reads settings in a run with an optimiser and settings, by their flat names.

    Examples:
        >>> sorted(readers_in("adamw", {"smoothness_weight": 0.5, "distill": "kd"}))
        ['adamw', 'adamw with a smoothness_weight', 'kd']
    """
    term = optimizer == "adamw" and values.get("smoothness_weight", 0) > 0
    return {optimizer, values.get("distill", "none")} | ({ROUGHNESS} if term else set())


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The settings of training, the share of the data included."""

    epochs: int = setting(200, "Passes over the training rows.", COUNT)
    batch_size: int = setting(512, "Training rows of a step: users, prefixes or pairs.", COUNT)
    max_len: int = setting(50, "Newest items of a user that the model reads.", COUNT)
    packed: bool = setting(True, "Whether short sequences share rows.")
    start: str = setting(
        "",
        "Folder of a finished run to go on from, with the same data or other: items and users are "
        "matched by their ids.",
        flag="from",
    )
    recipe: Literal["published", "strong"] = setting(
        "published",
        "Where the settings that are not given come from: the paper, or strong (sasrec, gru4rec), "
        "the full cross-entropy as others tuned it.",
    )
    loss: Loss = setting("bce", "What is minimised.")
    num_negatives: int = setting(
        1,
        "Unseen items drawn for each positive; for sampled-softmax, items of a step or a positive.",
        COUNT,
    )
    own_negatives: bool = setting(
        False, "sampled-softmax: whether each positive has items of its own."
    )
    popular_negatives: bool = setting(
        False,
        "sampled-softmax: whether items are drawn by their training interactions, for which scores "
        "are corrected (logQ), and not all alike.",
    )
    calibration: float = setting(
        0.75, "gbce: from 0, the binary cross-entropy, to 1, calibrated for all items.", MIXTURE
    )
    user_share: float = setting(1.0, "Share of the users to train and test on.", SHARE)
    eval_every: int = setting(5, "Epochs between validations.", COUNT)
    rng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = setting(
        "threefry2x32",
        "Random generator of negatives, masks and dropout. rbg and unsafe_rbg may be faster on "
        "accelerators, but seeds trained together then draw other numbers than on their own.",
    )


@dataclasses.dataclass(frozen=True)
class ProtocolSettings:
    """The split of the data, and the metrics that are reported."""

    split: Literal["leave-one-out", "last-n", "time"] = setting(
        "leave-one-out",
        "What tests: each user's last item, its last n items, or all from a time on. As much "
        "before it validates.",
    )
    last_n: int = setting(
        1, "last-n: a user's items that test, and again as many that validate.", COUNT
    )
    valid_from: str = setting(
        "", "time: the first time of validation, a number or a date (UTC if it has no offset)."
    )
    test_from: str = setting("", "time: the first time of the test, likewise.")
    cutoffs: tuple[int, ...] = setting(
        (), "Lengths of lists for which HR, NDCG and MRR are reported beside the usual metrics."
    )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The numbers of the optimiser and of the smoothing."""

    learning_rate: float = setting(1e-3, "Step size.", ABOVE_0)
    decay_every: int = setting(
        0,
        "Divide the step size by ten every so many epochs; 0 for never.",
        FROM_0,
    )
    b1: float = setting(0.9, "Decay of the first moment; for sgd, the momentum.", RATE)
    b2: float = setting(0.98, "Decay of the second moment.", RATE, ADAMS)
    weight_decay: float = setting(
        0.1,
        "Decoupled decay for adamw and sevo-adamw, for the others the coefficient of an L2 term.",
        FROM_0,
    )
    beta: float = setting(0.99, "Degree of smoothness, in [0, 1).", RATE, SEVO)
    num_layers: int = setting(3, "Sparse products of a smoothing.", FROM_0, SEVO)
    method: Literal["neumann", "neumann_unscaled", "iterative", "exact"] = setting(
        "neumann",
        "Approximation of the smoothing; exact ignores the number of products.",
        readers=SEVO,
    )
    every: int = setting(
        1, "Steps between two smoothings; the steps between pass as they are.", COUNT, SEVO
    )
    every_epochs: int = setting(
        0, "Epochs between two smoothings, in place of every; 0 for every.", FROM_0, SEVO
    )
    moment_correction: bool = setting(
        True,
        "Whether moments rest for items that a step does not touch (moment correction).",
        readers=("sevo-adamw",),
    )
    kappa: float = setting(
        0.0,
        "Shrinkage of beta: items of n training interactions have beta kappa / (kappa + n); 0 for "
        "one beta for all.",
        FROM_0,
        readers=("sevo-adamw",),
    )
    smoothness_weight: float = setting(
        0.0,
        "Weight of a loss term, Tr(E'(I - Ã)E), the roughness of tables E over the graph.",
        FROM_0,
        ("adamw",),
    )


@dataclasses.dataclass(frozen=True)
class GraphSettings:
    """The graph over which tables are smoothed."""

    kind: str = setting(
        "item-item",
        "Graph of SEvo. item-item joins consecutive items, user-item users and their items (for "
        "mf-bpr), category items of the same category, teacher nearest neighbours in a teacher's "
        "table. Or an .npz file of experiments.build_graph, which should be built from training "
        "interactions alone.",
        name="graph",
    )
    categories: str = setting(
        "",
        "File for the graph category: a JSON object of item ids and lists of their categories, or "
        "a .csv, .tsv or .parquet table of item and category. beauty, toys, sports and ml-1m have "
        "their own.",
        readers=OVER_GRAPH,
    )
    max_category_size: int = setting(
        500, "Larger categories of that file make no edges.", COUNT, OVER_GRAPH
    )
    max_len_graph: int = setting(50, "Most items of a user that make edges.", COUNT, OVER_GRAPH)
    graph_of_all_users: bool = setting(
        False, "item-item: whether users beyond user_share make edges, too.", readers=OVER_GRAPH
    )
    keep: Literal["last", "first"] = setting(
        "last", "Whether the newest or the oldest items of a user make edges.", readers=OVER_GRAPH
    )
    walk_length: int = setting(
        1, "Greatest distance of two items in a sequence that make an edge.", COUNT, OVER_GRAPH
    )
    weighting: Literal["distance", "frequency"] = setting(
        "distance", "Weight of a pair: 1 over its distance (distance) or 1.", readers=OVER_GRAPH
    )
    num_neighbours: int = setting(
        10, "Neighbours of an item in the graph of a teacher.", COUNT, OVER_GRAPH
    )
    tau: float = setting(
        1.0, "Bandwidth of the graph of a teacher, exp(-distance / tau).", ABOVE_0, OVER_GRAPH
    )


@dataclasses.dataclass(frozen=True)
class DistillationSettings:
    """The method of distillation, the teacher, and the weights of the method."""

    method: Literal["none", "kd", "rkd", "htd", "dkd"] = setting(
        "none", "Method of distillation, for a sasrec with a teacher.", name="distill"
    )
    teacher: str = setting(
        "", "Folder of the teacher's finished run.", readers=(*METHODS, *OVER_GRAPH)
    )
    teacher_epochs: int = setting(
        200, "Epochs that the teacher must have been trained for.", COUNT, (*METHODS, *OVER_GRAPH)
    )
    temperature: float = setting(
        1.0, "Temperature of the scores' distributions.", ABOVE_0, ("kd", "dkd")
    )
    kd_weight: float = setting(2.0, "Weight of the distillation.", FROM_0, ("kd",))
    distance_weight: float = setting(0.1, "Weight of distances.", FROM_0, ("rkd",))
    angle_weight: float = setting(0.5, "Weight of angles.", FROM_0, ("rkd",))
    htd_weight: float = setting(1e-3, "Weight of the distillation.", FROM_0, ("htd",))
    topology: float = setting(0.5, "Share of the topology, in [0, 1].", MIXTURE, ("htd",))
    num_groups: int = setting(30, "Groups of users, and again of items.", COUNT, ("htd",))
    target_weight: float = setting(1.0, "Weight of the target's part.", FROM_0, ("dkd",))
    others_weight: float = setting(500.0, "Weight of the other items' part.", FROM_0, ("dkd",))
