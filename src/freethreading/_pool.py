"""WorkerPool: a pool of workers with the surface of multiprocessing.Pool."""

from __future__ import annotations

import operator
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from freethreading._backend import backend_of_workers
from freethreading._cpus import cpu_share
from freethreading._items import ONE, STAR, TERMINATED, EngineClosedError

if TYPE_CHECKING:  # else imported where a pool needs them: the first one's zygote boots meanwhile
    from freethreading._engine import Engine, Task
    from freethreading._imap import Feed, ResultIterator
    from freethreading._results import AsyncResult, Callback, MapResult

# A pool's states, by multiprocessing's names. The engine closes later than its pool where inputs are still being read.
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"
# A long map that workers share out goes to them in parts of so many items at least, and in so many parts.
_PART = 8192
_MOST_PARTS = 8
_FOR_EVER = 1e9  # seconds
_MOST_MEMORY = 1 << 62  # bytes


def check_count(name: str, count: int | None) -> int:
    """The number of workers that was asked for; TypeError or ValueError where it is none."""
    return cpu_share() if count is None else check_positive(name, count, "an integer or None")


def check_positive(name: str, number: int, what: str = "an integer") -> int:
    """The number, an integer above 0; TypeError or ValueError where it is none."""
    try:
        value = operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be {what}, not {number!r}") from None
    if value < 1:
        raise ValueError(f"{name} must be greater than 0, not {value}")
    return value


def check_chunksize(chunksize: int) -> int:
    """It, an integer; else a TypeError."""
    try:
        return operator.index(chunksize)
    except TypeError:
        raise TypeError(f"chunksize must be an integer, not {chunksize!r}") from None


