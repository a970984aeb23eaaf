"""``python -m experiments.sweep``: each trial once, whoever works at it, whatever interrupts."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
import pytest

from experiments.errors import ArgumentError, UserError
from experiments.files import read_json, write_json
from experiments.numbers import METRICS
from experiments.run import claim_folder
from experiments.sweep import report, session, study, trials
from experiments.sweep.__main__ import main
from experiments.sweep.space import parse_field, parse_search
from experiments.training import loop, prepare

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = ["--search", "beta=0.5,0.9", "num_layers=1:3", "--sampler", "grid"]
CELLS = set(itertools.product((0.5, 0.9), (1, 2, 3)))


def make_up_results(runs, data, folders, *, resume, stop, report, **_):
    """Training that takes no time: the score is the settings'; of a seed, a little more."""
    for run, folder in zip(runs, folders, strict=True):
        if loop.check_folder(run, data, folder, resume):
            continue
        claim_folder(run, data, folder)
        s = run.settings
        value = s.optimizer.beta / 10 + s.optimizer.num_layers / 1000 + run.seed / 100
        metrics = dict.fromkeys(METRICS, value)
        result = {"epochs": s.training.epochs, "best_epoch": 1, "valid": metrics}
        write_json(folder / "result.json", result | {"test": dict.fromkeys(metrics, value / 2)})


