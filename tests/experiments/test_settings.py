"""The files of settings, and settings that do not go together."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from experiments import train, trainer
from experiments.errors import UserError
from experiments.reproduce.runs import folder_name, look
from experiments.run import Run
from experiments.settings.published import MODELS, published

FILES = sorted(FOLDER.glob("*/*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_file_holds_settings_in_their_range(file):
    for optimizer in ("sevo-adamw", "adam"):
        published(file.parent.name, file.stem, optimizer).check()
    assert set(tomllib.loads(file.read_text()).get("adam", {})) <= {
        "epochs", "dropout_rate", "attention_dropout_rate", "mask_rate", "learning_rate",
        "weight_decay",
    }  # fmt: skip


def test_settings_of_a_data_set_and_of_an_optimiser():
    sevo, plain = (published("bert4rec", "tools", o) for o in ("sevo-adamw", "adam"))
    assert (sevo.mask_rate, sevo.dropout_rate, sevo.weight_decay) == (0.4, 0.3, 0.1)
    assert (plain.mask_rate, plain.dropout_rate, plain.weight_decay) == (0.5, 0.4, 1e-8)
    assert published("bert4rec", "tools", "adamw") == sevo
    assert published("bert4rec", "tools", "sevo-adam") == plain  # an L2 term, too
    assert published("mf-bpr-user-item", "toys", "sevo-adamw").optimizer.beta == 0.7
    assert published("sasrec", "synthetic-clothing", "adamw").training.batch_size == 2048
    assert published("sasrec", "/data/beauty.txt", "adamw") == published("sasrec", "mine", "adamw")


def test_a_run_is_given_the_options_that_it_reads(monkeypatch):
    """Another would only set it apart from runs that are the same."""
    options = train.Options(optimizer=("adamw", "sevo-adamw"), beta=0.5, dim=8)
    plain, sevo = (run.settings for run in train.make_runs(options))
    assert (plain.dim, plain.beta) == (8, published("sasrec", "synthetic", "adamw").optimizer.beta)
    assert (sevo.dim, sevo.beta) == (8, 0.5)

    # What a model reads that is not built in is not known.
    monkeypatch.setitem(MODELS, "mine", MODELS["sasrec"])
    options = train.Options(model="mine", optimizer=("adamw",), num_heads=2, mask_rate=0.25)
    (run,) = train.make_runs(options)
    assert (run.settings.model.num_heads, run.settings.model.mask_rate) == (2, 0.25)
    with pytest.raises(UserError, match="--beta"):
        train.make_runs(train.Options(model="mine", optimizer=("adamw",), beta=0.5))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("lightgcn", {"max_len": 20}, "--max-len: read by .* lightgcn with adamw ignores it"),
        ("mf-bpr", {"packed": False}, "--packed: read by .* mf-bpr with adamw ignores it"),
        ("lessr", {"packed": True}, "--packed: read by .* lessr with adamw ignores it"),
        ("bert4rec", {"num_negatives": 4}, "--num-negatives: .*left out: --loss softmax has none"),
    ],
)
def test_an_option_that_the_model_does_not_read_is_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        train.make_runs(train.Options(model=model, optimizer=("adamw",), **options))


@pytest.mark.parametrize("loss", ["softmax", "sampled-softmax"])
def test_lightgcn_has_no_loss_over_all_items(small, loss):
    settings = published("lightgcn", "small", "adam").replace(loss=loss)
    run = Run("lightgcn", "small", "adam", 0, settings)
    with pytest.raises(UserError, match=f"--loss: .* bpr or bce, got {loss}"):
        trainer.make_model(run, small)


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
