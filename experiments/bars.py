"""Progress bars: a line for each run, whole on a terminal of 80 columns."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from experiments.console import cell, error_console
from experiments.training import processes

BAR, STATUS = 10, 26
"""The widths of the bar and of the report on a run's last epoch."""
OTHERS = len("epoch 1000/1000") + BAR + STATUS + len("0:00:00") + 4
"""The width of all columns but the run's name, with a space between columns."""
SHORTEST, LONGEST = 12, 40
"""The least and greatest width of a run's name, which gets the rest of the line."""
HOURS = 100 * 3600


class _Name(ProgressColumn):
    """The name of a run, shortened to the room that the other columns leave."""

    def render(self, task: Task) -> Text:
        room = min(LONGEST, max(SHORTEST, error_console.width - OTHERS))
        return cell(shortened(task.description, room), error_console)


def shortened(name: str, room: int) -> str:
    """Shortens a name to ``room`` characters; keeps its beginning and its end, where runs differ.

    Examples:
        >>> shortened("sasrec-sevo-adamw-seed0", 18), shortened("mf-bpr-adam-seed0", 18)
        ('sasrec-se…mw-seed0', 'mf-bpr-adam-seed0')
    """
    if len(name) <= room:
        return name
    end = (room - 1) // 2
    return f"{name[: room - 1 - end]}…{name[-end:]}"


def progress_bar() -> Progress:
    """Makes the bars: a task for each run, which counts epochs and has a field ``status``."""
    status = Column(no_wrap=True, overflow="ellipsis", max_width=STATUS)
    whole = Column(no_wrap=True)
    columns = (
        _Name(table_column=Column(no_wrap=True)),
        BarColumn(BAR, table_column=whole),
        TextColumn("epoch {task.completed}/{task.total}", markup=False, table_column=whole),
        TextColumn("{task.fields[status]}", markup=False, table_column=status),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=whole),
    )
    # By default Rich forgets epochs older than 30 s. If each takes longer, it would show no time
    # left.
    return Progress(
        *columns,
        console=error_console,
        disable=not processes.is_first(),
        speed_estimate_period=HOURS,
    )