def train_in_no_time(monkeypatch) -> list[str]:
    """Replaces training and pictures; returns the names of the runs that are trained from now."""
    names: list[str] = []

    def fake(runs, data, folders, **options):
        names.extend(f.name for f in folders if not (f / "result.json").exists())
        make_up_results(runs, data, folders, **options)

    monkeypatch.setattr(loop, "train_together", fake)
    monkeypatch.setattr(report, "draw", lambda *_: None)
    return names


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    return train_in_no_time(monkeypatch)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """The folder of a sweep that has done one trial of `GRID`."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        train_in_no_time(patch)
        assert call(folder, *GRID, "--trials", "1") == 0
    return folder


def call(out: Path, *argv: str) -> int:
    return main([*argv, "--out", str(out)])


def trials_of(out: Path) -> list[dict]:
    return read_json(out / "sweep.json")["trials"]


def cells_of(out: Path) -> Counter[tuple[float, int]]:
    settings = [t["settings"] for t in trials_of(out) if t["state"] == "done"]
    return Counter((s["beta"], s["num_layers"]) for s in settings)


def error_of(capsys, *argv: str) -> str:
    """Runs the command, which must fail, and returns its error on one line."""
    assert main(list(argv)) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return " ".join(printed[printed.index("error: ") :].split())


def test_a_grid_covers_its_cells_once_and_shows_the_best_first(tmp_path, trained, capsys):
    assert call(tmp_path, *GRID, "--seeds", "0", "1") == 0
    assert cells_of(tmp_path) == Counter(CELLS)
    assert len(trained) == 2 * len(CELLS)

    sweep = read_json(tmp_path / "sweep.json")
    best = sweep["best"]
    assert best["settings"] == {"beta": 0.9, "num_layers": 3}
    assert best["scores"] == pytest.approx([0.093, 0.103])
    assert best["score"] == pytest.approx(0.098)  # validation, not the test metric
    assert best["test"]["NDCG@10"] == pytest.approx([0.0465, 0.0515])
    scores = [t["score"] for t in sweep["trials"]]
    assert scores == sorted(scores, reverse=True)
    assert sweep["config"]["beta"] == "0.5,0.9"

    table = (tmp_path / "sweep.md").read_text()
    rows = [line for line in table.splitlines() if "done" in line]
    assert [word.strip() for word in rows[0].split("|")][2:5] == ["0.9", "3", "0.0980 ± 0.0071"]
    assert len(rows) == len(CELLS)
    assert "0.0490 ± 0.0035" in table  # test
    assert f"best: trial {best['number']} (beta 0.9, num_layers 3): " in capsys.readouterr().err

    assert call(tmp_path, *GRID, "--seeds", "0", "1") == 0
    assert len(trained) == 2 * len(CELLS), "what is done is kept"


def test_interrupted_by_a_signal_and_diverged(tmp_path, users_file, monkeypatch, capsys):
    """Really trained: the same command goes on; a learning rate that is absurd fails alone."""
    small = ["--model=mf-bpr", "--dim=8", "--batch-size=64", "--eval-every=1", "--epochs=3"]
    argv = ["--search", "learning_rate=1e30,1e-3", "--sampler", "grid", *small]
    argv += ["--dataset", str(users_file), "--seed", "1"]  # a grid's order: 1e30 is the first
    train_together = loop.train_together
    calls: list[str] = []

    def train(runs, data, folders, *, report, **options):
        calls.append(folders[0].name)

        def reporting(progress):
            report(progress)
            if len(calls) == 2 and progress.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        return train_together(runs, data, folders, report=reporting, **options)

    monkeypatch.setattr(loop, "train_together", train)
    assert call(tmp_path, *argv) == 130
    error = " ".join(capsys.readouterr().err.split())
    assert "trial 0 failed: mf-bpr-sevo-adamw-seed0: the loss is" in error
    assert "interrupted: mf-bpr-sevo-adamw-seed0: saved after epoch 2 in" in error
    assert "the same command goes on" in error
    assert [t["state"] for t in trials_of(tmp_path)] == ["failed", "begun"]

    assert call(tmp_path, *argv) == 0
    assert calls == ["trial0-seed0", "trial1-seed0", "trial1-seed0"]
    done, failed = trials_of(tmp_path)
    assert (failed["state"], failed["score"]) == ("failed", None)
    assert "trial 0: mf-bpr-sevo-adamw-seed0: the loss is" in (tmp_path / "sweep.md").read_text()
    folder = tmp_path / "runs/trial1-seed0"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert done["score"] == max(r["valid"]["NDCG@10"] for r in records)
    assert read_json(folder / "config.json")["learning_rate"] == done["settings"]["learning_rate"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("sampler", "trials"), [("random", 3), pytest.param("tpe", 11, marks=pytest.mark.slow)]
)
def test_an_interruption_changes_no_trial(tmp_path, trained, monkeypatch, sampler, trials):
    """TPE learns from the trials before, once there are ten."""
    argv = ["--search", "beta=0.1:0.9", "num_layers=1:5", "--sampler", sampler, "--trials"]
    assert call(tmp_path / "straight", *argv, str(trials)) == 0
    fake = loop.train_together

    def stop(runs, data, folders, **options):
        if folders[0].name.startswith(f"trial{trials - 2}"):
            raise KeyboardInterrupt
        return fake(runs, data, folders, **options)

    monkeypatch.setattr(loop, "train_together", stop)
    assert call(tmp_path / "out", *argv, str(trials)) == 130
    assert read_json(tmp_path / "out" / "sweep.json")["best"]["test"] == {}, "at the end alone"
    monkeypatch.setattr(loop, "train_together", fake)
    assert call(tmp_path / "out", *argv, str(trials)) == 0
    one, other = (
        {t["number"]: t["settings"] for t in trials_of(tmp_path / name)}
        for name in ("straight", "out")
    )
    assert one == other
    assert len({s["beta"] for s in one.values()}) == trials

    before = len(trained)
    assert call(tmp_path / "out", *argv, str(trials + 1)) == 0
    assert len(trained) == before + 1


def test_a_trial_in_other_hands_is_left_alone_while_they_live(tmp_path, trained, monkeypatch):
    """A trial of which there are signs of life is nobody else's; once there are none, anybody's."""
    assert call(tmp_path, *GRID, "--trials", "1") == 0
    fields = [parse_field(text) for text in GRID[1:3]]
    config = read_json(tmp_path / "sweep.json")["config"]
    begun, over = threading.Event(), threading.Event()

    def hold(trial):
        for field in fields:
            field.suggest(trial)
        begun.set()
        over.wait(60)
        raise SystemExit  # as a process that is killed: Optuna hears no more of it

    with monkeypatch.context() as patch:
        patch.setattr(study, "HEARTBEAT", 1)
        patch.setattr(trials, "PATIENCE", 1)
        other = study.open_study(tmp_path, config, study.make_sampler("grid", fields, 0))
        holder = threading.Thread(target=lambda: other.optimize(hold, n_trials=1))
        holder.start()
        assert begun.wait(60)
        assert call(tmp_path, *GRID) == 0
    assert trained == [f"trial{i}-seed0" for i in (0, 2, 3, 4, 5)]
    assert trials_of(tmp_path)[-1]["state"] == "begun"
    assert not read_json(tmp_path / "sweep.json")["over"]

    over.set()
    holder.join()
    monkeypatch.setattr(study, "HEARTBEAT", 1)
    monkeypatch.setattr(study, "GRACE", 1)
    assert call(tmp_path, *GRID) == 0
    assert trained[5:] == ["trial1-seed0"]
    assert cells_of(tmp_path) == Counter(CELLS)


def test_a_trial_that_another_process_went_on_with(tmp_path, trained, monkeypatch):
    """A machine sleeps in the middle of a trial, and wakes once another has taken the trial."""
    fake, slept = loop.train_together, []

    def sleep(runs, data, folders, **options):
        fake(runs, data, folders, **options)
        if folders[0].name == "trial1-seed0" and not slept:
            slept.append(True)
            with sqlite3.connect(tmp_path / "sweep.db") as database:
                database.execute("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'")
            database.close()
            config = read_json(tmp_path / "sweep.json")["config"]
            optuna.storages.fail_stale_trials(study.open_study(tmp_path, config, None))

    monkeypatch.setattr(loop, "train_together", sleep)
    assert call(tmp_path, *GRID, "--trials", "3") == 0
    assert trained == [f"trial{i}-seed0" for i in range(3)]
    assert sorted(t["number"] for t in trials_of(tmp_path)) == [0, 1, 2]
    assert {t["state"] for t in trials_of(tmp_path)} == {"done"}


SHARED = """
import os, sys, time
from experiments.training import loop
from experiments.sweep import study
from experiments.sweep.__main__ import main
from tests.experiments.test_sweep import make_up_results

