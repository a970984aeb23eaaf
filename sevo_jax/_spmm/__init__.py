"""Sparse times dense: one function, and behind it a kernel for each platform.

- `cpu`: the default on CPUs, where installing the package found a compiler. It makes a layer of a
  smoothing in one pass.
- ``"bcsr"``: the default on other CPUs, ten times faster there than a gather and scatter.
- ``"pallas"``, in `triton`: the default on NVIDIA GPUs from Ampere on. It makes a layer in one
  pass, too.
- ``"gather"``: the default elsewhere. It adds in a fixed order; the atomic additions of a scatter
  would change the last bits from run to run.

The kernels take two axes and equal dtypes. Everything else that users do (trailing axes, half
precision, gradients, ``vmap``) is turned into such a call here, and split tables in `sharded`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sevo_jax._graph import Graph, Kernel, Precision, as_graph
from sevo_jax._matrices import Operator
from sevo_jax._sharding import Plan
from sevo_jax._spmm import bcsr, cpu, gather
from sevo_jax._spmm.arrays import Columns, Matrix, Pointers, Rows, Scale, Table, Values
from sevo_jax._spmm.sharded import (
    explicit_sharding,
    flattened,
    on_mesh,
    on_parts,
    on_shards,
    placed_as,
)


def spmm(
    graph: Graph | Operator, x: Float[Array | np.ndarray, "nodes ..."]
) -> Float[Array, "nodes ..."]:
    """``Ã x``: each node's weighted sum over its neighbours.

    Reverse-mode differentiation works any number of times, in ``x`` (one more product, since ``Ã``
    is symmetric) and in the operator's values. There is no forward mode. ``vmap`` over ``x`` makes
    one product for all, with the mapped axis among the features.

    Under ``jit`` the product of a sharded ``x`` is sharded alike, and so are its gradient and its
    ``vmap``. Axes of the mesh may be automatic or explicit; on a mesh that has both, all devices
    along an automatic axis compute the same. `Graph.shard` says which rows devices exchange.

    Args:
        graph: the `Graph`, or a normalised operator, which is checked at every call. Its values are
            cast to the compute dtype. `Graph.with_kernel` chooses another kernel.
        x: ``float[nodes, ...]``. Trailing axes, none or several, are features.

    Returns:
        The product, in the shape and dtype of ``x``. It is computed in that dtype, or in float32
        where that is wider.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: the leading axis of ``x`` is not the number of nodes.

    Examples:
        >>> import jax.numpy as jnp, sevo_jax
        >>> graph = sevo_jax.edge_graph([0], [1], num_nodes=2)
        >>> sevo_jax.spmm(graph, jnp.array([[1.0], [5.0]])).tolist()
        [[5.0], [1.0]]
    """
    graph = as_graph(graph)
    rows, restore = operator_rows(graph, x)
    return restore(product(graph, rows))


def operator_rows(
    graph: Graph, x: Float[Array | np.ndarray, "nodes ..."]
) -> tuple[Table, Callable[[Table], Float[Array, "nodes ..."]]]:
    """``x`` with two axes and in the compute dtype, and the function that undoes it.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: the leading axis of ``x`` is not the number of nodes.
    """
    x = check_rows(graph, x)
    rows, restore = flattened(x)
    return rows.astype(compute_dtype(x)), lambda y: restore(y).astype(x.dtype)


def product(
    graph: Graph, rows: Table, scale: ArrayLike | None = None, base: Table | None = None
) -> Table:
    """``base + scale * (graph.operator @ rows)``: one layer of a smoothing.

    ``scale`` and ``base`` come together. Without them it is the product alone.
    """
    operator, exchange = graph.operator, graph.exchange
    matrix = (operator.data.astype(rows.dtype), operator.indices, operator.indptr)
    if exchange is not None and exchange.send is not None:
        matrix = (*matrix, exchange.send)
    choice = Choice(graph.kernel, graph.precision, exchange.plan if exchange else None)
    if scale is None or base is None:
        return _product(choice, matrix, rows, ())
    return _product(choice, matrix, rows, (jnp.asarray(scale, rows.dtype), base.astype(rows.dtype)))


class Choice(NamedTuple):
    """The static part of a graph, which decides how its product is computed."""

    kernel: Kernel | None
    precision: Precision | None
    plan: Plan | None


Layer = tuple[()] | tuple[Scale, Table]
"""The scale and the base of a layer; nothing for a product."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(choice: Choice, matrix: Matrix, x: Table, layer: Layer) -> Table:
    return _batched(choice)(matrix, x, layer)


