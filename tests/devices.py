"""Checks that need several devices or processes, in processes that have them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT = 600
"""Seconds, for checks that hang, such as processes that wait for each other in vain."""


def check_on_devices(count: int, checks: Path, *options: str) -> None:
    """Runs a file of tests by pytest with so many devices; they must pass, and be some."""
    flags = f"--xla_force_host_platform_device_count={count}"
    _run([{"XLA_FLAGS": flags}], checks, *options)


def check_on_processes(count: int, checks: Path, *options: str) -> None:
    """Runs a file of tests by pytest in so many processes at once, which are to meet there.

    Each finds the address of process 0 in ``$COORDINATOR``, and its number in ``$PROCESS_ID``.
    """
    given = {"XLA_FLAGS": "", "COORDINATOR": free_address()}
    numbered = [given | {"PROCESS_ID": str(number)} for number in range(count)]
    _run(numbered, checks, "-x", *options)  # or the others would wait for the next check


def free_address() -> str:
    """``host:port`` where processes can meet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def _run(environments: list[dict[str, str]], checks: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q"]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in environments]
        started = [
            subprocess.Popen(
                [*command, *options, str(checks)],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTEST_ADDOPTS": ""} | environment,
                cwd=checks.parents[2],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for environment, file in zip(environments, files, strict=True)
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in started:
                process.wait(TIMEOUT)
        for process in started:
            process.kill()
            process.wait()
        for file in files:
            file.seek(0)
        printed = [file.read() for file in files]
    assert all(process.returncode == 0 for process in started), "\n".join(printed)
    assert all(" passed" in text for text in printed)
