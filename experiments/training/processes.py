"""Several processes that train a run together, each on devices of its own.

They meet at the address of process 0 before JAX connects them, for JAX ends a process that waits in
vain by an abort. The connections stay: whichever process dies closes its own, and the others stop
at once, whatever they are in the middle of.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.console import say
from experiments.errors import ArgumentError, UserError

MEETING_SECONDS = 60
"""How long processes wait for each other at the start."""
HEARTBEAT_SECONDS = 30
"""How long JAX waits for a sign of life of a process that hangs, or whose machine is gone."""
GRACE_SECONDS = 5
"""How long a process that has lost another has to end by itself, with an error of its own."""
_DONE, _FAILED = b"done", b"fail"
"""Messages, as long as the number of a process that has ended."""

T = TypeVar("T")

_links: dict[int, socket.socket] = {}
"""Connections to other processes: of process 0 to all, of the others to process 0."""
_ending = threading.Lock()
_ended: set[int] = set()
"""Those that have ended without being done."""


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Waits for the other processes and connects to them; to be called before all of JAX.

    Args:
        coordinator: ``host:port`` of process 0, which must be free there.
        num_processes: how many there are.
        process_id: this one's number, from 0.

    Raises:
        UserError: numbers out of range, no such address, or some process does not come in time.
    """
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ArgumentError("coordinator", f"expected host:port, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ArgumentError(
            "process_id",
            f"must be from 0 to {num_processes - 1}, one less than the "
            f"number of processes, got {process_id}",
        )
    address, deadline = (host, int(port)), time.monotonic() + MEETING_SECONDS
    if process_id == 0:
        _links.update(_wait_for_others(address, num_processes, deadline))
    else:
        _links[0] = _find_first(address, num_processes, process_id, deadline)
    # Our own signals end an epoch; JAX's service would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    threading.Thread(target=_watch, daemon=True).start()


def leave(status: int) -> None:
    """Ends this process's part; at an error, ends the process, and so the others."""
    if not _links:
        return
    failed = status not in (0, 130)  # all are interrupted together
    _tell_all(_FAILED if failed else _DONE)
    if failed:
        _exit(status)


def await_news() -> None:
    """After an error: if it comes from the end of another process, this one ends here."""
    if _links:
        time.sleep(1)  # the error may be ahead of the news
        if _ended:
            time.sleep(2 * GRACE_SECONDS)


