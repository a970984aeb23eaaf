"""What a model is to the training loop, and what all models share."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models import losses
from models.losses import Loss

Task = Literal["next", "prefix", "masked", "pair"]
"""What a model reads and predicts in training.

- ``next``: a user's items; at each, the item after it.
- ``prefix``: every beginning of a user's items, each a sequence of its own; the item after its end.
- ``masked``: a user's items, some replaced by the mask; the replaced ones. In evaluation the mask
  stands after the last item.
- ``pair``: a user alone; one of the user's items.
"""

Tokens = tuple[Int[Array, "rows width"], Int[Array, "rows width"], Int[Array, "rows width"]]
"""Items, segments and positions."""


class Constant(nnx.Variable[Any]):
    """Arrays that a model reads and training does not change, such as a graph.

    They belong to the model, but are neither parameters nor checkpointed state: a compiled step
    takes them as an argument, so that they are no part of its program. The value may be any pytree;
    ``get_value()`` returns it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models.backbone import Constant
        >>> Constant({"edges": jnp.arange(3)}).get_value()["edges"].tolist()
        [0, 1, 2]
    """


class Backbone(nnx.Module):
    """A recommender: from a user's items to a vector, and from the vector to scores of items.

    A subclass defines ``__call__`` and, unless its item vectors are the table ``item_embedding``,
    `item_vectors`; where these smooth whole tables, also `prepared`. Items are numbered
    ``1 … num_items``; 0 is padding.

    Attributes:
        task: what the model reads and predicts.
        tables: the embedding tables that SEvo smooths over the graph of items, each on its own, by
            their paths.
        packs: whether a row may hold several sequences, told apart by segment. Otherwise it holds
            one, the newest item in the last column and padding before it, or padding alone; rows
            may then come in groups of a width each (see `models.groups`), and the outputs, and what
            is to be predicted, are of the newest items only, ``[rows, 1, …]``, one group after the
            other.
        undecayed: the names of parameters, anywhere in the model, that no optimiser decays.
        mask_rate: the share of the tokens that training masks, for the task ``masked``.
        loss_name: which of `models.losses` the default `loss` is.
        num_items: how many items there are.
    """

    task: ClassVar[Task] = "next"
    tables: ClassVar[tuple[str, ...]] = ("item_embedding",)
    packs: ClassVar[bool] = True
    undecayed: ClassVar[tuple[str, ...]] = ()
    mask_rate: float = 0.5
    loss_name: Loss = "bce"
    num_items: int
    item_embedding: nnx.Embed

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """The output at every token, or with ``packs = False`` at the last one of each row.

        Args:
            items: item ids, 0 for padding and ``num_items + 1`` for the mask; user ids, from 0,
                for the task ``pair``.
            segments: the sequence each token belongs to, 0 for padding.
            positions: of the token, the newest of a sequence at ``max_len - 1``.
            key: for dropout; ``None`` for evaluation.
        """
        raise NotImplementedError

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
        """What items are scored by: ``score = hidden · vector + bias``; of all rows if ``None``."""
        table = self.item_embedding.embedding[...]
        vectors = table if items is None else table[items]
        return vectors, jnp.zeros(vectors.shape[:-1], table.dtype)

    def score(self, hidden: Float[Array, "*n dim"], items: Int[Array, "*n"]) -> Float[Array, "*n"]:
        """The score of one item for each vector."""
        vectors, bias = self.item_vectors(items)
        return (hidden * vectors).sum(-1) + bias

    def scores(self, hidden: Float[Array, "users dim"]) -> Float[Array, "users items"]:
        """Scores of the items ``1 … num_items``, in that order."""
        vectors, bias = self.item_vectors()
        items = slice(1, self.num_items + 1)
        return hidden @ vectors[items].T + bias[items]

    def loss(
        self,
        hidden: Float[Array, "rows width dim"],
        positives: Int[Array, "rows width"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows width"],
    ) -> Float[Array, ""]:
        """The loss called `loss_name`, averaged over the tokens that are ``real``.

        Args:
            hidden: the outputs.
            positives: the item to predict at each.
            negatives: ``int[rows, width, k]``, items that the user has not met; for
                ``sampled-softmax`` ``int[k]``, drawn from all items and shared by all tokens.
            real: where there is something to predict.
        """
        if self.loss_name == "softmax":
            vectors, bias = self.item_vectors()
            items = slice(1, self.num_items + 1)  # padding is no class
            flat = hidden.reshape(-1, hidden.shape[-1])
            targets = jnp.maximum(positives.ravel() - 1, 0)
            return losses.softmax(flat, vectors[items], bias[items], targets, real.ravel())
        if self.loss_name == "sampled-softmax":
            vectors, bias = self.item_vectors(positives)  # `score` may be shifted
            positive = (hidden * vectors).sum(-1) + bias
            vectors, bias = self.item_vectors(negatives)
            collides = negatives == positives[..., None]
            negative = hidden @ vectors.T + bias
            values = losses.sampled_softmax(positive, negative, collides, self.num_items)
        else:
            positive = self.score(hidden, positives)
            pairwise = {"bce": losses.bce, "bpr": losses.bpr}[self.loss_name]
            values = pairwise(positive, self.score(hidden[..., None, :], negatives))
        return mean_of_real(values, real)

    def prepared(self) -> Backbone:
        """The model for evaluation, what is the same for all users computed.

        Without a key, its outputs and item vectors are those of this model, up to rounding.
        """
        return self

    def training_loss(
        self,
        tokens: Tokens,
        positives: Int[Array, "rows width"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """What a step minimises: the `loss` of the outputs.

        A model overrides it whose outputs and item vectors share costly work, or whose loss needs
        to know what was read.

        Args:
            tokens: items, segments and positions, as `__call__` reads them.
            positives: as in `loss`.
            negatives: as in `loss`.
            real: as in `loss`.
            key: for dropout.
        """
        return self.loss(self(*tokens, key), positives, negatives, real)


def mean_of_real(
    values: Float[Array, "rows width"], real: Bool[Array, "rows width"]
) -> Float[Array, ""]:
    """The mean where ``real``, and 0 where nothing is."""
    return jnp.where(real, values, 0).sum() / jnp.maximum(real.sum(), 1)
