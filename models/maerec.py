"""MAERec: a graph masked autoencoder beside a transformer (Ye, Xia and Huang, SIGIR 2023).

Items that stand near each other in sequences are neighbours in a graph. Training hides paths of the
graph and learns to restore them. Beside it, a causal transformer over the smoothed embeddings
recommends.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import sevo_jax
from models.backbone import Backbone, Constant, Tokens, table_rows
from models.edges import MASK_LEVELS, edges_of, with_values
from models.layers.attention import attention, check_heads, sequence_mask
from models.layers.dropout import check_rates, dropout, split_keys
from models.layers.losses import Loss

LAYER_NORM_EPS = 1e-5
SMALL_REWARD = 0.2


class Carried(nnx.Variable[Any]):
    """State that a step of training leaves to the next, such as the mask."""


class MAERec(Backbone):
    """A masked autoencoder over the graph of items, and a transformer over their embeddings.

    The graph joins items that stand at a distance of at most 3 in a training sequence. ``A`` is its
    binary adjacency, with an edge from each node to itself, and ``Ã = D^-1/2 A D^-1/2``. From a
    table ``E_0``, ``E_(l+1) = Ã E_l``. The vectors of the items are ``E = E_0 + E_1 + E_2``, in the
    sequences as well as in the scores. Training smooths over a masked graph, evaluation over the
    whole graph.

    **The mask** is drawn anew at the first of every ``mask_steps`` batches. The seeds are the
    ``num_seeds`` nodes whose sum of score and noise (standard Gumbel) is highest. All edges at
    seeds are removed, those from a seed to itself too. Then ``floor(p^k n)`` of the ``n`` nodes at
    the removed edges become the next seeds; this is done twice, for ``k = 1, 2``. The edges that
    remain are normalised by their own degrees; a node without edges has ``E_0`` alone. A node's
    score is its agreement with its surroundings, ``cos(Σ m_k / Σ n_k, E_0)``, with
    ``m_0 = A E_0 - E_0``, ``n_0 = o_0``,

    - ``m_k = A_k m_(k-1) - m_(k-1) - o_(k-1) m_(k-1)``,
    - ``n_k = A_k n_(k-1) - n_(k-1) - o_(k-1)``, ``k = 1, 2, 3``,

    where ``A_k`` keeps every entry of ``A_(k-1)`` with probability ``p^k``, each direction on its
    own, and ``o_k`` are the sums of its rows.

    **The autoencoder** restores up to ``num_edges`` random removed edges ``(u, v)``, each against
    ``num_negatives`` edges, half of them ``(u, v')`` and half ``(u', v)`` with random items. The
    score of an edge is ``s = exp(sigmoid(MLP([E_i[u] * E_j[v]])))``, ``i, j`` in 0, 1, with two
    hidden layers of ``2d`` and ``d`` ReLUs. The loss is ``-Σ s⁺ / (s⁺ + Σ s⁻)``, summed over the
    edges.

    **The transformer** reads ``x_0 = dropout(LayerNorm(E[item] + P[position]))``. A block is
    ``a = LayerNorm(dropout(W Attention(x)) + x)``, ``LayerNorm(dropout(W_2 GELU(W_1 a)))``, of
    width ``4d`` inside and without a second residual. The output is the sum of ``x_0`` and the
    outputs of all blocks.

    **The training loss** is the sum of three terms: the loss of the ranking over the masked graph,
    ``recon_weight`` times the loss of the autoencoder, and ``l2`` times the sum of squares of all
    parameters. A step that draws a new mask also subtracts ``R`` times the mean score of all nodes.
    ``R`` is 1 if the loss of the ranking fell more in this step than on average in the steps
    before it that used the last mask, else 0.2. It is also 1 if there were too few steps to
    compare.

    Differences from the published code: both ends of a removed edge are candidates for the next
    seeds (the published code adds their two ids up instead); steps between masks are counted across
    epochs; nodes without neighbours score 0 with no gradient; the last item, too, is drawn as a
    negative.

    Args:
        num_items: items are ``1 … num_items``.
        graph: a graph of ``num_items + 1`` nodes, such as
            ``sevo_jax.sequence_graph(sequences, num_items + 1, max_len=None, walk_length=3)``.
            Its weights are not read.
        max_len: the longest sequence; a sequence's newest item stands at position ``max_len - 1``.
        dim: ``d``, the width of the embeddings.
        num_heads: number of attention heads; divides ``dim``.
        num_blocks: number of transformer blocks.
        num_layers: number of smoothings; the autoencoder uses all ``E_l`` but the last.
        dropout_rate: dropout rate of embeddings and of the outputs of layers.
        attention_dropout_rate: dropout rate of the attention probabilities.
        num_seeds: number of first seeds of a mask; all nodes if there are fewer.
        mask_steps: number of batches for which a mask is used.
        path_rate: ``p``.
        num_edges: number of removed edges, each in one direction, that a step restores.
        num_negatives: number of negatives of each edge, even.
        recon_weight: weight of the autoencoder's loss, in [0, 1].
        l2: weight of the sum of squares.
        loss: a name in `models.layers.losses`; published: ``bce`` with one negative.
        rngs: the stream ``params`` initialises the weights.

    Raises:
        ValueError: the graph does not have ``num_items + 1`` nodes, ``dim`` is not a multiple of
            ``num_heads``, or an option is out of its range.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> from flax import nnx
        >>> from models import MAERec
        >>> graph = sevo_jax.sequence_graph([[5, 2, 7], [9, 2]], num_nodes=10, walk_length=3)
        >>> model = MAERec(9, graph, max_len=4, dim=8, rngs=nnx.Rngs(0))
        >>> items = jnp.array([[5, 2, 7, 0]])  # the sequence 5, 2 beside the sequence 7
        >>> segments, positions = jnp.array([[1, 1, 2, 0]]), jnp.array([[2, 3, 3, 0]])
        >>> model(items, segments, positions).shape
        (1, 4, 8)
    """

    def __init__(
        self,
        num_items: int,
        graph: sevo_jax.Graph,
        *,
        max_len: int = 50,
        dim: int = 64,
        num_heads: int = 4,
        num_blocks: int = 2,
        num_layers: int = 2,
        dropout_rate: float = 0.2,
        attention_dropout_rate: float = 0.3,
        num_seeds: int = 200,
        mask_steps: int = 5,
        path_rate: float = 0.5,
        num_edges: int = 2048,
        num_negatives: int = 40,
        recon_weight: float = 5e-3,
        l2: float = 1e-8,
        loss: Loss = "bce",
        rngs: nnx.Rngs,
    ) -> None:
        nodes = num_items + 1
        if graph.num_nodes != nodes:
            raise ValueError(
                f"graph must have num_items + 1 = {nodes} nodes, got one of {graph.num_nodes}"
            )
        check_heads(dim, num_heads)
        check_rates(dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate)
        for name, share in {"path_rate": path_rate, "recon_weight": recon_weight}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        if num_negatives < 2 or num_negatives % 2:
            raise ValueError(f"num_negatives must be even and positive, got {num_negatives}")
        counts = {"num_layers": num_layers, "mask_steps": mask_steps}
        counts |= {"num_seeds": num_seeds, "num_edges": num_edges}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        uniform = nnx.initializers.glorot_uniform()
        self.item_embedding = nnx.Embed(nodes, dim, embedding_init=uniform, rngs=rngs)
        self.position_embedding = nnx.Embed(max_len, dim, embedding_init=uniform, rngs=rngs)
        self.norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.blocks = nnx.List(
            [
                Block(dim, num_heads, dropout_rate, attention_dropout_rate, rngs=rngs)
                for _ in range(num_blocks)
            ]
        )
        widths = (num_layers**2 * dim, num_layers * dim, dim, 1)
        self.decoder = nnx.List([linear(a, b, rngs=rngs) for a, b in pairwise(widths)])
        self.edges = Constant(edges_of(graph))
        values = self.edges.get_value().graph.operator.data
        self.mask = Carried(jnp.array(values))  # entries of Ã, 0 for removed edges
        self.calls = Carried(jnp.zeros((), jnp.int32))  # steps of training so far
        self.losses = Carried(jnp.zeros(2))  # ranking's, at the last new mask and the last step
        self.num_items = num_items
        self.num_layers = num_layers
        self.dropout_rate = dropout_rate
        self.num_seeds = min(num_seeds, nodes)
        self.mask_steps = mask_steps
        self.path_rate = path_rate
        self.num_edges = num_edges
        self.num_negatives = num_negatives
        self.recon_weight = recon_weight
        self.l2 = l2
        self.loss_name = loss

    def __call__(
        self,
        items: Int[Array, "rows width"],
        segments: Int[Array, "rows width"],
        positions: Int[Array, "rows width"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the output at every token, from the tokens of its segment up to itself.

        Embeddings are smoothed over the whole graph, also with a key.
        """
        x = total(self.smoothed())[items]
        keys = split_keys(key, 1 + len(self.blocks))
        mask = sequence_mask(segments, causal=True)
        x = dropout(self.norm(x + self.position_embedding(positions)), self.dropout_rate, keys[0])
        outputs = [x]
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            outputs.append(block(outputs[-1], mask, block_key))
        return total(outputs)

    def item_vectors(
        self, items: Int[Array, "*n"] | None = None
    ) -> tuple[Float[Array, "*n dim"], Float[Array, "*n"]]:
        """Returns embeddings, smoothed over the whole graph."""
        return table_rows(total(self.smoothed()), items)

    def with_table(self, table: Float[Array, "nodes dim"]) -> MAERec:
        """Returns a model whose embeddings are ``table`` and that smooths no more."""
        model = nnx.clone(self)
        model.item_embedding.embedding[...] = table
        model.num_layers = 0
        return model

    def prepared(self) -> MAERec:
        """Returns a model whose embeddings are ``E`` and that smooths no more."""
        return self.with_table(total(self.smoothed()))

    def training_loss(
        self,
        tokens: Tokens,
        positives: Int[Array, "rows targets"],
        negatives: Int[Array, ...],
        real: Bool[Array, "rows targets"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, ""]:
        """Returns the training loss that `MAERec` describes, and writes state for the next step.

        Without a key nothing is masked or written. The value is then the loss of the ranking over
        the whole graph plus the ``l2`` term.
        """
        if key is None:
            ranking = super().training_loss(tokens, positives, negatives, real)
            return ranking + self.l2 * self.squares()
        mask_key, edges_key, dropout_key = jax.random.split(key, 3)
        anew = self.calls[...] % self.mask_steps == 0
        seed_score, mask = jax.lax.cond(
            anew, self.draw_mask, lambda _: (jnp.zeros(()), self.mask[...]), mask_key
        )
        self.mask[...], self.calls[...] = mask, self.calls[...] + 1
        layers = self.smoothed(mask)
        masked = self.with_table(total(layers))
        reconstruction = self.reconstruction(mask, layers[:-1], edges_key)
        ranking = masked.loss(masked(*tokens, dropout_key), positives, negatives, real)
        value = ranking + self.l2 * self.squares() + self.recon_weight * reconstruction
        return value - self.reward(ranking, anew) * seed_score

    def squares(self) -> Float[Array, ""]:
        """Returns the sum of squares of all parameters."""
        leaves = jax.tree.leaves(nnx.state(self, nnx.Param))
        return sum(((leaf**2).sum() for leaf in leaves), jnp.zeros(()))

    def reward(self, ranking: Float[Array, ""], anew: Bool[Array, ""]) -> Float[Array, ""]:
        """Returns the reward ``R`` that `MAERec` describes, and notes the loss for the next step.

        Args:
            ranking: the loss of the ranking at this step.
            anew: whether this step drew a new mask.
        """
        now = jax.lax.stop_gradient(ranking)
        first, last = self.losses[...]
        self.losses[...] = jnp.stack([jnp.where(anew, now, first), now])
        whole = jnp.ones(())
        if self.mask_steps == 1:
            return whole
        mean_fall = (first - last) / (self.mask_steps - 1)
        fell = (last - now > mean_fall) | (self.calls[...] == 1)
        return jnp.where(fell, whole, SMALL_REWARD)

    def smoothed(self, mask: Float[Array, " entries"] | None = None) -> list[Array]:
        """Returns ``E_0, E_1, …`` over the masked graph, or over the whole graph for ``None``."""
        graph = self.edges.get_value().graph
        graph = graph if mask is None else with_values(graph, mask)
        layers = [self.item_embedding.embedding[...]]
        for _ in range(self.num_layers):
            layers.append(sevo_jax.spmm(graph, layers[-1]))
        return layers

    def seed_scores(self, key: PRNGKeyArray) -> Float[Array, " nodes"]:
        """Returns the score of every node: its embedding's agreement with its surroundings."""
        edges, x = self.edges.get_value(), self.item_embedding.embedding[...]
        kept = jnp.ones(edges.rows.shape, bool)
        order = edges.degrees(kept)
        m, n = edges.product(kept, x) - x, order[:, None]
        total_m, total_n = m, n
        for k, level_key in enumerate(jax.random.split(key, MASK_LEVELS), start=1):
            kept &= jax.random.uniform(level_key, kept.shape) < self.path_rate**k
            reached = edges.product(kept, jnp.concatenate([m, n], axis=1))
            m = reached[:, :-1] - m - order[:, None] * m
            n = reached[:, -1:] - n - order[:, None]
            order = edges.degrees(kept)
            total_m, total_n = total_m + m, total_n + n
        return (unit(total_m / (total_n + 1e-8)) * unit(x)).sum(-1)

    def draw_mask(self, key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, " entries"]]:
        """Returns the mean score of all nodes, and the entries of ``Ã`` with a new mask."""
        score_key, noise_key, path_key = jax.random.split(key, 3)
        scores = self.seed_scores(score_key)
        noisy = jax.lax.stop_gradient(scores) + jax.random.gumbel(noise_key, scores.shape)
        _, best = jax.lax.top_k(noisy, self.num_seeds)
        seeds = jnp.zeros(scores.shape, bool).at[best].set(True)
        edges = self.edges.get_value()
        kept = edges.without_paths(seeds, self.path_rate, path_key)
        return scores.mean(), edges.normalized(kept)

    def reconstruction(
        self,
        mask: Float[Array, " entries"],
        layers: list[Array],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """Returns the loss of the autoencoder.

        Args:
            mask: entries of ``Ã``, 0 for removed edges.
            layers: ``E_0, E_1, …``, all but the last.
            key: random key for the sample of edges and their negatives.
        """
        edges = self.edges.get_value()
        sample_key, negative_key = jax.random.split(key)
        chances = jnp.where(mask == 0, jax.random.uniform(sample_key, mask.shape), -1)
        chances, sample = jax.lax.top_k(chances, min(self.num_edges, mask.size))
        u, v = edges.rows[sample], edges.graph.operator.indices[sample]
        half = self.num_negatives // 2
        others = jax.random.randint(negative_key, (2, *u.shape, half), 1, self.num_items + 1)
        values = -jnp.where(chances >= 0, self.restored(layers, u, v, others[0], others[1]), 0)
        return values.sum()

    def restored(
        self,
        layers: list[Array],
        u: Int[Array, " edges"],
        v: Int[Array, " edges"],
        other_u: Int[Array, "edges half"],
        other_v: Int[Array, "edges half"],
    ) -> Float[Array, " edges"]:
        """Computes ``s⁺ / (s⁺ + Σ s⁻)`` of edges ``(u, v)`` against ``(u, v')`` and ``(u', v)``."""
        nodes = jnp.stack(layers, axis=1)
        of_u, of_v = (
            jnp.broadcast_to(nodes[x][:, None], (*other_u.shape, *nodes.shape[1:])) for x in (u, v)
        )
        left = jnp.concatenate([nodes[u][:, None], of_u, nodes[other_u]], axis=1)
        right = jnp.concatenate([nodes[v][:, None], nodes[other_v], of_v], axis=1)
        x = left[..., :, None, :] * right[..., None, :, :]
        x = x.reshape(*x.shape[:2], -1)
        for layer in self.decoder[:-1]:
            x = jax.nn.relu(layer(x))
        s = jnp.exp(jax.nn.sigmoid(self.decoder[-1](x)[..., 0]))
        return s[:, 0] / (s.sum(1) + 1e-8)


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a linear layer whose weights start at Xavier's uniform distribution."""
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs)


