"""The commands on pages run, and print what the pages say.

Their options are checked by tests/test_docs.py, in seconds. Here they run: those that train, on 200
users for an epoch.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
PAGES = ("add-a-backbone", "distributed", "experiments")
ELSEWHERE = {
    "spark://host:7077": "a cluster that has another name",
    "10.0.0.1:1234": "a machine that has another address",
}
"""What keeps a command from running here, and why."""

pytestmark = pytest.mark.slow


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the blocks of a page, but for installing."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:1] == ["python"] and words[:3] != ["python", "-m", "pip"]:
                    yield [sys.executable, *words[1:]]


def call(words: list[str], folder: Path, **environment: str) -> str:
    """Runs a command in a folder, and returns what it prints."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"} | environment
    done = subprocess.run(
        words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}"
    return done.stdout


def test_the_first_command_prints_what_the_readme_says(tmp_path):
    page = (ROOT / "README.md").read_text()
    first = next(words for words in commands(page) if "experiments.train" in words)
    printed = call(first, tmp_path, SEVO_DATA="", XLA_FLAGS="")  # as users have it
    said = re.search(r"NDCG@10 is (\.\d+) without\s+and (\.\d+) with smoothing", page)
    assert said is not None
    rows = [line for line in printed.splitlines() if line.lstrip().startswith("SASRec")]
    found = [float(re.findall(r"0\.\d{4}", row)[-1]) for row in rows]
    np.testing.assert_allclose(found, [float(number) for number in said.groups()], rtol=0.01)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_one_after_the_other(page, data_dir, tmp_path):
    text = (ROOT / f"docs/{page}.md").read_text()
    write_inputs(text, data_dir, tmp_path)
    ran = 0
    for words in commands(text):
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
    """The command, for one epoch and one seed."""
    short = {"--epochs": "1", "--seeds": "0"}
    if "experiments.recommend" in words or "experiments.build_graph" in words:
        return words
    if "experiments.distill" in words:
        short["--teacher-epochs"] = "1"
    kept, option = [], ""
    for word in words:
        option = word if word.startswith("--") else option
        if option not in short:
            kept.append(word)
    return [*kept, *(word for pair in short.items() for word in pair)]


def in_sentences() -> list[str]:
    """Each command that trains, of those that stand in a sentence."""
    pages = [*(ROOT / "docs").rglob("*.md"), RESULTS / "README.md"]
    text = "\n".join(" ".join(page.read_text().split()) for page in sorted(pages))
    found = re.findall(r"`python -m (experiments\.train [^`]+)`", text)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", in_sentences())
def test_commands_in_sentences_run(command, data_dir, tmp_path):
    words = shortened([sys.executable, "-m", *shlex.split(command)])
    call(words, tmp_path, SEVO_DATA=str(data_dir))


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


@pytest.mark.parametrize("command", of_results(), ids=" ".join)
def test_tables_of_results_are_made_by_the_commands_beside_them(command, data_folder, tmp_path):
    name, *options = command
    if "--runs" not in options:
        options += ["--runs", "results/runs"]
    for measured in RESULTS.glob("*.json"):  # some keep what no run has, such as speed
        shutil.copy(measured, tmp_path)
    words = [sys.executable, "-m", "experiments.reproduce", name, *options, "--no-train"]
    call([*words, "--out", str(tmp_path)], ROOT, SEVO_DATA=str(data_folder))
    made = (tmp_path / f"{name}.md").read_text()
    assert made == (RESULTS / f"{name}.md").read_text()