def _product_forward(
    choice: Choice, matrix: Matrix, x: Table, layer: Layer
) -> tuple[Table, tuple[Any, ...]]:
    # Calls `_product` and not the kernel, so that gradients of gradients find this rule again.
    return _product(choice, matrix, x, layer), (matrix, x, layer[:1])


def _product_backward(choice: Choice, residuals: Any, g: Table) -> tuple[Any, ...]:
    matrix, x, scale = residuals
    on_values = _on_whole_values
    if choice.plan is not None:
        on_values = on_parts(_gradient_in_values, choice.plan, is_product=False)
    in_data, others = on_values(matrix, x, g), (None,) * (len(matrix) - 1)
    in_x = _product(choice, matrix, g, ())  # Ã is symmetric
    if not scale:
        return (in_data, *others), in_x, ()
    (scale,) = scale
    return (scale * in_data, *others), scale * in_x, ((in_x * x).sum(), g)


def _gradient_in_values(
    data: Values, indices: Columns, indptr: Pointers, x: Table, g: Rows
) -> Values:
    """The gradient of the product in the operator's values."""
    rows = jnp.searchsorted(indptr, jnp.arange(data.size), side="right") - 1
    # Padding refers to one column past the end.
    neighbours = jnp.asarray(x).at[indices].get(mode="fill", fill_value=0)
    return (g.at[rows].get(mode="fill", fill_value=0) * neighbours).sum(-1)


@functools.partial(jax.jit, inline=True)  # compiled once for calls outside jit
def _on_whole_values(matrix: Matrix, x: Table, g: Table) -> Values:
    """`_gradient_in_values` where every device holds the whole graph."""
    mesh, (_, columns) = explicit_sharding(x)
    if mesh is None:
        data, indices, indptr = matrix
        return _gradient_in_values(data, indices, indptr, x, g)

    def own(*operands: Array) -> Values:
        out = _gradient_in_values(*operands)
        return out if columns is None else jax.lax.psum(out, columns)

    whole, features = PartitionSpec(), PartitionSpec(None, columns)
    return on_mesh(own, mesh, (whole, whole, whole, features, features), whole)(*matrix, x, g)


_product.defvjp(_product_forward, _product_backward)


@functools.cache  # a new function at every call would compile anew outside jit
def _batched(choice: Choice) -> Callable[[Matrix, Table, Layer], Table]:
    """The product or layer, with its rules for sharded tables and for ``vmap``."""

    def by_platform(
        data: Values, indices: Columns, indptr: Pointers, x: Table, *layer: Array
    ) -> Rows:
        if data.size == 0 or x.shape[1] == 0:
            return layer[1] if layer else jnp.zeros((indptr.size - 1, x.shape[1]), x.dtype)
        return jax.lax.platform_dependent(data, indices, indptr, x, *layer, **_kernels(choice))

    plan = choice.plan
    kernel = on_shards(by_platform) if plan is None else on_parts(by_platform, plan)

    @custom_vmap
    def batched(matrix: Matrix, x: Table, layer: Layer) -> Table:
        return kernel(matrix, x, *layer)

    @batched.def_vmap
    def _(  # pyright: ignore[reportUnusedFunction]
        size: int,
        in_batched: Any,
        matrix: Matrix,
        x: Array | np.ndarray,
        layer: tuple[Array | np.ndarray, ...],
    ) -> tuple[Array, bool]:
        def spread(is_batched: bool, a: Array | np.ndarray) -> Array:
            return jnp.asarray(a) if is_batched else jnp.broadcast_to(a, (size, *a.shape))

        matrix_batched, x_batched, layer_batched = in_batched
        if any(matrix_batched) or any(layer_batched[:1]):
            # A graph or a scale for each x: one product after the other.
            operands = jax.tree.map(spread, tuple(in_batched), (matrix, x, layer))
            return jax.lax.map(lambda a: batched(*a), operands), True
        x = spread(x_batched, x)
        rows, restore = _joined(x)
        if layer:
            base = placed_as(x, spread(layer_batched[1], layer[1]))
            layer = (layer[0], _joined(base)[0])
        return restore(batched(matrix, rows, layer)), True

    return batched