def agree(facts: dict[str, Any]) -> None:
    """Waits until all processes are here.

    Raises:
        UserError: some facts are not the same in all.
    """
    first, *others = each_said(facts)
    for number, other in enumerate(others, 1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UserError(
                    f"processes 0 and {number} differ: {name} is {first.get(name)!r} and "
                    f"{other.get(name)!r}; start all with the same options, on the same files"
                )


def attempt(function: Callable[[], T]) -> T:
    """What a function returns here, as soon as it has returned in all processes.

    Raises:
        UserError: what the first of the processes raised that raised one.
    """
    result, error = None, None
    try:
        result = function()
    except UserError as own:
        if jax.process_count() == 1:
            raise
        error = str(own)
    for said in each_said(error):
        if said is not None:
            raise UserError(said)
    return cast(T, result)


def first_then_all(function: Callable[[], T]) -> T:
    """Calls a function in process 0, then in the others, so that they find what it has cached.

    Raises:
        UserError: as `attempt`.
    """
    early = attempt(lambda: [function()] if is_first() else [])
    return attempt(lambda: early[0] if early else function())


def each_said(own: Any) -> list[Any]:
    """The values of all processes, each of which JSON can hold, in their order."""
    if jax.process_count() == 1:
        return [own]
    message = np.frombuffer(json.dumps(own).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([message.size], np.int32)).ravel()
    padded = np.pad(message, (0, int(sizes.max()) - message.size))
    messages = multihost_utils.process_allgather(padded)
    pairs = zip(messages, sizes, strict=True)
    return [json.loads(message[:size].tobytes()) for message, size in pairs]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in some process; all of them wait for each other."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(flag).any())


def is_first() -> bool:
    """Whether this is the process that prints and writes, or the only one."""
    return jax.process_index() == 0


def _wait_for_others(
    address: tuple[str, int], num_processes: int, deadline: float
) -> dict[int, socket.socket]:
    where, expected = f"{address[0]}:{address[1]}", set(range(1, num_processes))
    links: dict[int, socket.socket] = {}
    try:
        server = socket.create_server(address)
    except OSError as error:
        raise ArgumentError("coordinator", f"{where} cannot be used ({error.strerror})") from error
    with server:
        while missing := sorted(expected - links.keys()):
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link, _ = server.accept()
                link.settimeout(GRACE_SECONDS)
                number, count = map(int, link.recv(64).split())
            except ValueError:  # who knows who that was
                continue
            except OSError as error:
                if time.monotonic() < deadline:
                    continue
                raise ArgumentError(
                    "num_processes",
                    f"of {num_processes}, {missing} did not come to {where} "
                    f"within {MEETING_SECONDS} s",
                ) from error
            if count != num_processes or number not in missing:
                raise ArgumentError(
                    "process_id",
                    f"process {number} of {count} came to {where}; expected one of "
                    f"{missing}, of {num_processes}",
                )
            links[number] = link
    for link in links.values():
        link.settimeout(None)
        link.sendall(b"go")
    return links


def _find_first(
    address: tuple[str, int], num_processes: int, process_id: int, deadline: float
) -> socket.socket:
    where = f"{address[0]}:{address[1]}"
    while True:
        left = deadline - time.monotonic()
        try:
            link = socket.create_connection(address, timeout=max(0.01, left))
            break
        except OSError as error:
            if left <= 0:
                raise ArgumentError(
                    "coordinator",
                    f"{where} could not be reached within {MEETING_SECONDS} s "
                    f"({error.strerror or error}); process 0 listens there",
                ) from error
            time.sleep(0.1)
    link.settimeout(MEETING_SECONDS)
    try:
        link.sendall(f"{process_id} {num_processes}".encode())
        if link.recv(2):
            link.settimeout(None)
            return link
        reason = "process 0 has given up"
    except OSError as error:
        reason = str(error)
    raise ArgumentError("coordinator", f"{where} did not begin ({reason}); process 0 says why")


def _watch() -> None:
    """Ends this process when another ends that was not done."""
    with selectors.DefaultSelector() as selector:
        for number, link in _links.items():
            selector.register(link, selectors.EVENT_READ, number)
        while selector.get_map():
            for key, _ in selector.select():
                link: Any = key.fileobj
                message = _receive(link)
                selector.unregister(link)
                if message != _DONE:
                    _stop(int(message) if message.isdigit() else key.data, message == _FAILED)


def _stop(ended: int, failed: bool) -> None:
    _ended.add(ended)
    if failed:  # with an error that others may have, too
        time.sleep(GRACE_SECONDS)
    say(
        f"error: process {jax.process_index()} stops, for process {ended} has ended; start all of "
        "them again, to resume"
    )
    _tell_all(f"{ended:04}".encode())
    _exit(1)


def _tell_all(message: bytes) -> None:
    for link in _links.values():
        with contextlib.suppress(OSError):
            link.sendall(message)


def _exit(status: int) -> None:
    """Process 0 waits for the others, whom JAX would abort without it; JAX's farewell is no use."""
    _ending.acquire()  # either thread, and never both
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody may read on
            stream.flush()
    if jax.process_index() == 0:
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        for link in _links.values():
            link.settimeout(max(0.01, deadline - time.monotonic()))
            while _receive(link):
                pass
    os._exit(status)


def _receive(link: socket.socket) -> bytes:
    """The next message, or nothing if the other end is closed."""
    try:
        return link.recv(len(_DONE), socket.MSG_WAITALL)
    except OSError:
        return b""
