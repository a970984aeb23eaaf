"""Data sets: `load` by registered name or path."""

from experiments.data.interactions import Interactions
from experiments.data.registry import NAMES, load

__all__ = ["NAMES", "Interactions", "load"]
