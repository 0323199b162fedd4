"""What the asynchronous methods of a pool give back: results of one call or of a map, and iterators over results.

Each is the sink of its own tasks. It keeps its pool alive until it is complete, as multiprocessing's do.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from freethreading._engine import EngineClosedError, Outcome, Task, report_exception, terminated_error
from freethreading._threads import Thread

if TYPE_CHECKING:
    from freethreading._pool import WorkerPool

Callback = Callable[[Any], object]


class _PoolSink:
    # A pool's calls are not withdrawn one by one.
    cancellable = False

    def begin(self) -> bool:
        return True

    def cancel(self) -> None:
        raise AssertionError("a pool's calls cannot be cancelled")


class AsyncResult(_PoolSink):
    """The result of one call of a pool: :class:`multiprocessing.pool.AsyncResult`."""

    def __init__(
        self, pool: WorkerPool, callback: Callback | None = None, error_callback: Callback | None = None
    ) -> None:
        self._pool: WorkerPool | None = pool
        self._callback = callback
        self._error_callback = error_callback
        self._event = threading.Event()
        self._outcome: Outcome | None = None
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

    def get(self, timeout: float | None = None) -> Any:
        """The call's value, or its exception raised; TimeoutError where it is not done in `timeout` seconds."""
        self.wait(timeout)
        if not self.ready() or self._outcome is None:
            raise _timeout_error()
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
        if self._failed is None:
            self._settle((True, self._values))
        else:
            self._values = []
            self._settle((False, self._failed[1]))


class Feed(_PoolSink):
    """The inner half of an iterator over results: pulls items from the input and gathers outcomes.

    A thread of its own pulls, since the input may block, and may wait for what the consumer makes of earlier results.
    It stays a bounded number of items ahead of the consumer; once the iterator is dropped, or the pool is joined, it
    runs on to the end of the input.
    """

    def __init__(
        self,
        pool: WorkerPool,
        function: Callable[..., Any],
        kind: int,
        items: Iterable[Any],
        chunksize: int,
        ordered: bool,
    ) -> None:
        self.condition: threading.Condition = threading.Condition(threading.Lock())
        self.ready: collections.deque[Outcome] = (
            collections.deque()
        )  # in the order in which the consumer gets them
        self.yielded: int = 0
        self.length: int | None = None  # known when the input has ended
        self.pool: WorkerPool | None = pool
        self.bounded: bool = True
        self.input_error: BaseException | None = None  # raised behind the last result
        self._function = function
        self._kind = kind
        self._items = iter(items)
        self._chunksize = chunksize
        self._ordered = ordered
        self._early: dict[int, Outcome] = {}  # outcomes whose predecessors are missing
        self._next = 0
        self._pulled = 0
        self._gathered = 0
        self._ahead = max(64, 8 * chunksize, 8 * chunksize * pool._engine.options.workers)
        self.thread: Thread = Thread(self._pull, "freethreading-feed", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        with self.condition:
            self._gather(first, outcomes)

    def run_on(self) -> None:
        """From now on the input is read without regard to the consumer."""
        with self.condition:
            self.bounded = False
            self.condition.notify_all()

    def advanced(self) -> None:
        """The consumer took an outcome. Under the condition."""
        self.yielded += 1
        if self._waits() or self._pulled - self.yielded == self._ahead // 2:
            self.condition.notify_all()

    def _waits(self) -> bool:
        return self.bounded and self._pulled - self.yielded >= self._ahead

    def _gather(self, first: int, outcomes: list[Outcome]) -> None:
        self._gathered += len(outcomes)
        if not self._ordered:
            self.ready.extend(outcomes)
        elif first == self._next and not self._early:
            self.ready.extend(outcomes)
            self._next += len(outcomes)
        else:
            self._early.update(enumerate(outcomes, first))
            while self._next in self._early:
                self.ready.append(self._early.pop(self._next))
                self._next += 1
        self.condition.notify_all()
        if self._gathered == self.length:
            self.pool = None

    def _pull(self) -> None:
        pool = self.pool
        assert pool is not None
        try:
            while chunk := self._next_chunk():
                first = self._pulled
                self._pulled += len(chunk)
                try:
                    pool._engine.submit(Task(self._kind, self._function, chunk, self, first))
                except BaseException:
                    self._pulled = first
                    raise
        except EngineClosedError:
            self.input_error = terminated_error()
        except BaseException as error:
            self.input_error = error
        self._items = iter(())
        with self.condition:
            self.length = self._pulled
            self._gather(self._pulled, [])
        pool._feed_ended(self)

    def _next_chunk(self) -> list[Any]:
        with self.condition:
            if self._waits():
                # Until half of it is used up: else the two threads would wake each other for each item.
                while self.bounded and self._pulled - self.yielded > self._ahead // 2:
                    self.condition.wait(0.5)  # the iterator's finaliser may come by without the lock
        return list(islice(self._items, self._chunksize))


class ResultIterator(Iterator[Any]):
    """Iterates over the results of imap and imap_unordered: :class:`multiprocessing.pool.IMapIterator`.

    An item's exception is raised in its turn; the iteration goes on behind it. Safe to share among threads.
    """

    def __init__(self, feed: Feed, return_exceptions: bool) -> None:
        self._feed = feed
        self._return_exceptions = return_exceptions

    def __iter__(self) -> ResultIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result; TimeoutError where there is none within `timeout` seconds, StopIteration at the end."""
        feed = self._feed
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with feed.condition:
                if feed.ready:
                    done, value = feed.ready.popleft()
                    feed.advanced()
                    break
                if feed.yielded == feed.length:
                    error, feed.input_error = feed.input_error, None
                    if error is not None:
                        raise error
                    raise StopIteration
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise _timeout_error()
                pool = feed.pool
                pumping = pool is not None and pool._usable_engine().pumping()
                if not pumping:
                    feed.condition.wait(remaining)
            if pumping and pool is not None:
                pool._usable_engine().pump()
        if done or self._return_exceptions:
            return value
        try:
            raise value
        finally:
            del value

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None and feed.length is None:
            feed.bounded = False
            # Without waiting for the lock, as this may run anywhere; the feeding thread also looks by itself.
            if feed.condition.acquire(blocking=False):
                feed.condition.notify_all()
                feed.condition.release()


def _timeout_error() -> BaseException:
    from freethreading._exceptions import TaskTimeoutError  # expensive to import

    return TaskTimeoutError()
