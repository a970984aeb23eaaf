"""The errors that a user of the command line can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or surroundings. The message says where, what was found and what was expected."""


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """A `UserError` that lists the names, nearest first, unless ``name`` is known."""
    known = list(known)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    raise UserError(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}")
