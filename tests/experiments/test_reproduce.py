"""``python -m experiments.reproduce`` end to end, on 200 users and a small model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import numbers
from experiments.beyond import comparisons
from experiments.data import registry
from experiments.errors import UserError
from experiments.files import read_json, write_json
from experiments.pages.documents import Document, Table, latex, markdown
from experiments.paper import accuracy_tables, table3, table8
from experiments.paper.accuracy_tables import rows_of_model
from experiments.reproduce import main
from experiments.run import Run, claim_folder, folder_name
from experiments.settings import Settings
from experiments.settings.published import MODELS
from experiments.tables import cells, runs
from experiments.tables.rows import Line, Row
from experiments.training import loop

EPOCHS = 2
ONE = ["--datasets", "beauty", "--optimizers", "sevo-adamw", "--seeds", "0"]
NAME = "runs/beauty/sasrec-sevo-adamw-seed0"
SASREC = MODELS["sasrec"]


def small_sasrec(dataset: str, optimizer: str, variant: str = "") -> Settings:
    """Not packed, so that all epochs have one shape, and compile once."""
    return SASREC.published(dataset, optimizer, variant).replace(
        epochs=EPOCHS, dim=16, num_blocks=1, max_len=20,
        batch_size=64, eval_every=1, attend_padding=False, packed=False,
    )  # fmt: skip


SMALL = SASREC._replace(published=small_sasrec)


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory):
    """SASRec alone, small and quick to compile; what is not in a test's folder cannot be had."""
    empty = tmp_path_factory.mktemp("empty")

    def no_network(*_, **__):
        raise OSError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "download", no_network)
        patch.setattr(registry, "cache_folder", lambda: empty)
        models = MODELS.copy()
        MODELS.clear()
        MODELS["sasrec"] = SMALL
        yield
        MODELS.clear()
        MODELS.update(models)  # in their order, which messages keep


