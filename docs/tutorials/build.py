"""Runs the tutorials, and writes each as a page with its outputs: ``python docs/tutorials/build.py``.

The sources are notebooks as scripts (jupytext's percent format). Pages and pictures are committed,
so that the site builds without running them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parent
NAMES = ("recommend", "words", "nodes", "new_items", "explanation")


def build(name: str) -> None:
    """Runs a tutorial and writes ``NAME.md`` and its pictures."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    with tempfile.TemporaryDirectory() as place:
        resources = {"metadata": {"path": place}}
        client = NotebookClient(
            notebook,
            timeout=1800,
            kernel_name="python3",
            resources=resources,
            coalesce_streams=True,  # else an empty line would follow each that a loop prints
        )
        client.execute(env=os.environ | {"PYTHONWARNINGS": "ignore"})
    body, resources = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    plain = re.sub("\x1b\\[[0-9;]*m", "", body)  # commands print in bold
    (FOLDER / f"{name}.md").write_text(plain.strip() + "\n", encoding="utf-8")
    for path in (FOLDER / f"{name}_files").glob("*"):
        path.unlink()
    for place, content in resources["outputs"].items():
        (FOLDER / place).parent.mkdir(exist_ok=True)
        (FOLDER / place).write_bytes(content)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        build(chosen)
