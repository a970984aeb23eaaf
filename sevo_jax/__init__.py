"""Structure-aware embedding evolution (SEvo) as Optax gradient transformations."""

from typing import TYPE_CHECKING, Any, no_type_check

from sevo_jax import diagnostics, tabular
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
from sevo_jax._serialization import register_with_flax
from sevo_jax._smoothing import Method, evolve, smooth, smooth_exact
from sevo_jax._spmm import spmm
from sevo_jax._states import grow, seed_axes, set_graph, settle
from sevo_jax._tables import Tables
from sevo_jax._transforms import SevoSmoothState, scale_by_adam, sevo_smooth
from sevo_jax.tabular import sequence_graph_from_table

__version__ = "0.1.0"

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

if not TYPE_CHECKING:  # type checkers report the old names, and misspelt ones

    @no_type_check  # a checked call would be the caller that the warning names
    def __getattr__(name: str) -> Any:
        """The old flat name of a diagnostic, for one release."""
        if name not in diagnostics.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import warnings

        new = f"sevo_jax.diagnostics.{name}"
        message = f"sevo_jax.{name} is deprecated: write {new}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(diagnostics, name)


register_with_flax()
