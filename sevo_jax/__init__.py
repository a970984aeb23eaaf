"""Structure-aware embedding evolution (SEvo) as Optax gradient transformations."""

from sevo_jax import _serialization, diagnostics, tabular
from sevo_jax._builders import (
    bipartite_graph,
    category_graph,
    combine_graphs,
    edge_graph,
    knn_graph,
    sequence_graph,
)
from sevo_jax._graph import Graph, Kernel, SelfLoops
from sevo_jax._matrices import Operator
from sevo_jax._optimizers import sevo_adam, sevo_adamw, sevo_sgd
from sevo_jax._smoothing import Method, evolve, smooth, smooth_exact
from sevo_jax._spmm import spmm
from sevo_jax._states import grow, seed_axes, set_graph, settle
from sevo_jax._tables import Tables
from sevo_jax._transforms import SevoSmoothState, scale_by_adam, sevo_smooth
from sevo_jax.tabular import sequence_graph_from_table

__version__ = "0.2.0"

__all__ = [
    "Graph",
    "Kernel",
    "Method",
    "Operator",
    "SelfLoops",
    "SevoSmoothState",
    "Tables",
    "bipartite_graph",
    "category_graph",
    "combine_graphs",
    "diagnostics",
    "edge_graph",
    "evolve",
    "grow",
    "knn_graph",
    "scale_by_adam",
    "seed_axes",
    "sequence_graph",
    "sequence_graph_from_table",
    "set_graph",
    "settle",
    "sevo_adam",
    "sevo_adamw",
    "sevo_sgd",
    "sevo_smooth",
    "smooth",
    "smooth_exact",
    "spmm",
    "tabular",
]

_serialization.register_with_flax()
