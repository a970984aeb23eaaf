"""Compiles the product for CPUs, where there is a compiler. The rest is in pyproject.toml.

The kernel has no Python in it: one file, and so one wheel, serves every Python of a platform.
Without a compiler the wheel is pure, and serves every platform.
"""

from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE = Path("sevo_jax", "_spmm")
KERNEL = PACKAGE / "_cpu_kernel.so"  # on every platform: `ctypes` loads it by its path

jaxlib = find_spec("jaxlib")
headers = [str(Path(jaxlib.origin).parent / "include")] if jaxlib and jaxlib.origin else []


class Build(build_ext):
    """Compiles the kernel; if that fails, no kernel of an earlier version is left."""

    def get_ext_filename(self, fullname: str) -> str:
        """The name of the kernel's file, in which there is no version of Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Nothing: on Windows this would be the function that initialises a module of Python."""
        return []

    def run(self) -> None:
        """Removes older kernels, those with a version of Python in their names too; compiles."""
        folders = [Path(self.build_lib, PACKAGE)] + [PACKAGE] * self.editable_mode
        for old in (file for folder in folders for file in folder.glob("_cpu_kernel*")):
            old.unlink()
        super().run()


class Wheel(bdist_wheel):
    """Names the wheel after what was compiled."""

    def run(self) -> None:
        """Builds a wheel of this platform with the kernel, of any platform without it."""
        self.run_command("build")
        self.root_is_pure = not Path(self.get_finalized_command("build").build_lib, KERNEL).exists()
        if self.root_is_pure:
            self.distribution.ext_modules = []
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """The tags of a shared library that asks for no version of Python."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
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
