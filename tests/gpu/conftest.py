"""The device of these tests: a GPU, or with ``SEVO_GPU_TESTS=cpu`` a CPU, to rehearse them.

In a rehearsal the kernel of GPUs runs in Pallas' interpreter, and graphs are small.
"""

from __future__ import annotations

import os

import jax
import pytest

REHEARSAL = os.environ.get("SEVO_GPU_TESTS") == "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def device() -> jax.Device:
    """The device under test, on which arrays are made."""
    found = jax.devices()[0]
    if found.platform != "gpu" and not REHEARSAL:
        pytest.skip(
            f"these tests need a GPU, and JAX finds a {found.platform} alone; "
            "SEVO_GPU_TESTS=cpu rehearses them there"
        )
    return found


@pytest.fixture(params=["default", "pallas", "gather", "bcsr"])
def kernel(request, device) -> str | None:
    """Each kernel; in a rehearsal the default is that of GPUs."""
    if request.param == "default":
        return "pallas" if device.platform == "cpu" else None
    return request.param