def _joined(
    x: Float[Array, "batch nodes dim"],
) -> tuple[Float[Array, "nodes joined"], Callable[[Array], Array]]:
    """The mapped axis as more features, and the function that undoes it."""
    rows, restore = flattened(x.swapaxes(0, 1))
    return rows, lambda y: restore(y).swapaxes(0, 1)


@functools.cache
def _kernels(choice: Choice) -> dict[str, Callable[..., Rows]]:
    """The kernel of a choice on each platform.

    It makes the product, and given a scale and a base the layer ``base + scale * product``.
    """
    kernel, narrow = choice.kernel, choice.precision is not None
    if kernel == "pallas":
        return {"cpu": _triton(narrow, True), "default": _triton(narrow, False)}
    if kernel == "bcsr":
        on_cpus, elsewhere = map(_in_two_passes, (bcsr.product_on_cpus, bcsr.product))
        return {"cpu": on_cpus, "default": elsewhere}
    found = {"default": _in_two_passes(functools.partial(gather.product, narrow=narrow))}
    if kernel == "gather":
        return found
    if cpu.missing() is None:
        found["cpu"] = functools.partial(cpu.product, narrow=narrow)
    elif not narrow:
        found["cpu"] = _in_two_passes(bcsr.product_on_cpus)
    if _has_triton():  # every platform's kernel is traced, so only where it is needed
        with contextlib.suppress(ImportError):  # JAX has deprecated its Triton backend
            found["cuda"] = _triton(narrow, False)
    return found


def _in_two_passes(kernel: Callable[..., Rows]) -> Callable[..., Rows]:
    def product_or_layer(
        data: Values, indices: Columns, indptr: Pointers, x: Table, *layer: Array
    ) -> Rows:
        out = kernel(data, indices, indptr, x)
        if not layer:
            return out
        scale, base = layer
        return base + scale * out

    return product_or_layer


def _triton(narrow: bool, interpret: bool) -> Callable[..., Rows]:
    from sevo_jax._spmm import triton

    return functools.partial(triton.product, narrow=narrow, interpret=interpret)


def _has_triton() -> bool:
    """Whether all GPUs here are NVIDIA's from Ampere on, for which XLA has Triton."""
    if jax.default_backend() != "gpu":
        return False
    try:
        return all(float(d.compute_capability) >= 8 for d in jax.local_devices(backend="gpu"))
    except (AttributeError, ValueError):  # AMD's capability is no number
        return False


def compute_dtype(x: Array | np.ndarray) -> jnp.dtype:
    """The dtype in which ``x`` is smoothed: its own, float32 for the half precisions."""
    return jnp.promote_types(x.dtype, jnp.float32)


def floating(name: str, x: ArrayLike) -> Array:
    """Returns ``x`` as a JAX array; an error unless it is floating."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating-point array, got dtype {x.dtype}")
    return x


def check_rows(graph: Graph, x: ArrayLike) -> Array:
    """Returns ``x`` as a JAX array; an error unless it is floating, with one row a node."""
    x = floating("x", x)
    if x.ndim == 0 or x.shape[0] != graph.num_nodes:
        raise ValueError(
            f"x must have one row for each of the graph's {graph.num_nodes} nodes, "
            f"got shape {x.shape}"
        )
    return x
