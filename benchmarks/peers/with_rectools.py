"""``python with_rectools.py JOB``: SASRec as RecTools trains it, without anything of this project.

Its Python needs ``rectools[torch]`` alone.
"""
# RecTools is not in the environment that is checked.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from importlib.metadata import version
from typing import Any

UNABLE = 3
NAMES = {
    "dim": "n_factors",
    "num_blocks": "n_blocks",
    "num_heads": "n_heads",
    "max_len": "session_max_len",
    "batch_size": "batch_size",
    "dropout_rate": "dropout_rate",
    "learning_rate": "lr",
}
LOSSES = {"bce": "BCE", "softmax": "softmax"}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Trains two epochs and recommends."""
    import pandas as pd
    import pytorch_lightning as lightning
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    names = {"user": Columns.User, "item": Columns.Item, "time": Columns.Datetime}
    table = pd.read_csv(job["file"]).rename(columns=names)
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime], unit="D")
    table[Columns.Weight] = 1.0
    held_out = table.pop("held_out")
    ends: list[float] = []

    class Clock(lightning.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            ends.append(time.perf_counter())

    def trainer() -> Any:
        return lightning.Trainer(
            max_epochs=2,
            callbacks=[Clock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    settings: dict[str, Any] = {NAMES[k]: value for k, value in job.items() if k in NAMES}
    loss = LOSSES[job["loss"]]
    model = SASRecModel(loss=loss, n_negatives=1, get_trainer_func=trainer, **settings)
    start = time.perf_counter()
    model.fit(Dataset.construct(table[~held_out]))
    whole = Dataset.construct(table)
    begun = time.perf_counter()
    model.recommend(table[Columns.User].unique(), whole, k=10, filter_viewed=True)
    return {
        "version": version("RecTools"),
        "first": ends[0] - start,
        "epoch": ends[1] - ends[0],
        "recommend": time.perf_counter() - begun,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    if importlib.util.find_spec("rectools") is None:
        sys.exit(UNABLE)
    print(json.dumps(measure(json.loads(sys.argv[1]))))
