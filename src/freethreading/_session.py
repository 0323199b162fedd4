"""The session's place in the life of the process: it follows forks, and is left at exit.

A session is the nameless memory in which shared objects lie. The binding opens one when the first shared object is made
and calls session_opened().
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any

from freethreading import _core

_hooks_lock = threading.Lock()
_hooked = False


def session_opened() -> None:
    """Registers, once in the program, what a session needs around forks and at exit."""
    global _hooked
    with _hooks_lock:
        if _hooked:
            return
        _hooked = True
        os.register_at_fork(
            before=_core.before_fork,
            after_in_parent=_core.after_fork_in_parent,
            after_in_child=_core.after_fork_in_child,
        )
        atexit.register(_leave)


def _leave() -> None:
    # Whatever was registered first: the workers end before the memory that they share with this process is left.
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._exit_function()
    _core.leave_sessions()
