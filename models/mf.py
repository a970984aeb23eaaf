"""MF-BPR: matrix factorisation with a pairwise ranking loss (Rendle et al., UAI 2009)."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Task
from models.layers.losses import Loss


class MFBPR(Backbone):
    """Matrix factorisation: the score of an item is ``U[user] · E[item]``.

    A training example is a user, one of the user's items, and an item that the user has not met.
    Both tables start at ``N(0, std²)``.

    Args:
        num_users: users are ``0 … num_users - 1``.
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of the embeddings.
        std: standard deviation of the initial embeddings.
        loss: a name in `models.layers.losses`.
        rngs: the stream ``params`` initialises the weights.

    Examples:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from models import MFBPR
        >>> model = MFBPR(num_users=3, num_items=9, dim=8, rngs=nnx.Rngs(0))
        >>> users = jnp.array([[2], [0]])
        >>> model.scores(model(users, users, users)[:, 0]).shape
        (2, 9)
    """

    task: Task = "pair"

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        dim: int = 64,
        std: float = 1e-4,
        loss: Loss = "bpr",
        rngs: nnx.Rngs,
    ) -> None:
        normal = nnx.initializers.normal(std)
        self.user_embedding = nnx.Embed(num_users, dim, embedding_init=normal, rngs=rngs)
        self.item_embedding = nnx.Embed(num_items + 1, dim, embedding_init=normal, rngs=rngs)
        self.num_items = num_items
        self.loss_name = loss

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the users' vectors; ``items`` holds users, the other arguments are not read."""
        return self.user_embedding.embedding[...][items]
