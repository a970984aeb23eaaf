"""Measurements of speed and memory, beside the alternatives that a user would pick."""
