"""LightGCN: matrix factorisation on smoothed embeddings (He et al., SIGIR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.backbone import Backbone, Constant, Task, Tokens, mean_of_real, table_rows
from models.layers.losses import PAIRWISE, Loss
from sevo_jax import Graph, spmm


class LightGCN(Backbone):
    """Collaborative filtering by graph convolution without weights or nonlinearities.

    With ``E_0`` the embeddings of users and items and ``Ã = D^-1/2 A D^-1/2`` the normalised graph
    of interactions,

    - ``E_{l+1} = Ã E_l``, ``F = Σ_l w_l E_l`` over the layers ``0 … num_blocks``,

    where ``w_l = 1/(num_blocks + 1)``, and the score of an item is ``F_user · F_item``. A node
    without edges keeps ``w_0 E_0``.

    Training reads pairs of a user and one of the user's items, with unseen items as negatives. It
    adds to BPR an L2 term over the rows of ``E_0`` in the batch,
    ``l2 / 2B · Σ (|u|² + |p|² + |n|²)`` over its ``B`` pairs. The optimiser's own decay should
    then be zero.

    A step propagates over the whole graph once: `training_loss` shares the result between users and
    items. `__call__` and `item_vectors` propagate at every call. The model that `prepared` returns
    has propagated already, and only looks rows up.

    Args:
        graph: a graph of ``num_users + num_items + 1`` nodes: the users, then the padding, which
            has no edges, then the items; see `sevo_jax.bipartite_graph`.
        num_users: users are ``0 … num_users - 1``.
        num_items: items are ``1 … num_items``.
        dim: ``d``, the width of the embeddings.
        num_blocks: number of propagations.
        layer_weights: ``w``, ``num_blocks + 1`` numbers; ``None`` for equal ones.
        l2: weight of the L2 term.
        std: both tables start at ``N(0, std²)``. The authors use 0.1; 1e-4 is also in use.
        loss: ``bpr`` or ``bce``.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: the graph has another number of nodes, there are not ``num_blocks + 1`` weights,
            or the loss is neither ``bpr`` nor ``bce``.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> from flax import nnx
        >>> from models import LightGCN
        >>> graph = sevo_jax.bipartite_graph([0, 0, 1, 2], [4, 9, 4, 1], num_rows=3, num_cols=10)
        >>> model = LightGCN(graph, num_users=3, num_items=9, dim=8, rngs=nnx.Rngs(0))
        >>> users = jnp.array([[2], [0]])
        >>> model.scores(model(users, users, users)[:, 0]).shape
        (2, 9)
    """

    task: Task = "pair"

    def __init__(
        self,
        graph: Graph,
        num_users: int,
        num_items: int,
        *,
        dim: int = 64,
        num_blocks: int = 3,
        layer_weights: Sequence[float] | None = None,
        l2: float = 1e-4,
        std: float = 0.1,
        loss: Loss = "bpr",
        rngs: nnx.Rngs,
    ) -> None:
        nodes = num_users + num_items + 1
        if graph.num_nodes != nodes:
            raise ValueError(
                f"graph must have num_users + num_items + 1 = {nodes} nodes, got {graph.num_nodes}"
            )
        if loss not in PAIRWISE:
            raise ValueError(f"loss of LightGCN must be {' or '.join(PAIRWISE)}, got {loss}")
        if layer_weights is None:
            layer_weights = [1 / (num_blocks + 1)] * (num_blocks + 1)
        if len(layer_weights) != num_blocks + 1:
            raise ValueError(
                f"layer_weights must hold num_blocks + 1 = {num_blocks + 1} numbers, "
                f"got {len(layer_weights)}"
            )
        normal = nnx.initializers.normal(std)
        self.user_embedding = nnx.Embed(num_users, dim, embedding_init=normal, rngs=rngs)
        self.item_embedding = nnx.Embed(num_items + 1, dim, embedding_init=normal, rngs=rngs)
        self.graph = Constant(graph)
        self.layer_weights = tuple(float(w) for w in layer_weights)
        self.num_items = num_items
        self.l2 = l2
        self.loss_name = loss

    def propagate(self) -> tuple[Float[Array, "users dim"], Float[Array, "all_items dim"]]:
        """Returns ``F`` of the users, and ``F`` of padding and items."""
        _, final = self._nodes()
        users = self.user_embedding.num_embeddings
        return final[:users], final[users:]

    def _nodes(self) -> tuple[Float[Array, "nodes dim"], Float[Array, "nodes dim"]]:
        """Returns ``E_0`` and ``F`` of all nodes."""
        tables = self.user_embedding.embedding[...], self.item_embedding.embedding[...]
        graph: Graph = self.graph.get_value()
        layer = first = jnp.concatenate(tables)
        final = self.layer_weights[0] * first
        for weight in self.layer_weights[1:]:
            layer = spmm(graph, layer)
            final += weight * layer
        return first, final

    def prepared(self) -> LightGCN:
        """Returns a model whose embeddings are ``F`` and that propagates no more."""
        model = nnx.clone(self)
        model.user_embedding.embedding[...], model.item_embedding.embedding[...] = self.propagate()
        model.layer_weights = (1.0,)
        return model

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the users' vectors; ``items`` holds users, the other arguments are not read."""
        return self.propagate()[0][items]

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
        """Returns ``F`` of the items."""
        return table_rows(self.propagate()[1], items)

    def training_loss(
        self,
        tokens: Tokens,
        positives: Int[Array, "rows width"],
        negatives: Int[Array, "rows width k"],
        real: Bool[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """Returns the loss and the L2 term, averaged over the pairs that are ``real``."""
        first, final = self._nodes()
        num_users = self.user_embedding.num_embeddings
        users, positives = tokens[0][..., None], num_users + positives[..., None]
        # One lookup for all: the gradient of each would be as large as the table.
        nodes = jnp.concatenate([users, positives, num_users + negatives], axis=-1)
        rows = final[nodes]
        scores = (rows[..., :1, :] * rows[..., 1:, :]).sum(-1)
        squares = (first[nodes] ** 2).sum((-2, -1))
        pairwise = PAIRWISE[self.loss_name]
        values = pairwise(scores[..., 0], scores[..., 1:]) + self.l2 / 2 * squares
        return mean_of_real(values, real)
