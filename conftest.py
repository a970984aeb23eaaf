"""For all tests: checked annotations, and programs compiled once for all who need them."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
from pathlib import Path

import jax
import jaxtyping
import pytest

FULL_OPTIMIZATION = bool(os.environ.get("SEVO_FULL_OPTIMIZATION"))

if not FULL_OPTIMIZATION and jax.__version_info__ < (0, 11):
    # XLA's older generator of code compiles in half the time. JAX 0.10 has it, and 0.12 does not.
    flag, flags = "--xla_cpu_use_fusion_emitters=false", os.environ.get("XLA_FLAGS", "")
    if flag not in flags:  # the flags are part of a kept program's name
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()

if os.environ.get("SEVO_CHECK_ANNOTATIONS"):
    # Before anything imports them: calls then check shapes and dtypes against the annotations.
    jaxtyping.install_import_hook(["sevo_jax", "models"], "beartype.beartype")


# Tracing makes many small objects that live on; looking through them took a twentieth of the time.
gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def own_errors(request):
    """Tests of errors see the library's own, which a checked annotation would forestall."""
    source = ""
    with contextlib.suppress(OSError, TypeError):  # a doctest has no function
        source = inspect.getsource(inspect.unwrap(request.node.obj))
    lenient = "raises(" in source or request.node.get_closest_marker("lenient")
    jaxtyping.config.update("jaxtyping_disable", bool(lenient))
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(request) -> Path:
    """Programs compile once, for all workers, in subprocesses, and for the next run."""
    folder = Path(request.config.cache.mkdir("jax"))
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session", autouse=True)
def quick_compilation():
    """Compiles in two thirds of the time; ``SEVO_FULL_OPTIMIZATION=1`` compiles as users do."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, not FULL_OPTIMIZATION)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module", autouse=True)
def released_programs():
    """Frees what a module has compiled, for processes of gigabytes are slower by half."""
    yield
    jax.clear_caches()
