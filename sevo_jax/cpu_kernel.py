"""The product for CPUs, written in C++ (``cpu_kernel.cc``), on the threads of XLA.

Installing the package compiles it, where there is a compiler. Where there was none, `missing` says
so, and `sevo_jax.sparse` falls back to JAX's own product.
"""

from __future__ import annotations

import ctypes
import functools
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

TARGET = "sevo_jax_product"


@functools.cache
def missing() -> str | None:
    """Why there is no such kernel here; ``None`` where there is one, which JAX then knows."""
    here = Path(__file__).parent
    paths = [here / f"_cpu_kernel{suffix}" for suffix in EXTENSION_SUFFIXES]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        return "it was not compiled when sevo-jax was installed, which takes a C++17 compiler"
    try:  # of another machine, or for an interface that this JAX does not have
        handler = jax.ffi.pycapsule(ctypes.CDLL(str(found)).SevoJaxProduct)
        jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    except Exception as error:
        return f"{found} cannot be used: {error}"
    return None


def product(
    data: Float[Array, " entries"],
    indices: Int[Array, " entries"],
    indptr: Int[Array, " rows_and_one"],
    x: Float[Array, "nodes dim"],
    scale: Float[Array, ""] | None = None,
    base: Float[Array, "rows dim"] | None = None,
    *,
    narrow: bool = False,
) -> Float[Array, "rows dim"]:
    """``base + scale * (A @ x)`` in one pass, for a matrix ``A`` of compressed rows.

    Args:
        data: values of ``A``, float32 or float64 as all others are.
        indices: their columns.
        indptr: where each row's entries begin, and where the last one's end.
        x: the table.
        scale: a factor of the product; given together with ``base``.
        base: what the product is added to.
        narrow: whether rows of ``x`` are rounded to bfloat16 before they are gathered.
    """
    more = () if scale is None or base is None else (scale, base)
    out = jax.ShapeDtypeStruct((indptr.size - 1, x.shape[1]), x.dtype)
    return jax.ffi.ffi_call(TARGET, out)(
        data,
        indices.astype(jnp.int32),
        indptr.astype(jnp.int32),
        x.astype(jnp.bfloat16) if narrow else x,
        *more,
    )
