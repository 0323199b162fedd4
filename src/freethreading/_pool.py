"""WorkerPool: a pool of workers with the surface of multiprocessing.Pool."""

from __future__ import annotations

import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from freethreading import _core
from freethreading._engine import (
    CALL,
    ONE,
    STAR,
    TERMINATED,
    Engine,
    EngineClosedError,
    Options,
    Task,
    make_engine,
)
from freethreading._results import AsyncResult, Callback, Feed, MapResult, ResultIterator

# A pool's states, by multiprocessing's names. The engine closes later than its pool where inputs are still being read.
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"


def default_workers() -> int:
    """How many workers use all the CPUs that this process may use: affinity and control group, or PYTHON_CPU_COUNT."""
    if os.environ.get("PYTHON_CPU_COUNT") or "cpu_count" in sys._xoptions:
        count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
        if count is not None:
            return count() or 1
    return _core.cpu_budget()


def check_count(name: str, count: int | None) -> int:
    """The number of workers that was asked for; TypeError or ValueError where it is none."""
    if count is None:
        return default_workers()
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{name} must be an integer or None, not {count!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be greater than 0, not {number}")
    return number


def check_initializer(initializer: object) -> None:
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


class WorkerPool:
    """A pool of workers: threads, or processes, as the back end chosen when it is made.

    The methods are those of :class:`multiprocessing.pool.Pool`. In addition every map takes `return_exceptions`: with
    True an item's exception stands in the results in its place, as in :func:`asyncio.gather`.

    `workers` is their number (default: the CPUs that this process may use); each calls ``initializer(*initargs)`` when
    it starts. An initializer's exception is raised by the pool's calls. The constructor does not wait for the workers.

    A worker process that dies fails the call that it was running with :class:`WorkerLostError` and is replaced.

    Used in a with-statement the pool is terminated at its end, as multiprocessing's is.

    >>> with WorkerPool(workers=2) as pool:
    ...     pool.map(abs, [-1, -2])
    [1, 2]
    """

    def __init__(
        self,
        workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        self._state = TERMINATE  # for __del__, until it is made
        count = check_count("workers", workers)
        check_initializer(initializer)
        self._feeds: set[Feed] = set()  # inputs of imap that have not ended; guarded by _lock
        self._lock = threading.RLock()
        self._engine: Engine = make_engine(
            Options(count, initializer, tuple(initargs), eager=True, lasting=False)
        )
        self._state = RUN

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """``func(*args, **kwds)`` in a worker; waits for it."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """Like apply(), without waiting. A callback gets the value, or the exception, before the result is ready."""
        self._check_running()
        result = AsyncResult(self, callback, error_callback)
        self._submit(Task(CALL, func, [(tuple(args), dict(kwds))], result))
        return result

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """A list of ``func(item)`` for every item; `chunksize` items go to a worker at a time."""
        result: list[Any] = self._map(ONE, func, iterable, chunksize, return_exceptions).get()
        return result

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        *,
        return_exceptions: bool = False,
    ) -> MapResult:
        """Like map(), without waiting."""
        return self._map(ONE, func, iterable, chunksize, return_exceptions, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """A list of ``func(*item)`` for every item."""
        result: list[Any] = self._map(STAR, func, iterable, chunksize, return_exceptions).get()
        return result

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        *,
        return_exceptions: bool = False,
    ) -> MapResult:
        """Like starmap(), without waiting."""
        return self._map(STAR, func, iterable, chunksize, return_exceptions, callback, error_callback)

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        return_exceptions: bool = False,
    ) -> ResultIterator:
        """An iterator over ``func(item)`` in the order of the items.

        The input is read in a thread of its own, a bounded number of items ahead of the results that were taken.
        """
        return self._imap(func, iterable, chunksize, return_exceptions, ordered=True)

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        return_exceptions: bool = False,
    ) -> ResultIterator:
        """Like imap(), in the order in which the results arrive."""
        return self._imap(func, iterable, chunksize, return_exceptions, ordered=False)

    def close(self) -> None:
        """No more calls; the workers end when all that was given is done."""
        with self._lock:
            if self._state == RUN:
                self._state = CLOSE
            idle = not self._feeds
        if idle:
            self._engine.close()

    def terminate(self) -> None:
        """Ends worker processes at once; calls that are not done fail. A thread finishes the call that it runs."""
        self._state = TERMINATE
        self._engine.terminate()
        if self._engine.inherited:
            return
        with self._lock:
            feeds = list(self._feeds)
        for feed in feeds:
            feed.run_on()
        if not self._engine.in_engine():
            self._engine.join_idle()

    def join(self) -> None:
        """Waits until the workers have ended. Raises ValueError unless close() or terminate() was called before."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        engine = self._engine
        if engine.inherited:
            return
        if engine.in_engine():
            raise RuntimeError("a pool cannot be joined from one of its own calls or callbacks")
        if self._state == CLOSE:
            with self._lock:
                feeds = list(self._feeds)
            for feed in feeds:
                feed.run_on()
            for feed in feeds:
                feed.thread.join()
        engine.join()

    def __enter__(self) -> WorkerPool:
        self._check_running()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == RUN and not self._engine.inherited:
            warnings.warn(
                f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self, stacklevel=1
            )
            self._engine.abandon(TERMINATED)

    def __repr__(self) -> str:
        kind = type(self)
        return (
            f"<{kind.__module__}.{kind.__qualname__} state={self._state}"
            f" pool_size={self._engine.options.workers}>"
        )

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check_running(self) -> None:
        self._usable_engine()
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _usable_engine(self) -> Engine:
        # The engine; an error in a forked child, where nothing would ever come of waiting.
        if self._engine.inherited:
            self._engine.refuse_inherited()
        return self._engine

    def _submit(self, task: Task) -> None:
        try:
            self._engine.submit(task)
        except EngineClosedError:
            raise ValueError("Pool not running") from None

    def _map(
        self,
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        return_exceptions: bool,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> MapResult:
        self._check_running()
        items: Sequence[Any] = iterable if isinstance(iterable, (list, tuple, range)) else list(iterable)
        if chunksize is None:
            chunksize, extra = divmod(len(items), self._engine.options.workers * 4)
            chunksize += bool(extra)
        elif chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        function = self._engine.prepare(func)
        result = MapResult(self, len(items), return_exceptions, callback, error_callback)
        for first in range(0, len(items), chunksize or 1):
            self._submit(Task(kind, function, items[first : first + chunksize], result, first))
        return result

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        return_exceptions: bool,
        ordered: bool,
    ) -> ResultIterator:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        function = self._engine.prepare(func)
        feed = Feed(self, function, ONE, iterable, chunksize, ordered)
        with self._lock:
            self._feeds.add(feed)
        feed.start()
        return ResultIterator(feed, return_exceptions)

    def _feed_ended(self, feed: Feed) -> None:
        with self._lock:
            self._feeds.discard(feed)
            close = self._state == CLOSE and not self._feeds
        if close:
            self._engine.close()


WorkerPool.__module__ = "freethreading"
