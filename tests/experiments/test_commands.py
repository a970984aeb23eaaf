"""The commands on pages run, and print what the pages say.

Their options are checked by tests/test_docs.py, in seconds. Here they run: those that train, for an
epoch, and benchmarks at small sizes. `.ci/run` runs what the `Makefile` has.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments import data
from tests.pages import PAGES, RESULTS, ROOT, in_blocks, in_sentences

ELSEWHERE = {
    "spark://host:7077": "a cluster that has another name",
    "10.0.0.1:1234": "a machine that has another address",
}
"""Words of a command that cannot run here, and why."""

HOUR = 3600  # seconds
COMMANDS = ("train", "launch", "distill", "sweep", "reproduce")
TRAIN = {"mean.py", *(f"experiments.{name}" for name in COMMANDS)}
LONG = r"\b(seconds|minutes?|hours?)\b"
"""The words in which a page says how long a command takes."""


def pages() -> list[str]:
    """The pages of the site that have such commands."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    return [str(page.relative_to(ROOT)) for page in found if any(in_blocks(page.read_text()))]


def call(words: list[str], folder: Path, **environment: str) -> str:
    """Runs a command in a folder, and returns what it prints."""
    words = [sys.executable if word == "python" else word for word in words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | environment
    done = subprocess.run(
        words,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HOUR / 2,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}"
    return done.stdout


@pytest.mark.slow
def test_the_first_command_prints_what_the_readme_says(tmp_path):
    page = (ROOT / "README.md").read_text()
    first = next(own for own in in_blocks(page) if "experiments.train" in own.words)
    printed = call(first.words, tmp_path, SEVO_DATA="", XLA_FLAGS="")  # as users have it
    said = re.search(r"NDCG@10 is about (\.\d+)\s+without and (\.\d+) with smoothing", page)
    assert said is not None
    rows = [line for line in printed.splitlines() if line.lstrip().startswith("SASRec")]
    found = [float(re.findall(r"0\.\d{4}", row)[-1]) for row in rows]
    np.testing.assert_allclose(found, [float(number) for number in said.groups()], rtol=0.01)


def test_pages_say_how_long_commands_take_that_train():
    for page in pages():
        for words, comment in in_blocks((ROOT / page).read_text()):
            assert not TRAIN & set(words) or re.search(LONG, comment), words
    for command, places in elsewhere_than_blocks().items():
        told = any(re.search(LONG, place) for place in places)
        assert told or not TRAIN & set(command.split()), command


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_run_one_after_the_other(page, data_dir, tmp_path):
    text = (ROOT / page).read_text()
    write_inputs(text, data_dir, tmp_path)
    ran = 0
    for words, _ in in_blocks(text):
        if not ELSEWHERE.keys() & set(words):
            devices = 4 if "--mesh" in words else 1
            flags = f"--xla_force_host_platform_device_count={devices}"
            call(shortened(words), tmp_path, SEVO_DATA=str(data_dir), XLA_FLAGS=flags)
            ran += 1
    assert ran


def write_inputs(page: str, data_dir: Path, folder: Path) -> None:
    """Writes the files that the commands of a page name."""
    if code := re.search(r"```python\n(.*?)```", page, re.S):
        (folder / "mean.py").write_text(code.group(1))
    lines = (data_dir / "Beauty.txt").read_text().split("\n")
    rows = [
        (user, item, time)
        for user, *items in map(str.split, filter(None, lines))
        for time, item in enumerate(items)
    ]
    events = pl.DataFrame(rows, ["user", "item", "time"], orient="row")
    events.filter(pl.col("time") < 4).write_csv(folder / "may.csv")
    events.write_csv(folder / "june.csv")
    who = events.cast({"user": pl.Int64, "item": pl.Int64})
    who.rename({"user": "who", "item": "what", "time": "at"}).write_parquet(folder / "log.parquet")


def shortened(words: list[str]) -> list[str]:
    """A command that trains, for one epoch and one seed; others as they are."""
    short = {"--epochs": "1", "--seeds": "0"}
    if not TRAIN & set(words):
        return words
    if "experiments.distill" in words:
        short["--teacher-epochs"] = "1"
    kept, option = [], ""
    for word in words:
        option = word if word.startswith("--") else option
        if option not in short:
            kept.append(word)
    return [*kept, *(word for pair in short.items() for word in pair)]


def of_results() -> list[list[str]]:
    """Each command that makes a table of results from runs that are kept, a target for each."""
    found = []
    for line in (RESULTS / "README.md").read_text().splitlines():
        for command in re.findall(r"`python -m experiments\.reproduce ([^`]+)`", line):
            name, *options = command.split()
            if "NEW_FOLDER" not in options and name != "a4":  # these keep no runs
                others = re.findall(r"likewise .*", line)
                names = re.findall(r"\[([\w-]+)\.md\]", line) if others else [name]
                found += [[name, *options] for name in names]
    return list(map(list, dict.fromkeys(map(tuple, found))))


NAMED = {"NAME", "TARGET"}
"""Words of a command that stands for several; each of these has tests of its own."""


def elsewhere_than_blocks() -> dict[str, list[str]]:
    """The commands in sentences of all pages, and where each stands.

    Those of kept results are left out, as are those that stand in a block, too.
    """
    texts = [page.read_text() for page in PAGES]
    others = [["python", "-m", "experiments.reproduce", *own] for own in of_results()]
    others += [own.words for text in texts for own in in_blocks(text)]
    found: dict[str, list[str]] = {}
    for text in texts:
        for command, place in in_sentences(text):
            words = command.split()
            names_one = len(words) == 3 and words[2].startswith("experiments.")
            if not (names_one or NAMED & set(re.split("[ .]", command)) or words in others):
                found.setdefault(command, []).append(place)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", elsewhere_than_blocks())
def test_commands_in_sentences_run(command, data_folder, tmp_path):
    words = shlex.split(command)
    module = words[2] if words[1] == "-m" else ""
    if module.startswith("benchmarks."):
        one = ["--only", "memory"] if words[2:] == ["benchmarks.run"] else []
        words += ["--quick", "--out", str(tmp_path), *one]
    elif module == "experiments.reproduce":
        quick = [] if {"a4", "--no-train"} & set(words) else ["--quick"]  # those take seconds
        words += [*quick, "--out", str(tmp_path)]
    elif module in ("experiments.recommend", "experiments.export"):
        write_run(tmp_path / "RUN")
        (tmp_path / "FILE").write_text("1 3 5 9\n")
    elif module:
        words = shortened(words)
    call(words, tmp_path if module else ROOT, SEVO_DATA=str(data_folder))


def write_run(place: Path) -> None:
    """Trains a small run."""
    command = (
        "experiments.train --dataset synthetic --epochs 1 --dim 8 --optimizer adamw --out runs"
    )
    call(["python", "-m", *command.split()], place.parent)
    place.symlink_to(place.parent / "runs/sasrec-adamw-seed0")


@pytest.mark.slow
@pytest.mark.parametrize("command", of_results(), ids=" ".join)
def test_tables_of_results_are_made_by_the_commands_beside_them(command, data_folder, tmp_path):
    name, *options = command
    if name == "table1" and not all(
        data.at_hand(own, data_folder) for own in ("beauty", "toys", "tools", "ml-1m")
    ):
        pytest.skip("table1 has data sets that are not here")
    if "--runs" not in options:
        options += ["--runs", "results/runs"]
    for measured in RESULTS.glob("*.json"):  # some keep what no run has, such as speed
        shutil.copy(measured, tmp_path)
    words = ["python", "-m", "experiments.reproduce", name, *options, "--no-train"]
    own = {"SEVO_DATA": str(data_folder), "SEVO_CACHE": str(tmp_path / "cache")}
    call([*words, "--out", str(tmp_path)], ROOT, **own)
    made = (tmp_path / f"{name}.md").read_text()
    assert made == (RESULTS / f"{name}.md").read_text()
