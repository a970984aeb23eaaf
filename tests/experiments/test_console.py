"""Foreign text in print, Markdown and pictures; pipes that are closed; quick commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings

import jax
import matplotlib.pyplot as plt
import pytest
from rich.console import Console
from rich.table import Table

from experiments import bars, console, launch, summary
from experiments.data.cache import cache_folder
from experiments.errors import UserError
from experiments.run import make_run
from experiments.serving.recommender import write
from experiments.training.compilation import keep_programs
from experiments.training.steps import initial_key
from tests.runs import REPOSITORY

COMMANDS = ("train", "distill", "recommend", "build_graph", "reproduce", "launch", "sweep")
ODD = ["[blink]x[/]", ":tada:", "[link=file:///]", "a\x9b2Jb", "c\x07", "d\u2028e", "f\u202eg"]


@pytest.mark.parametrize("count", ["0", "-3", "1"])
def test_launching_fewer_than_two_processes(count, capsys):
    assert launch.main(["--processes", count, "--epochs", "1"]) == 1
    assert f"--processes: must be at least 2, got {count}" in capsys.readouterr().err


def test_names_are_printed_as_they_are(capsys):
    """Neither as markup, nor as an emoji, nor as a command to the terminal."""
    table = Table("name", box=None)
    for name in ODD:
        table.add_row(console.cell(name))
    console.show(table)
    for name in ODD:
        console.show(name)
        console.say(name)
    printed = capsys.readouterr()
    shown = ["[blink]x[/]", ":tada:", "[link=file:///]", r"a\x9b2Jb", r"c\x07"]
    shown += [r"d\u2028e", r"f\u202eg"]
    assert printed.out.split()[-7:] == printed.err.split() == shown
    assert [line.strip() for line in printed.out.splitlines() if line.strip()][1:8] == shown


def test_an_output_that_knows_ascii_alone(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    table = Table()
    table.add_column(console.cell("± ü"))
    table.add_row(console.cell("± 日 \udcff"))
    console.show(table)
    console.show("ü…")
    output.flush()
    text = output.buffer.getvalue().decode("ascii")
    assert r"+/- \u65e5 \udcff" in text
    assert r"\xfc..." in text


def test_help_is_quick_and_needs_no_more_than_ascii():
    """Nothing large is imported before the options are read."""
    script = f"""
import importlib, sys
from experiments import console
for name in {COMMANDS}:
    name = f"experiments.{{name}}" + ".__main__" * (name == "sweep")
    main = importlib.import_module(name).main
    try:
        console.run(lambda: main(["--help"]))
    except SystemExit as ended:
        assert ended.code == 0, name
large = {{"jax", "numpy", "flax", "optax", "orbax", "matplotlib", "polars", "optuna", "scipy"}}
sys.exit(str(large & set(sys.modules) or ""))
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert (done.stderr.strip(), done.stdout.count("usage:")) == ("", len(COMMANDS))


@pytest.mark.parametrize(("place", "status", "words"), [("pipe", 141, ""), ("full", 1, "No space")])
def test_an_output_that_takes_nothing(place, status, words):
    """Words are lost without a traceback."""
    read, closed = os.pipe()
    os.close(read)
    if place == "full":
        os.close(closed)
        closed = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-m", "experiments.launch", "--help"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, stdout=closed, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(closed)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (1 if words else 0)


