"""A user's program, for `test_types`: a type checker must find the marked lines and no other."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp
from jax.experimental.sparse import BCOO

import sevo_jax


@dataclass
class Mask:
    """A mask of a dataclass of the user's own, such as an Equinox module."""

    table: bool


def warm_up(step: jax.Array) -> jax.Array:
    return 0.9 * jnp.minimum(step / 10, 1)


def passed_on(
    tables: sevo_jax.Tables, method: sevo_jax.Method, operator: sevo_jax.Operator
) -> optax.GradientTransformation:
    return sevo_jax.sevo_smooth(operator, tables=tables, method=method)


def right() -> None:
    loops: sevo_jax.SelfLoops = "isolated"
    kernel: sevo_jax.Kernel = "gather"
    graph = sevo_jax.edge_graph([0, 1], [1, 2], num_nodes=4, self_loops=loops).with_kernel(kernel)
    dense = np.eye(4, dtype=np.float32)

    sevo_jax.sevo_adamw(1e-3, graph, beta=optax.linear_schedule(0.0, 0.9, 10))
    sevo_jax.sevo_adam(optax.cosine_decay_schedule(1e-3, 10), graph, beta=warm_up)
    sevo_jax.sevo_sgd(1e-3, graph, beta=lambda step: 0.5, momentum=0.9)
    sevo_jax.sevo_smooth(graph, beta=jnp.float32(0.5), method="exact", tol=1e-3)
    sevo_jax.sevo_adamw(1e-3, dense, tables="table")
    sevo_jax.sevo_adamw(1e-3, sp.csr_array(dense), tables=("users", "items"))
    sevo_jax.sevo_adamw(1e-3, sp.csr_matrix(dense), tables=["users", "items"])
    sevo_jax.sevo_adamw(1e-3, jnp.asarray(dense), tables=[["mean"], ["covariance"]])
    sevo_jax.sevo_adamw(
        1e-3, BCOO.fromdense(jnp.asarray(dense)), tables={"table": True, "bias": False}
    )
    sevo_jax.sevo_adamw(1e-3, graph, tables=lambda params: {"table": True})
    sevo_jax.sevo_adamw(1e-3, graph, tables=Mask(table=True))
    passed_on(None, "iterative", dense)
    smoothed: jax.Array = sevo_jax.smooth(graph, jnp.ones((4, 2)), 0.5, 2, "neumann_unscaled")
    product: jax.Array = sevo_jax.spmm(graph, smoothed)
    state = sevo_jax.sevo_adamw(1e-3, graph).init({"table": product})
    del state


def wrong(graph: sevo_jax.Graph) -> None:
    sevo_jax.sevo_adamw(1e-3, graph, tables=7)  # wrong
    sevo_jax.sevo_adamw(1e-3, graph, tables=[1, 2])  # wrong
    sevo_jax.sevo_adamw(1e-3, graph, method="foo")  # wrong
    sevo_jax.sevo_adamw(1e-3, graph, beta="0.9")  # wrong
    sevo_jax.sevo_adam(1e-3, graph, beta=lambda step: "0.9")  # wrong
    sevo_jax.sevo_sgd(1e-3, graph, num_layers=1.5)  # wrong
    sevo_jax.sevo_sgd(1e-3, [[0, 1], [1, 0]])  # wrong
    sevo_jax.sevo_smooth("graph.npz")  # wrong
    sevo_jax.smooth(graph, jnp.ones((4, 2)), method="neuman")  # wrong
    sevo_jax.edge_graph([0], [1], num_nodes=2, self_loops=True)  # wrong
    graph.with_kernel("cusparse")  # wrong
    graph.with_kernel(None, precision="float16")  # wrong
    wrong_method: sevo_jax.Method = "newman"  # wrong
    wrong_loops: sevo_jax.SelfLoops = "some"  # wrong
    del wrong_method, wrong_loops
