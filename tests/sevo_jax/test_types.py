"""A user's program under a strict type checker: what is right passes, what is wrong is found."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.sevo_jax import typed_program

ROOT = Path(__file__).parents[2]
PROGRAM = Path(typed_program.__file__)
WRONG = "# wrong"
"""Marks the lines of the program that a type checker must refuse."""

needs_pyright = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="pyright comes with the extra 'dev'"
)
SETUPTOOLS = importlib.util.find_spec("setuptools")


def refused_lines(folder: Path, python: str, *search: Path) -> list[int]:
    """The lines of a copy of the program, in a folder of its own, in which Pyright finds errors."""
    folder.mkdir()
    shutil.copy(PROGRAM, folder / "program.py")
    settings = {
        "typeCheckingMode": "strict",
        "extraPaths": [str(path) for path in search],
        # JAX and Optax leave parts of their signatures untyped.
        "reportMissingTypeStubs": False,
        "reportUnknownMemberType": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python]
    ran = subprocess.run(
        [*command, "--project", str(folder)], cwd=folder, capture_output=True, text=True
    )
    found = json.loads(ran.stdout)["generalDiagnostics"]
    messages = [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in found]
    print(*messages, sep="\n")  # shown where the test fails
    return sorted({d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"})


def wrong_lines() -> list[int]:
    lines = enumerate(PROGRAM.read_text().splitlines(), start=1)
    return [number for number, line in lines if line.endswith(WRONG)]


@needs_pyright
def test_a_users_program(tmp_path):
    """Against the checkout."""
    assert refused_lines(tmp_path / "user", sys.executable, ROOT) == wrong_lines()


def test_what_the_program_calls_right_runs():
    """Or types and values would disagree."""
    typed_program.right()


@pytest.mark.slow
@needs_pyright
@pytest.mark.parametrize("options", [[], ["--editable"]], ids=["wheel", "editable"])
def test_a_users_program_against_an_installation(options, tmp_path):
    """A type checker sees the package as `pip install` leaves it, with or without ``-e``."""
    version = SETUPTOOLS and importlib.metadata.version("setuptools")
    if not version or int(version.split(".")[0]) < 77:
        pytest.skip("building without network takes setuptools 77, which the extra 'dev' has")
    checkout, environment = tmp_path / "checkout", tmp_path / "environment"
    kernels = shutil.ignore_patterns("_cpu_kernel*", "__pycache__")
    shutil.copytree(ROOT / "sevo_jax", checkout / "sevo_jax", ignore=kernels)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, checkout)
    for name in ("models", "experiments"):  # beside the package, as in the repository
        (checkout / name).mkdir()
        (checkout / name / "__init__.py").touch()

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = str(environment / "bin" / "python")
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    # What the package needs is that of this environment; its import hooks are not followed.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(paths["purelib"], "dependencies.pth").write_text("\n".join(sorted(here)))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-index",
        "--no-deps",
    ]
    flags = ["--no-build-isolation", "--ignore-installed", *options, str(checkout)]
    no_compiler = os.environ | {"CC": "false", "CXX": "false"}  # the kernel takes a while
    subprocess.run([*command, *flags], check=True, env=no_compiler, cwd=tmp_path)

    where = "import pathlib, sevo_jax; print(pathlib.Path(sevo_jax.__file__).parents[1])"
    ran = subprocess.run([python, "-c", where], check=True, capture_output=True, cwd=tmp_path)
    assert ran.stdout.decode().strip() == str(checkout if options else paths["purelib"])
    assert refused_lines(tmp_path / "user", python) == wrong_lines()
