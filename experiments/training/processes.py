"""Several processes that train a run together, each on devices of its own.

The processes first meet at the address of process 0, and only then call JAX: where a process is
missing, JAX aborts the others, while we can say who is missing. The connections stay open. A
process that dies closes its own, and the others stop at once, even in the middle of a step.
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
"""The time that processes wait for each other at the start."""
HEARTBEAT_SECONDS = 30
"""The time after which JAX gives up a process that hangs, or whose machine is gone."""
GRACE_SECONDS = 5
"""The time that a process has to end with an error of its own after it has lost another one."""
_DONE, _FAILED = b"done", b"fail"
"""Messages of four bytes. The third kind of message is the number of a process that has ended."""

T = TypeVar("T")

_links: dict[int, socket.socket] = {}
"""Connections by process number: process 0 has one to every other, the others one to process 0."""
_ending = threading.Lock()
_ended: set[int] = set()
"""The processes that have ended before their work was done."""


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Waits for the other processes and connects to them. Call it before anything else of JAX.

    Args:
        coordinator: ``host:port`` of process 0, which must be free there.
        num_processes: the number of processes.
        process_id: the number of this one, from 0.

    Raises:
        UserError: a number is out of range, the address cannot be used, or a process does not come
            in time.
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
    """Tells the others that this process is done; after an error, ends it, which ends the others.

    Args:
        status: the exit status of the command.
    """
    if not _links:
        return
    failed = status not in (0, 130)  # 130: all are interrupted together
    _send_to_all(_FAILED if failed else _DONE)
    if failed:
        _exit(status)


def stop_if_another_ended() -> None:
    """Ends this process if another one has ended. Call it before an error is reported.

    The end of another process causes odd errors in collectives; `_watch` names the real reason.
    """
    if _links:
        time.sleep(1)  # the error may arrive before the closed connection is noticed
        if _ended:
            time.sleep(2 * GRACE_SECONDS)  # meanwhile `_watch` ends this process


def agree(facts: dict[str, Any]) -> None:
    """Waits for all processes, and compares their facts.

    Raises:
        UserError: a fact is not the same in all processes.
    """
    first, *others = gather_values(facts)
    for number, other in enumerate(others, 1):
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise UserError(
                    f"processes 0 and {number} differ: {name} is {first.get(name)!r} and "
                    f"{other.get(name)!r}; start all with the same options, on the same files"
                )


def attempt(function: Callable[[], T]) -> T:
    """Calls a function in every process, and returns its result once all have succeeded.

    Raises:
        UserError: the function raised one in some process; all raise that of the first of them.
    """
    result, error = None, None
    try:
        result = function()
    except UserError as own:
        if jax.process_count() == 1:
            raise
        error = str(own)
    for message in gather_values(error):
        if message is not None:
            raise UserError(message)
    return cast(T, result)


def first_then_all(function: Callable[[], T]) -> T:
    """Calls a function in process 0, then in the others, so that they find what it has cached.

    Raises:
        UserError: as `attempt`.
    """
    early = attempt(lambda: [function()] if is_first() else [])  # a list, since None is a result
    return attempt(lambda: early[0] if early else function())


def gather_values(own: Any) -> list[Any]:
    """Returns the values of all processes, in their order. JSON must be able to hold them."""
    if jax.process_count() == 1:
        return [own]
    # All processes must gather arrays of one shape: first the sizes, then padded messages.
    message = np.frombuffer(json.dumps(own).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([message.size], np.int32)).ravel()
    padded = np.pad(message, (0, int(sizes.max()) - message.size))
    messages = multihost_utils.process_allgather(padded)
    pairs = zip(messages, sizes, strict=True)
    return [json.loads(message[:size].tobytes()) for message, size in pairs]


def any_process(flag: bool) -> bool:
    """Tells whether the flag is set in some process; all of them wait for each other."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(flag).any())


def is_first() -> bool:
    """Tells whether this is process 0, which prints and writes."""
    return jax.process_index() == 0


def note(message: str) -> None:
    """Prints a note, once for all processes."""
    if is_first():
        say(message)


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
        # Each process sends its number and the number of processes, and waits for "go".
        while missing := sorted(expected - links.keys()):
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link, _ = server.accept()
                link.settimeout(GRACE_SECONDS)
                number, count = map(int, link.recv(64).split())
            except ValueError:  # a stranger, such as a port scan
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
    """Ends this process when another one ends before its work is done."""
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
    if failed:  # this process may have the same error, and is given time to report it
        time.sleep(GRACE_SECONDS)
    say(
        f"error: process {jax.process_index()} stops, for process {ended} has ended; start all of "
        "them again, to resume"
    )
    _send_to_all(f"{ended:04}".encode())
    _exit(1)


def _send_to_all(message: bytes) -> None:
    for link in _links.values():
        with contextlib.suppress(OSError):
            link.sendall(message)


def _exit(status: int) -> None:
    """Ends this process at once; process 0 first waits for the others."""
    # JAX aborts the others when process 0 goes. `os._exit` skips JAX's own shutdown, in which all
    # processes would have to meet.
    _ending.acquire()  # the main thread and `_watch` may both come here: one of them ends it all
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a closed pipe
            stream.flush()
    if jax.process_index() == 0:
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        for link in _links.values():
            link.settimeout(max(0.01, deadline - time.monotonic()))
            while _receive(link):
                pass
    os._exit(status)


def _receive(link: socket.socket) -> bytes:
    """Returns the next message, or nothing if the other end is closed."""
    try:
        return link.recv(len(_DONE), socket.MSG_WAITALL)
    except OSError:
        return b""
