"""WorkerPoolExecutor: a concurrent.futures.Executor over threads or processes."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextvars import copy_context
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from freethreading._cpus import cpu_share
from freethreading._engine import (
    CLOSED,
    OPEN,
    STAR,
    EngineClosedError,
    Options,
    leaving,
    make_engine,
)
from freethreading._futures import Batch, MapResults, PoolFuture
from freethreading._map_job import Gathered, JobResults
from freethreading._pool import (
    check_chunksize,
    check_count,
    check_idle_timeout,
    check_initializer,
    check_max_memory,
    check_positive,
)

T = TypeVar("T")


class WorkerPoolExecutor(Executor):
    """An executor whose workers are threads, or processes, as the back end chosen when it is made.

    `max_workers` is the largest number of workers (default: the CPUs that this process may use, in a call of a pool its
    worker's share of them); they are started as calls come in, and each calls ``initializer(*initargs)`` first. Where that
    raises, the executor is broken: every call fails with :class:`concurrent.futures.BrokenExecutor`. With
    `thread_name_prefix` the workers, of either kind, are named ``<prefix>_<number>``. After `max_tasks_per_child` tasks a
    worker is replaced by a new one. A worker that
    had nothing to do for `idle_timeout` seconds (a number above 0; None: for ever) leaves, until there is none; calls that
    come then start workers again. `mp_context` is accepted so that code for
    :class:`concurrent.futures.ProcessPoolExecutor` runs, and not used.

    A worker process that has more than `max_memory_per_child` bytes is replaced when it is done with its task: a call, or an
    item or a chunk of a map. Its anonymous memory counts (RssAnon in /proc/<pid>/status), which also has what it began
    with; files and shared memory do not. One that grows beyond twice that in the middle of a task is killed, and the task
    fails with :class:`WorkerLostError` that says so (its supervisor looks five times a second). Threads share one
    memory: there it has no effect.

    A worker process that dies fails the call that it was running with :class:`WorkerLostError` and is replaced.

    >>> with WorkerPoolExecutor(max_workers=2) as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        thread_name_prefix: str = "",
        max_tasks_per_child: int | None = None,
        idle_timeout: float | None = None,
        max_memory_per_child: int | None = None,
        mp_context: object = None,  # noqa: ARG002
    ) -> None:
        count = check_count("max_workers", max_workers)
        check_initializer(initializer)
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._engine = make_engine(
            Options(
                count,
                initializer,
                tuple(initargs),
                name_prefix=thread_name_prefix,
                max_tasks=max_tasks_per_child,
                idle_timeout=check_idle_timeout(idle_timeout),
                max_memory=check_max_memory(max_memory_per_child),
                cpus=cpu_share(),
                broken_error=_broken_error,
            )
        )

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> PoolFuture[T]:
        """Schedules ``fn(*args, **kwargs)``. What pickling it raises is the :class:`Future`'s exception."""
        engine = self._engine
        give = engine.give
        if give is not None and (future := give(fn, args, kwargs)) is not None:
            return future
        try:
            return engine.submit_call(fn, args, kwargs)
        except EngineClosedError:
            raise _closed_error() from None

    def map(  # type: ignore[override]
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> MapResults | JobResults:
        """An iterator over ``fn(*items)`` in order, with items from all the iterables; ``async for`` takes it as well.

        `timeout` is in seconds from this call. `chunksize` calls go to a worker at a time. With `buffersize`, no more
        than that many chunks are given to the workers ahead of the results that were taken. With `return_exceptions`, a
        call's exception is yielded in its place.
        """
        if check_chunksize(chunksize) < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else timeout + time.monotonic()
        engine = self._engine
        calls: Iterator[tuple[Any, ...]]
        shared_out = engine.for_map(fn) if chunksize == 1 and buffersize is None else None
        if shared_out is not None:
            context = copy_context()
            # Those of one iterable need no tuples.
            star = len(iterables) != 1
            given = zip(*iterables, strict=False) if star else iterables[0]
            items: Sequence[Any] = given if type(given) is range else list(given)
            gathered = Gathered(len(items))
            try:
                flight = engine.submit_map(shared_out, items, star, gathered, context) if items else None
            except EngineClosedError:
                raise _closed_error() from None
            if flight is not None:
                return JobResults(engine._reference, gathered, flight, deadline, return_exceptions)
            calls = _calls_of(items, star)
        else:
            calls = zip(*iterables, strict=False)
        single = chunksize == 1 and engine.carries(fn)
        batch = Batch(fn if single else engine.prepare(fn), copy_context(), single)
        chunks = _chunks(calls, chunksize)
        return MapResults(weakref.ref(self), batch, chunks, buffersize, deadline, return_exceptions)

    def resize(self, max_workers: int) -> None:
        """Has the executor have `max_workers` workers at most from now on; does not wait until it has.

        More: as many as there are calls for start at once, and take part in maps that run. Fewer: workers leave as they come
        to the end of a task, or of an item of a map with a chunk size of 1; what they run is not disturbed, and nothing that
        waits is lost. Any thread may call it.

        `max_workers` is an integer, 1 or more (TypeError, ValueError). An executor that was shut down raises RuntimeError,
        one that is broken :class:`concurrent.futures.BrokenExecutor`.
        """
        count = check_positive("max_workers", max_workers)
        try:
            self._engine.resize(count)
        except EngineClosedError:
            raise RuntimeError("cannot resize an executor after shutdown") from None

    @property
    def _max_workers(self) -> int:
        # By the standard library's name: programs read it.
        return self._engine.options.workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls; `wait` waits until all are done and the workers have ended. Any number of times."""
        engine = self._engine
        engine.close()
        if engine.inherited:
            return
        if cancel_futures:
            engine.cancel_pending()
        if wait and not engine.in_engine():
            engine.join()

    async def __aenter__(self) -> WorkerPoolExecutor:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.shutdown)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: its workers belong to the process that made it"
        )

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.state == OPEN:
            engine.abandon(CLOSED)

    def _submit_each(
        self, batch: Batch, chunks: Iterator[tuple[int, Sequence[tuple[Any, ...]]]]
    ) -> Iterator[Future[Any]]:
        submit = self._engine.submit_call
        try:
            for first, (args,) in chunks:
                yield submit(batch.function, args, {}, batch.context, first)
        except EngineClosedError:
            raise _closed_error() from None

    def _submit_chunk(self, batch: Batch, first: int, chunk: Sequence[tuple[Any, ...]]) -> Future[Any]:
        try:
            if batch.single:
                return self._engine.submit_call(batch.function, chunk[0], {}, batch.context, first)
            future: PoolFuture[Any] = PoolFuture(self._engine._reference)
            return self._engine.submit_for(future, STAR, batch.function, chunk, first, batch.context)
        except EngineClosedError:
            raise _closed_error() from None


WorkerPoolExecutor.__module__ = "freethreading"


def _closed_error() -> RuntimeError:
    what = "interpreter shutdown" if leaving() else "shutdown"
    return RuntimeError(f"cannot schedule new futures after {what}")


def _broken_error(error: BaseException) -> BrokenExecutor:
    if isinstance(error, BrokenExecutor):
        return error
    broken = BrokenExecutor(f"the initializer of the workers failed: {type(error).__qualname__}: {error}")
    broken.__cause__ = error
    return broken


def _calls_of(items: Sequence[Any], star: bool) -> Iterator[tuple[Any, ...]]:
    return iter(items) if star else zip(items, strict=True)


def _chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[int, Sequence[tuple[Any, ...]]]]:
    # Each with its first call's number.
    if size == 1:
        yield from enumerate(zip(calls, strict=True))
        return
    first = 0
    while chunk := list(itertools.islice(calls, size)):
        yield first, chunk
        first += size
