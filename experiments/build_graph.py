"""``python -m experiments.build_graph INPUT OUTPUT.npz``: builds a graph from interactions.

Files may be of any size. DuckDB or Spark counts the edges within a limit of memory, and spills to a
temporary folder; see `sevo_jax.sequence_graph_from_table`. `sevo_jax.Graph.load` reads the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments import console
from experiments.console import error_console, say, show
from experiments.errors import UserError
from experiments.run import IDS_APART

if TYPE_CHECKING:
    import sevo_jax

UNITS = {
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Builds the graph of items that follow each other from a table of interactions."""

    input: Annotated[str, tyro.conf.Positional]
    """A Parquet or CSV file (.parquet, .csv, .tsv, .csv.gz), or a quoted pattern of such files."""
    output: Annotated[Path, tyro.conf.Positional]
    """The .npz file of the graph; with --ids any, the items of its nodes go to .items.parquet."""
    user: str = "user"
    """The column of users."""
    item: str = "item"
    """The column of items."""
    time: str = "time"
    """The column of times; 'rows' for the order of the file's rows."""
    order: str | None = None
    """A column that tells a user's equal times apart; the order of rows if not given."""
    ids: Literal["integers", "any"] = "integers"
    """Items as nodes: integers as they are, or any integers or strings, numbered from 0."""
    num_nodes: int | None = None
    """Number of nodes; one more than the largest id if not given."""
    max_len: int | None = 50
    """The most items of a user that make edges; None for all."""
    keep: Literal["last", "first"] = "last"
    """Whether these are the user's last or first items."""
    walk_length: int = 1
    """The largest distance of two items that are joined."""
    weighting: Literal["distance", "frequency"] = "distance"
    """The weight of two items at a distance h: 1/h (distance) or 1 (frequency)."""
    self_loops: Literal["none", "isolated", "all"] = "none"
    """The nodes that get an edge of weight 1 to themselves."""
    capacity: int | None = None
    """Entries to store, filled up with zeros; as many as there are edges need if not given."""
    engine: Literal["duckdb", "spark"] = "duckdb"
    """The engine that counts the edges."""
    memory: str = "4GB"
    """Memory for the engine, such as 4GB or 512MiB; for Spark, for each driver and executor."""
    temporary: Path | None = None
    """The folder for data that do not fit into memory; the system's own if not given."""
    master: str = "local[*]"
    """Spark's master, such as spark://host:7077."""


