"""Compiles the product for CPUs, where there is a compiler. All else is in pyproject.toml."""

from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

jaxlib = find_spec("jaxlib")
headers = [str(Path(jaxlib.origin).parent / "include")] if jaxlib and jaxlib.origin else []

setup(
    ext_modules=[
        Extension(
            "sevo_jax._cpu_kernel",
            sources=["sevo_jax/cpu_kernel.cc"],
            include_dirs=headers,
            language="c++",
            # Wide vectors pass between inlined functions alone, of which GCC warns all the same.
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-Wno-psabi"],
            optional=True,  # without it the product is JAX's
        )
    ]
)
