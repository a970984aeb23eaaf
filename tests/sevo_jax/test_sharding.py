"""Sharded tables: `on_four_devices` in a process of its own, which has four."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOME = (
    "alike and Auto and not whole or bcsr and (features or divide) or shard_map or planned and Auto"
    " or bcsr and both-halo or share_a_sharded or compiling_anew or mesh_does_not or needs_the_whole"
)


@pytest.mark.parametrize("chosen", [SOME, pytest.param("", marks=pytest.mark.slow)])
def test_on_four_devices(chosen):
    checks = Path(__file__).with_name("on_four_devices.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
    finished = subprocess.run(
        [*command, "-k", chosen, str(checks)],
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_PLATFORMS": "cpu",
            "PYTEST_ADDOPTS": "",
        },
        cwd=checks.parents[2],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " passed" in finished.stdout
