"""What a task's items are, and what comes of one: what engines and their workers have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# How a task's items become calls of its function.
CALL = 1  # one item, (args, kwargs): function(*args, **kwargs)
ONE = 2  # each item: function(item)
STAR = 3  # each item: function(*item)
JOIN = 4  # of a thread engine: work on a map's job; items has its flight

# (True, the value) or (False, the exception)
Outcome = tuple[bool, Any]

# An engine's states; they only grow.
OPEN = 0
CLOSED = 1  # takes no more; what it has been given is done
TERMINATED = 2  # takes no more; what it has been given fails


class EngineClosedError(RuntimeError):
    """A task was given to an engine that takes no more; pool and executor say it in their own words."""


def call_item(kind: int, function: Callable[..., Any], item: Any) -> Outcome:
    """Runs one item. Every exception is an outcome, SystemExit and KeyboardInterrupt as well."""
    try:
        if kind == ONE:
            return True, function(item)
        if kind == STAR:
            return True, function(*item)
        return True, function(*item[0], **item[1])
    except BaseException as error:
        # Without this frame, the traceback begins in the user's code and keeps nothing of ours alive.
        trace = error.__traceback__
        return False, error.with_traceback(trace.tb_next if trace is not None else None)
