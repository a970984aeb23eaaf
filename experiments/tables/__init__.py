"""Rows of runs, what trains the missing ones, and the cells and panels that show them."""
