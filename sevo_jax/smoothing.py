"""The operator itself: pure functions of a graph and an array.

``psi(X) = s * sum_{l<=L} beta^l Ã^l X`` with ``s = 1 / sum_{l<=L} beta^l`` is Eq. 7; the paper's
prefactor ``(1 - beta) / (1 - beta^(L+1))`` is the same number, but loses digits as beta nears 1.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sevo_jax.graph import Graph
from sevo_jax.sparse import check_rows, compute_dtype, spmm
from sevo_jax.validation import check_beta, check_choice, check_num_layers

Method = Literal["neumann", "neumann_unscaled"]
METHODS: tuple[Method, ...] = ("neumann", "neumann_unscaled")


def smooth(
    graph: Graph,
    x: Float[Array, "nodes ..."],
    beta: ArrayLike = 0.99,
    num_layers: int = 3,
    method: Method = "neumann",
) -> Float[Array, "nodes ..."]:
    """Smooths the rows of ``x`` over the graph.

    - ``"neumann"``: ``(1 - beta) / (1 - beta^(L+1)) * sum_{l<=L} beta^l Ã^l x`` (Eq. 7);
    - ``"neumann_unscaled"``: ``(1 - beta) * sum_{l<=L} beta^l Ã^l x`` (Theorem 1).

    Args:
        graph: the `Graph`.
        x: ``float[nodes, ...]``; trailing axes are features.
        beta: the degree of smoothness in [0, 1), a scalar; 0 returns ``x``.
        num_layers: ``L``, a static integer of at least 0: as many sparse products are made.
        method: one of the above.

    Returns:
        The smoothed array, in the shape and dtype of ``x``.

    Raises:
        TypeError: ``num_layers`` is not a static integer, or ``x`` is not floating.
        ValueError: ``beta`` outside [0, 1) (where it is concrete), a negative ``num_layers``, an
            unknown method, or a wrong number of rows.

    Example:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> sevo_jax.smooth(graph, jnp.array([[3.0], [0.0]]), beta=0.5, num_layers=1).tolist()
        [[2.0], [1.0]]
    """
    check_choice("method", method, METHODS)
    layers = check_num_layers(num_layers)
    check_beta(beta)
    check_rows(graph, x)

    dtype = compute_dtype(x)
    start = x.astype(dtype)
    # A Python float keeps its 53 bits through the sum of powers below.
    beta = beta if isinstance(beta, int | float) else jnp.asarray(beta, dtype)
    scale = (
        1 - beta
        if method == "neumann_unscaled"
        else 1 / sum(beta**power for power in range(layers + 1))
    )
    smoothed = start
    for _ in range(layers):  # Horner's rule
        smoothed = start + beta * spmm(graph, smoothed)
    return (scale * smoothed).astype(x.dtype)
