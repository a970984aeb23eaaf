"""Tests that need a GPU. `conftest` says how to rehearse them on a CPU."""
