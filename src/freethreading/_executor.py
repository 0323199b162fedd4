"""WorkerPoolExecutor: a concurrent.futures.Executor over threads or processes."""

from __future__ import annotations

import collections
import itertools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from typing import Any, NoReturn, TypeVar

from freethreading._engine import (
    CALL,
    CLOSED,
    OPEN,
    STAR,
    Engine,
    EngineClosedError,
    Options,
    Outcome,
    Task,
    leaving,
    make_engine,
)
from freethreading._pool import check_count, check_initializer

T = TypeVar("T")


class PoolFuture(Future[T]):
    """A Future of an executor's: may be waited for in a callback of another one, on whose return the executor depends."""

    _engine: weakref.ref[Engine] | None = None

    def result(self, timeout: float | None = None) -> T:
        """The call's value, or its exception raised; TimeoutError where it is not done in `timeout` seconds."""
        return super().result(self._pump(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The call's exception, None where it has a value; TimeoutError where it is not done in `timeout` seconds."""
        return super().exception(self._pump(timeout))

    def _pump(self, timeout: float | None) -> float | None:
        # Has the engine go on where this thread is what it goes on by. How long is left to wait.
        engine = self._engine() if self._engine is not None else None
        if engine is None or self.done():
            return timeout
        if engine.inherited:
            engine.refuse_inherited()
        if not engine.pumping():
            return timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done() and (deadline is None or time.monotonic() < deadline):
            engine.pump()
        return None if deadline is None else max(0.0, deadline - time.monotonic())


class FutureSink:
    """Hands the outcome of a task's one call to a Future."""

    __slots__ = ("_future",)

    cancellable = True

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def begin(self) -> bool:
        try:
            return self._future.set_running_or_notify_cancel()
        except RuntimeError:
            return False  # somebody else has set it

    def cancel(self) -> None:
        # The second call tells those who wait for it, as a worker that met it would.
        if self._future.cancel():
            self._future.set_running_or_notify_cancel()

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:  # noqa: ARG002
        self._settle(outcomes[0])

    def _settle(self, outcome: Outcome) -> None:
        done, value = outcome
        future = self._future
        try:
            if done:
                future.set_result(value)
            else:
                future.set_exception(value)
        except InvalidStateError:
            pass  # somebody else has set it


class ChunkSink(FutureSink):
    """Hands the outcomes of a task of several calls to a Future, as a list when all are there."""

    __slots__ = ("_first", "_missing", "_outcomes")

    def __init__(self, future: Future[Any], first: int, length: int) -> None:
        super().__init__(future)
        self._first = first
        self._outcomes: list[Outcome | None] = [None] * length
        self._missing = length

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        at = first - self._first
        self._outcomes[at : at + len(outcomes)] = outcomes
        self._missing -= len(outcomes)
        outcomes.clear()  # a consumer that drops a result shall not find it kept by the worker
        if not self._missing:
            self._settle((True, self._outcomes))


class WorkerPoolExecutor(Executor):
    """An executor whose workers are threads, or processes, as the back end chosen when it is made.

    `max_workers` is the largest number of workers (default: the CPUs that this process may use); they are started as
    calls come in, and each calls ``initializer(*initargs)`` first. Where that raises, the executor is broken: every
    call fails with :class:`concurrent.futures.BrokenExecutor`. With `thread_name_prefix` the workers, of either kind,
    are named ``<prefix>_<number>``. After `max_tasks_per_child` tasks a worker is replaced by a new one. `mp_context`
    is accepted so that code for :class:`concurrent.futures.ProcessPoolExecutor` runs, and not used.

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
        mp_context: object = None,  # noqa: ARG002
    ) -> None:
        count = check_count("max_workers", max_workers)
        check_initializer(initializer)
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        self._max_workers = count
        self._engine = make_engine(
            Options(
                count,
                initializer,
                tuple(initargs),
                name_prefix=thread_name_prefix,
                max_tasks=max_tasks_per_child,
                broken_error=_broken_error,
            )
        )

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Schedules ``fn(*args, **kwargs)``. What pickling it raises is the future's exception."""
        future = self._future()
        self._submit(Task(CALL, fn, [(args, kwargs)], FutureSink(future)), future)
        return future

    def map(  # type: ignore[override]
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """An iterator over ``fn(*items)`` in order, with items from all the iterables.

        `timeout` is in seconds from this call. `chunksize` calls go to a worker at a time. With `buffersize`, no more
        than that many chunks are given to the workers ahead of the results that were taken. With `return_exceptions`, a
        call's exception is yielded in its place.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else timeout + time.monotonic()
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        function = self._engine.prepare(fn)
        futures = collections.deque(
            self._submit_chunk(function, *chunk) for chunk in itertools.islice(chunks, buffersize)
        )
        more = chunks if buffersize is not None else iter(())
        return _results(weakref.ref(self), function, futures, more, deadline, return_exceptions)

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

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: its workers belong to the process that made it"
        )

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.state == OPEN:
            engine.abandon(CLOSED)

    def _future(self) -> Future[Any]:
        future: PoolFuture[Any] = PoolFuture()
        future._engine = weakref.ref(self._engine)
        return future

    def _submit_chunk(
        self, function: Callable[..., Any], first: int, chunk: Sequence[tuple[Any, ...]]
    ) -> Future[Any]:
        future = self._future()
        self._submit(Task(STAR, function, chunk, ChunkSink(future, first, len(chunk)), first), future)
        return future

    def _submit(self, task: Task, future: Future[Any]) -> None:
        engine = self._engine
        try:
            engine.submit(task)
        except EngineClosedError:
            what = "interpreter shutdown" if leaving() else "shutdown"
            raise RuntimeError(f"cannot schedule new futures after {what}") from None
        except Exception as error:
            if engine.inherited or error is engine.broken:
                raise
            future.set_running_or_notify_cancel()
            future.set_exception(error)


WorkerPoolExecutor.__module__ = "freethreading"


def _broken_error(error: BaseException) -> BrokenExecutor:
    if isinstance(error, BrokenExecutor):
        return error
    broken = BrokenExecutor(f"the initializer of the workers failed: {type(error).__qualname__}: {error}")
    broken.__cause__ = error
    return broken


def _chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    # Each with its first call's number.
    first = 0
    while chunk := list(itertools.islice(calls, size)):
        yield first, chunk
        first += size


def _results(
    executor: weakref.ref[WorkerPoolExecutor],  # the executor may be dropped before the results are taken
    function: Callable[..., Any],
    futures: collections.deque[Future[Any]],
    more: Iterator[tuple[int, list[tuple[Any, ...]]]],
    deadline: float | None,
    return_exceptions: bool,
) -> Iterator[Any]:
    try:
        while futures:
            owner = executor()
            if owner is not None and (chunk := next(more, None)) is not None:
                futures.append(owner._submit_chunk(function, *chunk))
                del chunk
            del owner
            timeout = None if deadline is None else deadline - time.monotonic()
            outcomes = futures[0].result(timeout)
            futures.popleft()
            outcomes.reverse()
            while outcomes:
                if not outcomes[-1][0] and not return_exceptions:
                    raise outcomes.pop()[1]
                yield outcomes.pop()[1]  # without a name, which would keep it while the consumer has it
    finally:
        for future in futures:
            future.cancel()
