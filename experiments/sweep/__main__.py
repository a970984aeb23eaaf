"""``python -m experiments.sweep``: searches for settings."""

from __future__ import annotations

from experiments import console
from experiments.options import parse
from experiments.sweep.arguments import Arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments, given = parse(Arguments, argv, "python -m experiments.sweep")
    from experiments.sweep import session  # takes long: only after --help

    return session.run(arguments, given)


if __name__ == "__main__":
    console.run(main)