dies = sys.argv.pop(1) == "dies"
calls = []

def train(runs, data, folders, **options):
    calls.append(folders)
    if dies and len(calls) == 2:
        os._exit(9)
    print(folders[0].name, flush=True)
    time.sleep(0.2)
    make_up_results(runs, data, folders, **options)

study.HEARTBEAT, study.GRACE = 1, 5
loop.train_together = train
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_processes_share_a_sweep_and_one_that_dies_leaves_its_trial_to_others(tmp_path):
    argv = [*GRID, "--out", str(tmp_path)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, what, *argv],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for what in ("lives", "dies")
    ]  # fmt: skip
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 9], printed
    trained = [
        [line for line in out.splitlines() if line.startswith("trial")] for out, _ in printed
    ]
    assert len(trained[1]) == 1
    assert sorted(trained[0] + trained[1]) == [f"trial{i}-seed0" for i in range(6)]
    assert cells_of(tmp_path) == Counter(CELLS)


def test_settings_that_were_tried_are_not_trained_again(tmp_path, trained):
    argv = ["--search", "beta=0.5,0.9", "--sampler", "random", "--trials", "6"]
    assert call(tmp_path, *argv) == 0
    assert len(trials_of(tmp_path)) == 6
    assert len(trained) == 2


def test_values_that_are_allowed_but_not_together(tmp_path, trained):
    """They fail alone."""
    argv = ["--search", "num_heads=1,3", "dim=6,8", "--sampler", "grid"]
    assert call(tmp_path, *argv) == 0
    failed = [t for t in trials_of(tmp_path) if t["state"] == "failed"]
    assert [t["settings"] for t in failed] == [{"num_heads": 3, "dim": 8}]
    assert failed[0]["reason"].startswith("dim: must be a multiple of")


def test_values_that_the_set_up_refuses_together(tmp_path, trained, monkeypatch):
    """Each is fine with the first of the others: an epoch has 15 steps and more, or one."""
    fake = loop.train_together

    def set_up(runs, data, folders, **options):
        prepare.make_setup(runs[0], prepare.used_users(runs[0], data))
        fake(runs, data, folders, **options)

    monkeypatch.setattr(loop, "train_together", set_up)
    argv = ["--search", "every=1,8", "batch_size=64,100000", "--sampler", "grid"]
    argv += ["--model", "mf-bpr", "--dim", "8", "--epochs", "2"]
    assert call(tmp_path, *argv) == 0
    failed = [t for t in trials_of(tmp_path) if t["state"] == "failed"]
    assert [t["settings"] for t in failed] == [{"every": 8, "batch_size": 100000}]
    assert failed[0]["reason"].startswith("every: must be at most the steps of the run, 2 (1 an")
    assert call(tmp_path, *argv) == 0
    assert len(trained) == 3


