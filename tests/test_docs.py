"""The pages name everything there is: public names, models and targets."""

from __future__ import annotations

import re
from pathlib import Path

import sevo_jax
from experiments.paper.targets import TARGETS
from experiments.settings.published import MODELS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_has_every_public_name_once() -> None:
    named = re.findall(r"^::: sevo_jax\.([\w.]+)$", (DOCS / "api.md").read_text(), re.M)
    modules = {"diagnostics", "tabular"}  # of the second, the flat name has everything
    public = set(sevo_jax.__all__) - modules
    public |= {f"diagnostics.{name}" for name in sevo_jax.diagnostics.__all__}
    assert sorted(named) == sorted(public)


def test_other_names_begin_with_an_underscore() -> None:
    assert {name for name in vars(sevo_jax) if not name.startswith("_")} == set(sevo_jax.__all__)


def test_every_model_is_listed() -> None:
    page = (DOCS / "experiments.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `--model` |"))
    named = re.findall(r"`([a-z][\w-]+)`", row)
    assert sorted(named) == sorted(MODELS)


def test_every_target_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "experiments.md").read_text(), re.M)
    named = [name for row in rows for name in re.findall(r"`([a-z][\w-]*)`", row)]
    assert sorted(named) == sorted(TARGETS)
