"""Recommendation models in Flax NNX. They know nothing of optimisers or data sets."""

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
