"""Shared by tests of lowered programs: lowering for accelerators that are not here, and reading."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import pytest

from sevo_jax import _spmm

TRITON = "__gpu$xla.gpu.triton"
PLATFORMS = ("cuda", "rocm", "tpu")
_CONSTANT = re.compile(r'stablehlo\.constant dense<(?:"0x|\[).*?> : tensor<((?:\d+x)+)')
_SCATTER = re.compile(r'"stablehlo\.scatter".*?\}\) : \(tensor<(?:\d+x)*(\w+)>', re.S)


def on_a_gpu() -> contextlib.AbstractContextManager[None]:
    """From JAX 0.11 on, Pallas asks which GPU it is to lower for."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    h100 = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    return jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((1,), ("x",), abstract_device=h100)
    )


def as_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the library choose kernels as it does where there is an NVIDIA GPU from Ampere on."""
    monkeypatch.setattr(_spmm, "_has_triton", lambda: True)
    for name in ("_kernels", "_batched"):  # what was chosen before is not asked for
        monkeypatch.setattr(_spmm, name, getattr(_spmm, name).__wrapped__)


def lower(function: Callable[..., Any], platform: str, *arguments: Any) -> str:
    """The text of the program that `jax.export` makes for a platform."""
    unchecked = [jax.export.DisabledSafetyCheck.custom_call(TRITON)]
    with on_a_gpu() if platform == "cuda" else contextlib.nullcontext():
        exported = jax.export.export(
            jax.jit(function), platforms=[platform], disabled_checks=unchecked
        )(*arguments)
    return exported.mlir_module()


def largest_constant(text: str) -> int:
    """The most elements of any constant that is no repetition of one number."""
    shapes = _CONSTANT.findall(text)
    return max((math.prod(map(int, shape[:-1].split("x"))) for shape in shapes), default=0)


def scatters(text: str) -> list[str]:
    """The dtypes of the arrays that the program's scatters change."""
    found = _SCATTER.findall(text)
    assert len(found) == text.count('"stablehlo.scatter"')
    return found


def check_kernel(text: str, platform: str) -> None:
    """On NVIDIA's GPUs the product is Triton's; elsewhere it gathers, and calls no other kernel."""
    custom = set(re.findall(r"stablehlo\.custom_call @([\w.$]+)", text))
    assert custom - {"Sharding"} == ({TRITON} if platform == "cuda" else set())
    if platform == "cuda":
        assert "sevo_row_sums" in text
    else:
        assert '"stablehlo.gather"' in text


def reached_at_every_step(program: str) -> str:
    """The text of the computations that a compiled program runs whatever its conditions say."""
    blocks = re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ (?:\([^\n]*)?\{\n)", program)
    found = [(re.match(r"(?:ENTRY )?%?([\w.\-]+)", block), block) for block in blocks]
    named = {name[1]: block for name, block in found if name}
    pending = [name for name, block in named.items() if block.startswith("ENTRY")]
    assert pending
    text, seen = "", set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in named[name].splitlines():
            text += line + "\n"
            if " conditional(" not in line:
                words = re.findall(r"%?([\w.\-]+)", line.partition("=")[2])
                pending += [word for word in words if word in named]
    return text
