"""Threads whose join() can be interrupted.

Before Python 3.13 an exception in :meth:`threading.Thread.join`, such as an interrupt's, has a thread that still runs taken
for ended: the next join() returns at once, and an exit does not wait for it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from freethreading._core import Event


class Thread(threading.Thread):
    """A thread that is joined once work() has returned. A subclass overrides work(), not run()."""

    def __init__(
        self,
        target: Callable[[], object] | None = None,
        name: str | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(name=name, daemon=daemon)
        self._work: Callable[[], object] | None = target
        self._done = Event(shared=False)

    def run(self) -> None:
        try:
            self.work()
        finally:
            self._work = None
            self._done.set()

    def work(self) -> None:
        """What the thread does."""
        if self._work is not None:
            self._work()

    if sys.version_info < (3, 13):

        def join(self, timeout: float | None = None) -> None:
            if threading.current_thread() is not self and self.is_alive():
                begin = time.monotonic()
                if not self._done.wait(None if timeout is None else max(timeout, 0.0)):
                    return
                if timeout is not None:
                    timeout -= time.monotonic() - begin
            super().join(timeout)
