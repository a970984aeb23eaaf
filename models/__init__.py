"""Recommendation models in Flax NNX. They know nothing of optimisers or data sets.

A model is imported when it is first asked for. A command can thus read the settings of models
without importing Flax.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.backbone import Backbone, Constant, Task
    from models.bert4rec import BERT4Rec
    from models.gru4rec import GRU4Rec
    from models.lessr import LESSR
    from models.lightgcn import LightGCN
    from models.maerec import MAERec
    from models.mf import MFBPR
    from models.sasrec import SASRec
    from models.srgnn import SRGNN
    from models.stosa import STOSA
    from models.student import Student

_FILES = {
    "Backbone": "backbone",
    "Constant": "backbone",
    "Task": "backbone",
    "BERT4Rec": "bert4rec",
    "GRU4Rec": "gru4rec",
    "LESSR": "lessr",
    "LightGCN": "lightgcn",
    "MAERec": "maerec",
    "MFBPR": "mf",
    "SASRec": "sasrec",
    "SRGNN": "srgnn",
    "STOSA": "stosa",
    "Student": "student",
}

__all__ = [
    "LESSR",
    "MFBPR",
    "SRGNN",
    "STOSA",
    "BERT4Rec",
    "Backbone",
    "Constant",
    "GRU4Rec",
    "LightGCN",
    "MAERec",
    "SASRec",
    "Student",
    "Task",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(f"models.{_FILES[name]}"), name)
