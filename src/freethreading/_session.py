"""The session's place in the life of the process: it follows forks, and is left at exit.

A session is the nameless memory in which shared objects lie. The binding opens one when the first shared object is made
and calls session_opened().
"""

from __future__ import annotations

import atexit
import os
import threading

from freethreading import _core
from freethreading._fork_gate import follow_forks
from freethreading._loaded import loaded

_hooks_lock = threading.Lock()
_hooked = False
_follows = False  # and so do the children that this process forks
_LAST = -(1 << 30)  # after every other finalizer of multiprocessing's


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
            after_in_child=_after_fork_in_child,
        )
        follow_forks()
        atexit.register(_leave)
        _follow_multiprocessing()


def _after_fork_in_child() -> None:
    _core.after_fork_in_child()
    _follow_multiprocessing()


def _follow_multiprocessing() -> None:
    """Has a child that multiprocessing forks leave at its end: such a child runs no atexit functions before Python 3.13.

    Its finalizers are dropped when it begins; what is registered here runs after that.
    """
    global _follows
    if _follows:
        return
    util = loaded("multiprocessing.util")
    if util is not None:
        _follows = True
        util.register_after_fork(_follow_multiprocessing, _leave_with_process)


def _leave_with_process(_: object) -> None:
    from multiprocessing import process, util

    workers = loaded("freethreading._process_worker")
    if workers is not None and isinstance(
        process.current_process(), (workers.WorkerProcess, workers.PoolProcess)
    ):
        return  # a worker of ours leaves by itself, when it has told of its end
    util.Finalize(None, _leave_after_threads, exitpriority=_LAST)


def _leave_after_threads() -> None:
    # multiprocessing waits for them only after its finalizers, and they may use shared objects until they end.
    own = threading.current_thread()
    while others := [thread for thread in threading.enumerate() if not thread.daemon and thread is not own]:
        for thread in others:
            thread.join()
    _core.leave_sessions()


def _leave() -> None:
    # Whatever was registered first: the workers end before the memory that they share with this process is left.
    util = loaded("multiprocessing.util")
    if util is not None:
        util._exit_function()
    _core.leave_sessions()
