"""Which back end a new object gets. Looked up each time: nothing here is remembered."""

from __future__ import annotations

import os

from freethreading._core import get_backend as get_backend

__all__ = ["get_backend", "process_backend", "strict_mode"]

STRICT_VARIABLE = "FREETHREADING_STRICT"


def process_backend() -> bool:
    """Whether an object made now is for processes; a ValueError for a bad ``FREETHREADING_BACKEND``."""
    return get_backend() == "multiprocessing"


def strict_mode() -> bool:
    """Whether threads check that what they are given would pickle (``FREETHREADING_STRICT`` set, and not to 0)."""
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")
