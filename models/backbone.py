"""The interface between a model and the training loop, and the code that all models share."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.layers import losses
from models.layers.losses import Loss

Task = Literal["next", "prefix", "masked", "pair"]
"""The training task: what a model reads, and what it predicts.

- ``next``: reads a user's items and predicts, after each, the next one.
- ``prefix``: reads a beginning of a user's items, a sequence of its own, and predicts the item
  after its end.
- ``masked``: reads a user's items, some replaced by the mask, and predicts the replaced ones. In
  evaluation the mask stands after the last item.
- ``pair``: reads a user and predicts one of the user's items.
"""

Tokens = tuple[Int[Array, "rows width"], Int[Array, "rows width"], Int[Array, "rows width"]]
"""Items, segments and positions."""


class Constant(nnx.Variable[Any]):
    """Arrays that a model reads and training does not change, such as a graph.

    They belong to the model, but are neither parameters nor checkpointed state. A compiled step
    takes them as an argument, which keeps them out of its program. The value may be any pytree;
    ``get_value()`` returns it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models.backbone import Constant
        >>> Constant({"edges": jnp.arange(3)}).get_value()["edges"].tolist()
        [0, 1, 2]
    """


class Backbone(nnx.Module):
    """A recommender: turns a user's items into a vector, and scores items by the vector.

    Items are numbered ``1 … num_items``; 0 is padding. A subclass defines ``__call__``. It also
    defines `item_vectors` if these are not the rows of ``item_embedding``, and `prepared` if its
    vectors come from smoothing whole tables.

    Attributes:
        task: the training task.
        tables: paths of the embedding tables that SEvo smooths over the graph of items, each table
            on its own.
        packs: whether a row may hold several sequences, told apart by their segments. If not, a
            row holds one sequence, its newest item in the last column and padding before it, or
            padding alone. Such rows may come in groups of different widths
            (`models.layers.groups`). Outputs and targets are then ``[rows, 1, …]``, at the newest
            items only, one group after the other.
        undecayed: names of parameters, anywhere in the model, that no optimiser decays.
        mask_rate: share of the tokens that training masks, for the task ``masked``.
        loss_name: the loss that `loss` computes, a name in `models.layers.losses`. Constructors
            take it as their argument ``loss``.
        calibration: ``t`` of the loss ``gbce``.
        log_shares: ``float[num_items + 1]``, for ``sampled-softmax`` the logarithm of the
            probability with which each item is drawn as a negative, padding's first; ``None`` if
            all items are as likely.
        num_items: the number of items.
    """

    task: Task = "next"
    tables: ClassVar[tuple[str, ...]] = ("item_embedding",)
    packs: ClassVar[bool] = True
    undecayed: ClassVar[tuple[str, ...]] = ()
    mask_rate: float = 0.5
    loss_name: Loss = "bce"
    calibration: float = 0.75
    log_shares: Constant | None = None
    num_items: int
    item_embedding: nnx.Embed

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the output at every token; with ``packs = False``, at the last token of each row.

        Args:
            items: item ids, 0 for padding and ``num_items + 1`` for the mask; for the task
                ``pair`` user ids, from 0.
            segments: the sequence that each token belongs to, 0 for padding.
            positions: the newest token of a sequence has ``max_len - 1``, older ones count down.
            key: random key for dropout; ``None`` for evaluation.
        """
        raise NotImplementedError

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
        """Returns vectors and biases of items: ``score = hidden · vector + bias``.

        Args:
            items: item ids; ``None`` for all rows of the table, padding included.
        """
        return table_rows(self.item_embedding.embedding[...], items)

    def all_items(self) -> tuple[Float[Array, "items dim"], Float[Array, " items"]]:
        """Returns vectors and biases of the items ``1 … num_items``, without padding and mask."""
        vectors, bias = self.item_vectors()
        items = slice(1, self.num_items + 1)
        return vectors[items], bias[items]

    def score(self, hidden: Float[Array, "*#n dim"], items: Int[Array, "*#n"]) -> Float[Array, ...]:
        """Returns the score of one item for each vector; leading axes broadcast."""
        vectors, bias = self.item_vectors(items)
        return (hidden * vectors).sum(-1) + bias

    def scores(self, hidden: Float[Array, "users dim"]) -> Float[Array, "users items"]:
        """Returns the scores of the items ``1 … num_items``, in that order."""
        vectors, bias = self.all_items()
        return hidden @ vectors.T + bias

    def loss(
        self,
        hidden: Float[Array, "rows width dim"],
        positives: Int[Array, "rows width"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows width"],
    ) -> Float[Array, ""]:
        """Returns the loss called `loss_name`, averaged over the tokens that are ``real``.

        Args:
            hidden: the outputs.
            positives: the item to predict at each token.
            negatives: ``int[rows, width, k]``, items that the user has not met. For
                ``sampled-softmax`` they are drawn from all items, and may be ``int[k]``, shared by
                all tokens.
            real: where there is something to predict.
        """
        if self.loss_name == "softmax":
            flat = hidden.reshape(-1, hidden.shape[-1])
            targets = jnp.maximum(positives.ravel() - 1, 0)  # padding is no class
            return losses.softmax(flat, *self.all_items(), targets, real.ravel())
        if self.loss_name == "sampled-softmax":
            vectors, bias = self.item_vectors(positives)  # `score` may be shifted
            positive = (hidden * vectors).sum(-1) + bias
            vectors, bias = self.item_vectors(negatives)
            collides = negatives == positives[..., None]
            if negatives.ndim == 1:
                negative = hidden @ vectors.T + bias
            else:
                negative = jnp.einsum("rwd,rwkd->rwk", hidden, vectors) + bias
            log_share: Any = -math.log(self.num_items)
            if self.log_shares is not None:
                log_share = self.log_shares.get_value()[negatives]
            values = losses.sampled_softmax(positive, negative, collides, log_share)
        elif self.loss_name == "gbce":
            positive = self.score(hidden, positives)
            negative = self.score(hidden[..., None, :], negatives)
            values = losses.gbce(positive, negative, self.num_items, self.calibration)
        else:
            positive = self.score(hidden, positives)
            pairwise = losses.PAIRWISE[self.loss_name]
            values = pairwise(positive, self.score(hidden[..., None, :], negatives))
        return mean_of_real(values, real)

    def prepared(self) -> Backbone:
        """Returns a model for evaluation, in which the work that all users share is already done.

        Without a key, its outputs and item vectors equal those of this model, up to rounding.
        """
        return self

    def training_loss(
        self,
        tokens: Tokens,
        positives: Int[Array, "rows targets"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows targets"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """Returns the value that a step minimises: the `loss` of the outputs.

        A model overrides this method if outputs and item vectors share costly work, or if its loss
        has further terms.

        Args:
            tokens: items, segments and positions, as `__call__` reads them.
            positives: as in `loss`.
            negatives: as in `loss`.
            real: as in `loss`.
            key: random key for dropout.
        """
        return self.loss(self(*tokens, key), positives, negatives, real)


def table_rows(
    table: Float[Array, "rows dim"], items: Int[Array, "*n"] | None
) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
    """Returns rows of a table, or all of them for ``None``, and biases of 0."""
    vectors = table if items is None else table[items]
    return vectors, jnp.zeros(vectors.shape[:-1], table.dtype)


def mean_of_real(
    values: Float[Array, "rows width"], real: Bool[Array, "rows width"]
) -> Float[Array, ""]:
    """Returns the mean of the values that are ``real``, and 0 if none is."""
    return jnp.where(real, values, 0).sum() / jnp.maximum(real.sum(), 1)
