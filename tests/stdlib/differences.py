"""Every test of the standard library's suites that ours are not meant to pass, with its reason.

A key is a test's name, "Class.test"; a value says on which back ends it differs, and why. A test that is listed here and
passes fails ours, so that the list stays true.
"""

from __future__ import annotations

import sysconfig
from typing import NamedTuple


class Difference(NamedTuple):
    reason: str
    backends: tuple[str, ...] = ("threading", "multiprocessing")
    runs: bool = True  # False: it must not even be started (it would wait for ever, or ends the process)


PROCESSES = ("multiprocessing",)

_NEGATIVE = Difference(
    "acquire() waits for ever with any negative timeout, on both back ends; threading allows -1 only."
)
_REPR = Difference("The reprs are those of threading's types on both back ends.", PROCESSES)
_SLEEPING_COUNT = Difference("Looks at multiprocessing's private semaphores; there are none here.", PROCESSES)

DIFFERENCES: dict[str, Difference] = {
    # --- test.lock_tests
    "LockTests.test_timeout": _NEGATIVE,
    "RLockTests.test_timeout": _NEGATIVE,
    "EventTests.test_at_fork_reinit": Difference(
        "Looks at threading.Event's private Condition; there is none here."
    ),
    "ConditionTests.test_acquire": Difference(
        "Gives the Condition a lock of threading's, which no other process could take: one of freethreading is needed."
    ),
    # --- test._test_multiprocessing
    "MultiprocessingCondition.test_notify": _SLEEPING_COUNT,
    "MultiprocessingCondition.test_notify_all": _SLEEPING_COUNT,
    "MultiprocessingCondition.test_notify_n": _SLEEPING_COUNT,
    "MultiprocessingSemaphore.test_timeout": Difference(
        "acquire(False, timeout) is a ValueError, as in threading, on both back ends.", PROCESSES
    ),
    "MultiprocessingEvent.test_repr": _REPR,
    "MultiprocessingLock.test_repr_lock": _REPR,
    "MultiprocessingLock.test_repr_rlock": _REPR,
    "MultiprocessingQueue.test_queue_feeder_donot_stop_onexc": Difference(
        "There is no feeder thread: put() itself raises what the item's pickling raises.", PROCESSES
    ),
    "MultiprocessingProcess.test_parent_process": Difference(
        "A worker's own workers die with it, at once: there is nobody left to notice its death.",
        PROCESSES,
        runs=False,
    ),
    "MultiprocessingProcess.test_kill": Difference(
        "Calls multiprocessing.Process's method on a Worker, which is a facade of a process.", PROCESSES
    ),
    "MultiprocessingProcess.test_terminate": Difference(
        "Calls multiprocessing.Process's method on a Worker, which is a facade of a process.", PROCESSES
    ),
    "MultiprocessingProcess.test_set_executable": Difference(
        "A matter of multiprocessing's contexts: workers are forks of one zygote, whose executable is set before the first.",
        PROCESSES,
    ),
    "MultiprocessingPool.test_make_pool": Difference(
        "Counts the workers in multiprocessing.Pool's private list."
    ),
    "MultiprocessingPool.test_terminate": Difference(
        "A thread cannot be ended: the pool waits for the calls that run, which before Python 3.13 sleep for five minutes here.",
        ("threading",),
        runs=False,
    ),
    "MultiprocessingPool.test_traceback": Difference(
        "An exception's remote traceback is of one class for pools and executors, not of multiprocessing.pool's.",
        PROCESSES,
    ),
}

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    DIFFERENCES["MultiprocessingPool.test_release_task_refs"] = Difference(
        "Counts objects with += in whatever thread makes or drops one: without the GIL some are not counted.",
        runs=False,
    )
