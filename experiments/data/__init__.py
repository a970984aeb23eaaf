"""Data sets, loaded by registered name or path, and the categories of their items."""

from experiments.data.categories import Categories, load_categories
from experiments.data.interactions import Interactions
from experiments.data.registry import NAMES, at_hand, find_path, load
from experiments.data.table1 import TABLE_1

__all__ = [
    "NAMES",
    "TABLE_1",
    "Categories",
    "Interactions",
    "at_hand",
    "find_path",
    "load",
    "load_categories",
]
