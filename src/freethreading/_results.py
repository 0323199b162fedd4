"""What the asynchronous methods of a pool give back: results of one call or of a map.

Each is the sink of its own tasks. It keeps its pool alive until it is complete, as multiprocessing's do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from freethreading._engine import Outcome, report_exception
from freethreading._futures import outcomes_of, until_done

if TYPE_CHECKING:
    from freethreading._pool import WorkerPool

Callback = Callable[[Any], object]


class PoolSink:
    """Base of a pool's sinks: its calls are not withdrawn one by one."""

    cancellable = False

    def begin(self) -> bool:
        return True

    def cancel(self) -> None:
        raise AssertionError("a pool's calls cannot be cancelled")

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        self.deliver(first, outcomes_of(values, failures))

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        raise NotImplementedError


class AsyncResult(PoolSink):
    """The result of one call of a pool: :class:`multiprocessing.pool.AsyncResult`."""

    def __init__(
        self, pool: WorkerPool, callback: Callback | None = None, error_callback: Callback | None = None
    ) -> None:
        self._pool: WorkerPool | None = pool
        self._callback = callback
        self._error_callback = error_callback
        self._event = threading.Event()
        self._outcome: Outcome | None = None
        self._listeners: list[Callback] = []  # those who await it
        self._notifier = 0  # the thread that runs the callbacks: to it the result is ready

    def ready(self) -> bool:
        """Whether the call is done."""
        return self._event.is_set() or (self._outcome is not None and self._notifier == threading.get_ident())

    def successful(self) -> bool:
        """Whether the call is done without an exception. Raises ValueError while it is not done."""
        if not self.ready() or self._outcome is None:
            raise ValueError(f"{self!r} not ready")
        return self._outcome[0]

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the call is done, or `timeout` seconds."""
        pool = self._pool
        if pool is None or self.ready():
            return
        engine = pool._usable_engine()
        deadline = None if timeout is None else time.monotonic() + timeout
        while engine.pumping() and not self._event.is_set():
            engine.pump()
            if deadline is not None and time.monotonic() >= deadline:
                return
        self._event.wait(timeout)

    def __await__(self) -> Generator[Any, None, Any]:
        """get() in a task of asyncio's."""
        if not self._event.is_set():
            yield from until_done(self._listen).__await__()
        return self.get()

    def _listen(self, listener: Callback) -> None:
        self._listeners.append(listener)
        if self._event.is_set():
            listener(self)

    def get(self, timeout: float | None = None) -> Any:
        """The call's value, or its exception raised; TimeoutError where it is not done in `timeout` seconds."""
        self.wait(timeout)
        if not self.ready() or self._outcome is None:
            raise timeout_error()
        done, value = self._outcome
        if done:
            return value
        try:
            raise value
        finally:
            del value  # the exception's traceback keeps this frame

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:  # noqa: ARG002
        self._settle(outcomes[0])

    def _settle(self, outcome: Outcome) -> None:
        done, value = outcome
        self._notifier = threading.get_ident()
        self._outcome = outcome
        callback = self._callback if done else self._error_callback
        self._callback = self._error_callback = None
        try:
            if callback is not None:
                callback(value)
        except BaseException:
            report_exception()
        finally:
            self._event.set()
            self._pool = None
            while self._listeners:
                self._listeners.pop()(self)


class MapResult(AsyncResult):
    """The result of a map: complete when every item is, whatever failed; then the first failed item's exception."""

    def __init__(
        self,
        pool: WorkerPool,
        length: int,
        return_exceptions: bool,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._lock = threading.Lock()
        self._return_exceptions = return_exceptions
        self._values: list[Any] = [None] * length
        self._missing = length
        self._failed: tuple[int, BaseException] | None = None
        if not length:
            self._settle((True, []))

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        with self._lock:
            for index, (done, value) in enumerate(outcomes, first):
                if done or self._return_exceptions:
                    self._values[index] = value
                elif self._failed is None or index < self._failed[0]:
                    self._failed = (index, value)
            self._missing -= len(outcomes)
            if self._missing:
                return
        self._complete()

    def _complete(self) -> None:
        if self._failed is None:
            self._settle((True, self._values))
        else:
            self._values = []
            self._settle((False, self._failed[1]))

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        if failures:
            self.deliver(first, outcomes_of(values, failures))
            return
        with self._lock:
            self._values[first : first + len(values)] = values
            self._missing -= len(values)
            if self._missing:
                return
        self._complete()


def timeout_error() -> BaseException:
    """A result is not there in time."""
    from freethreading._exceptions import TaskTimeoutError  # expensive to import

    return TaskTimeoutError()
