"""Structure-aware embedding evolution (SEvo) as Optax gradient transformations."""

from sevo_jax.alias import sevo_adamw
from sevo_jax.builders import edge_graph, sequence_graph
from sevo_jax.graph import Graph
from sevo_jax.smoothing import smooth
from sevo_jax.sparse import spmm
from sevo_jax.transform import SevoSmoothState, scale_by_adam, sevo_smooth

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "SevoSmoothState",
    "edge_graph",
    "scale_by_adam",
    "sequence_graph",
    "sevo_adamw",
    "sevo_smooth",
    "smooth",
    "spmm",
]
