"""``python -m benchmarks.peers.ours JOB``: SASRec by AdamW, as `experiments` trains it."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import load
from experiments.run import make_run
from experiments.serving.recommender import Recommender
from experiments.training.loop import Progress, train

EPOCHS = 6


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Trains and recommends.

    Epochs of some more rows than the first one compile anew, and the last one is validated. So an
    epoch is the median of those between the first and the last.
    """
    settings = {k: v for k, v in job.items() if k not in ("dataset", "file")}
    run = make_run(
        "sasrec", job["dataset"], "adamw", 0, epochs=EPOCHS, eval_every=EPOCHS, **settings
    )
    ends = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:

        def report(progress: Progress) -> None:
            ends.append(time.perf_counter())

        train(run, load(run.dataset), Path(folder), report=report)
        start = time.perf_counter()
        Recommender.load(folder).recommend(top_k=10)
        seconds = time.perf_counter() - start
    return {
        "first": ends[1] - ends[0],
        "epoch": float(np.median(np.diff(ends[1:-1]))),
        "recommend": seconds,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
