"""Errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or surroundings. The message says where, and what was found and expected."""

    def as_option(self) -> str:
        """The message in the words of the command line."""
        return str(self)


class ArgumentError(UserError):
    """A `UserError` about one argument, which a command prints as its option.

    Args:
        argument: the argument's name.
        message: what was expected and given.
        value: the value in question, if the argument has several.

    Examples:
        >>> error = ArgumentError("max_len", "must be at least 1, got 0")
        >>> str(error), error.as_option()
        ('max_len: must be at least 1, got 0', '--max-len: must be at least 1, got 0')
        >>> ArgumentError("search", "got no values", "beta=").as_option()
        '--search beta=: got no values'
    """

    def __init__(self, argument: str, message: str, value: str = "") -> None:
        self.argument = argument
        self._rest = f" {value}: {message}" if value else f": {message}"
        super().__init__(f"{argument}{self._rest}")

    def as_option(self) -> str:
        """The message, in which the argument has the name of its option."""
        return f"{option(self.argument)}{self._rest}"


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
