"""The paper's tables, made anew: ``python -m experiments.reproduce table2``."""