class Closed(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture
def finished(tmp_path):
    """Folders of runs on data sets whose names mean something to Markdown or Matplotlib."""
    for number, dataset in enumerate(("a|b*.csv", "_{x}%.csv", "$^$ & $}$.csv", "\udcfe?.csv")):
        run = make_run("mf-bpr", dataset, "sevo-adamw", number)
        metrics = dict.fromkeys(("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"), 0.1)
        folder = tmp_path / run.name
        folder.mkdir()
        result = {"epochs": 1, "seed": number, "test": metrics, "device": "cpu"}
        record = {"epoch": 1, "train_loss": 0.5, "valid": metrics}
        (folder / "config.json").write_text(json.dumps(run.to_json()))
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


def test_a_summary_of_odd_names(finished, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "close", shown.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary.write(finished)
    printed = capsys.readouterr().out
    assert "_{x}%.csv" in printed
    assert r"\udcfe?.csv" in printed
    text = (finished / "summary.md").read_text()
    assert r"a\|b\*.csv" in text
    (legend,) = shown[0].legends
    names = {entry.get_text().partition(", ")[0] for entry in legend.get_texts()}
    assert names == {"a|b*.csv", "_{x}%.csv", "$^$ & $}$.csv", r"\udcfe?.csv"}


def test_a_reader_that_leaves_loses_no_file(finished, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        summary.write(finished)
    assert (finished / "summary.md").exists()
    assert (finished / "curves.png").exists()
    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(console.error_console, "quiet", False)  # and back, for other tests
    console.say("nobody reads this, and work goes on")


def test_a_line_of_progress_is_whole_on_80_columns(monkeypatch):
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(bars, "error_console", screen)
    name = "bert4rec-sevo-adamw-dropout_rate=0.25-max_len=100-seed12"
    bar = bars.progress_bar()
    clock = [0.0]
    bar.get_time = lambda: clock[0]
    task = bar.add_task(name, total=200, status="compiling")
    for epoch in (135, 136, 137):
        clock[0] += 90  # longer than Rich looks back by itself
        bar.update(task, completed=epoch, status="loss 123.4  NDCG@10 0.1234")
    screen.print(bar.get_renderable())
    bar.update(task, completed=200, status="done  NDCG@10 0.1234")
    screen.print(bar.get_renderable())
    under_way, finished = screen.file.getvalue().splitlines()
    for line in (under_way, finished):
        assert len(line) <= 80
        assert "bert4" in line
        assert "…" in line
        assert "seed12" in line
        assert "━" * 5 in line
        assert "NDCG@10 0.1234" in line
    assert "epoch 137/200" in under_way
    assert under_way.rstrip().endswith("1:34:30")  # 63 epochs of 90 s
    assert "epoch 200/200" in finished
    assert finished.rstrip().endswith("0:04:30")  # what it took


@pytest.mark.parametrize("name", ["items.parquet", "items.csv"])
def test_recommendations_that_do_not_fit_on_the_disk(tmp_path, name):
    import resource

    import polars as pl

    frame = pl.DataFrame({"user": [f"user {i}" for i in range(50_000)]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=rf"^out: .*{name} cannot be written \(.*too large"):
            write([frame], tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_initial_weights_follow_the_seed_whatever_the_default_generator():
    expected = jax.random.normal(initial_key(5), (3,))
    before = jax.config.jax_default_prng_impl
    try:
        jax.config.update("jax_default_prng_impl", "unsafe_rbg")
        assert jax.random.normal(initial_key(5), (3,)).tolist() == expected.tolist()
    finally:
        jax.config.update("jax_default_prng_impl", before)
    assert jax.random.normal(initial_key(6), (3,)).tolist() != expected.tolist()


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
    import pwd

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HOME", "XDG_CACHE_HOME", "SEVO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder().parent == tmp_path


@contextlib.contextmanager
def no_cache_of_the_tests():
    """Clears JAX's own settings of its cache, as for a user who has set none."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], None)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_programs_are_kept_unless_the_user_wants_otherwise(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path))
    chosen = jax.config.jax_compilation_cache_dir  # the user's own, here that of the tests
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == chosen
    with no_cache_of_the_tests():
        keep_programs(wanted=False)
        assert jax.config.jax_compilation_cache_dir is None
        keep_programs()
        assert str(jax.config.jax_compilation_cache_dir).startswith(str(tmp_path))
    assert not capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEVO_CACHE", str(tmp_path / "file"))
    with no_cache_of_the_tests():
        keep_programs()  # goes without, and says so
        assert jax.config.jax_compilation_cache_dir is None
    assert "compiled anew each time (Not a directory)" in " ".join(capsys.readouterr().err.split())
