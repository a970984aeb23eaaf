"""The tests for GPUs, rehearsed on a CPU, so that they run where there is a GPU at last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.devices import check_on_devices

GPU = Path(__file__).with_name("gpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_library.py", "test_training.py"])
def test_on_a_cpu(name, monkeypatch):
    monkeypatch.setenv("SEVO_GPU_TESTS", "cpu")
    check_on_devices(1, GPU / name, "-m", "gpu")
