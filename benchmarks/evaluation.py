"""``python -m benchmarks.evaluation``: ranking all items for all users, packed against padded."""

from __future__ import annotations

from flax import nnx

from benchmarks import report, workload
from experiments.evaluation import make_evaluation_set, make_evaluator
from experiments.inputs.corpus import make_corpus
from experiments.run import Run
from experiments.training.prepare import make_model
from experiments.training.timing import in_turn


def measure(quick: bool, dataset: str = "beauty") -> list[report.Case]:
    """Measures the seconds of an evaluation."""
    data = workload.dataset(quick, dataset)
    settings = workload.settings_for(data, "sevo-adamw")
    model = make_model(Run("sasrec", data.name, "adamw", 0, settings), data)
    graphdef, params = nnx.split(model, nnx.Param)
    evaluate = make_evaluator(lambda p: nnx.merge(graphdef, p), settings.training.max_len)
    corpus = make_corpus(data)
    packed = make_evaluation_set(data, "test", settings.training.max_len)
    padded = make_evaluation_set(data, "test", settings.training.max_len, packed=False)
    calls = {
        "packed": lambda: evaluate(params, corpus, packed),
        "padded": lambda: evaluate(params, corpus, padded),
    }
    seconds = in_turn(calls, rounds=1 if quick else 7)
    name = f"{data.num_users} users, {data.num_items} items, {data.name}"
    return [report.case(name, seconds, "s", 1)]


if __name__ == "__main__":
    report.command("evaluation", measure, workload.Options)
