"""For tests whose small programs take longer to compile than to run."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Halves the time of a module's tests, for slower programs."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
