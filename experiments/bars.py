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
"""The width of the bar, and that of what a run says of its last epoch."""
OTHERS = len("epoch 1000/1000") + BAR + STATUS + len("0:00:00") + 4
"""What is not the run's name, with a space between columns."""
SHORTEST, LONGEST = 12, 40
"""The width of a name, which gets what others leave."""
HOURS = 100 * 3600


class _Name(ProgressColumn):
    """The name of a run, shortened to the room that the other columns leave."""

    def render(self, task: Task) -> Text:
        room = min(LONGEST, max(SHORTEST, error_console.width - OTHERS))
        return cell(shortened(task.description, room), error_console)


def shortened(name: str, room: int) -> str:
    """The beginning and the end of a name, where runs differ, in as many characters as fit.

    Examples:
        >>> shortened("sasrec-sevo-adamw-seed0", 18), shortened("mf-bpr-adam-seed0", 18)
        ('sasrec-se…mw-seed0', 'mf-bpr-adam-seed0')
    """
    if len(name) <= room:
        return name
    end = (room - 1) // 2
    return f"{name[: room - 1 - end]}…{name[-end:]}"


def progress_bar() -> Progress:
    """A bar for each run, of as many steps as epochs, with a field ``status``."""
    status = Column(no_wrap=True, overflow="ellipsis", max_width=STATUS)
    whole = Column(no_wrap=True)
    columns = (
        _Name(table_column=Column(no_wrap=True)),
        BarColumn(BAR, table_column=whole),
        TextColumn("epoch {task.completed}/{task.total}", markup=False, table_column=whole),
        TextColumn("{task.fields[status]}", markup=False, table_column=status),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=whole),
    )
    # Rich forgets epochs older than 30 s, and knows no time left where each takes longer.
    return Progress(
        *columns,
        console=error_console,
        disable=not processes.is_first(),
        speed_estimate_period=HOURS,
    )
