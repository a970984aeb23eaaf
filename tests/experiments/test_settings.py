"""The files of settings, and settings that do not go together."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from experiments import train
from experiments.errors import UserError
from experiments.options import HINTS, make_runs
from experiments.run import Run, folder_name, make_run
from experiments.settings import GraphSettings, fields_of
from experiments.settings.published import FOLDER, MODELS, published
from experiments.tables.runs import look
from experiments.training import prepare

SECTIONS = [
    (file.stem, dataset, {})
    for file in sorted(FOLDER.glob("*.toml"))
    for dataset in tomllib.loads(file.read_text())
    if dataset != "variants"
]
SECTIONS += [
    (file.stem, dataset, {"graph" if variant == "user-item" else "distill": variant})
    for file in sorted(FOLDER.glob("*.toml"))
    for variant, sections in tomllib.loads(file.read_text()).get("variants", {}).items()
    for dataset in sections
]


@pytest.mark.parametrize(("model", "dataset", "kind"), SECTIONS)
def test_every_section_holds_settings_in_their_range(model, dataset, kind):
    for optimizer in ("sevo-adamw", "adam"):
        settings = published(model, dataset, optimizer, **kind)
        settings.check()
        assert settings.flat().items() >= kind.items()
    assert {model for model, _, _ in SECTIONS} == set(MODELS)


def test_settings_of_a_data_set_and_of_an_optimiser():
    sevo, plain = (published("bert4rec", "tools", o) for o in ("sevo-adamw", "adam"))
    assert (sevo.model.mask_rate, sevo.model.dropout_rate, sevo.optimizer.weight_decay) == (
        0.4,
        0.3,
        0.1,
    )
    assert (plain.model.mask_rate, plain.model.dropout_rate, plain.optimizer.weight_decay) == (
        0.5,
        0.4,
        1e-8,
    )
    assert published("bert4rec", "tools", "adamw") == sevo
    assert published("bert4rec", "tools", "sevo-adam") == plain  # an L2 term, too
    assert published("mf-bpr", "toys", "sevo-adamw", graph="user-item").optimizer.beta == 0.7
    assert published("sasrec", "synthetic-clothing", "adamw").training.batch_size == 2048
    assert published("sasrec", "/data/beauty.txt", "adamw") == published("sasrec", "mine", "adamw")


def test_a_run_is_given_the_options_that_it_reads(monkeypatch):
    """Another would only set it apart from runs that are the same."""
    given = {"beta": 0.5, "dim": 8}
    runs = make_runs("sasrec", "synthetic", ["adamw", "sevo-adamw"], [0], given)
    plain, sevo = (run.settings for run in runs)
    usual = published("sasrec", "synthetic", "adamw").optimizer.beta
    assert (plain.model.dim, plain.optimizer.beta) == (8, usual)
    assert (sevo.model.dim, sevo.optimizer.beta) == (8, 0.5)


OF_GRAPH = {
    "walk_length": 5,
    "keep": "first",
    "weighting": "frequency",
    "max_len_graph": 9,
    "graph_of_all_users": True,
    "categories": "c.json",
    "max_category_size": 9,
    "num_neighbours": 3,
    "tau": 2.0,
    "teacher": "t",
    "teacher_epochs": 9,
}
TOGETHER: dict[str, dict[str, object]] = {
    "graph_of_all_users": {"user_share": 0.5},
    "categories": {"graph": "category"},
    "max_category_size": {"graph": "category", "categories": "c.json"},
}


@pytest.mark.parametrize("name", OF_GRAPH)
def test_the_settings_of_the_graph_are_read_where_the_graph_is(name):
    """By a term of the loss, too: columns side by side have one graph."""
    assert OF_GRAPH.keys() == fields_of(GraphSettings).keys() - {"graph"} | {
        "teacher",
        "teacher_epochs",
    }
    given = {name: OF_GRAPH[name], **TOGETHER.get(name, {})}

    def found(optimizers: list[str], **more: object) -> list[object]:
        runs = make_runs("sasrec", "mine", optimizers, [0], given | more)
        return [run.settings.flat()[name] for run in runs]

    both = ["adamw", "sevo-adamw"]
    usual = published("sasrec", "mine", "adamw").flat()[name]
    assert found(both) == [usual, OF_GRAPH[name]]
    assert found(both, smoothness_weight=0.5) == [OF_GRAPH[name]] * 2
    assert found(["adamw"], smoothness_weight=0.5) == [OF_GRAPH[name]]
    with pytest.raises(UserError, match="adamw with a smoothness_weight alone; sasrec with adamw"):
        found(["adamw"])
    with pytest.raises(UserError, match="adamw with a smoothness_weight alone; sasrec with adam"):
        found(["adam", "adamw"], smoothness_weight=0.0)


@pytest.mark.parametrize("name", sorted(name for name, kind in HINTS.items() if kind is str))
def test_a_path_among_the_settings_makes_no_folders(name):
    run = make_run("sasrec", "beauty", "sevo-adamw", **{name: "x/y.npz"})
    assert len(Path(folder_name(run)).parts) == 1


@pytest.mark.parametrize("model", ["lightgcn", "bert4rec"])
def test_help_shows_the_settings_of_the_model(model, capsys):
    with pytest.raises(SystemExit):
        train.main(["--model", model, "--help"])
    shown = capsys.readouterr().out
    assert ("--mask-rate" in shown) == (model == "bert4rec")
    assert ("--l2" in shown) == (model == "lightgcn")
    assert "--beta" in shown
    assert "--kd-weight" not in shown


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("lightgcn", {"max_len": 20}, "max_len: read by .* lightgcn with adamw ignores it"),
        ("mf-bpr", {"packed": False}, "packed: read by .* mf-bpr with adamw ignores it"),
        ("lessr", {"packed": True}, "packed: read by .* lessr with adamw ignores it"),
        ("mf-bpr", {"batch_size": 10**20}, "batch_size: must be less than 2.31, got 1000"),
        ("sasrec", {"epochs": 2**31}, "epochs: must be less than 2.31, got 2147483648"),
        ("bert4rec", {"num_negatives": 4}, "num_negatives: .*left out: softmax has none"),
        ("sasrec", {"own_negatives": True}, "own_negatives: .* goes with sampled-softmax, .* bce"),
        ("gru4rec", {"popular_negatives": True}, "popular_negatives: .*sampled-softmax, .* is bpr"),
        ("sasrec", {"loss": "softmax", "calibration": 0.5}, "calibration: .*gbce, .* is softmax"),
        ("sasrec", {"loss": "gbce", "calibration": 1.5}, r"calibration: must be in \[0, 1\]"),
    ],
)
def test_an_option_that_the_model_does_not_read_is_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        make_runs(model, "synthetic", ["adamw"], [0], options)


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("optimizer", ["adam", "sevo-adamw"])
def test_a_recipe_brings_its_settings(model, optimizer):
    """A run is named after its recipe and what the recipe does not bring."""
    (run,) = make_runs(model, "beauty", [optimizer], [0], {"recipe": "strong", "dim": 32})
    assert (run.settings.training.loss, run.settings.model.dim) == ("softmax", 32)
    assert folder_name(run) == f"{model}-{optimizer}-recipe=strong-dim=32-seed0"


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("stosa", {}, "recipe: strong is one of gru4rec and sasrec, got stosa"),
        ("sasrec", {"distill": "kd"}, "recipe: must be left out: kd has settings of its own"),
        ("sasrec", {"num_negatives": 5}, "num_negatives: .*left out: softmax has none"),
    ],
)
def test_a_recipe_that_does_not_fit(model, given, message):
    with pytest.raises(UserError, match=message):
        make_runs(model, "beauty", ["adam"], [0], {"recipe": "strong", **given})


@pytest.mark.parametrize("loss", ["softmax", "sampled-softmax", "gbce"])
def test_lightgcn_has_no_loss_over_all_items(small, loss):
    settings = published("lightgcn", "small", "adam").replace(loss=loss)
    run = Run("lightgcn", "small", "adam", 0, settings)
    with pytest.raises(UserError, match=f"loss: .* bpr or bce, got {loss}"):
        prepare.make_model(run, small)


def test_users_are_smoothed_only_where_there_is_a_table_of_them(users_file, tmp_path, capsys):
    """Said before anything is trained, by whichever optimiser."""
    options = ["--dataset", str(users_file), "--out", str(tmp_path), "--graph", "user-item"]
    assert train.main([*options, "--epochs", "1", "--optimizer", "adamw", "sevo-adamw"]) == 1
    assert "--graph: user-item needs a model with a table of users" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/metrics.jsonl"))


def test_the_runs_that_come_with_the_project_count():
    """However many settings are younger than they."""
    folder = Path(__file__).parents[2] / "results/runs/beauty/sasrec-sevo-adamw-seed0"
    run = Run("sasrec", "beauty", "sevo-adamw", 0, published("sasrec", "beauty", "sevo-adamw"))
    assert folder_name(run) == folder.name
    assert look(run, folder).result is not None
