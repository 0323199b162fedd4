"""The errors and warnings of freethreading.

    RuntimeWarning
      OwnerDiedWarning         a lock was taken over from a worker that died holding it
      BackendChangedWarning    the interpreter got its GIL back; new workers are processes from here on
    RuntimeError
      LockMisuseError          (also ValueError) a Lock that nobody holds was released
      OwnershipError           (also AssertionError) an RLock, a Condition or a Worker used by who does not own it
      RemoteError              stands for an exception of a worker that could not be rebuilt here
      BrokenProcessPool
        WorkerLostError        a worker process died with a task, or owing a task_done
    ReferenceError
      HandleGoneError          a pickled reference outlived its object
    ValueError
      NotPicklableError        (also pickle.PicklingError) an argument or a result cannot go to another process
    TimeoutError
      TaskTimeoutError         (also those of concurrent.futures and multiprocessing) a task took longer than allowed
    Exception
      ShutDown                 queue.ShutDown where the interpreter has it
      RemoteTraceback          the cause of an exception from a worker: the traceback there, as text

WorkerLostError and TaskTimeoutError have bases in concurrent.futures.process and multiprocessing, which are
expensive to import: they live in _worker_exceptions and are loaded when first asked for.
"""

from __future__ import annotations

import queue
import sys

# The C half of pickle has the class already; the Python half costs more to import than the rest of this package.
from _pickle import PicklingError

TYPE_CHECKING = False  # as typing's, without its import
if TYPE_CHECKING:
    from freethreading._worker_exceptions import (
        TaskTimeoutError as TaskTimeoutError,
        WorkerLostError as WorkerLostError,
    )

PUBLIC_MODULE = "freethreading"


class OwnerDiedWarning(RuntimeWarning):
    """The worker that held a lock died without releasing it; the lock is yours, what it guards may be half done."""

    __module__ = PUBLIC_MODULE


class BackendChangedWarning(RuntimeWarning):
    """The interpreter turned its GIL on in the middle of the program; workers started from now on are processes."""

    __module__ = PUBLIC_MODULE


class LockMisuseError(RuntimeError, ValueError):
    """A Lock that nobody holds was released: RuntimeError in threading, ValueError in multiprocessing, both here."""


class OwnershipError(RuntimeError, AssertionError):
    """Something was done to an RLock, Condition or Worker that only its owner may do."""


class HandleGoneError(ReferenceError):
    """The shared object that a pickled reference names is gone, or belongs to a session not attached here."""

    __module__ = PUBLIC_MODULE


class NotPicklableError(ValueError, PicklingError):
    """An object was to go to another process and cannot; the message names the path to the culprit."""

    __module__ = PUBLIC_MODULE


class RemoteTraceback(Exception):
    """The traceback of an exception in the worker that raised it, as text; ``__cause__`` of the exception here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class RemoteError(RuntimeError):
    """Stands for an exception of a worker that could not be pickled, or not be rebuilt here.

    ``type_name`` is the qualified name of the original's type, ``reason`` why the original itself is not here.
    """

    def __init__(self, message: str, type_name: str = "", reason: str = "") -> None:
        super().__init__(message, type_name, reason)
        self.message = message
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        return self.message


if sys.version_info >= (3, 13):
    ShutDown = queue.ShutDown
else:

    class ShutDown(Exception):
        """The queue was shut down: nothing can be put, or nothing is left to get."""

        __module__ = PUBLIC_MODULE


_LAZY = ("TaskTimeoutError", "WorkerLostError")


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from freethreading import _worker_exceptions

    value: object = getattr(_worker_exceptions, name)
    globals()[name] = value
    return value