@pytest.mark.parametrize(
    "error",
    [
        UserError("runs/trial0: the checkpoint of epoch 1 could not be written"),
        ArgumentError("out", "runs/trial0 is in use by process 7"),
        ArgumentError("graph", "g.npz cannot be read"),
        ArgumentError("teacher", "t holds no finished run"),
    ],
)
def test_an_error_of_the_disk_leaves_the_trial_to_be_gone_on_with(
    tmp_path, trained, monkeypatch, error
):
    fake = loop.train_together

    def full(*_, **__):
        raise error

    monkeypatch.setattr(loop, "train_together", full)
    assert call(tmp_path, *GRID) == 1
    monkeypatch.setattr(loop, "train_together", fake)
    assert call(tmp_path, *GRID) == 0
    assert cells_of(tmp_path) == Counter(CELLS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--search"], "--search: expected FIELD=VALUE,VALUE,… or FIELD=LOW:HIGH[:log], once for"),
        (["--search", "beta"], "--search beta: expected FIELD=VALUE"),
        (["--search", "bta=1"], "--search bta=1: unknown field 'bta' (did you mean 'beta'"),
        (["--search", "user_share=0.1,0.5"], "user_share=0.1,0.5: scores of different users"),
        (["--search", "beta="], "--search beta=: expected one or more values"),
        (["--search", "beta=0.5,,1"], "none of them empty"),
        (["--search", "beta=0.5,.5"], "--search beta=0.5,.5: expected different values"),
        (["--search", "beta=0.5", "beta=0.9"], "--search: beta is given more than once"),
        (["--search", "beta=x"], "--search beta=x: beta takes numbers, got 'x'"),
        (["--search", "dim=8.5"], "--search dim=8.5: dim takes whole numbers, got '8.5'"),
        (["--search", "packed=1"], "--search packed=1: unknown value '1'"),
        (["--search", "loss=bcee"], "unknown value 'bcee' (did you mean 'bce'"),
        (["--search", "loss=bce:bpr"], "loss is no number, so it takes a list"),
        (["--search", "dim=16:8"], "--search dim=16:8: expected LOW below HIGH, got 16 and 8"),
        (["--search", "beta=0:nan"], "expected LOW below HIGH, got 0.0 and nan"),
        (["--search", "beta=0:0.9:log"], "a logarithmic range begins above 0, got 0.0"),
        (["--search", "beta=0:0.9:lin"], "expected a range as LOW:HIGH or LOW:HIGH:log"),
        (["--search", "beta=0:1"], "--search beta=0.0:1.0: --beta: must be in [0, 1), got 1.0"),
        (["--search", "beta=0.5,-1"], "--beta: must be in [0, 1), got -1.0"),
        (["--search", "mask_rate=0.1,0.2"], "--mask-rate: read by bert4rec alone; sasrec with"),
        (
            ["--search", "beta=0.5,0.9", "--optimizer", "adamw"],
            "--beta: read by sevo-adamw, sevo-adam, sevo-sgd alone; sasrec with adamw ignores it",
        ),
        (["--search", "beta=0.5", "--beta", "0.9"], "--search: beta is also given as --beta"),
        (["--search", "beta=0.5", "--optimizer", "x"], "unknown optimizer 'x'"),
        (["--search", "beta=0:0.9", "--sampler", "grid"], "a grid takes lists of values and LOW:H"),
        (["--search", "dim=8:64:log", "--sampler", "grid"], "a grid takes lists of values and L"),
        (["--search", "beta=0.5", "--trials", "0"], "--trials: must be at least 1, got 0"),
        (["--search", "beta=0.5", "--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["--search", "beta=0.5", "--seeds", "1", "1"], "--seeds: expected one or more different"),
        (["--search", "beta=0.5", "--axes", "dim"], "unknown field of the search 'dim'"),
        (
            ["--search", "beta=0.5", "--axes", "beta", "beta"],
            "--axes: expected one or two different fields, got ['beta', 'beta']",
        ),
        (
            ["--search", "loss=bpr,softmax", "--model", "lightgcn", "--sampler", "grid"],
            "--loss: lightgcn is trained by bpr or bce, got softmax",
        ),
        (
            ["--search", "every_epochs=1,4,2", "--sampler", "grid", "--epochs", "3"],
            "--every-epochs: must be at most the steps of the run",
        ),
        (["--search", "every=1:100000", "--epochs", "3"], "--every: must be at most the steps of"),
        (["--search", "num_negatives=1,100000"], "--num-negatives: must be at most the"),
        (["--search", "num_negatives=1:100000:log"], "--num-negatives: must be at most the"),
        (["--search", "graph=item-item,none.npz"], "--graph: none.npz cannot be read"),
    ],
)
def test_bad_options(capsys, tmp_path, argv, message):
    assert message in error_of(capsys, *argv, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--search", "beta=0.5,0.9"], "num_layers was '1:3' and is now 3"),
        ([*GRID[:2], "num_layers=1:2", *GRID[3:]], "num_layers was '1:3' and is now '1:2'"),
        ([*GRID, "--dim", "8"], "dim was 64 and is now 8"),
        ([*GRID, "--seeds", "1"], "seeds was [0] and is now [1]"),
        ([*GRID[:-1], "random"], "sampler was 'grid' and is now 'random'"),
        ([*GRID, "--model", "gru4rec"], "model was 'sasrec' and is now 'gru4rec'"),
    ],
)
def test_a_folder_that_holds_another_sweep(begun, trained, capsys, argv, message):
    error = error_of(capsys, *argv, "--out", str(begun))
    assert f"--out: {begun} holds a sweep in which" in error
    assert message in error
    assert trained == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("graph", ["--graph", "a.npz"]),
        ("categories", ["--graph", "category", "--categories", "a.npz"]),
        ("teacher", ["--graph", "teacher", "--teacher", "run"]),
        ("start", ["--from", "run"]),
        ("graph", ["graph=b.npz,a.npz"]),
    ],
)
def test_files_of_a_sweep_are_known_by_content(
    tmp_path, trained, monkeypatch, capsys, name, options
):
    """Trials of two graphs are not ranked in one table."""
    monkeypatch.setattr(prepare, "make_setup", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for file in ("a.npz", "b.npz", "run/result.json"):
        Path(file).write_text("then")
    argv = ["--search", "beta=0.5,0.9", *options, "--out", "out", "--sampler", "grid"]
    assert main([*argv, "--trials", "1"]) == 0
    assert main([*argv, "--trials", "2"]) == 0
    for file in ("a.npz", "run/result.json"):
        Path(file).write_text("now")
    assert f"--out: out holds a sweep in which {name} was another" in error_of(capsys, *argv)
    assert len(trained) == 2


def test_a_closed_pipe_loses_nothing(tmp_path, trained, monkeypatch, capsys):
    def closed(_):
        raise BrokenPipeError

    monkeypatch.setattr(session, "show", closed)
    with pytest.raises(BrokenPipeError):
        call(tmp_path, *GRID, "--trials", "1")
    said = capsys.readouterr().err
    assert "best: trial 0" in said
    assert "written: " in said


def test_databases_of_others(tmp_path, trained, capsys):
    database = tmp_path / "sweep.db"
    database.write_bytes(b"no database, however long it may be" * 100)
    error = error_of(capsys, *GRID, "--out", str(tmp_path))
    assert f"{database}: is no database of a sweep that can be used (file is not a data" in error
    assert database.read_bytes().startswith(b"no database")

    database.unlink()
    assert call(tmp_path, *GRID, "--trials", "2") == 0
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM study_user_attributes")
    connection.close()
    assert "holds a study that this command did not make" in error_of(
        capsys, *GRID, "--out", str(tmp_path)
    )

    (tmp_path / "file").write_text("")
    assert "cannot be used (Not a directory)" in error_of(
        capsys, *GRID, "--out", str(tmp_path / "file" / "out")
    )


def made(number: int, score: float | None, fields, **settings) -> optuna.trial.FrozenTrial:
    """A trial with its score, or one that has failed."""
    trial = optuna.create_trial(
        state=optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE,
        params=settings,
        distributions={field.name: field.distribution for field in fields},
        value=score,
        user_attrs={"reason": "it diverged"} if score is None else {"scores": [score]},
    )
    trial.number = number
    return trial


@pytest.fixture
def figure(monkeypatch):
    """The figure that `draw` made, before it is closed."""
    monkeypatch.setattr(plt, "close", lambda figure: None)

    def drawing(trials, fields, path, dataset="beauty"):
        config = {"model": "sasrec", "optimizer": "adamw", "dataset": dataset}
        report.draw(trials, report.Frame(config, fields, [], len(trials)), path)
        assert path.read_bytes().startswith(b"\x89PNG")
        return plt.gcf()

    yield drawing
    monkeypatch.undo()
    plt.close("all")


def test_heat_map(tmp_path, figure):
    """Means over a third field, and a failed trial left out."""
    fields = parse_search(["learning_rate=1e-4:1e-2:log", "loss=bpr,bce", "dim=8,16"])
    trials = [
        made(0, 0.02, fields, learning_rate=1e-4, loss="bpr", dim=8),
        made(1, 0.04, fields, learning_rate=1e-4, loss="bpr", dim=16),
        made(2, 0.05, fields, learning_rate=1e-2, loss="bce", dim=16),
        made(3, 0.06, fields, learning_rate=2e-3, loss="bce", dim=16),
        made(4, None, fields, learning_rate=1e-3, loss="bce", dim=16),
    ]

    def style() -> dict:  # tests that came before may have chosen a backend, or not
        return {name: own for name, own in plt.rcParams.items() if not name.startswith("backend")}

    before = style()
    drawn = figure(trials, fields, tmp_path / "a.png")
    assert style() == before
    axes, bar = drawn.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "loss")
    assert (axes.get_xscale(), bar.get_ylabel()) == ("log", "best validation NDCG@10")
    assert axes.get_title() == "sasrec, adamw, beauty\nmean over dim"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bce", "bpr"]
    (dots,) = (c.get_offsets() for c in axes.collections if len(c.get_offsets()) > 1)
    assert {tuple(map(float, dot)) for dot in dots} == {(1e-4, 1), (1e-2, 0), (2e-3, 0)}
    (least, greatest) = bar.get_ylim()
    assert least == pytest.approx(0.03, abs=2e-3)
    assert greatest == pytest.approx(0.06, abs=2e-3)


