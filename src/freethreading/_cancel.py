"""What a call that may be cancelled while it runs has to do with: its future, and the question whether it is to end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

from freethreading._core import is_to_end
from freethreading._engine import terminated_error
from freethreading._futures import PoolFuture as Future
from freethreading._thread_worker import PoolThread

__all__ = ["Future", "check_cancelled"]


def check_cancelled() -> None:
    """Raises :class:`concurrent.futures.CancelledError` in a call that is to end; does nothing anywhere else.

    A thread cannot be ended from outside without corrupting what it holds. So a long call asks now and then, where it may
    end: in a worker thread this raises once its future was cancelled by ``cancel(force=True)``, once the `await` of it, or
    of the map that it is an item of, was cancelled, or once its pool was terminated. Clean up in ``finally``, and let the
    exception, which ``except Exception`` takes, pass: the call is cancelled then (where its pool was terminated, it fails
    as others do then). Worker processes are ended without being asked; there it never raises.

    It takes a fraction of a microsecond, and is about the call of the calling thread alone, not of threads that it starts.

    >>> def search(numbers, is_it):
    ...     for number in numbers:
    ...         check_cancelled()
    ...         if is_it(number):
    ...             return number
    """
    if is_to_end():
        raise CancelledError("this call was cancelled")
    me = threading.current_thread()
    if not isinstance(me, PoolThread):
        return
    if me.is_terminated is not None and me.is_terminated():
        raise TerminatedError(*terminated_error().args)
    if getattr(me.sink, "is_cancelled", False):
        raise CancelledError("the map of this call was cancelled")


class TerminatedError(CancelledError, RuntimeError):
    """A pool was terminated: the call is to end, and where it lets this pass, it has failed as calls on processes do."""


check_cancelled.__module__ = "freethreading"
