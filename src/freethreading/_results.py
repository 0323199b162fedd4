"""What the asynchronous methods of a pool give back: results of one call or of a map."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from freethreading._engine import Outcome, report_exception
from freethreading._futures import outcomes_of, until_done
from freethreading._map_job import ListSink

if TYPE_CHECKING:
    from freethreading._futures import PoolFuture
    from freethreading._map_job import JobFlight
    from freethreading._pool import WorkerPool

Callback = Callable[[Any], object]


class PoolSink:
    """Base of a pool's sinks: its calls are not withdrawn one by one."""

    cancellable = False

    def begin(self) -> bool:
        return True

    def cancel(self) -> None:
        raise AssertionError("a pool's tasks cannot be cancelled")

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        self.deliver(first, outcomes_of(values, failures))

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        raise NotImplementedError


class AsyncResult:
    """The result of one call of a pool, or of a map: :class:`multiprocessing.pool.AsyncResult`.

    A task of asyncio's may await it. Where that is cancelled, so is the call, or the map: what has not begun does not run,
    and what worker processes run of it ends with them; they are replaced. Threads go on with what they run, an item or a
    chunk.
    """

    def ready(self) -> bool:
        """Whether the call is done."""
        raise NotImplementedError

    def successful(self) -> bool:
        """Whether the call is done without an exception. Raises ValueError while it is not done."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the call is done, or `timeout` seconds."""
        raise NotImplementedError

    def get(self, timeout: float | None = None) -> Any:
        """The call's value, or its exception raised; TimeoutError where it is not done in `timeout` seconds."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, Any]:
        """get() in a task of asyncio's."""
        raise NotImplementedError


class CallResult(AsyncResult):
    """That of one call, without callbacks."""

    def __init__(self, future: PoolFuture[Any]) -> None:
        self._future = future

    def ready(self) -> bool:
        return self._future.done()

    def successful(self) -> bool:
        if not self._future.done():
            raise ValueError(f"{self!r} not ready")
        return not self._future.cancelled() and self._future.exception() is None

    def wait(self, timeout: float | None = None) -> None:
        # The call's own exception is not raised here, but its value.
        with contextlib.suppress(TimeoutError, FutureTimeoutError, CancelledError):
            self._future.exception(timeout)

    def get(self, timeout: float | None = None) -> Any:
        if timeout is not None:
            self.wait(timeout)
            if not self._future.done():
                raise timeout_error()
        result = self._future.result
        del self  # an exception's traceback keeps this frame
        return result()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._future.__await__()


class ReportedResult(AsyncResult):
    """One that is told its outcome, and tells its callbacks before it is ready. It keeps its pool alive until then."""

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
        return self._event.is_set() or (self._outcome is not None and self._notifier == threading.get_ident())

    def successful(self) -> bool:
        if not self.ready() or self._outcome is None:
            raise ValueError(f"{self!r} not ready")
        return self._outcome[0]

    def wait(self, timeout: float | None = None) -> None:
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
        import asyncio

        if not self._event.is_set():
            if (pool := self._pool) is not None:
                pool._usable_engine()
            try:
                yield from until_done(self._listen).__await__()
            except asyncio.CancelledError:
                self._cancel()
                raise
        return self.get()

    def _cancel(self) -> None:
        # As far as that is possible.
        raise NotImplementedError

    def _listen(self, listener: Callback) -> None:
        self._listeners.append(listener)
        if self._event.is_set():
            listener(self)

    def get(self, timeout: float | None = None) -> Any:
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


class ToldResult(ReportedResult):
    """That of one call, with callbacks."""

    future: PoolFuture[Any]  # the call's, once it is submitted

    def take(self, future: PoolFuture[Any]) -> None:
        """The call is done."""
        try:
            error = future.exception(0)
            self._settle((True, future.result(0)) if error is None else (False, error))
        except CancelledError as cancelled:
            self._settle((False, cancelled))

    def _cancel(self) -> None:
        self.future.cancel(force=True)


class MapResult(ReportedResult, PoolSink, ListSink):
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
        self.into: list[Any] = [None] * length
        self._missing = length
        self.is_cancelled: bool = False  # guarded by _lock
        self._failed: tuple[int, BaseException] | None = None
        self._flights: list[JobFlight[Any]] = []  # of jobs that make it
        if not length:
            self._settle((True, []))

    def is_worked_on(self, flight: JobFlight[Any]) -> None:
        """It is a part of it."""
        self._flights.append(flight)
        if self._event.is_set():
            self._flights.clear()

    def _settle(self, outcome: Outcome) -> None:
        super()._settle(outcome)
        self._flights.clear()

    def begin(self) -> bool:
        return not self.is_cancelled

    def _cancel(self) -> None:
        with self._lock:
            if self.is_cancelled or not self._missing:
                return
            self.is_cancelled = True
        for flight in self._flights.copy():
            flight.cancel()
        if (pool := self._pool) is not None:
            pool._engine.end_map(self)
        self._settle((False, CancelledError()))

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        self.into[first : first + len(outcomes)] = [value for _, value in outcomes]
        self.note_placed(
            len(outcomes), [index for index, (done, _) in enumerate(outcomes, first) if not done]
        )

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        self.into[first : first + len(values)] = values
        self.note_placed(len(values), [first + index for index in failures])

    def note_placed(self, count: int, failures: list[int]) -> None:
        with self._lock:
            if failures and not self._return_exceptions:
                index = min(failures)
                if self._failed is None or index < self._failed[0]:
                    self._failed = (index, self.into[index])
            self._missing -= count
            if self._missing or self.is_cancelled:
                return
        if self._failed is None:
            self._settle((True, self.into))
        else:
            self.into = []
            self._settle((False, self._failed[1]))


def timeout_error() -> BaseException:
    """A result is not there in time."""
    from freethreading._exceptions import TaskTimeoutError  # expensive to import

    return TaskTimeoutError()
