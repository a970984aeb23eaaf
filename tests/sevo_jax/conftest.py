"""Shared by the library's tests."""

from __future__ import annotations

import jax
import jaxtyping
import pytest


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def own_errors():
    """The library's own errors, where the checked annotations of `conftest` would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
