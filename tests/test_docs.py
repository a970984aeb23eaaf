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
    for module in (sevo_jax, sevo_jax.tabular, sevo_jax.diagnostics):
        defined = {
            name
            for name, value in vars(module).items()
            if module is sevo_jax or getattr(value, "__module__", None) == module.__name__
        }
        assert {n for n in defined if not n.startswith("_")} <= set(module.__all__), module


def test_every_model_is_listed() -> None:
    page = (DOCS / "experiments.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `--model` |"))
    named = re.findall(r"`([a-z][\w-]+)`", row)
    assert sorted(named) == sorted(MODELS)


def test_every_target_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "experiments.md").read_text(), re.M)
    named = [name for row in rows for name in re.findall(r"`([a-z][\w-]*)`", row)]
    assert sorted(named) == sorted(TARGETS)
