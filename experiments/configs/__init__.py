"""Hyper-parameters: one file a model, with the published values for each data set."""

from __future__ import annotations

from experiments.configs import sasrec
from experiments.configs.base import OPTIMIZERS, Hyperparameters

MODELS = {"sasrec": sasrec.hyperparameters}

__all__ = ["MODELS", "OPTIMIZERS", "Hyperparameters"]
