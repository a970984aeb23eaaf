"""A user's program under a strict type checker: what is right passes, what is wrong is found."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import NO_COMPILER, copy_checkout, needs_setuptools, new_environment, pip
from tests.sevo_jax import typed_program

ROOT = Path(__file__).parents[2]
PROGRAM = Path(typed_program.__file__)
WRONG = "# wrong"
"""Marks the lines of the program that a type checker must refuse."""

needs_pyright = pytest.mark.skipif(
    importlib.util.find_spec("pyright") is None, reason="pyright comes with the extra 'dev'"
)


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
@needs_setuptools
@pytest.mark.parametrize("options", [[], ["--editable"]], ids=["wheel", "editable"])
def test_a_users_program_against_an_installation(options, tmp_path):
    """A type checker sees the package as `pip install` leaves it, with or without ``-e``."""
    checkout = copy_checkout(tmp_path / "checkout")
    for name in ("models", "experiments"):  # beside the package, as in the repository
        (checkout / name).mkdir()
        (checkout / name / "__init__.py").touch()
    python, packages = new_environment(tmp_path / "environment")
    flags = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", *options]
    pip("install", *flags, checkout, python=python, **NO_COMPILER)  # the kernel takes a while

    where = "import pathlib, sevo_jax; print(pathlib.Path(sevo_jax.__file__).parents[1])"
    ran = subprocess.run([python, "-c", where], check=True, capture_output=True, cwd=tmp_path)
    assert ran.stdout.decode().strip() == str(checkout if options else packages)
    assert refused_lines(tmp_path / "user", python) == wrong_lines()
