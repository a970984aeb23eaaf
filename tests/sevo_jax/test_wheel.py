"""The published packages, as users get them: a wheel a platform, a pure one, the sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sevo_jax._spmm import cpu
from tests.installation import NO_COMPILER, copy_checkout, needs_setuptools, new_environment, pip

pytestmark = pytest.mark.slow
REASON = "import sevo_jax._spmm.cpu as c; print(c.__file__, c.missing() or 'compiled', sep='\\n')"


def build_wheel(to: Path, checkout: Path, **environment: str) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", to, checkout, **environment)
    (wheel,) = to.glob("*.whl")
    return wheel


@pytest.fixture
def wheel(tmp_path) -> Path:
    """The wheel of this platform: that in ``$SEVO_WHEELS``, where another Python has built one."""
    folder = Path(os.environ.get("SEVO_WHEELS") or tmp_path / "wheels")
    found = list(folder.glob("*.whl"))
    if found:
        return found[0]
    if needs_setuptools.args[0]:
        pytest.skip(needs_setuptools.kwargs["reason"])
    checkout = copy_checkout(tmp_path / "checkout")
    for kernel in ("sevo_jax/_spmm", "build/lib/sevo_jax/_spmm"):  # of an earlier installation
        (checkout / kernel).mkdir(parents=True, exist_ok=True)
        (checkout / kernel / "_cpu_kernel.cpython-311-x86_64-linux-gnu.so").touch()
    return build_wheel(folder, checkout)


def install(wheel: Path, to: Path) -> tuple[str, list[str]]:
    """A new Python with the wheel alone; where its product is, and why it may have none."""
    python, packages = new_environment(to)
    pip("install", "--no-index", "--no-deps", wheel, python=python, PATH="")  # no compiler either
    ran = subprocess.run([python, "-c", REASON], check=True, capture_output=True, cwd=to)
    file, *reason = ran.stdout.decode().splitlines()
    assert packages in Path(file).parents
    return python, reason


def test_the_wheel_of_a_platform_runs_its_doctests(wheel, tmp_path):
    """Away from the checkout; the same file for all versions of Python."""
    if cpu.missing() is not None:
        pytest.skip(f"no kernel for CPUs: {cpu.missing()}")
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert [n for n in names if "kernel" in n] == ["sevo_jax/_spmm/_cpu_kernel.so"]
    python, reason = install(wheel, tmp_path / "environment")
    assert reason == ["compiled"]
    tests = [python, "-m", "pytest", "-q", "--doctest-modules", "--pyargs", "sevo_jax"]
    away = tmp_path / "away"
    away.mkdir()
    ran = subprocess.run([*tests, "-p", "no:cacheprovider"], cwd=away, capture_output=True)
    assert ran.returncode == 0, ran.stdout.decode()[-4000:]
    assert re.search(r"^[2-9]\d passed", ran.stdout.decode(), re.M)


@needs_setuptools
def test_without_a_compiler_the_wheel_is_of_no_platform(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    wheel = build_wheel(tmp_path / "wheels", checkout, **NO_COMPILER)
    assert wheel.name.endswith("-py3-none-any.whl")
    _, reason = install(wheel, tmp_path / "environment")
    assert "takes GCC or Clang" in reason[0]


@needs_setuptools
def test_the_source_distribution_holds_the_tests_of_the_library(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], check=True, cwd=checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.glob("sevo_jax-*") if path.is_dir())
    tests = {path.name for path in checkout.glob("tests/sevo_jax/*.py")}
    assert {path.name for path in source.glob("tests/sevo_jax/*.py")} == tests
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", "--collect-only"]
    ran = subprocess.run([*command, "tests"], cwd=source, capture_output=True)
    assert ran.returncode == 0, ran.stdout.decode()[-4000:]