@pytest.fixture(scope="module")
def data_dir(users_file, tmp_path_factory) -> Path:
    """A folder in which 200 users pass for Beauty."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(users_file, folder / "Beauty.txt")
    return folder


def call(name: str, folder: Path, data_dir: Path, *more: str) -> int:
    """The command, with all its files in ``folder``."""
    places = ["--runs", str(folder / "runs"), "--out", str(folder), "--data-dir", str(data_dir)]
    return main([name, *places, *more])


@pytest.fixture(scope="module")
def done(data_dir, tmp_path_factory) -> Path:
    """Table 2 of one run, which was really trained."""
    folder = tmp_path_factory.mktemp("done")
    assert call("table2", folder, data_dir, *ONE) == 0
    return folder


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(loop, "train_together", refuse)


def make_up_results(monkeypatch) -> list[str]:
    """Training that takes no time: results by optimiser, and the names of what was run."""
    trained: list[str] = []

    def fake(runs, data, folders, *, resume, stop, report, **_):
        for run, folder in zip(runs, folders, strict=True):
            claim_folder(run, data, folder)
            rng = np.random.default_rng(run.seed)
            scores = {metric: 0.05 + 0.001 * rng.random() for metric in numbers.METRICS}
            if "sevo" in run.optimizer:
                scores = {
                    metric: 1.1 * value + 0.001 * rng.random() for metric, value in scores.items()
                }
            quintiles = {m: [None, *(scores[m] * np.arange(2, 6) / 3).tolist()] for m in scores}
            result = {"seed": run.seed, "epochs": run.settings.training.epochs, "best_epoch": 1}
            result |= {"test": scores, "by_popularity": quintiles, "seconds_per_epoch": 1.5}
            result["num_users"] = data.num_users
            write_json(folder / "result.json", result | {"device": "abacus"})
            trained.append(folder.name)

    monkeypatch.setattr(loop, "train_together", fake)
    return trained


def test_a_run_is_trained_and_in_the_table(done):
    result = read_json(done / NAME / "result.json")
    (row,) = read_json(done / "table2.json")["rows"]
    for metric in numbers.METRICS:
        assert row["test"][metric]["seeds"] == {"0": result["test"][metric]}
        assert row["test"][metric]["mean"] == result["test"][metric]
    assert row["best_epochs"] == {"0": result["best_epoch"]}
    assert result["device"] in (done / "table2.md").read_text()


def test_a_second_call_runs_nothing(done, data_dir, no_training):
    before = (done / "table2.md").read_bytes()
    assert call("table2", done, data_dir, *ONE) == 0
    assert (done / "table2.md").read_bytes() == before


def test_without_checkpoints_a_run_is_finished(done, data_dir, tmp_path, no_training):
    """The committed runs have none."""
    folder = tmp_path / "copy"
    shutil.copytree(done, folder, ignore=shutil.ignore_patterns("checkpoints"))
    assert call("table2", folder, data_dir, *ONE) == 0


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_result(done, data_dir, tmp_path, monkeypatch):
    train_together = loop.train_together

    def stopped(runs, data, folders, *, resume, stop, report, **_):
        stop.set()
        return train_together(runs, data, folders, resume=resume, stop=stop, report=report)

    monkeypatch.setattr(loop, "train_together", stopped)
    assert call("table2", tmp_path, data_dir, *ONE) == 130
    assert "sasrec-sevo-adamw, seed 0: interrupted" in (tmp_path / "table2.md").read_text()

    monkeypatch.setattr(loop, "train_together", train_together)
    assert call("table2", tmp_path, data_dir, *ONE) == 0
    lines = (tmp_path / NAME / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    one, other = (read_json(folder / NAME / "result.json") for folder in (tmp_path, done))
    assert one["test"] == other["test"]


@pytest.mark.slow
def test_a_run_stopped_early_goes_on_for_longer(done, data_dir, tmp_path):
    assert call("table2", tmp_path, data_dir, *ONE, "--epochs", "1") == 0
    assert "1 of 2" in (tmp_path / "table2.md").read_text()
    assert call("table2", tmp_path, data_dir, *ONE) == 0
    assert "2 of 2" in (tmp_path / "table2.md").read_text()
    one, other = (read_json(folder / NAME / "result.json") for folder in (tmp_path, done))
    assert one["test"] == other["test"]


def test_table2_writes_all_three(data_dir, tmp_path, monkeypatch):
    trained = make_up_results(monkeypatch)
    assert call("table2", tmp_path, data_dir, "--datasets", "beauty", "--seeds", "0", "1", "2") == 0
    of_a_seed = ["sasrec-adam", "sasrec-adamw", "sasrec-sevo-adamw"]
    assert trained == [f"{name}-seed{seed}" for seed in (0, 1, 2) for name in of_a_seed]

    content = read_json(tmp_path / "table2.json")
    values = {}
    for row in content["rows"]:
        held = row["test"]["NDCG@10"]
        values[row["optimizer"]] = [held["seeds"][seed] for seed in "012"]
        assert held["mean"] == np.mean(values[row["optimizer"]])
        assert held["std"] == np.std(values[row["optimizer"]], ddof=1)
        assert held["paper"] == {"adam": 0.0336, "sevo-adamw": 0.0411}.get(row["optimizer"])
        assert held["difference"] == (held["paper"] and held["mean"] / held["paper"] - 1)
        assert (row["seeds_done"], row["epochs"], row["epochs_published"]) == (3, 2, 2)
    assert [c["against"] for c in content["comparisons"]] == ["adam", "adamw"]
    for comparison in content["comparisons"]:
        assert comparison["seeds"] == [0, 1, 2]
        ours, others = values["sevo-adamw"], values[comparison["against"]]
        expected = stats.ttest_rel(ours, others).pvalue
        assert comparison["p_value"]["NDCG@10"] == pytest.approx(expected)
        assert comparison["gain"]["NDCG@10"] == np.mean(ours) / np.mean(others) - 1
    assert content["comparisons"][0]["paper_gain"]["NDCG@10"] == 0.0411 / 0.0336 - 1
    assert content["missing"] == []

    text = (tmp_path / "table2.md").read_text()
    for expected in ("## Beauty: test metrics", "| paper", "0.0411", "3 of 3", "2 of 2", "+22.3%"):
        assert expected in text
    assert "## Missing" not in text
    source = (tmp_path / "table2.tex").read_text()
    for expected in (r"\toprule", r"$\pm$", r"\caption{Beauty: test metrics}", r"+22.3\%"):
        assert expected in source


def test_table2_has_mean_gains_over_all_data_sets_and_over_those_of_ours(
    data_dir, tmp_path, monkeypatch
):
    make_up_results(monkeypatch)
    assert call("table2", tmp_path, data_dir, "--datasets", "beauty", "--seeds", "0") == 0
    argv = ["--datasets", "beauty", "toys", "--seeds", "0", "--no-train"]
    assert call("table2", tmp_path, data_dir, *argv) == 0
    text = (tmp_path / "table2.md").read_text().partition("mean of the five metrics")[2]
    ours, paper = (
        [cell.strip() for cell in line.split("|")[3:7]]
        for line in text.splitlines()
        if "| ours" in line or "| paper" in line
    )
    assert ours[0] == ours[3] != "–"
    assert ours[1] == ours[2] == "–"  # no run on Toys
    assert paper == ["+23.8%", "+14.6%", "+19.2%", "+23.8%"]


def test_no_train_writes_what_there_is(tmp_path, no_training):
    argv = ["--datasets", "beauty", "--seeds", "0", "3", "--no-train"]
    assert call("table2", tmp_path, tmp_path / "nowhere", *argv) == 0
    text = (tmp_path / "table2.md").read_text()
    assert "0 of 2" in text
    assert "- beauty, sasrec-sevo-adamw, seeds 0 3: not run" in text
    row = next(line for line in text.splitlines() if "SEvo-AdamW" in line)
    assert [cell.strip() for cell in row.split("|")][4:9] == ["–"] * 5


def test_runs_stopped_early_are_marked(data_dir, tmp_path, monkeypatch):
    trained = make_up_results(monkeypatch)
    argv = ["--datasets", "beauty", "--optimizers", "adam", "--seeds", "0"]
    assert call("table2", tmp_path, data_dir, *argv, "--epochs", "1") == 0
    assert "1 of 2" in (tmp_path / "table2.md").read_text()
    assert call("table2", tmp_path, data_dir, *argv, "--no-train") == 0
    assert "seed 0: 1 of 2 epochs" in (tmp_path / "table2.md").read_text()
    assert call("table2", tmp_path, data_dir, *argv) == 0
    assert "2 of 2" in (tmp_path / "table2.md").read_text()
    assert trained == ["sasrec-adam-seed0"] * 2


def test_a_lost_checkpoint_is_told(data_dir, tmp_path, monkeypatch, capsys):
    make_up_results(monkeypatch)
    argv = ["--datasets", "beauty", "--optimizers", "adam", "--seeds", "0"]
    assert call("table2", tmp_path, data_dir, *argv, "--epochs", "1") == 0
    assert call("table2", tmp_path, data_dir, *argv) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "holds a result of 1 epochs and no checkpoint to go on from, so the run starts" in told


def test_results_on_other_data_are_not_averaged(data_dir, tmp_path, monkeypatch):
    make_up_results(monkeypatch)
    argv = ["--datasets", "beauty", "--optimizers", "adam", "--seeds", "0", "1", "2"]
    assert call("table2", tmp_path, data_dir, *argv) == 0
    file = tmp_path / "runs/beauty/sasrec-adam-seed1/result.json"
    write_json(file, read_json(file) | {"num_users": 7})
    assert call("table2", tmp_path, data_dir, *argv, "--no-train") == 0
    text = (tmp_path / "table2.md").read_text()
    assert "2 of 3" in text
    assert "seed 1: trained on 7 users" in text


def test_a_failing_run_does_not_stop_the_others(data_dir, tmp_path, monkeypatch, capsys):
    make_up_results(monkeypatch)
    train_together = loop.train_together

    def failing(runs, *args, **named):
        if runs[0].optimizer == "adam":
            raise UserError("the loss is nan at step 2")
        train_together(runs, *args, **named)

    monkeypatch.setattr(loop, "train_together", failing)
    assert call("table2", tmp_path, data_dir, "--datasets", "beauty", "--seeds", "0", "1") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "missing: beauty, sasrec-adam, seeds 0 1: the loss is nan at step 2" in told
    content = read_json(tmp_path / "table2.json")
    assert [row["seeds_done"] for row in content["rows"]] == [0, 2, 2]
    assert content["missing"] == ["beauty, sasrec-adam, seeds 0 1: the loss is nan at step 2"]


def test_the_table_is_written_after_every_run(data_dir, tmp_path, monkeypatch):
    make_up_results(monkeypatch)
    train_together = loop.train_together
    seen = []

    def watching(*args, **named):
        rows = read_json(tmp_path / "table2.json")["rows"]
        seen.append(sum(row["seeds_done"] for row in rows))
        train_together(*args, **named)

    monkeypatch.setattr(loop, "train_together", watching)
    assert call("table2", tmp_path, data_dir, "--datasets", "beauty", "--seeds", "0") == 0
    assert seen == [0, 1, 2]


def test_a_folder_of_other_settings_is_missing(done, data_dir, tmp_path, monkeypatch, capsys):
    """The published settings have changed since."""
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    monkeypatch.setitem(
        MODELS,
        "sasrec",
        SMALL._replace(published=lambda *a: small_sasrec(*a).replace(beta=0.5)),
    )
    assert call("table2", folder, data_dir, *ONE, "--no-train") == 0
    text = (folder / "table2.md").read_text()
    assert "holds a run in which beta was 0.99 and is now 0.5; move it away" in text
    assert call("table2", folder, data_dir, *ONE) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "error: " in told
    assert "beta was 0.99 and is now 0.5; move it away to run it anew" in told


def test_data_that_cannot_be_had_are_missing(tmp_path, no_training):
    argv = ["--optimizers", "adam", "--seeds", "0"]
    assert call("table2", tmp_path, tmp_path, *argv) == 0
    text = (tmp_path / "table2.md").read_text()
    assert f"- toys, sasrec-adam, seed 0: {tmp_path}: holds neither Toys_and_Games.txt" in text
    assert call("table2", tmp_path, tmp_path, *argv, "--datasets", "toys") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table9"], "unknown table 'table9' (did you mean"),
        (["table2", "--models", "sasrek"], "unknown model 'sasrek' (did you mean 'sasrec'?)"),
        (["table2", "--datasets", "beuty"], "unknown dataset 'beuty' (did you mean 'beauty'?)"),
        (["table2", "--optimizers", "adan"], "unknown optimizer 'adan' (did you mean 'adam'"),
        (["table2", "--seeds", "1", "1"], "--seeds: expected one or more different values"),
        (["table2", "--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["table3", "--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["table1", "--models", "sasrec"], "--models: table1 does not have it; leave it out"),
    ],
)
def test_bad_options(tmp_path, capsys, argv, message):
    assert main([*argv, "--out", str(tmp_path), "--runs", str(tmp_path)]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_optimizers_that_give_no_row(tmp_path, capsys, monkeypatch):
    """A graph model is trained by one optimiser."""
    monkeypatch.setitem(MODELS, "lessr", SMALL)
    argv = ["table2", "--models", "lessr", "--optimizers", "sgd", "--out", str(tmp_path)]
    assert main(argv) == 1
    assert "--optimizers: table2 has no row of lessr with sgd" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def cell_of(values: dict[int, float], epochs: int = 200) -> cells.Cell:
    results = [{"seed": s, "epochs": epochs, "test": {"HR@1": v}} for s, v in values.items()]
    return cells.make_cell(results, published=200)


def test_the_better_line_is_never_one_of_fewer_seeds():
    def line(**validations: float) -> Line:
        results = [
            {"seed": int(seed[1:]), "epochs": 200, "valid": {"NDCG@10": value}}
            for seed, value in validations.items()
        ]
        return Line(Row("beauty", "sasrec", "", "adam"), cells.make_cell(results, published=200))

    low, high = line(s0=0.1, s1=0.1), line(s0=0.2, s1=0.0)
    assert comparisons.better(line(s0=0.3, s1=0.3), low).cell.results[0]["valid"]["NDCG@10"] == 0.3
    assert comparisons.better(low, high) is low  # equal means: the first
    assert comparisons.better(line(s0=0.9), low) is low
    alone = line(s0=0.05)
    assert comparisons.better(alone, line()) is alone


def test_t_test_over_common_seeds():
    one = cell_of({0: 0.5, 1: 0.7, 2: 0.4, 4: 0.9})
    other = cell_of({2: 0.35, 1: 0.5, 0: 0.45, 3: 0.1})
    expected = stats.ttest_rel([0.5, 0.7, 0.4], [0.45, 0.5, 0.35]).pvalue
    assert cells.p_value(one, other, "HR@1") == pytest.approx(expected)
    assert cells.gain(one, other, "HR@1") == pytest.approx(1.6 / 1.3 - 1)
    assert cells.p_value(one, cell_of({0: 0.1}), "HR@1") is None
    assert cells.probability(None) == "–"
    for gain in (0.0, 0.1):
        assert (
            cells.p_value(
                cell_of({0: 0.2 + gain, 1: 0.7 + gain}), cell_of({0: 0.2, 1: 0.7}), "HR@1"
            )
            is None
        )


def test_runs_of_different_lengths_are_not_mixed():
    results = [
        {"seed": 0, "epochs": 60, "test": {"HR@1": 0.1}},
        None,
        {"seed": 2, "epochs": 200, "test": {"HR@1": 0.3}},
    ]
    cell = cells.make_cell(results, published=200)
    assert (cell.values("HR@1"), cell.epochs, cell.seeds) == ([0.3], 200, 3)
    assert cells.gain(cell, cell_of({2: 0.2}, epochs=60), "HR@1") is None


def test_rows_beside_the_usual_ones():
    rows = rows_of_model("mf-bpr", "toys", ["adam", "sevo-adamw"])
    assert [(row.label, row.model, row.optimizer) for row in rows] == [
        ("MF-BPR", "mf-bpr", "adam"),
        ("MF-BPR", "mf-bpr", "sevo-adamw"),
        ("MF-BPR, user-item graph", "mf-bpr", "sevo-adamw"),
    ]
    assert rows[2].settings == {"graph": "user-item"}
    assert rows[2].paper == (0.0084, 0.0288, 0.0447, 0.0187, 0.0237)
    assert len(rows_of_model("mf-bpr", "tools", ["sevo-adamw"])) == 1
    stosa = rows_of_model("stosa", "tools", ["adam", "adamw", "sevo-adamw"])
    assert [row.settings for row in stosa] == [{}] * 3 + [{"published": True}] * 3
    assert len(rows_of_model("lightgcn", "tools", ["adam", "sevo-adamw"])) == 1
    (lessr,) = rows_of_model("lessr", "beauty", ["adam"])  # stands for the plain row
    assert [lessr] == rows_of_model("lessr", "beauty", ["adam", "adamw", "sevo-adamw"])
    assert (lessr.optimizer, lessr.paper) == ("adamw", (0.0088, 0.0322, 0.0506, 0.0205, 0.0264))
    lines = [Line(row, cell_of({})) for row in rows + stosa]
    others = accuracy_tables.TABLE_2.versus.others
    compared = [(one.row.label, other.row.label) for one in lines for other in others(one, lines)]
    assert compared == [
        ("MF-BPR", "MF-BPR"),
        ("MF-BPR, user-item graph", "MF-BPR"),
        ("STOSA", "STOSA"),
        ("STOSA", "STOSA"),
        ("STOSA, as published", "STOSA, as published"),
        ("STOSA, as published", "STOSA, as published"),
    ]


def test_the_papers_values():
    assert numbers.TABLE_2["sasrec", "beauty", "sevo-adamw"] == (
        0.0154,
        0.0499,
        0.0759,
        0.0328,
        0.0411,
    )
    assert numbers.TABLE_2["lightgcn", "ml-1m", "adam"] == (0.0124, 0.0495, 0.0866, 0.0307, 0.0427)
    assert numbers.TABLE_2["stosa", "tools", "adam"] == (0.0095, 0.0276, 0.0417, 0.0186, 0.0231)
    assert len(numbers.TABLE_2) == 4 * (4 + 2 * 5)
    assert numbers.TABLE_3["clothing", "sevo-adamw"].ndcg_10 == 0.0377
    assert numbers.TABLE_8["bert4rec", "tools", "sevo-adamw"] == (1374.72, 1.51, 500)
    # Table 2 averages the times of Table 8 over the data sets.
    added = [
        numbers.TABLE_8["gru4rec", name, "sevo-adamw"].training
        - numbers.TABLE_8["gru4rec", name, "adam"].training
        for name in ("beauty", "toys", "tools", "ml-1m")
    ]
    assert np.mean(added) == pytest.approx(124, abs=1)


def test_folder_names():
    settings = small_sasrec("beauty", "sevo-adamw")
    longer = settings.replace(epochs=9)
    assert (
        folder_name(Run("sasrec", "beauty", "sevo-adamw", 1, longer)) == "sasrec-sevo-adamw-seed1"
    )
    other = settings.replace(beta=0.5, rng="rbg")
    name = folder_name(Run("sasrec", "beauty", "sevo-adamw", 1, other))
    assert name == "sasrec-sevo-adamw-rng=rbg-beta=0.5-seed1"


def test_special_characters_are_escaped():
    table = Table("a_b & c", ("x", "%"), [["a|b", "1 ± 2"]])
    document = Document("name", "title", [], [table], ["nothing"], {})
    assert r"| a\|b | 1 ± 2 |" in markdown(document)
    assert "- nothing" in markdown(document)
    assert r"\caption{a\_b \& c}" in latex(document)
    assert r"a|b & 1 $\pm$ 2 \\" in latex(document)


def test_table1(tmp_path, data_dir):
    assert call("table1", tmp_path, data_dir, "--datasets", "beauty") == 0
    users = read_json(tmp_path / "table1.json")["datasets"]["beauty"]["users"]
    assert users == {"ours": 200, "paper": 22363, "difference": 200 / 22363 - 1}
    assert "22,363" in (tmp_path / "table1.md").read_text()
    assert call("table1", tmp_path, data_dir) == 0
    text = (tmp_path / "table1.md").read_text()
    assert "- Toys:" in text
    assert "and the download of http://snap.stanford.edu/data/" in text
    assert "11,282,445" in text


def test_table1_downloads_nothing_without_training(tmp_path, data_dir):
    assert call("table1", tmp_path, data_dir, "--no-train") == 0
    text = (tmp_path / "table1.md").read_text()
    assert "- Toys: not at hand; python -m experiments.reproduce table1 --datasets toys" in text
    assert "the download of" not in text


def test_table1_downloads_gigabytes_only_when_asked(tmp_path, data_dir):
    assert call("table1", tmp_path, data_dir) == 0
    assert "table1 --datasets clothing does" in (tmp_path / "table1.md").read_text()
    assert call("table1", tmp_path, data_dir, "--datasets", "clothing") == 1
    text = (tmp_path / "table1.md").read_text()
    assert "the download of https://datarepo.eng.ucsd.edu/" in text


@pytest.mark.slow
def test_table8(tmp_path, data_dir, monkeypatch):
    assert call("table8", tmp_path, data_dir, "--datasets", "beauty") == 0
    content = read_json(tmp_path / "table8.json")
    (row,) = content["rows"]
    ours, seconds = row["ours"], content["measured"]["beauty"]["sasrec"]
    assert len(seconds["plain"]) >= 3
    assert ours["training_sevo"] == np.median(seconds["sevo"]) * EPOCHS
    assert ours["overhead"] == np.median(seconds["sevo"]) / np.median(seconds["plain"]) - 1
    assert ours["overhead_waiting"] == pytest.approx(
        ours["epoch_waiting"] / ours["epoch_plain"] - 1
    )
    assert row["paper"]["training_plain"] == 445.68
    text = (tmp_path / "table8.md").read_text()
    assert "+5.3%" in text  # the paper's overhead
    assert content["device"] in text

    before = (tmp_path / "table8.json").read_bytes()  # what was measured is kept
    assert call("table8", tmp_path, data_dir, "--datasets", "beauty") == 0
    assert (tmp_path / "table8.json").read_bytes() == before
    assert call("table8", tmp_path, data_dir, "--datasets", "toys", "--no-train") == 0
    assert "- toys, sasrec: not measured" in (tmp_path / "table8.md").read_text()


def test_table8_of_a_model_without_sevo():
    assert table8.compared("lightgcn") == ("adam",)
    assert table8.compared("lessr") == ("adamw",)
    assert table8.compared("sasrec") == ("adamw", "sevo-adamw")
    ours = table8.ours_of({"plain": [2.0, 1.0, 3.0], "inference": [1.0], "epochs": 10})
    assert (ours["training_plain"], ours["training_sevo"], ours["overhead"]) == (20, None, None)
    theirs = table8.paper_of("lightgcn", "beauty")
    assert (theirs["training_plain"], theirs["overhead"], theirs["epochs"]) == (2000.5, None, 1000)


def test_table8_means_are_over_the_data_sets_that_ours_has():
    def timed(dataset: str, plain: list[float]) -> dict:
        ours = {"plain": plain, "sevo": [4.0], "inference": [0.5], "epochs": 10}
        ours = table8.ours_of(ours) if plain else dict.fromkeys(table8.COLUMNS)
        paper = table8.paper_of("sasrec", dataset)
        return {"dataset": dataset, "model": "sasrec", "ours": ours, "paper": paper}

    content = [timed("beauty", [1.0]), timed("toys", [2.0]), timed("tools", [])]
    assert table8.means_of(content).rows == [
        ["SASRec", "2", "ours", "15", "25", "0.50"],
        ["", "", "paper", "430", "45", "2.23"],  # (445.68 + 413.40) / 2, and so on
    ]


@pytest.fixture
def graph_models(monkeypatch):
    """LESSR and MAERec of as few epochs as SASRec; what they are does not matter to a table."""
    for name in ("lessr", "maerec"):
        monkeypatch.setitem(MODELS, name, SMALL)


def test_table6(graph_models, data_dir, tmp_path, monkeypatch):
    trained = make_up_results(monkeypatch)
    assert call("table6", tmp_path, data_dir, "--seeds", "0", "1") == 0
    of_a_seed = ["lessr-adamw", "lessr-sevo-adamw", "maerec-adam", "maerec-sevo-adamw"]
    assert trained == [f"{name}-seed{seed}" for seed in (0, 1) for name in of_a_seed]

    content = read_json(tmp_path / "table6.json")
    assert [row["test"]["NDCG@10"]["paper"] for row in content["rows"]] == [
        0.0264,
        0.0338,
        0.0346,
        0.0358,
    ]
    for row in content["rows"]:
        held = row["test"]["HR@10"]
        assert held["mean"] == np.mean(list(held["seeds"].values()))
        assert held["difference"] == held["mean"] / held["paper"] - 1
    compared = [(c["model"], c["against"]) for c in content["comparisons"]]
    assert compared == [("lessr", "adamw"), ("maerec", "adam")]
    assert content["comparisons"][0]["paper_gain"]["HR@1"] == 0.0126 / 0.0088 - 1
    assert content["missing"] == []
    text = (tmp_path / "table6.md").read_text()
    for expected in ("LESSR + SEvo", "AdamW, as published", "2 of 2", "+43.2%", "wrong edges"):
        assert expected in text
    assert r"\caption{Beauty: test metrics}" in (tmp_path / "table6.tex").read_text()


def test_table6_of_what_there_is(graph_models, data_dir, tmp_path, monkeypatch):
    make_up_results(monkeypatch)
    argv = ["--models", "lessr", "--seeds", "0"]
    assert call("table6", tmp_path, data_dir, *argv, "--epochs", "1") == 0
    assert call("table6", tmp_path, data_dir, "--seeds", "0", "--no-train") == 0
    text = (tmp_path / "table6.md").read_text()
    assert "1 of 2" in text
    assert "- beauty, lessr-adamw, seed 0: 1 of 2 epochs" in text
    assert "- beauty, maerec-sevo-adamw, seed 0: not run" in text
    differences = [line for line in text.splitlines() if "| difference" in line]
    assert len(differences) == 4
    assert not any("%" in line for line in differences)


@pytest.mark.slow
def test_table3_without_the_files(tmp_path, data_dir, monkeypatch):
    data = registry.load("beauty", data_dir)
    monkeypatch.setattr(table3.data, "load", lambda *_: data)
    monkeypatch.setattr(table3, "measure_apart", table3.measure)
    argv = ["--datasets", "electronics", "--seeds", "0"]
    assert call("table3", tmp_path, data_dir, *argv) == 0
    text = (tmp_path / "table3.md").read_text()
    assert "## Electronics (synthetic, time and memory only)" in text
    assert "Peak memory" in text
    assert "0.0159" in text  # the paper's
    assert "- Electronics: no file of it in the data_dir" in text
    content = read_json(tmp_path / "table3.json")
    found = content["synthetic"]["electronics"]["sevo-adamw"]
    assert found["seconds_per_epoch"] == pytest.approx(
        np.median(found["seconds_per_step"]) * found["steps_per_epoch"]
    )
    assert found["peak_bytes"] > 2**20
    assert all(row["test"]["HR@1"]["mean"] is None for row in content["rows"])
    monkeypatch.setattr(table3, "measure_apart", None)  # kept
    assert call("table3", tmp_path, data_dir, *argv) == 0


def test_table3_does_not_stand_in_for_a_damaged_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "Electronics_5.json.gz").write_text("no gzip")
    monkeypatch.setattr(table3, "measure_apart", None)
    argv = ["--datasets", "electronics", "--seeds", "0"]
    assert call("table3", tmp_path, tmp_path, *argv) == 1
    assert "is no gzipped file of JSON reviews" in " ".join(capsys.readouterr().err.split())


def test_table3_on_the_files(tmp_path, data_dir, small, monkeypatch):
    monkeypatch.setattr(table3.data, "at_hand", lambda *_: True)
    monkeypatch.setattr(
        runs, "load_all", lambda names, _: (dict.fromkeys(names, small), dict[str, str]())
    )
    trained = make_up_results(monkeypatch)
    assert call("table3", tmp_path, data_dir, "--seeds", "0", "1") == 0
    assert len(trained) == 8
    text = (tmp_path / "table3.md").read_text()
    assert text.count("2 of 2") == 8  # seeds, and epochs as configured, of four rows
    assert "+90.9%" in text  # the paper's gain, from its rounded values
    assert "synthetic, time" not in text


def test_committed_tables_need_no_fonts_of_greek():
    """LaTeX's usual fonts and encoding have none; what a document begins with is a comment."""
    pages = sorted((Path(__file__).parents[2] / "results").glob("*.tex"))
    assert pages
    for page in pages:
        lines = [line for line in page.read_text().splitlines() if not line.startswith("%")]
        assert all(map(str.isascii, lines)), page
