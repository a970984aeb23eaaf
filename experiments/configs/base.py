"""What can be configured, for every model."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from experiments.errors import UserError

OPTIMIZERS = ("adam", "adamw", "sevo-adamw", "sevo-adam", "sgd", "sevo-sgd")
SEVO = tuple(name for name in OPTIMIZERS if name.startswith("sevo-"))
DISTILLED = ("sasrec-kd", "sasrec-rkd", "sasrec-htd", "sasrec-dkd")
"""Students of a teacher, by the method of distillation."""
TRANSFORMERS = ("sasrec", "bert4rec", "stosa", "maerec", *DISTILLED)
PACKING = ("gru4rec", *TRANSFORMERS)
"""Models of which a row may hold several sequences."""


GRAPHS = ("item-item", "user-item", "category", "teacher")
_GRAPH_COUNTS = ("max_len_graph", "walk_length", "max_category_size")
_TEACHING_COUNTS = ("num_neighbours", "num_groups", "teacher_epochs")
_TEACHING_WEIGHTS = (
    "kd_weight", "distance_weight", "angle_weight", "htd_weight", "target_weight", "others_weight",
)  # fmt: skip


def _setting(default: Any, meaning: str, readers: tuple[str, ...] = ()) -> Any:
    """A field; ``readers`` are the models or the optimisers that read it, if not all do."""
    shown = f"{', '.join(readers)}: {meaning}" if readers else meaning
    return dataclasses.field(default=default, metadata={"help": shown, "readers": readers})


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """Settings of one run.

    The defaults are those of SASRec's runs made before a setting existed; what a model gets on a
    data set is in the files beside this one.
    """

    epochs: int = _setting(200, "Passes over the training rows.")
    batch_size: int = _setting(512, "Training rows of a step: users, prefixes or pairs.")
    max_len: int = _setting(
        50, "Newest items of a user that the model reads.", (*PACKING, "sr-gnn", "lessr")
    )
    dim: int = _setting(64, "Width of the embeddings and of the model.")
    num_heads: int = _setting(1, "Attention heads.", TRANSFORMERS)
    num_blocks: int = _setting(
        2,
        "Transformer blocks; for lightgcn and lessr, layers.",
        (*TRANSFORMERS, "lightgcn", "lessr"),
    )
    dropout_rate: float = _setting(
        0.3,
        "Dropout of embeddings and layers, and of attention but for stosa and maerec.",
        ("gru4rec", *TRANSFORMERS, "lessr"),
    )
    attention_dropout_rate: float = _setting(
        0.0, "Dropout of the attention probabilities.", ("stosa", "maerec")
    )
    attend_padding: bool = _setting(
        False, "Whether padding takes part in attention.", ("sasrec", *DISTILLED)
    )
    mask_rate: float = _setting(0.5, "Share of the items that are masked.", ("bert4rec",))
    pvn_weight: float = _setting(
        0.005, "Weight of the distance between positive and negative item.", ("stosa",)
    )
    published: bool = _setting(
        False, "Let the means pass the blocks unchanged, as the published code does.", ("stosa",)
    )
    l2: float = _setting(
        0.0,
        "Weight in the loss of squares: of a batch's embeddings, or of all of maerec's weights.",
        ("lightgcn", "maerec"),
    )
    recon_weight: float = _setting(
        5e-3, "Weight of the loss of restoring masked edges, in [0, 1].", ("maerec",)
    )
    loss: Literal["bce", "bpr", "softmax", "sampled-softmax"] = _setting(
        "bce", "What is minimised."
    )
    num_negatives: int = _setting(
        1, "Unseen items against each positive; for sampled-softmax, any items shared by a step."
    )
    user_share: float = _setting(1.0, "Share of the users to train and test on.")
    learning_rate: float = _setting(1e-3, "Step size.")
    decay_every: int = _setting(
        0, "Epochs after which the step size is divided by ten, again and again; 0 for never."
    )
    b1: float = _setting(0.9, "Decay of the first moment; for sgd, the momentum.")
    b2: float = _setting(
        0.98, "Decay of the second moment.", ("adam", "adamw", "sevo-adamw", "sevo-adam")
    )
    weight_decay: float = _setting(
        0.1,
        "Decoupled decay for adamw and sevo-adamw, for the others the coefficient of an L2 term.",
    )
    beta: float = _setting(0.99, "Degree of smoothness, in [0, 1).", SEVO)
    num_layers: int = _setting(3, "Sparse products of a smoothing.", SEVO)
    method: Literal["neumann", "neumann_unscaled", "iterative", "exact"] = _setting(
        "neumann", "How the smoothing is approximated; exact needs no --num-layers.", SEVO
    )
    moment_correction: bool = _setting(
        True, "Whether the moments of items that a step does not meet rest.", ("sevo-adamw",)
    )
    smoothness_weight: float = _setting(
        0.0,
        "Weight in the loss of the tables' smoothness over the published graph, Tr(E'(I - Ã)E).",
        ("adamw",),
    )
    max_len_graph: int = _setting(50, "Training items of a user that make edges.", SEVO)
    keep: Literal["last", "first"] = _setting(
        "last", "Whether the newest or the oldest items of a user make edges.", SEVO
    )
    walk_length: int = _setting(
        1, "The greatest distance in a sequence at which two items make an edge.", SEVO
    )
    weighting: Literal["distance", "frequency"] = _setting(
        "distance", "What a pair adds to its edge: 1 over its distance, or 1.", SEVO
    )
    graph: str = _setting(
        "item-item",
        "SEvo: smooth items over consecutive ones, (mf-bpr) users with their items, items over "
        "those of the same categories, or over the nearest neighbours in a teacher's table: "
        "item-item, user-item, category or teacher; or over the graph in an .npz file of "
        "experiments.build_graph, which should be built from training interactions alone.",
    )
    categories: str = _setting(
        "",
        "File for --graph category: a JSON object of item ids and lists of their categories, or a "
        ".csv, .tsv or .parquet table of item and category. beauty and ml-1m have their own.",
        SEVO,
    )
    max_category_size: int = _setting(
        500, "Items of the largest category of --categories that makes edges.", SEVO
    )
    num_neighbours: int = _setting(10, "Neighbours of an item in the graph of a teacher.", SEVO)
    tau: float = _setting(1.0, "Bandwidth of the graph of a teacher, exp(-distance / tau).", SEVO)
    teacher: str = _setting("", "Folder of the teacher's finished run.", (*DISTILLED, *SEVO))
    teacher_epochs: int = _setting(
        200, "Epochs that the teacher must have been trained for.", (*DISTILLED, *SEVO)
    )
    temperature: float = _setting(
        1.0, "Temperature of the scores' distributions.", ("sasrec-kd", "sasrec-dkd")
    )
    kd_weight: float = _setting(2.0, "Weight of the distillation.", ("sasrec-kd",))
    distance_weight: float = _setting(0.1, "Weight of distances.", ("sasrec-rkd",))
    angle_weight: float = _setting(0.5, "Weight of angles.", ("sasrec-rkd",))
    htd_weight: float = _setting(1e-3, "Weight of the distillation.", ("sasrec-htd",))
    topology: float = _setting(0.5, "Share of the topology, in [0, 1].", ("sasrec-htd",))
    num_groups: int = _setting(30, "Groups of users, and again of items.", ("sasrec-htd",))
    target_weight: float = _setting(1.0, "Weight of the target's part.", ("sasrec-dkd",))
    others_weight: float = _setting(500.0, "Weight of the other items' part.", ("sasrec-dkd",))
    eval_every: int = _setting(5, "Epochs between validations.")
    packed: bool = _setting(True, "Whether short sequences share rows.", PACKING)
    rng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = _setting(
        "threefry2x32",
        "Generator of negatives, masks and the seeds of dropout's hash. The others may be faster "
        "on accelerators; seeds trained together then draw other numbers than on their own.",
    )

    def check(self) -> None:
        """A `UserError` that names the option, unless every setting is in its range."""
        positive = ("epochs", "batch_size", "max_len", "dim", "num_heads", "num_blocks")
        for name in (*positive, "num_negatives", *_GRAPH_COUNTS, "eval_every", *_TEACHING_COUNTS):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("dropout_rate", "attention_dropout_rate", "b1", "b2", "beta"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("mask_rate", "user_share"):
            self._require(name, 0 < getattr(self, name) <= 1, "in (0, 1]")
        for name in ("recon_weight", "topology"):
            self._require(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("num_layers", "decay_every"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("weight_decay", "pvn_weight", "l2", "smoothness_weight", *_TEACHING_WEIGHTS):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "at least 0")
        for name in ("learning_rate", "tau", "temperature"):
            self._require(name, 0 < getattr(self, name) < float("inf"), "above 0")
        if not is_file(self.graph) and self.graph not in GRAPHS:
            self._require("graph", False, f"{', '.join(GRAPHS)} or a file that ends in .npz")
        if self.categories:
            self._require("categories", self.graph == "category", "left out: --graph is another")
        elif self.max_category_size != type(self).max_category_size:
            self._require("max_category_size", False, "left out: it goes with --categories")
        if self.graph != "item-item":
            for name in ("keep", "walk_length", "weighting"):
                published = type(self).__dataclass_fields__[name].default
                self._require(
                    name, getattr(self, name) == published, "left out: --graph is another"
                )
        if self.loss == "softmax":
            self._require(
                "num_negatives", self.num_negatives == 1, "left out: --loss softmax has none"
            )
        multiple = f"a multiple of --num-heads {self.num_heads}"
        self._require("dim", self.dim % self.num_heads == 0, multiple)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise UserError(f"{option(name)}: must be {expected}, got {getattr(self, name)}")


def is_file(graph: str) -> bool:
    """Whether a setting ``graph`` names a file."""
    return graph.endswith(".npz")


def option(setting: str) -> str:
    """A setting's name on the command line."""
    return "--" + setting.replace("_", "-")
