"""Checks that need several devices, in a process that simulates them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def check_on_devices(count: int, checks: Path, *options: str) -> None:
    """Runs a file of tests by pytest with so many devices; they must pass, and be some."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
    finished = subprocess.run(
        [*command, *options, str(checks)],
        env=os.environ
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
            "PYTEST_ADDOPTS": "",
        },
        cwd=checks.parents[2],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " passed" in finished.stdout
