"""Structure-aware embedding evolution (SEvo) as Optax gradient transformations."""

from sevo_jax.alias import sevo_adam, sevo_adamw, sevo_sgd
from sevo_jax.builders import (
    bipartite_graph,
    category_graph,
    combine_graphs,
    edge_graph,
    knn_graph,
    sequence_graph,
)
from sevo_jax.diagnostics import (
    Communication,
    communication,
    convergence_factor,
    corrected_rows,
    direction,
    optimum_share,
    smoothness,
    spectral_bounds,
    structure,
)
from sevo_jax.graph import Graph, Kernel, SelfLoops
from sevo_jax.matrices import Operator
from sevo_jax.serialization import register_with_flax
from sevo_jax.smoothing import Method, smooth, smooth_exact
from sevo_jax.sparse import spmm
from sevo_jax.states import grow, seed_axes, set_graph
from sevo_jax.tables import Tables
from sevo_jax.tabular import sequence_graph_from_table
from sevo_jax.transform import SevoSmoothState, scale_by_adam, sevo_smooth

__version__ = "0.1.0"

__all__ = [
    "Communication",
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
    "communication",
    "convergence_factor",
    "corrected_rows",
    "direction",
    "edge_graph",
    "grow",
    "knn_graph",
    "optimum_share",
    "scale_by_adam",
    "seed_axes",
    "sequence_graph",
    "sequence_graph_from_table",
    "set_graph",
    "sevo_adam",
    "sevo_adamw",
    "sevo_sgd",
    "sevo_smooth",
    "smooth",
    "smooth_exact",
    "smoothness",
    "spectral_bounds",
    "spmm",
    "structure",
]

register_with_flax()
