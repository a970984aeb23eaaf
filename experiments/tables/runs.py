"""The runs behind a table: reads those that are done, and does the rest."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

from experiments import data, runner
from experiments.bars import progress_bar
from experiments.console import say
from experiments.errors import UserError
from experiments.files import read_json
from experiments.pages import documents
from experiments.run import Run, differences, folder_name, read_result
from experiments.tables import requests


class Outcome(NamedTuple):
    """The result of a run, or the reason why there is none."""

    result: dict[str, Any] | None
    reason: str = ""
    in_the_way: bool = False
    """Tells whether the folder holds something else, which no run may overwrite."""


Outcomes = Mapping[Run, Outcome]


def folder_of(run: Run, runs: Path) -> Path:
    """The folder of a run."""
    return runs / run.dataset / folder_name(run)


def look(run: Run, folder: Path) -> Outcome:
    """Reads what the folder has of the run; needs no data, and changes nothing."""
    try:
        if not (folder / "config.json").exists():
            return Outcome(None, "not run")
        held = read_json(folder / "config.json")
        anything = {name: held.get(name) for name in ("epochs", "data")}
        anything["teacher"] = held.get("teacher", "")  # younger than some runs
        changed = differences(held, run.to_json() | anything)
        if changed:
            return Outcome(
                None,
                f"{folder} holds a run in which {'; '.join(changed)}; move it away to run it anew",
                in_the_way=True,
            )
        if not (folder / "result.json").exists():
            return Outcome(None, "interrupted")
        return Outcome(read_result(folder / "result.json"))
    except UserError as error:
        return Outcome(None, str(error), in_the_way=True)


def look_at_all(runs: Iterable[Run], folder: Path) -> dict[Run, Outcome]:
    """Reads what ``folder`` has of the runs; a run on other data than most is in the way."""
    outcomes = {run: look(run, folder_of(run, folder)) for run in runs}
    sizes: dict[tuple[str, float], Counter[tuple[int, ...]]] = defaultdict(Counter)
    for run, outcome in outcomes.items():
        if outcome.result is not None:
            sizes[_data_of(run)][_size(outcome.result)] += 1
    for run, outcome in outcomes.items():
        if outcome.result is not None:
            usual = sizes[_data_of(run)].most_common(1)[0][0]
            if _size(outcome.result) != usual:
                found = "trained on {} users, {} items, {} interactions".format(
                    *_size(outcome.result)
                )
                reason = f"{found}; most runs on {usual}: move it away"
                outcomes[run] = Outcome(None, reason, in_the_way=True)
    return outcomes


def _data_of(run: Run) -> tuple[str, float]:
    return run.dataset, run.settings.training.user_share


def _size(result: dict[str, Any]) -> tuple[int, ...]:
    return tuple(result.get(f"num_{name}", 0) for name in ("users", "items", "interactions"))


def is_finished(run: Run, outcome: Outcome) -> bool:
    """Tells whether the run has the epochs that it was asked for."""
    return outcome.result is not None and outcome.result["epochs"] >= run.settings.training.epochs


def missing(runs: Iterable[Run], outcomes: Outcomes) -> list[str]:
    """A line for the runs that are not finished and differ in their seeds alone."""
    lines: dict[tuple[str, str, str], list[int]] = {}
    for run in runs:
        outcome = outcomes[run]
        if is_finished(run, outcome):
            continue
        reached = outcome.result["epochs"] if outcome.result else 0
        reason = outcome.reason or f"{reached} of {run.settings.training.epochs} epochs"
        name = folder_name(run).rpartition("-seed")[0]
        one_line = " ".join(reason.split())
        lines.setdefault((run.dataset, name, one_line), []).append(run.seed)
    return [
        f"{dataset}, {name}, seed{'s' * (len(seeds) > 1)} {' '.join(map(str, seeds))}: {reason}"
        for (dataset, name, reason), seeds in lines.items()
    ]


def publish(document: documents.Document, request: requests.Request) -> str:
    """Writes a document, which says so if it is that of a quick look; the paths, for reading."""
    if request.quick:
        document = document._replace(
            title=f"{document.title} (a quick look)",
            text=[requests.QUICK_NOTE, *document.text],
            content=document.content | {"quick": True},
        )
    return ", ".join(map(str, documents.write(document, request.out)))


def carry_out(
    runs: Sequence[Run],
    request: requests.Request,
    compose: Callable[[Outcomes], documents.Document],
    loaded: Mapping[str, data.Interactions] | None = None,
) -> int:
    """Runs what is not finished, if training is asked for; publishes before and after each group.

    A run that fails does not stop the others.

    Args:
        runs: of the table, in the order in which they are to be done.
        request: what is asked for.
        compose: the document from what there is of the runs.
        loaded: the data sets, if they are loaded already.

    Returns:
        The exit status: 1 if a run failed, or data that were asked for by name are missing.

    Raises:
        UserError: the document cannot be written.
        Interrupted: a signal came; the run is saved, the document is written.
    """
    for settings in {run.settings for run in runs}:
        settings.check()
    outcomes = look_at_all(runs, request.runs)

    def finished() -> str:
        count = sum(is_finished(run, outcomes[run]) for run in runs)
        return f"{request.table}: {count} of {len(runs)} runs are finished in {request.runs}"

    todo = [run for run in runs if not is_finished(run, outcomes[run])] if request.train else []
    reasons: dict[str, str] = {}
    if loaded is None:
        loaded, reasons = load_all((run.dataset for run in todo), request.data_dir)
    for run in todo:
        if run.dataset in reasons:
            outcomes[run] = outcomes[run]._replace(reason=reasons[run.dataset])
    failed = any(name in request.datasets for name in reasons)
    todo = [run for run in todo if run.dataset in loaded]
    for run in [run for run in todo if outcomes[run].in_the_way]:
        say(f"error: {outcomes[run].reason}")
        todo.remove(run)
        failed = True
    publish(compose(outcomes), request)
    if todo:
        say(f"{finished()}, {len(todo)} to do")
        with progress_bar() as bar, runner.stop_on_signal() as stop:
            for group in runner.make_groups(todo, None):
                own = loaded[group[0].dataset]
                try:
                    failed |= not _train(group, own, request.runs, outcomes, bar, stop)
                finally:  # after a signal, too
                    publish(compose(outcomes), request)
    say(f"{finished()}; written: {publish(compose(outcomes), request)}")
    for line in missing(runs, outcomes) if failed else []:
        say(f"missing: {line}")
    return 1 if failed else 0


def _train(
    group: list[Run],
    own: data.Interactions,
    folder: Path,
    outcomes: dict[Run, Outcome],
    bar: Progress,
    stop: threading.Event,
) -> bool:
    """Trains runs that differ in their seeds alone, and looks at them again; whether all went well.

    Raises:
        Interrupted: a signal came; the runs are saved.
    """
    places = [folder_of(run, folder) for run in group]
    for run, place in zip(group, places, strict=True):
        result = outcomes[run].result
        if result is not None and not any((place / "checkpoints").glob("*")):
            say(
                f"{place}: holds a result of {result['epochs']} epochs and no checkpoint to go on "
                "from, so the run starts anew"
            )
    error = ""
    try:
        runner.train_group(group, own, places, resume=True, bar=bar, stop=stop)
    except UserError as caught:
        error = str(caught)
        say(f"error: {error}")
    finally:
        for run, place in zip(group, places, strict=True):
            outcomes[run] = look(run, place)
            if error and not is_finished(run, outcomes[run]):
                outcomes[run] = outcomes[run]._replace(reason=error)
    return not error


def load_all(
    names: Iterable[str], data_dir: Path | None
) -> tuple[dict[str, data.Interactions], dict[str, str]]:
    """The data sets that can be had, and for the others the reason, on one line."""
    loaded: dict[str, data.Interactions] = {}
    reasons: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            loaded[name] = data.load(name, data_dir)
        except UserError as error:
            reasons[name] = " ".join(str(error).split())
        else:
            for note in loaded[name].notes:
                say(f"{name}: {note}")
    return loaded, reasons


def load_one(name: str, data_dir: Path | None) -> data.Interactions:
    """A data set that must be had; a `UserError` says why it cannot."""
    loaded, reasons = load_all((name,), data_dir)
    for reason in reasons.values():
        raise UserError(reason)
    return loaded[name]
