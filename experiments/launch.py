"""``python -m experiments.launch``: trains in several processes on this machine."""

from __future__ import annotations

import dataclasses
import signal
import socket
import subprocess
import sys
from inspect import getdoc
from typing import Any

import tyro

from experiments import console


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains in several processes of this machine; further options are those of experiments.train.

    For several machines, start experiments.train on each (docs/distributed.md).
    """

    processes: int = 2
    """Number of processes. By default each has one device, and users are split among them."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments, options = tyro.cli(
        Arguments,
        args=argv,
        prog="python -m experiments.launch",
        description=getdoc(Arguments),
        return_unknown_args=True,
    )
    if arguments.processes < 2:
        console.say(
            f"error: --processes: must be at least 2, got {arguments.processes}; one process is "
            "experiments.train itself",
            "bold red",
        )
        return 1
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-m", "experiments.train", *options, "--coordinator", address]
    command += ["--num-processes", str(arguments.processes), "--process-id"]
    processes = [subprocess.Popen([*command, str(i)]) for i in range(arguments.processes)]

    def pass_on(number: int, _: Any) -> None:
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the processes, too
    statuses = [process.wait() for process in processes]
    for i, status in enumerate(statuses):
        if status < 0:
            name = signal.Signals(-status).name
            console.say(f"process {i} was ended by {name}; go on with --resume")
    return max(map(abs, statuses))


if __name__ == "__main__":
    console.run(main)
