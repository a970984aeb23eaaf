"""``python with_recbole.py JOB``: SASRec as RecBole trains it, without anything of this project.

RecBole has a row for each beginning of a user's items, and no binary cross-entropy. Its Python
needs ``recbole``, ``numpy<2``, ``pandas<2.3``, ``scipy<1.15`` and ``setuptools<80``.
"""
# RecBole is not in the environment that is checked.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

UNABLE = 3
NAMES = {
    "dim": "hidden_size",
    "num_blocks": "n_layers",
    "num_heads": "n_heads",
    "max_len": "MAX_ITEM_LIST_LENGTH",
    "batch_size": "train_batch_size",
    "dropout_rate": "hidden_dropout_prob",
    "learning_rate": "learning_rate",
}
USERS_AT_ONCE = 512


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Trains two epochs and recommends."""
    import pandas as pd
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils.case_study import full_sort_topk

    class Timed(Trainer):
        def _train_epoch(self, *given: Any, **named: Any) -> Any:
            loss = super()._train_epoch(*given, **named)
            ends.append(time.perf_counter())
            return loss

    start, ends = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_csv(job["file"])[["user", "item", "time"]]
        table.columns = ["user_id:token", "item_id:token", "timestamp:float"]
        os.chdir(folder)  # RecBole leaves logs where it runs
        place = Path(folder) / "data"
        place.mkdir()
        table.to_csv(place / "data.inter", sep="\t", index=False)
        settings = {NAMES[name]: value for name, value in job.items() if name in NAMES} | {
            "inner_size": job["dim"],
            "attn_dropout_prob": job["dropout_rate"],
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "epochs": 2,
            "data_path": folder,
            "checkpoint_dir": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "state": "ERROR",
            "show_progress": False,
        }
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        config = Config(model="SASRec", dataset="data", config_dict=settings)
        dataset = create_dataset(config)
        train, _, test = data_preparation(config, dataset)
        model = SASRec(config, train.dataset).to(config["device"])
        Timed(config, model).fit(train, saved=False)
        begun = time.perf_counter()
        for users in torch.arange(1, dataset.user_num).split(USERS_AT_ONCE):
            full_sort_topk(users.numpy(), model, test, k=10, device=config["device"])
    return {
        "version": version("recbole"),
        "first": ends[0] - start,
        "epoch": ends[1] - ends[0],
        "recommend": time.perf_counter() - begun,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if importlib.util.find_spec("recbole") is None or job["loss"] != "softmax":
        sys.exit(UNABLE)
    print(json.dumps(measure(job)))
