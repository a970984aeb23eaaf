"""``python -m experiments.reproduce``: the paper's tables and figures, made anew."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from experiments import console
from experiments.errors import UserError, check_name
from experiments.tables.requests import Request

# Longer than a line, where tyro would keep the breaks of a docstring.
TABLE_HELP = (
    "table1 (data sets), table2 (accuracy), table3 (large data sets), table4 (categories), table5"
    " (distillation), table6 (graph neural networks with SEvo), table7 (number of layers), table8"
    " (time), figure2a (convergence with and without rescaling), figure2b (smoothness during "
    "training), figure3a (other optimisers), figure3b (approximations over β), figure3c (moment "
    "correction), figure5a (first or last items in the graph), figure5b (walk length), figure6 "
    "(embeddings by category), figure7 (smoothness in the loss), accuracy-time (models by "
    "training time), strong (the strong recipe), tuning (trials of equal tuning), tuned (five "
    "seeds at their best settings), when-it-pays (SEvo over tuned AdamW by negatives, batch, "
    "users and width), cold (items without training interactions), incremental (runs that go on "
    "with new days), every (smoothing once in several epochs), every-parts (which part of that "
    "helps), every-models (other backbones), every-softmax (with a sampled softmax) or a4 "
    "(LightGCN as MF smoothed twice)."
)
QUICK_HELP = (
    "Figures, table4, table5 and table7: a quick look that says nothing of the paper's values, in "
    "minutes: a small model on a tenth of the users, few epochs, some of the points, in folders of "
    "its own."
)
SEEDS_DEFAULT = (
    "0 to 4 as in the paper, 0 to 2 for every-softmax, 0 alone for figures, table7, "
    "tuning, cold, incremental, every-parts, every-models, a4 and a quick look"
)


def _default(text: str, default: str) -> Any:
    """Makes the help of an option whose default depends on the table."""
    return tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})")


def _all(what: str) -> Any:
    return _default(f"Which {what}.", "all that the table has")


@dataclasses.dataclass(frozen=True)
class Options(Request):
    """Makes a table of the paper with our values beside the paper's.

    Runs what is missing, goes on with what was interrupted, and writes Markdown, JSON and LaTeX:
    after every run, so that nothing is lost.
    """

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=TABLE_HELP)]
    models: Annotated[tuple[str, ...], _all("models, for table5 methods")] = ()
    datasets: Annotated[tuple[str, ...], _all("data sets")] = ()
    optimizers: Annotated[tuple[str, ...], _all("optimisers")] = ()
    seeds: Annotated[tuple[int, ...], _default("Which seeds.", SEEDS_DEFAULT)] = ()
    quick: Annotated[bool, tyro.conf.arg(help=QUICK_HELP)] = False
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder for later runs."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = tyro.cli(Options, args=argv, prog="python -m experiments.reproduce")
    from experiments.targets import TARGETS  # after --help, since they take long
    from experiments.training import compilation, loop

    try:
        check_name("table", options.table, TARGETS)
        compilation.keep_programs(options.compilation_cache)
        return TARGETS[options.table](options)
    except loop.Interrupted as interruption:
        console.say(f"interrupted: {interruption}; the same command goes on")
        return 130
    except KeyboardInterrupt:
        console.say("interrupted; what is done is kept: the same command goes on")
        return 130
    except UserError as error:
        console.say(f"error: {error.as_option()}")
        return 1


if __name__ == "__main__":
    console.run(main)