def test_dots(tmp_path, figure):
    fields = [parse_field("beta=0.9,0.5")]
    trials = [made(i, 0.01 * i, fields, beta=beta) for i, beta in enumerate([0.9, 0.5, 0.9, 0.9])]
    axes, _ = figure(trials, fields, tmp_path / "a.png").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("beta", "best validation NDCG@10")
    values = [float(label.get_text()) for label in axes.get_xticklabels()]
    dots = [map(float, dot) for c in axes.collections for dot in c.get_offsets()]
    found = {values[int(x)]: y for x, y in dots}
    assert found == pytest.approx({0.5: 0.01, 0.9: 0.05 / 3})


def test_a_field_that_has_one_value_so_far_is_no_axis(tmp_path, figure):
    fields = parse_search(["beta=0.5,0.9", "dim=8,16"])
    trials = [made(i, 0.01, fields, beta=beta, dim=8) for i, beta in enumerate([0.5, 0.9])]
    axes, _ = figure(trials, fields, tmp_path / "a.png").axes
    assert axes.get_xlabel() == "beta"


def test_names_that_are_markup_elsewhere(tmp_path, monkeypatch, capsys, users_file):
    """In the path of the database, in the title of the picture, in Markdown and on the screen."""
    monkeypatch.setattr(loop, "train_together", make_up_results)
    data = tmp_path / "50%[x]{0}$y_1$|:z:.txt"
    data.write_bytes(users_file.read_bytes())
    out = tmp_path / "out?mode=ro#1%41{2}$|[b]"
    argv = [*GRID, "--dataset", str(data), "--trials"]
    assert call(out, *argv, "1") == 0
    assert call(out, *argv, "2") == 0, "the database is found again"
    assert sum(cells_of(out).values()) == 2
    assert {path.name for path in tmp_path.iterdir()} == {data.name, out.name}
    assert (out / "sweep.db").read_bytes().startswith(b"SQLite")
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    title = (out / "sweep.md").read_text().splitlines()[0]
    assert title.endswith(r"50%\[x\]{0}\$y\_1\$\|:z:.txt")
    assert data.name in "".join(capsys.readouterr().out.split())
