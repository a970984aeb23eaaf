"""Checks that need several devices or processes, in processes that have them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

TIMEOUT = 1800
"""Seconds, for checks of several processes that wait for each other in vain."""


def check_on_devices(count: int, checks: Path, *options: str) -> None:
    """Runs a file of tests by pytest with so many devices; they must pass, and be some."""
    flags = f"--xla_force_host_platform_device_count={count}"
    _run([{"XLA_FLAGS": flags}], checks, *options)


def check_on_processes(count: int, checks: Path, *options: str) -> None:
    """Runs a file of tests by pytest in so many processes at once, which are to meet there.

    Each finds the address of process 0 in ``$COORDINATOR``, and its number in ``$PROCESS_ID``.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    given = {"XLA_FLAGS": "", "COORDINATOR": address}
    _run([given | {"PROCESS_ID": str(number)} for number in range(count)], checks, *options)


def _run(environments: list[dict[str, str]], checks: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-p", "no:cacheprovider"]
    started = [
        subprocess.Popen(
            [*command, *options, str(checks)],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTEST_ADDOPTS": ""} | environment,
            cwd=checks.parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments
    ]
    try:
        printed = [process.communicate(timeout=TIMEOUT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(printed)
    assert all(" passed" in text for text in printed)