def total(layers: list[Array]) -> Array:
    """Adds arrays up."""
    return sum(layers[1:], layers[0])


def unit(x: Float[Array, "*n dim"]) -> Float[Array, "*n dim"]:
    """Computes ``x / |x|``; a vector of zeros stays 0, with no gradient."""
    squares = (x**2).sum(-1, keepdims=True)
    some = squares > 1e-24
    return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)


class Block(nnx.Module):
    """Attention and feed-forward layer; see `MAERec`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout_rate: float,
        attention_dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.query, self.key, self.value = (linear(dim, dim, rngs=rngs) for _ in range(3))
        self.out = linear(dim, dim, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.inner, self.outer = linear(dim, 4 * dim, rngs=rngs), linear(4 * dim, dim, rngs=rngs)
        self.feed_forward_norm = nnx.LayerNorm(dim, epsilon=LAYER_NORM_EPS, rngs=rngs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate

    def __call__(
        self,
        x: Float[Array, "rows width dim"],
        mask: Bool[Array, "rows width width"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows width dim"]:
        """Returns the block's output; a query sees the keys of ``mask``."""
        attention_key, out_key, outer_key = split_keys(key, 3)
        mixed = attention(
            self.query(x),
            self.key(x),
            self.value(x),
            mask,
            causal=True,
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            key=attention_key,
        )
        a = self.attention_norm(dropout(self.out(mixed), self.dropout_rate, out_key) + x)
        inner = jax.nn.gelu(self.inner(a), approximate=False)
        return self.feed_forward_norm(dropout(self.outer(inner), self.dropout_rate, outer_key))
