"""The pages name everything there is: public names, models and targets."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest
import tyro

import sevo_jax
from experiments.settings.published import MODELS
from experiments.targets import TARGETS
from tests.pages import PAGES, ROOT, in_blocks, in_sentences

DOCS = ROOT / "docs"


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


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files(page) -> None:
    """In the repository, where the README is read, too."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    beside = [link for link in links if ":" not in link and not link.startswith("../../actions")]
    assert not [link for link in beside if not (page.parent / link).exists()]


class Parsed(Exception):  # noqa: N818
    """The options were understood; nothing needs to run."""


def commands() -> list[str]:
    """Every command of the experiments on a page, on one line."""
    texts = [page.read_text() for page in PAGES]
    found = {shlex.join(own.words) for text in texts for own in in_blocks(text)}
    found |= {command for text in texts for command, _ in in_sentences(text)}
    return sorted(own for own in found if own.startswith("python -m experiments."))


@pytest.mark.parametrize("command", commands())
def test_commands_on_pages_have_options_that_there_are(command, monkeypatch) -> None:
    _, _, module, *words = shlex.split(command)
    real = tyro.cli

    def parse_alone(*given, **options):
        parsed = real(*given, **options)
        if options.get("return_unknown_args") and options.get("add_help") is False:
            return parsed  # this call only looks for the name of the model
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_alone)
    place = module if module != "experiments.sweep" else "experiments.sweep.__main__"
    main = importlib.import_module(place).main
    if words:  # else the page names the command without using it
        with pytest.raises(Parsed):
            main(words)
