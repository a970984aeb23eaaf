"""The product for CPUs, written in C++ (``cpu.cc``), on the threads of XLA.

Wheels of Linux and of Apple silicon hold it; installing from source compiles it with GCC or Clang.
MSVC lacks their vectors, so Windows has none. Where it is missing, `missing` says why, and
`sevo_jax._spmm` falls back to JAX's own product.

Programs that `jax.export` saves call the product by name. Saving needs a permission, as the guides
says, and the process that runs the program must import `sevo_jax`.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sevo_jax._spmm.arrays import Columns, Pointers, Rows, Scale, Table, Values
from sevo_jax._spmm.sharded import varying_as

TARGET = "sevo_jax_product"
WIDEST = 64
"""Bytes of the widest vectors that any CPU has."""


@functools.cache
def missing() -> str | None:
    """Registers the kernel with JAX; returns why there is none, or ``None`` where there is one."""
    path = Path(__file__).parent / "_cpu_kernel.so"
    if not path.exists():
        return (
            "it was not compiled when sevo-jax was installed, which takes GCC or Clang; "
            "with one, install again (pip --force-reinstall --no-cache-dir --no-binary sevo-jax)"
        )
    # The file may be of another machine, or for an interface that this JAX does not have.
    try:
        handler = jax.ffi.pycapsule(ctypes.CDLL(str(path)).SevoJaxProduct1)
        jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    except Exception as error:
        return f"{path} cannot be used: {error}"
    return None


def product(
    data: Values,
    indices: Columns,
    indptr: Pointers,
    x: Table,
    scale: Scale | None = None,
    base: Rows | None = None,
    *,
    narrow: bool = False,
    widest: int = WIDEST,
) -> Rows:
    """``base + scale * (A @ x)`` in one pass, for a matrix ``A`` of compressed rows.

    Entries whose column is no row of ``x`` count as 0.

    Args:
        data: values of ``A``; like all operands, float32 or float64.
        indices: their columns.
        indptr: where each row's entries begin, and where the last row's end.
        x: the table.
        scale: a factor of the product; given together with ``base``.
        base: what the product is added to.
        narrow: whether rows of ``x`` are rounded to bfloat16 before they are gathered.
        widest: a limit on the bytes of the vectors to compute with, for tests.

    Raises:
        RuntimeError: the kernel is missing here.
        TypeError: dtypes that differ, or that are neither float32 nor float64.
        ValueError: shapes that do not belong together.
    """
    if reason := missing():
        raise RuntimeError(f"no kernel for CPUs: {reason}")
    more = () if scale is None or base is None else (scale, base)
    dtypes = {jnp.dtype(a.dtype) for a in (data, x, *more)}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)}:
        raise TypeError(f"operands must all be float32 or all float64, got {dtypes}")
    shape = (indptr.size - 1, *x.shape[1:])
    fits = x.ndim == 2 and indices.shape == data.shape
    if not fits or [a.shape for a in more] not in ([], [(), shape]):
        shapes = [a.shape for a in (data, indices, indptr, x, *more)]
        raise ValueError(f"shapes that do not belong together: {shapes}")
    operands = (
        data,
        indices.astype(jnp.int32),
        indptr.astype(jnp.int32),
        x.astype(jnp.bfloat16) if narrow else x,
        *more,
    )
    out = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(shape, x.dtype))(
        *operands, widest=np.int64(widest)
    )
    return varying_as(out, *operands)


missing()  # registers it, so that programs that were compiled elsewhere find it
