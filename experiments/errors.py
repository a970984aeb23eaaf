"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or surroundings. The message says where, and what was found and expected."""


class ArgumentError(UserError):
    """A `UserError` about one argument, which a command prints as its option.

    Examples:
        >>> error = ArgumentError("max_len", "must be at least 1, got 0")
        >>> str(error), error.as_option()
        ('max_len: must be at least 1, got 0', '--max-len: must be at least 1, got 0')
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument, self.message = argument, message

    def as_option(self) -> str:
        """The error in the words of the command line."""
        return f"{option(self.argument)}: {self.message}"


def option(argument: str) -> str:
    """The option of a command for an argument of a function.

    Examples:
        >>> option("max_len")
        '--max-len'
    """
    return f"--{argument.replace('_', '-')}"


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises a `UserError` that lists the known names, unless ``name`` is one of them."""
    known = list(known)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    raise UserError(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}")
