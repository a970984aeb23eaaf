"""Compiled programs, kept in the user's cache folder for the next run that needs them."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

from experiments.console import say
from experiments.data.cache import cache_folder

LEAST_SECONDS = 0.2
"""A program that is compiled faster is not worth a file."""


def keep_programs(wanted: bool = True) -> None:
    """Lets JAX keep what it compiles, unless the user has told JAX where to, or not to.

    Args:
        wanted: whether to; nothing is changed otherwise.
    """
    config: Any = jax.config
    if not wanted or config.jax_compilation_cache_dir is not None:
        return
    folder = cache_folder() / "programs" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        say(f"{folder}: programs are compiled anew each time ({error.strerror})")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def _machine() -> str:
    """Tells kinds of CPUs apart, since JAX does not: programs of one may end another's process."""
    kind = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return kind
    features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    return f"{kind}-{hashlib.blake2b(features.encode(), digest_size=4).hexdigest()}"
