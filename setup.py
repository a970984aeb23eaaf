"""Compiles the product for CPUs, where there is a compiler. The rest is in pyproject.toml."""

from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

jaxlib = find_spec("jaxlib")
headers = [str(Path(jaxlib.origin).parent / "include")] if jaxlib and jaxlib.origin else []


class Build(build_ext):
    """Compiles the kernel; if that fails, no kernel of an earlier version is left."""

    def build_extension(self, ext: Extension) -> None:
        """Compiles an extension."""
        built = Path(self.get_ext_fullpath(ext.name))
        built.unlink(missing_ok=True)
        if self.editable_mode:
            Path("sevo_jax", "_spmm", built.name).unlink(missing_ok=True)
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            "sevo_jax._spmm._cpu_kernel",
            sources=["sevo_jax/_spmm/cpu.cc"],
            include_dirs=headers,
            language="c++",
            # GCC warns of wide vectors as arguments, though all such functions are inlined.
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi"],
            optional=True,  # without it the product is JAX's own
        )
    ],
)
