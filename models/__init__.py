"""Recommendation models in Flax NNX. They know nothing of optimisers or data sets."""

from models.sasrec import SASRec

__all__ = ["SASRec"]
