"""Output for people: any text is printed without effects, and a closed pipe is no error."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console, RenderableType
from rich.text import Text

CLOSED_PIPE = 141
"""The exit status after a closed pipe: 128 and the number of SIGPIPE, as in other programs."""

_SPELLED = str.maketrans({"±": "+/-", "…": "...", "–": "-", "β": "beta"})
"""Our own special characters, spelled out for an output that knows ASCII alone."""


class _Console(Console):
    """A console whose reader may close the pipe."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        if not self.stderr:  # notes may be lost, results may not
            raise


error_console = _Console(stderr=True)
"""The console of progress, notes and errors."""


def plain(text: str, encoding: str = "utf-8", keep: str = "") -> str:
    r"""Escapes control characters, and all that the output cannot show, as Python writes them.

    Args:
        text: a text of any origin: an id, the name of a file, a message.
        encoding: the output's encoding.
        keep: characters to leave alone, such as line breaks.

    Examples:
        >>> plain("[red]\x1b[31m"), plain("a\nb"), plain("naïve ±", "ascii")
        ('[red]\\x1b[31m', 'a\\nb', 'na\\xefve +/-')
    """
    shown = (c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
    joined = "".join(shown)
    # These are names of ASCII that Python and systems use, ANSI_X3.4-1968 for the C locale.
    if encoding.lower().replace("-", "") in ("ascii", "usascii", "ansi_x3.41968"):
        joined = joined.translate(_SPELLED)
    return joined.encode(encoding, "backslashreplace").decode(encoding)


def markdown_text(text: str) -> str:
    r"""Escapes a text for Markdown, also in the cell of a table.

    Examples:
        >>> print(markdown_text("a|b *c*"))
        a\|b \*c\*
    """
    return re.sub(r"([\\`*_\[\]<>|&$#~])", r"\\\1", plain(text))


def cell(text: str, console: Console | None = None) -> Text:
    """Makes a cell for a table of Rich, which interprets nothing in the text."""
    return Text(plain(text, (console or output()).encoding))


def say(message: str, style: str = "") -> None:
    """Prints a note, progress or an error to standard error. A closed pipe is ignored."""
    with contextlib.suppress(OSError):
        text = Text(plain(message, error_console.encoding, keep="\n"), style)
        error_console.print(text, soft_wrap=True)


def output() -> Console:
    """Makes the console of results, on standard output."""
    return _Console()


def show(content: str | RenderableType) -> None:
    """Prints a result: a table of Rich, or plain text.

    Raises:
        BrokenPipeError: the pipe is closed; `run` then ends the command quietly.
    """
    console = output()
    if isinstance(content, str):
        content = Text(plain(content, console.encoding, keep="\n"))
    console.print(content, soft_wrap=isinstance(content, Text))


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command as a program of its own, and ends it with its status."""
    sys.unraisablehook = ignore_closed_loop
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tyro's --help has special characters
            stream.reconfigure(errors="backslashreplace")
    status: Any = 1
    try:
        try:
            status = main()
        except SystemExit as ended:  # --help, or options that cannot be read
            status = ended.code
        sys.stdout.flush()
    except BrokenPipeError:
        status = CLOSED_PIPE
        _discard(sys.stdout)
    except OSError as error:
        if error.filename is not None:
            raise
        say(f"error: standard output cannot be written ({error.strerror})", "bold red")
        status = 1
        _discard(sys.stdout)
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    sys.exit(status)


def _discard(stream: Any) -> None:
    """Drops the rest of a stream, which Python would otherwise fail to write when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def ignore_closed_loop(unraisable: Any) -> None:
    """Hides errors of storage threads that outlive a failed checkpoint: their loop is closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
