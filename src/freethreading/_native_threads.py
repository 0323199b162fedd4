"""Keeps the threads of BLAS and OpenMP in a pool's workers to the CPUs that each worker has.

Two workers on four CPUs whose libraries start four threads each are slower than with two each. Most libraries read a
variable of the environment when they are loaded; one that the zygote has loaded, and each worker has from it, is told by
threadpoolctl, where that is installed. What the program has set in its environment itself stays, and its own libraries are
never touched.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import threading
from collections.abc import Generator, Mapping
from typing import Any

from freethreading._cpus import usable_cpus, worker_share
from freethreading._loaded import look_up

NAMES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

# In the names of the files of those that threadpoolctl knows.
LIBRARIES = (b"blas", b"blis", b"mkl", b"omp")

_controller: Any = None  # in the zygote, and in workers: of the libraries that the zygote has loaded


def limited(environ: Mapping[bytes, bytes], threads: int) -> dict[bytes, bytes]:
    """The environment of a worker that has so many CPUs."""
    given = dict(environ)
    share = worker_share()
    if share is not None and (set_by_pool := _variables(share)).items() <= given.items():
        for name in set_by_pool:  # in the call of a pool: that pool's word, which is not the program's
            del given[name]
    if NAMES[0].encode() in given:  # the program's word for all libraries
        return given
    return _variables(threads) | given


def _variables(threads: int) -> dict[bytes, bytes]:
    return {name.encode(): str(threads).encode() for name in NAMES}


@contextlib.contextmanager
def single() -> Generator[None, None, None]:
    """In the zygote: what is imported here leaves no threads, and can be forked; workers have theirs by settle()."""
    global _controller
    if importlib.util.find_spec("threadpoolctl") is None:
        yield
        return
    own: dict[str, str] = {} if any(name in os.environ for name in NAMES) else dict.fromkeys(NAMES, "1")
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
    with open("/proc/self/maps", "rb") as file:
        maps = file.read()
    if any(name in maps for name in LIBRARIES):
        _controller = importlib.import_module("threadpoolctl").ThreadpoolController()
        if (
            threading.active_count() == 1
        ):  # else they may be at work; and this process is not fit to be forked
            for library in _controller.lib_controllers:
                _end_idle_threads(library)


def settle(environ: Mapping[bytes, bytes]) -> None:
    """In a worker: libraries that are there already get as many threads as the environment says, or as there are CPUs."""
    if _controller is None:
        return
    for library in _controller.lib_controllers:
        own = f"{library.internal_api.upper()}_NUM_THREADS"
        values = [look_up(environ, name.encode(), b"") for name in (own, NAMES[0])]
        threads = next((int(value) for value in values if value.isdigit()), usable_cpus())
        if library.get_num_threads() != threads:
            library.set_num_threads(threads)
            _end_idle_threads(library)


def _end_idle_threads(library: Any) -> None:
    # OpenBLAS starts its threads here, and each keeps a CPU busy for some milliseconds waiting for work. Ended in this way,
    # as it does itself before a fork, they start with the first work that there is for them.
    shutdown = getattr(library.dynlib, "blas_thread_shutdown_", None)
    if library.internal_api == "openblas" and shutdown is not None:
        shutdown()
