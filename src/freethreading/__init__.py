"""True parallelism with one API: threads where the interpreter runs without the GIL, processes where it has one.

The names follow :mod:`threading`, :mod:`queue`, :mod:`multiprocessing` and :mod:`concurrent.futures`; each works on
both back ends. The back end is looked up when an object is made: the environment variable ``FREETHREADING_BACKEND``
(``threading`` or ``multiprocessing``) first, then what ``sys._is_gil_enabled()`` says at that moment.
"""

from __future__ import annotations

from freethreading._backend import get_backend as get_backend
from freethreading._core import (
    AtomicInt64 as AtomicInt64,
    Barrier as Barrier,
    BoundedSemaphore as BoundedSemaphore,
    Condition as Condition,
    Event as Event,
    Lock as Lock,
    Queue as Queue,
    RLock as RLock,
    Semaphore as Semaphore,
    SharedBuffer as SharedBuffer,
    SimpleQueue as SimpleQueue,
)
from freethreading._exceptions import (
    BackendChangedWarning as BackendChangedWarning,
    HandleGoneError as HandleGoneError,
    NotPicklableError as NotPicklableError,
    OwnerDiedWarning as OwnerDiedWarning,
    ShutDown as ShutDown,
)

TYPE_CHECKING = False  # as typing's, without its import
if TYPE_CHECKING:
    from freethreading._broadcast import broadcast as broadcast
    from freethreading._cancel import Future as Future, check_cancelled as check_cancelled
    from freethreading._exceptions import (
        TaskTimeoutError as TaskTimeoutError,
        WorkerLostError as WorkerLostError,
    )
    from freethreading._executor import WorkerPoolExecutor as WorkerPoolExecutor
    from freethreading._pool import WorkerPool as WorkerPool
    from freethreading._preload import set_preload as set_preload
    from freethreading._presence import (
        active_children as active_children,
        active_count as active_count,
        current_worker as current_worker,
        enumerate as enumerate,
        get_ident as get_ident,
    )
    from freethreading._shared_array import shared_array as shared_array
    from freethreading._worker import Worker as Worker

__version__ = "2.0.0.dev0"

__all__ = [
    "AtomicInt64",
    "BackendChangedWarning",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Future",
    "HandleGoneError",
    "Lock",
    "NotPicklableError",
    "OwnerDiedWarning",
    "Queue",
    "RLock",
    "Semaphore",
    "SharedBuffer",
    "ShutDown",
    "SimpleQueue",
    "TaskTimeoutError",
    "Worker",
    "WorkerLostError",
    "WorkerPool",
    "WorkerPoolExecutor",
    "active_children",
    "active_count",
    "broadcast",
    "check_cancelled",
    "current_worker",
    "enumerate",
    "get_backend",
    "get_ident",
    "set_preload",
    "shared_array",
]

# Made on first use: a program that only wants a Lock does not pay for pools and for multiprocessing.
_LAZY = {
    "Future": "freethreading._cancel",
    "broadcast": "freethreading._broadcast",
    "check_cancelled": "freethreading._cancel",
    "TaskTimeoutError": "freethreading._exceptions",
    "Worker": "freethreading._worker",
    "WorkerLostError": "freethreading._exceptions",
    "WorkerPool": "freethreading._pool",
    "WorkerPoolExecutor": "freethreading._executor",
    "active_children": "freethreading._presence",
    "active_count": "freethreading._presence",
    "current_worker": "freethreading._presence",
    "enumerate": "freethreading._presence",
    "get_ident": "freethreading._presence",
    "set_preload": "freethreading._preload",
    "shared_array": "freethreading._shared_array",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
