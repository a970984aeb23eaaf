"""``python -m experiments.train`` end to end: files, resuming, interruptions, bad surroundings."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import summary, train
from experiments.data import load
from experiments.errors import UserError
from experiments.run import lock_folder, make_run
from experiments.training import loop
from experiments.training.loop import Interrupted
from tests.runs import (
    NAME,
    TINY,
    checkpoint_of,
    damage,
    during_write,
    error_of,
    records_of,
    runs_of,
    same_run,
    scores_of,
    start,
)

METRICS = {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"}


@pytest.fixture(scope="module")
def arguments(users_file) -> list[str]:
    """SEvo on 200 users, but for --epochs and --out."""
    return ["--dataset", str(users_file), "--optimizer", "sevo-adamw", *TINY]


@pytest.fixture(scope="module")
def straight(arguments, tmp_path_factory) -> Path:
    """A folder with a finished run of 4 epochs."""
    out = tmp_path_factory.mktemp("straight") / "out"
    assert train.main([*arguments, "--epochs", "4", "--out", str(out)]) == 0
    return out


def test_files(straight, users_file):
    folder = straight / NAME
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset"] == str(users_file)
    assert (config["optimizer"], config["seed"], config["dim"]) == ("sevo-adamw", 0, 16)

    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [2, 4]
    assert [set(r) for r in records] == [{"epoch", "step", "train_loss", "seconds", "valid"}] * 2
    assert all(set(r["valid"]) == METRICS for r in records)

    result = json.loads((folder / "result.json").read_text())
    assert set(result) == {
        "model", "dataset", "optimizer", "seed", "epochs", "best_epoch", "valid", "test",
        "by_popularity", "by_history", "recommended", "seconds_per_epoch",
        "seconds_per_evaluation", "device", "versions", "num_users", "ranked_users", "num_items",
        "num_interactions",
    }  # fmt: skip
    assert set(result["test"]) == set(result["valid"]) == METRICS
    best = max(records, key=lambda r: r["valid"]["NDCG@10"])
    assert (result["best_epoch"], result["valid"]) == (best["epoch"], best["valid"])
    assert (result["num_users"], result["epochs"]) == (200, 4)
    groups = result["by_popularity"]
    assert sum(groups["users"]) == 200
    hits = [
        rate * users for rate, users in zip(groups["HR@10"], groups["users"], strict=True) if users
    ]
    assert sum(hits) == pytest.approx(200 * result["test"]["HR@10"])

    assert "SEvo-AdamW" in (straight / "summary.md").read_text()
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("epoch", [2, 3], ids=["at an evaluation", "between evaluations"])
def test_resume_is_bit_identical(arguments, straight, tmp_path, epoch):
    options = ["--epochs", "4", "--out", str(tmp_path)]
    run = runs_of([*arguments, *options])[0]
    data = load(run.dataset)
    stop = threading.Event()

    def report(progress: loop.Progress) -> None:
        if progress.epoch == epoch - 1:  # heeded at the end of the next epoch
            stop.set()

    with pytest.raises(Interrupted, match=f"{NAME}: saved after epoch {epoch} in "):
        loop.train(run, data, tmp_path / NAME, stop=stop, report=report)
    assert checkpoint_of(tmp_path / NAME)[0] == epoch
    assert not (tmp_path / NAME / "result.json").exists()
    assert train.main([*arguments, *options, "--resume"]) == 0
    same_run(tmp_path / NAME, straight / NAME)


@pytest.mark.slow
def test_resume_draws_the_same_dropout(users_file, tmp_path):
    tiny = ["--dim=8", "--num-blocks=1", "--num-heads=1", "--max-len=10", "--batch-size=64"]
    arguments = ["--dataset", str(users_file), "--optimizer", "sevo-adamw", *tiny]
    arguments += ["--eval-every", "1"]
    run = runs_of([*arguments, "--epochs", "2", "--out", str(tmp_path)])[0]
    data, stop = load(run.dataset), threading.Event()
    assert run.settings.model.dropout_rate > 0
    loop.train(run, data, tmp_path / "straight")
    stop.set()
    with pytest.raises(Interrupted, match="saved after epoch 1 in "):
        loop.train(run, data, tmp_path / "resumed", stop=stop)
    loop.train(run, data, tmp_path / "resumed", resume=True)
    same_run(tmp_path / "resumed", tmp_path / "straight")


def test_a_finished_run_goes_on_for_more_epochs(arguments, straight, tmp_path, capsys):
    """The result is that of a run of all epochs at once. Fewer epochs are an error."""
    out = ["--out", str(tmp_path)]
    assert train.main([*arguments, "--epochs", "2", *out]) == 0
    assert train.main([*arguments, "--epochs", "4", *out, "--resume"]) == 0
    same_run(tmp_path / NAME, straight / NAME)
    assert train.main([*arguments, "--epochs", "2", *out, "--resume"]) == 1
    assert "epochs was 4 and is now 2" in " ".join(capsys.readouterr().err.split())


def test_resuming_a_finished_run_keeps_it(arguments, straight):
    before = (straight / NAME / "result.json").read_bytes()
    assert train.main([*arguments, "--epochs", "4", "--out", str(straight), "--resume"]) == 0
    assert (straight / NAME / "result.json").read_bytes() == before


def test_a_run_that_ended_before_its_result_has_one(arguments, straight, tmp_path):
    """The numbers are the same, and the seconds are those that the checkpoint knows."""
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    (out / NAME / "result.json").unlink()
    assert train.main([*arguments, "--epochs", "4", "--out", str(out), "--resume"]) == 0
    same_run(out / NAME, straight / NAME)
    assert json.loads((out / NAME / "result.json").read_text())["seconds_per_epoch"] > 0


def text_file(path: Path, users: list[list[int]]) -> Path:
    lines = (f"{i} {' '.join(map(str, items))}" for i, items in enumerate(users, 1))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_folder_that_holds_a_run(arguments, straight, capsys):
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(straight)])
    assert f"--out: {straight / NAME} already holds a run; resume it" in error


def test_resume_with_another_configuration_names_the_field(arguments, straight, capsys):
    options = ["--epochs", "4", "--out", str(straight), "--resume", "--beta", "0.5"]
    error = error_of(capsys, [*arguments, *options])
    assert "--resume:" in error
    assert "holds a run in which beta was 0.9 and is now 0.5" in error


def test_resume_on_other_data_is_refused(straight, users_file, tmp_path, capsys):
    """The same name, the same counts, the users in another order."""
    out, changed = tmp_path / "out", tmp_path / users_file.name
    shutil.copytree(straight, out)
    lines = users_file.read_text().splitlines()
    changed.write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    config = out / NAME / "config.json"
    config.write_text(config.read_text().replace(str(users_file), str(changed)))
    options = ["--optimizer", "sevo-adamw", *TINY, "--epochs", "4", "--out", str(out), "--resume"]
    error = error_of(capsys, ["--dataset", str(changed), *options])
    assert "holds a run in which the interactions are others" in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "is no JSON"),
        ("config.json", b"[]", "expected a JSON object, found '[]'"),
        ("config.json", b"\xff", "is no JSON"),
        ("result.json", b"", "is no JSON"),
        ("result.json", b'{"epochs": 4}', "lacks test; it was changed"),
        ("metrics.jsonl", b"{}\n{", "metrics.jsonl, line 2: is no JSON"),
        ("metrics.jsonl", b"{}\n", "lacks epoch, valid; it was changed"),
    ],
)
def test_damaged_files(arguments, straight, tmp_path, capsys, name, content, message):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    (out / NAME / name).write_bytes(content)
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(out), "--resume"])
    assert str(out / NAME / name) in error
    assert message in error


def test_a_configuration_of_other_types(arguments, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    config = json.loads((out / NAME / "config.json").read_text())
    (out / NAME / "config.json").write_text(json.dumps(config | {"epochs": "2"}))
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(out), "--resume"])
    assert "holds a run in which epochs was '2' and is now 4" in error


def test_every_folder_is_checked_before_any_run(arguments, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    both = [*arguments, "--optimizer", "adamw", "sevo-adamw", "--epochs", "4", "--out", str(out)]
    assert "already holds a run" in error_of(capsys, both)
    assert not (out / "mf-bpr-adamw-seed0").exists()


def test_an_error_leaves_the_summary_of_finished_runs(arguments, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    (out / "summary.md").unlink()
    argv = [*arguments, "--seeds", "1", "--epochs", "4", "--learning-rate", "1e30"]
    assert "the loss is nan at step 2" in error_of(capsys, [*argv, "--out", str(out)])
    assert "SEvo-AdamW" in (out / "summary.md").read_text()
    (out / "summary.md").unlink()
    (out / "summary.md").mkdir()  # cannot be written
    shutil.rmtree(out / "mf-bpr-sevo-adamw-seed1")
    assert "the loss is nan at step 2" in error_of(capsys, [*argv, "--out", str(out)])


def test_checkpoints_without_a_configuration(arguments, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    for file in (out / NAME).glob("*.json*"):
        file.unlink()
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(out)])
    assert f"{out / NAME} holds checkpoints but no config.json" in error


def test_a_read_only_folder(arguments, tmp_path, capsys, monkeypatch):
    """Root may write anywhere, so the error is made up."""
    mkdir = Path.mkdir

    def refuse(path: Path, *args, **kwargs) -> None:
        if path.name == NAME:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(tmp_path / "out")])
    assert f"--out: {tmp_path / 'out' / NAME} cannot be used (Read-only file system)" in error


def test_bad_data_leaves_the_folder_free(tmp_path, capsys):
    """No user has two training items; with one more item the same command runs."""
    file = text_file(tmp_path / "a.txt", [[1, 2, 3], [2, 3, 4]])
    argv = ["--dataset", str(file), "--dim", "8", "--num-blocks", "1", "--num-heads", "1"]
    argv += ["--optimizer", "adamw", "--epochs", "1", "--out"]
    error = error_of(capsys, [*argv, str(tmp_path / "out")])
    assert "no user has two training items" in error
    text_file(file, [[1, 2, 3, 4], [2, 3, 4, 5]])
    assert train.main([*argv, str(tmp_path / "out")]) == 0


def test_dropped_users_and_gaps_are_told_and_the_mapping_is_kept(tmp_path, capsys):
    file = text_file(tmp_path / "a.txt", [[10, 20, 30, 40], [20, 30], [40, 30, 20, 70], [10]])
    out = tmp_path / "o[ut]"  # brackets are no markup
    argv = ["--dataset", str(file), "--optimizer", "adamw", *TINY, "--epochs", "1"]
    assert train.main([*argv, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "dropped 2 users of fewer than 3 interactions" in printed.err
    assert "items are renumbered" in printed.err
    assert str(out) in printed.err
    assert str(out / "summary.md") in printed.out
    mapping = json.loads((out / "mf-bpr-adamw-seed0" / "item_ids.json").read_text())
    assert mapping == [10, 20, 30, 40, 70]


def scores_in(summary: Path) -> str:
    """The first of the two tables, and what stands above it."""
    above, _, others = summary.read_text().partition("\n|  | ")
    assert "| coverage@10 | " in others
    return above


@pytest.mark.slow
def test_the_summary_tells_settings_apart(straight, arguments, tmp_path):
    """Runs of other settings are rows of their own, and none is held against the paper."""
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    argv = [*arguments, "--epochs", "2", "--seeds", "1", "--beta", "0.5", "--out", str(out)]
    assert train.main(argv) == 0
    table = scores_in(out / "summary.md")
    assert "beta 0.5" in table
    assert table.count("SEvo-AdamW [") == 2
    assert "paper" not in table


@pytest.mark.filterwarnings("error:constrained_layout")  # long labels had left no room for curves
def test_the_summary_tells_models_and_data_sets_apart(straight, users_file, tmp_path):
    """No mean goes over two of them; nor do the epochs that a run is yet to do count."""
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    gru = make_run("gru4rec", str(users_file), "sevo-adamw", epochs=4).to_json()
    changes = {"gru": gru, "toys": {"dataset": "toys"}, "own": {"model": "mean"}}
    for name, change in changes.items():
        shutil.copytree(out / NAME, out / name)
        for file in ("config.json", "result.json"):
            content = json.loads((out / name / file).read_text())
            (out / name / file).write_text(json.dumps(content | change))
    config = json.loads((out / NAME / "config.json").read_text())
    (out / NAME / "config.json").write_text(json.dumps(config | {"epochs": 200}))
    summary.write(out)
    rows = [line for line in scores_in(out / "summary.md").splitlines() if "SEvo" in line]
    assert [line.split("|")[1].partition(",")[0].strip() for line in rows] == [
        "GRU4Rec", "mean", "MF-BPR", "MF-BPR",
    ]  # fmt: skip
    published = [line for line in rows if "mean" not in line]  # nothing is of a user's own model
    assert all("epochs 4" in line for line in published)
    assert all(line.endswith("| 0 |") for line in rows)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(arguments, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    (out / NAME / "result.json").unlink()
    checkpoints = out / NAME / "checkpoints"
    damage(checkpoints / "4")
    assert train.main([*arguments, "--epochs", "4", "--out", str(out), "--resume"]) == 0
    words = " ".join(capsys.readouterr().err.split())
    assert f"{checkpoints}: the checkpoint of epoch 4 cannot be read (default/" in words
    assert "is damaged); the one of epoch 2 is taken" in words
    same_run(out / NAME, straight / NAME)


def test_no_checkpoint_can_be_read(arguments, straight, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    (out / NAME / "result.json").unlink()
    for step in (out / NAME / "checkpoints").iterdir():
        damage(step)
    (out / NAME / "checkpoints" / "2" / "checksums.json").unlink()  # as by a kill, or of old
    damage(out / NAME / "checkpoints" / "2", cut=True)
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(out), "--resume"])
    assert f"{out / NAME / 'checkpoints'}: the checkpoint of epoch 4 cannot be read" in error
    assert "the checkpoint of epoch 2 cannot be read" in error
    assert len(error) < 1500


def test_resume_needs_a_folder(capsys):
    assert "--out: name the folder to resume" in error_of(capsys, ["--resume"])


def test_unusable_output_folder(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    options = ["--epochs", "4", "--out", str(tmp_path / "file" / "out")]
    error = error_of(capsys, [*arguments, *options])
    assert f"--out: {tmp_path / 'file' / 'out' / NAME} cannot be used (Not a directory)" in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "sasrek"], "unknown model 'sasrek' (did you mean 'sasrec'"),
        (["--dataset", "beuty"], "unknown data set 'beuty' (did you mean 'beauty'?)"),
        (["--optimizer", "sevo-adamv"], "unknown optimizer 'sevo-adamv' (did you mean 'sevo-ada"),
        (["--optimizer"], "--optimizer: expected one or more different values, got []"),
        (["--seeds", "1", "1"], "--seeds: expected one or more different values, got [1, 1]"),
        (["--seeds", "-1"], "--seeds: must be in [0, 2^32), got [-1]"),
        (["--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["--dropout-rate", "1"], "--dropout-rate: must be in [0, 1), got 1.0"),
        (["--beta", "-0.1"], "--beta: must be in [0, 1), got -0.1"),
        (["--beta", "nan"], "--beta: must be in [0, 1), got nan"),
        (["--learning-rate", "0"], "--learning-rate: must be above 0, got 0.0"),
        (["--weight-decay", "inf"], "--weight-decay: must be at least 0, got inf"),
        (["--num-layers", "-1"], "--num-layers: must be at least 0, got -1"),
        (["--dim", "10", "--num-heads", "3"], "--dim: must be a multiple of 3 heads, got 10"),
        (["--mask-rate", "0.3"], "--mask-rate: read by bert4rec alone; sasrec with adamw and sevo"),
        (
            ["--model", "mf-bpr", "--num-heads", "2"],
            "--num-heads: read by sasrec, bert4rec, stosa, maerec alone; mf-bpr",
        ),
        (
            ["--optimizer", "adamw", "sgd", "--beta", "0.5"],
            "--beta: read by sevo-adamw, sevo-adam, sevo-sgd alone; sasrec with adamw and sgd ign",
        ),
    ],
)
def test_bad_options(capsys, tmp_path, argv, message):
    assert message in error_of(capsys, [*argv, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["--epochs", "x"], ["--epoch", "3"]])
def test_options_that_cannot_be_parsed(capsys, argv):
    with pytest.raises(SystemExit) as caught:
        train.main(argv)
    assert caught.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_divergence_names_the_step(arguments, tmp_path, capsys):
    options = ["--learning-rate", "1e30", "--epochs", "4", "--out", str(tmp_path)]
    error = error_of(capsys, [*arguments, *options])
    assert f"{NAME}: the loss is nan at step 2 (epoch 1); there is no checkpoint yet" in error


def test_divergence_keeps_the_last_checkpoint(arguments, tmp_path, capsys, change_epoch_3):
    change_epoch_3(lambda state, losses: (state, losses.at[1].set(np.nan)))
    error = error_of(capsys, [*arguments, "--epochs", "4", "--out", str(tmp_path)])
    step = records_of(tmp_path / NAME)[0]["step"] + 2
    assert f"the loss is nan at step {step} (epoch 3); the checkpoint of epoch 2 in" in error
    assert checkpoint_of(tmp_path / NAME)[0] == 2


def test_parameters_that_overflow_spare_the_last_checkpoint(arguments, tmp_path, change_epoch_3):
    """The last update of an epoch overflows: its losses are finite, the parameters are not."""

    def overflow(state, losses):
        return state._replace(params=jax.tree.map(lambda x: x * np.inf, state.params)), losses

    change_epoch_3(overflow)
    run = runs_of([*arguments, "--epochs", "4", "--out", str(tmp_path)])[0]
    data, stop = load(run.dataset), threading.Event()

    def report(progress: loop.Progress) -> None:
        if progress.epoch == 2:  # a signal comes in epoch 3
            stop.set()

    with pytest.raises(UserError, match=r"not finite at step \d+ \(epoch 3\); the checkpoint"):
        loop.train(run, data, tmp_path / NAME, stop=stop, report=report)
    assert checkpoint_of(tmp_path / NAME)[0] == 2


@pytest.mark.resilience
def test_a_kill_while_a_checkpoint_is_written(arguments, straight, compilation_cache, tmp_path):
    options = [*arguments, "--epochs", "4", "--out", str(tmp_path)]
    process = start(options, compilation_cache, tmp_path / "printed")
    during_write(tmp_path / NAME, 2)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert train.main([*options, "--resume"]) == 0
    same_run(tmp_path / NAME, straight / NAME)
    assert {path.name for path in (tmp_path / NAME / "checkpoints").iterdir()} == {"2", "4"}


def test_sigterm_saves_and_exits(arguments, straight, tmp_path, capsys, change_epoch_3):
    def terminate(*result):
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    change_epoch_3(terminate)
    options = [*arguments, "--epochs", "4", "--out", str(tmp_path)]
    assert train.main(options) == 130
    words = " ".join(capsys.readouterr().err.split())
    assert "stopping after this epoch; once more to stop at once" in words
    assert f"interrupted: {NAME}: saved after epoch 3 in {tmp_path / NAME}; go on with" in words
    assert train.main([*options, "--resume"]) == 0
    same_run(tmp_path / NAME, straight / NAME)


@pytest.mark.resilience
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TensorStore's
def test_full_disk(arguments, straight, tmp_path, capsys):
    """Files of more than 64 kB cannot be written, from epoch 2 on."""
    options = [*arguments, "--epochs", "4", "--out", str(tmp_path)]
    run = runs_of(options)[0]
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        loop.train(run, load(run.dataset), tmp_path / NAME, stop=stop)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        error = error_of(capsys, [*options, "--resume"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the checkpoint of epoch 2 could not be written" in error
    assert "make room and resume the run" in error
    assert checkpoint_of(tmp_path / NAME)[0] == 1
    assert train.main([*options, "--resume"]) == 0
    assert scores_of(tmp_path / NAME) == scores_of(straight / NAME)


def test_two_runs_in_one_folder(arguments, tmp_path, capsys):
    """The second refuses, of several that it would train together, too."""
    seeds = ["--seeds", "1", "0", "--together", "True"]
    options = [*arguments, "--epochs", "4", "--out", str(tmp_path), "--resume"]
    with lock_folder(tmp_path / NAME):
        for more in ([], seeds):
            error = error_of(capsys, [*options, *more])
            assert f"{tmp_path / NAME} is in use by process {os.getpid()}; wait until" in error
    with lock_folder(tmp_path / NAME.replace("seed0", "seed1")):
        pass  # it has let go of what it had
