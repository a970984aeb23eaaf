"""``python -m experiments.distill`` end to end, on 200 users; and the table of its runs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import distill, numbers, reproduce
from experiments.data import load, registry
from experiments.data.interactions import from_sequences
from experiments.distill import METHODS
from experiments.errors import UserError
from experiments.files import read_json, write_json
from experiments.run import Run, claim_folder
from experiments.serving.recommender import Recommender
from experiments.training import loop, prepare
from experiments.training.finished import load_run
from experiments.training.graphs import teacher_graph
from experiments.training.steps import split_model
from experiments.training.teachers import load_teacher
from models import Constant

SMALL = [
    "--batch-size=64", "--max-len=20", "--num-blocks=1", "--dim=8", "--teacher-dim=12",
    "--epochs=1", "--packed=False",
]  # fmt: skip


def call(users_file, out: Path, *more: str) -> int:
    """The command, for small and short runs."""
    return distill.main(["--dataset", str(users_file), "--out", str(out), *SMALL, *more])


def make_runs(dataset, out: Path, *methods: str, **options) -> list[Run]:
    own = {"dim": 8, "teacher_dim": 12, "teacher_epochs": 1, "teacher": None}
    own |= {name: options.pop(name) for name in own.keys() & options.keys()}
    arguments = distill.Arguments(dataset=str(dataset), methods=methods, **own)
    given = {"epochs": 1, "max_len": 20, "batch_size": 64, "num_blocks": 1, "packed": False}
    return distill.make_student_runs(arguments, given | options, out)


@pytest.fixture(scope="module")
def done(users_file, tmp_path_factory) -> Path:
    """A teacher of one epoch and two of its students, really trained."""
    out = tmp_path_factory.mktemp("distill")
    methods = ["--methods", "htd", "sevo+dkd", "--num-groups=3", "--num-neighbours=5"]
    assert call(users_file, out, "--teacher-epochs=1", *methods) == 0
    return out


def folder_of(done: Path, model: str) -> Path:
    (folder,) = (file.parent for file in done.glob(f"{model}-*/result.json"))
    return folder


@pytest.mark.slow
def test_the_teacher_comes_first_and_its_students_know_it(done):
    teacher = folder_of(done, "sasrec-adam-dim=12")
    config = read_json(teacher / "config.json")
    assert (config["dim"], config["epochs"], config["seed"]) == (12, 1, 0)
    for method, optimizer in (("htd", "adam"), ("dkd", "sevo-adamw")):
        student = folder_of(done, f"sasrec-{optimizer}-distill={method}")
        config = read_json(student / "config.json")
        assert (config["teacher"], config["teacher_epochs"]) == (str(teacher), 1)
        assert (config["dim"], config["optimizer"]) == (8, optimizer)
        assert np.isfinite(read_json(student / "result.json")["test"]["NDCG@10"])
    assert "dim 12" in (done / "summary.md").read_text()


@pytest.mark.slow
def test_a_student_is_its_own_size_and_recommends(done):
    folder = folder_of(done, "sasrec-adam-distill=htd")
    run, data, *_ = load_run(folder)
    model = prepare.make_model(run, data)
    widths = {leaf.shape[-1] for leaf in jax.tree.leaves(nnx.state(model.teacher, Constant))}
    assert not nnx.state(model.teacher, nnx.Param)
    assert 12 in widths
    assert model.item_embedding.embedding[...].shape == (data.num_items + 1, 8)
    best = Recommender.load(folder).recommend(users=data.user_ids[:2].tolist(), top_k=3)
    assert best.height == 6


@pytest.mark.slow
def test_resuming_keeps_what_is_finished(done, users_file, monkeypatch):
    before = folder_of(done, "sasrec-adam-distill=htd") / "result.json"
    content = before.read_bytes()
    monkeypatch.setattr(loop, "make_setup", None)  # nothing is to be trained
    methods = ["--methods", "htd", "sevo+dkd", "--num-groups=3", "--num-neighbours=5"]
    assert call(users_file, done, "--teacher-epochs=1", *methods, "--resume") == 0
    assert before.read_bytes() == content


@pytest.mark.slow
def test_a_teacher_is_loaded_as_its_best_epoch(done, users_file):
    folder, data = folder_of(done, "sasrec-adam-dim=12"), load(str(users_file))
    *_, student = make_runs(users_file, done, "kd", teacher=str(folder))
    teacher = load_teacher(student.settings, data)
    setup = load_run(folder).setup
    _, params, carried, _ = split_model(teacher)
    ranks = setup.rank("test", params, carried)
    result = read_json(folder / "result.json")
    assert float((ranks <= 10).mean()) == pytest.approx(result["test"]["HR@10"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "nowhere"}, "nowhere holds no finished run"),
        ({"teacher": ""}, "expected the folder of a finished run"),
        ({"max_len": 30}, "reads 20 items and its student 30"),
        ({"teacher_epochs": 9}, "was trained for 1 epochs, expected 9"),
    ],
)
def test_a_teacher_that_cannot_teach(done, users_file, change, message):
    teacher = str(folder_of(done, "sasrec-adam-dim=12"))
    *_, student = make_runs(users_file, done, "kd", teacher=teacher)
    settings = student.settings.replace(**change)
    with pytest.raises(UserError, match=message):
        load_teacher(settings, load(str(users_file)))


@pytest.mark.slow
def test_a_teacher_of_other_items(done, users_file):
    teacher = str(folder_of(done, "sasrec-adam-dim=12"))
    *_, student = make_runs(users_file, done, "kd", teacher=teacher)
    other = from_sequences("other", np.arange(12), np.full(4, 3))
    with pytest.raises(UserError, match="items and other has 12; expected a teacher of the same"):
        load_teacher(student.settings, other)


@pytest.mark.slow
def test_a_teacher_of_other_interactions(done, users_file):
    """It may have trained on what tests the student, though it knows the same items."""
    teacher = str(folder_of(done, "sasrec-adam-dim=12"))
    *_, student = make_runs(users_file, done, "kd", teacher=teacher)
    data = load(str(users_file))
    other = dataclasses.replace(data, items=np.roll(data.items, 1))
    for students in (other, other.sample_users(0.5)):
        with pytest.raises(UserError, match=r"trained on other interactions than those of .* may"):
            load_teacher(student.settings, students)
    assert load_teacher(student.settings, data.sample_users(0.5)).num_items == data.num_items


@pytest.mark.slow
def test_a_student_is_no_teacher(done, users_file):
    other = str(folder_of(done, "sasrec-adam-distill=htd"))
    *_, student = make_runs(users_file, done, "kd", teacher=other)
    with pytest.raises(UserError, match="holds a student; expected a run of sasrec alone"):
        load_teacher(student.settings, load(str(users_file)))


@pytest.mark.slow
def test_a_teacher_without_checkpoint(done, users_file, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(
        folder_of(done, "sasrec-adam-dim=12"), copy, ignore=shutil.ignore_patterns("checkpoints")
    )
    *_, student = make_runs(users_file, done, "kd", teacher=str(copy))
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_teacher(student.settings, load(str(users_file)))


def test_only_methods_that_need_a_teacher_have_one(tmp_path):
    assert [run.model for run in make_runs("synthetic", tmp_path, "plain")] == ["sasrec"]
    teacher, *students = make_runs("beauty", tmp_path, *METHODS, beta=0.5)
    assert teacher.settings.model.dim == 12
    for method, run in zip(METHODS, students, strict=True):
        smoothed = method.startswith("sevo")
        assert run.settings.graph.kind == ("teacher" if smoothed else "item-item")
        assert run.settings.optimizer.beta == (0.5 if smoothed else 0.99)
        assert bool(run.settings.distillation.teacher) == (method != "plain")
        assert run.settings.model.attend_padding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tau", "0"], "--tau: must be above 0"),
        (["--num-neighbours", "100000"], "--num-neighbours: must be less than the"),
        (["--methods", "kd2"], "unknown method 'kd2'"),
        (["--methods", "plain", "--num-groups", "3"], "--num-groups: no student of plain reads it"),
        (["--graph", "user-item"], "--graph: follows from the methods"),
        (["--from", "runs/one", "--methods", "plain"], "--from: students begin anew; leave it out"),
    ],
)
def test_bad_options_are_told_before_anything_is_trained(
    users_file, tmp_path, capsys, options, message
):
    assert call(users_file, tmp_path / "out", *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_the_graph_of_a_teacher_leaves_padding_alone():
    table = np.random.default_rng(0).normal(size=(9, 3))
    weights = teacher_graph(table, 2, 0.5).to_scipy(normalized=False).toarray()
    unit = table[1:] / np.linalg.norm(table[1:], axis=1)[:, None]
    distances = 2 - 2 * unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1)[:, :2]
    want = np.zeros((9, 9))
    for i, neighbours in enumerate(near):
        for j in neighbours:
            want[i + 1, j + 1] += np.exp(-distances[i, j] / 0.5)
            want[j + 1, i + 1] += np.exp(-distances[i, j] / 0.5)
    np.testing.assert_allclose(weights, want, rtol=1e-6)
    with pytest.raises(UserError, match="must be less than the 8 items, got 8"):
        teacher_graph(table, 8, 0.5)


def test_table5(users_file, tmp_path, monkeypatch):
    """From made-up results: each method beside the paper's value, the teacher first."""
    monkeypatch.setattr(registry, "cache_folder", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(users_file, tmp_path / "data" / "Beauty.txt")
    trained: list[str] = []

    def fake(runs, data, folders, *, resume, stop, report, **_):
        for run, folder in zip(runs, folders, strict=True):
            claim_folder(run, data, folder)
            scores = dict.fromkeys(numbers.METRICS, 0.02 + 0.001 * len(trained))
            result = {"seed": run.seed, "epochs": run.settings.training.epochs, "best_epoch": 1}
            result |= {"test": scores, "seconds_per_epoch": 1.5, "device": "abacus"}
            write_json(folder / "result.json", result)
            trained.append(run.settings.distillation.method)

    monkeypatch.setattr(loop, "train_together", fake)
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    argv = ["table5", *places, "--data-dir", str(tmp_path / "data")]
    assert reproduce.main([*argv, "--seeds", "1", "--no-train"]) == 0
    text = (tmp_path / "table5.md").read_text()
    assert "sasrec-adam-dim=200, seeds 0 1: not run" in text  # 0 is the teacher of all

    assert reproduce.main([*argv, "--seeds", "1"]) == 0
    assert trained == [
        "none", "none", "none",  # two teachers and a student on its own
        "kd", "rkd", "htd", "dkd", "none", "dkd",
    ]  # fmt: skip
    content = read_json(tmp_path / "table5.json")
    assert [row["test"]["NDCG@10"]["paper"] for row in content["rows"]] == [
        0.0452, 0.0275, 0.0294, 0.0262, 0.0281, 0.0325, 0.0304, 0.0341,
    ]  # fmt: skip
    for row in content["rows"]:
        held = row["test"]["HR@10"]
        assert held["difference"] == held["mean"] / held["paper"] - 1
    ours = {row["label"]: row["test"]["HR@1"]["mean"] for row in content["rows"]}
    gains = {line["label"]: line["gain"]["HR@1"] for line in content["gains"]}
    assert gains["+ SEvo + DKD"] == pytest.approx(ours["+ SEvo + DKD"] / ours["Student"] - 1)
    assert content["missing"] == []
    text = (tmp_path / "table5.md").read_text()
    for expected in ("Teacher", "+ HTD", "0.0341", "500 of 500", "abacus"):
        assert expected in text
    assert r"\caption{Beauty: test metrics}" in (tmp_path / "table5.tex").read_text()


def test_table5_stopped_early(users_file, tmp_path):
    """Students of a teacher that was stopped early are other runs than those of the full one."""
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--no-train"]
    argv = ["table5", *places, "--seeds", "0", "--models", "kd"]
    assert reproduce.main([*argv, "--epochs", "3"]) == 0
    assert "sasrec-adam-distill=kd-teacher_epochs=3" in (tmp_path / "table5.md").read_text()
    assert reproduce.main([*argv]) == 0
    assert "teacher_epochs" not in (tmp_path / "table5.md").read_text()
