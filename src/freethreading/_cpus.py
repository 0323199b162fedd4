"""How many CPUs this process may use."""

from __future__ import annotations

import multiprocessing.process
import os
import sys
import threading
from collections.abc import Callable

from freethreading import _core


def usable_cpus() -> int:
    """By affinity and control group, or what PYTHON_CPU_COUNT says; at least 1."""
    if os.environ.get("PYTHON_CPU_COUNT") or "cpu_count" in sys._xoptions:
        count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
        if count is not None:
            return count() or 1
    return _core.cpu_budget()


def cpu_share() -> int:
    """How many of them the caller has for workers of its own: in a worker of a pool its share, so that pools in the calls of
    pools keep to the CPUs that there are.
    """
    share: int | None = getattr(threading.current_thread(), "cpus", None)
    if share is None:
        share = worker_share()
    return usable_cpus() if share is None else share


def worker_share() -> int | None:
    """How many this process has as a worker of a pool; None: it is none."""
    share: int | None = getattr(multiprocessing.process.current_process(), "cpus", None)
    return share


def share_of(cpus: int, workers: int) -> int:
    """What each of so many workers has of so many CPUs."""
    return max(1, cpus // workers)
