"""How many CPUs this process may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from freethreading import _core


def usable_cpus() -> int:
    """By affinity and control group, or what PYTHON_CPU_COUNT says; at least 1."""
    if os.environ.get("PYTHON_CPU_COUNT") or "cpu_count" in sys._xoptions:
        count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
        if count is not None:
            return count() or 1
    return _core.cpu_budget()