def check_callbacks(callback: object, error_callback: object) -> None:
    """TypeError where one is neither None nor callable."""
    for name, function in (("callback", callback), ("error_callback", error_callback)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a callable or None, not {function!r}")


def check_idle_timeout(seconds: float | None) -> float | None:
    """How long a worker may be idle, as engines take it; TypeError or ValueError where it is no time."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"idle_timeout must be a number of seconds or None, not {seconds!r}")
    if not seconds > 0:
        raise ValueError(f"idle_timeout must be greater than 0, not {seconds!r}")
    return None if seconds > _FOR_EVER else float(seconds)


def check_max_memory(size: int | None) -> int | None:
    """Bytes, as engines take them; TypeError or ValueError where they are none."""
    if size is None:
        return None
    return min(check_positive("max_memory_per_child", size, "a number of bytes or None"), _MOST_MEMORY)


def check_initializer(initializer: object) -> None:
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


def _prepare_start() -> None:
    # Where workers are processes: what they are made of boots while the engine is imported. Not at the interpreter's end.
    if backend_of_workers() and threading.main_thread().is_alive():
        from freethreading._process_worker import prepare_start

        prepare_start()


class WorkerPool:
    """A pool of workers: threads, or processes, as the back end chosen when it is made.

    The methods are those of :class:`multiprocessing.pool.Pool`. In addition every map takes `return_exceptions`: with
    True an item's exception stands in the results in its place, as in :func:`asyncio.gather`.

    `workers` is their number (default: the CPUs that this process may use, in a call of a pool its worker's share of them);
    each calls ``initializer(*initargs)`` when it starts. An initializer's exception is raised by the pool's calls. The
    constructor does not wait for the workers. A worker that had nothing to do for `idle_timeout` seconds (a number above
    0; None: for ever) leaves, until there is none; calls that come then start workers again.

    A worker process that has more than `max_memory_per_child` bytes is replaced when it is done with its task: a call, a
    chunk of a map, or an item of a map without a chunk size. Its anonymous memory counts (RssAnon in /proc/<pid>/status),
    which also has what it began with; files and shared memory do not. One that grows beyond twice that in the
    middle of a task is killed, and the task fails with :class:`WorkerLostError` that says so (its supervisor looks five
    times a second). Threads share one memory: there it has no effect.

    A worker process that dies fails the call that it was running with :class:`WorkerLostError` and is replaced.

    Used in a with-statement the pool is terminated at its end, as multiprocessing's is.

    >>> with WorkerPool(workers=2) as pool:
    ...     pool.map(abs, [-1, -2])
    [1, 2]
    """

    _state = TERMINATE  # for __del__, until it is made

    def __init__(
        self,
        workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        idle_timeout: float | None = None,
        max_memory_per_child: int | None = None,
    ) -> None:
        count = check_count("workers", workers)
        check_initializer(initializer)
        idle = check_idle_timeout(idle_timeout)
        memory = check_max_memory(max_memory_per_child)
        arguments = tuple(initargs)
        self._feeds: set[Feed] = set()  # inputs of imap that have not ended; guarded by _lock
        self._lock = threading.RLock()
        _prepare_start()
        from freethreading._engine import Options, make_engine

        self._engine: Engine = make_engine(
            Options(
                count,
                initializer,
                arguments,
                idle_timeout=idle,
                max_memory=memory,
                cpus=cpu_share(),
                eager=True,
                lasting=False,
            )
        )
        self._state = RUN

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """``func(*args, **kwds)`` in a worker; waits for it."""
        give = self._engine.give if self._state == RUN else None
        if give is not None and (future := give(func, tuple(args), dict(kwds))) is not None:
            return future.result()
        self._check_running()
        try:
            return self._engine.submit_call(func, tuple(args), dict(kwds)).result()
        except EngineClosedError:
            raise ValueError("Pool not running") from None

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """Like apply(), without waiting. A callback gets the value, or the exception, before the result is ready."""
        from freethreading._results import CallResult, ToldResult

        self._check_running()
        check_callbacks(callback, error_callback)
        told = None
        if callback is not None or error_callback is not None:
            told = ToldResult(self, callback, error_callback)
        listener = None if told is None else told.take
        try:
            future = self._engine.submit_call(func, tuple(args), dict(kwds), owner=self, listener=listener)
        except EngineClosedError:
            raise ValueError("Pool not running") from None
        if told is None:
            return CallResult(future)
        told.future = future
        return told

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

    def resize(self, workers: int) -> None:
        """Has the pool have `workers` workers from now on; does not wait until it has.

        More: they start at once (with `idle_timeout`, as many as there are calls for), and take part in maps that run.
        Fewer: workers leave as they come to the end of a task, or of an item of a map without a chunk size; what they run is
        not disturbed, and nothing that waits is lost. Any thread may call it.

        `workers` is an integer, 1 or more (TypeError, ValueError). A pool that was closed or terminated raises ValueError,
        one that is broken the exception that broke it.
        """
        count = check_positive("workers", workers)
        self._check_running()
        try:
            self._engine.resize(count)
        except EngineClosedError:
            raise ValueError("Pool not running") from None

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
            feed.end()
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
                if not feed.stopped:
                    feed.thread.join()
        engine.join()

    def __enter__(self) -> WorkerPool:
        self._check_running()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    async def __aenter__(self) -> WorkerPool:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.terminate)

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
        from freethreading._engine import Task
        from freethreading._results import MapResult

        self._check_running()
        items: Sequence[Any] = iterable if isinstance(iterable, (list, tuple, range)) else list(iterable)
        if chunksize is not None and check_chunksize(chunksize) < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        check_callbacks(callback, error_callback)
        result = MapResult(self, len(items), return_exceptions, callback, error_callback)
        begin = self._share_out(kind, func, items, result) if chunksize is None else 0
        if begin == len(items):
            return result
        if chunksize is None:
            chunksize, extra = divmod(len(items), self._engine.options.workers * 4)
            chunksize += bool(extra)
        function = self._engine.prepare(func)
        context = copy_context()
        for first in range(begin, len(items), chunksize):
            self._submit(Task(kind, function, items[first : first + chunksize], result, first, context))
        return result

    def _share_out(self, kind: int, func: Callable[..., Any], items: Sequence[Any], result: MapResult) -> int:
        # Submits what workers can share out among themselves; how many items that is. In parts: they work on the first while
        # the next one is made.
        engine = self._engine
        function = engine.for_map(func)
        if function is None:
            return 0
        size = max(_PART, -(-len(items) // _MOST_PARTS))
        context = copy_context()
        try:
            for first in range(0, len(items), size):
                part = items[first : first + size]
                flight = engine.submit_map(function, part, kind == STAR, result, context, first)
                if flight is None:
                    return first
                result.is_worked_on(flight)
        except EngineClosedError:
            raise ValueError("Pool not running") from None
        return len(items)

    def _imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        return_exceptions: bool,
        ordered: bool,
    ) -> ResultIterator:
        from freethreading._imap import Feed, ResultIterator

        self._check_running()
        if check_chunksize(chunksize) < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        feed = Feed(self, func, iterable, chunksize, ordered)
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
