"""Copies of the checkout, and environments of their own that borrow what the package needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = (
    int(importlib.metadata.version("setuptools").split(".")[0])
    if importlib.util.find_spec("setuptools")
    else 0
)
needs_setuptools = pytest.mark.skipif(
    SETUPTOOLS < 77, reason="building without network takes setuptools 77, which 'dev' has"
)
NO_COMPILER = {"CC": "false", "CXX": "false"}


def copy_checkout(to: Path) -> Path:
    """The files that a source distribution is made of, without a compiled kernel."""
    made = shutil.ignore_patterns("_cpu_kernel*", "__pycache__")
    shutil.copytree(ROOT / "sevo_jax", to / "sevo_jax", ignore=made)
    shutil.copytree(ROOT / "tests" / "sevo_jax", to / "tests" / "sevo_jax", ignore=made)
    for file in [*ROOT.glob("*.*"), ROOT / "LICENSE", *ROOT.glob("tests/*.py")]:
        if file.is_file():
            shutil.copy(file, to / file.relative_to(ROOT))
    return to


def new_environment(to: Path) -> tuple[str, Path]:
    """The Python of an environment that sees this one's packages, and where it keeps its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", to], check=True)
    paths = sysconfig.get_paths(vars={"base": str(to), "platbase": str(to)})
    # What the package needs is that of this environment; its import hooks are not followed.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(paths["purelib"], "dependencies.pth").write_text("\n".join(sorted(here)))
    return str(to / "bin" / "python"), Path(paths["purelib"])


def pip(*arguments: str | Path, python: str = sys.executable, **environment: str) -> None:
    """Runs pip without network, and without another environment to build in."""
    command = [sys.executable, "-m", "pip", "--python", python, *arguments]
    subprocess.run(command, check=True, env=os.environ | environment)