def build(arguments: Arguments, progress: Progress) -> sevo_jax.Graph:
    """Builds and writes the graph.

    Raises:
        UserError: bad input, no Java for Spark, not enough memory, or no such folder.
    """
    import polars as pl  # takes long: only after --help and mistakes in options

    import sevo_jax

    output = arguments.output
    if output.suffix != ".npz":
        raise UserError(f"OUTPUT: expected a name that ends in .npz, got {output}")
    if not output.parent.is_dir():
        raise UserError(f"OUTPUT: there is no folder {output.parent}; make it, or name another")
    draft = output.with_suffix(".part.npz")
    items_file, items_draft = (path.with_suffix(".items.parquet") for path in (output, draft))
    memory = parse_memory(arguments.memory)
    task = progress.add_task("starting the engine", total=None, edges="")

    def show_stage(stage: str, edges: int) -> None:
        progress.update(task, description=stage, edges=f"{edges:,} edges" if edges else "")

    # Options that the library has under the same names.
    taken = ("user", "item", "time", "order", "ids", "num_nodes", "max_len", "keep")
    taken += ("walk_length", "weighting", "self_loops", "capacity")
    options: dict[str, Any] = {name: getattr(arguments, name) for name in taken}
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.temporary))
        except OSError as error:
            raise UserError(f"--temporary: {arguments.temporary}: {error.strerror}") from error
        start = spark if arguments.engine == "spark" else duckdb
        connection, percent = stack.enter_context(start(memory, folder, arguments.master))
        stack.enter_context(polled(progress, task, percent))
        try:
            built: Any = sevo_jax.sequence_graph_from_table(
                arguments.input, connection=connection, progress=show_stage, **options
            )
        except MemoryError as error:
            raise UserError(
                f"--memory: {arguments.memory} or the disk of --temporary is not enough ({error})"
            ) from error
        except (ImportError, OSError, TypeError, ValueError) as error:
            raise UserError(str(error)) from error
    graph, items = built if arguments.ids == "any" else (built, None)
    progress.update(task, description="writing")
    try:
        graph.save(draft)
        if items is not None:
            nodes = pl.DataFrame({"node": range(len(items)), "item": items.tolist()})
            nodes.write_parquet(items_draft)
            with zipfile.ZipFile(draft, "a") as archive:  # so that the two are not parted unnoticed
                archive.writestr(zipfile.ZipInfo(IDS_APART), f"in {items_file.name}")
        draft.replace(output)
        if items is None:
            items_file.unlink(missing_ok=True)  # of a graph that was there before
        else:
            items_draft.replace(items_file)
    except OSError as error:
        raise UserError(f"OUTPUT: {output} cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)
        items_draft.unlink(missing_ok=True)
    progress.update(task, description="done", total=1, completed=1)
    return graph


def parse_memory(text: str) -> int:
    """Reads a size in bytes.

    Raises:
        UserError: the text is no number with a unit.

    Examples:
        >>> parse_memory("4GB"), parse_memory("1.5 MiB")
        (4000000000, 1572864)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)B?", text.strip().upper())
    if not found or not float(found[1]):
        raise UserError(f"--memory: expected a size such as 4GB or 512MiB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2]])


@contextlib.contextmanager
def duckdb(
    memory: int, folder: str, master: str
) -> Generator[tuple[Any, Callable[[], float | None]]]:
    """Opens DuckDB: an ibis connection, and a function that returns the percentage of a query done.

    Raises:
        UserError: DuckDB is not installed.
    """
    try:
        import ibis

        connection: Any = ibis.duckdb.connect(
            memory_limit=f"{memory // 1000}KB", temp_directory=folder
        )
    except ImportError as error:
        raise UserError('--engine duckdb: pip install "sevo-jax[tables]"') from error
    for setting in ("enable_progress_bar=true", "enable_progress_bar_print=false"):
        connection.raw_sql(f"SET {setting}")
    try:
        yield connection, connection.con.query_progress
    finally:
        connection.disconnect()


@contextlib.contextmanager
def spark(
    memory: int, folder: str, master: str
) -> Generator[tuple[Any, Callable[[], float | None]]]:
    """Opens Spark; yields the same as `duckdb`.

    Raises:
        UserError: Spark or Java is not installed, or Spark does not start.
    """
    try:
        import ibis
        from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('--engine spark: pip install "sevo-jax[spark]"') from error
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        raise UserError(
            "--engine spark: found no Java; install a runtime of version 17 or newer (apt install "
            "openjdk-17-jre-headless) or set JAVA_HOME"
        )
    size = f"{memory // 2**20}m"
    builder: Any = SparkSession.builder
    builder = (
        builder.master(master)
        .appName("sevo-jax")
        .config(
            map={
                "spark.driver.memory": size,
                "spark.executor.memory": size,
                "spark.driver.maxResultSize": "0",  # the graph comes back in one piece
                "spark.local.dir": folder,
                "spark.sql.execution.arrow.pyspark.enabled": "true",
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.log.level": "OFF",
            }
        )
    )
    try:
        session = builder.getOrCreate()
    except Exception as error:  # Java has errors of many kinds
        reason = str(error).strip().splitlines()
        words = next((line for line in reason if "Exception:" in line), reason[0])
        raise UserError(f"--engine spark --master {master}: {words.strip(' :')}") from error
    tracker = session.sparkContext.statusTracker()

    def percent() -> float | None:
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        tasks = sum(stage.numTasks for stage in stages if stage)
        done = sum(stage.numCompletedTasks for stage in stages if stage)
        return 100 * done / tasks if tasks else None

    try:
        yield ibis.pyspark.connect(session), percent
    finally:
        session.stop()


@contextlib.contextmanager
def polled(
    progress: Progress, task: TaskID, percent: Callable[[], float | None]
) -> Generator[None]:
    """Keeps the bar at the engine's percentage; the bar pulses while there is none."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.5):
            now = percent()
            known = now is not None and now >= 0
            progress.update(task, total=100 if known else None, completed=now if known else 0)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        progress.update(task, total=None)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = tyro.cli(Arguments, args=argv, prog="python -m experiments.build_graph")
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[edges]}")
    started = time.perf_counter()
    try:
        with Progress(*columns, TimeElapsedColumn(), console=error_console) as progress:
            graph = build(arguments, progress)
    except UserError as error:
        say(f"error: {error}", "bold red")
        return 1
    except KeyboardInterrupt:
        say(f"interrupted: {arguments.output} is not written")
        return 130
    show(
        f"{graph.num_nodes:,} nodes, {graph.capacity:,} entries, "
        f"{time.perf_counter() - started:.1f} s: {arguments.output}"
    )
    return 0


if __name__ == "__main__":
    console.run(main)
