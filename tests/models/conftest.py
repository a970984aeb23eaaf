"""For all tests of models."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_compilation):
    """What full optimisation computes, the tests of experiments see."""
