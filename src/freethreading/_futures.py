"""What an executor gives back: futures, and the iterators over the results of its maps."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from freethreading._core import NativeFuture

if TYPE_CHECKING:
    from freethreading._engine import Engine, Outcome
    from freethreading._executor import WorkerPoolExecutor

T = TypeVar("T")


class PoolFuture(NativeFuture, Future[T]):
    """What :meth:`WorkerPoolExecutor.submit` gives: a :class:`concurrent.futures.Future` that can be awaited in asyncio's
    tasks, and whose call can be ended while it runs.
    """

    # It may be waited for in a callback of another one, on whose return the executor depends.

    def __await__(self) -> Generator[Any, None, T]:
        """Waits in a task of asyncio's. Where that is cancelled, so is the call, by cancel(force=True)."""
        import asyncio

        engine = self._its_engine()
        if engine is not None and engine.inherited and not self.done():
            engine.refuse_inherited()
        del engine
        try:
            yield from until_done(self.add_done_callback).__await__()
        except asyncio.CancelledError:
            self.cancel(force=True)
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        result = self.result
        del self  # an exception's traceback keeps this frame
        found: T = result()
        return found

    def prepare(self, owner: object, listener: Callable[[Any], object] | None) -> None:
        """Before its call is submitted: `owner` lives until it is done, and `listener` is called then by the engine."""
        if owner is not None:
            self._owner = owner
        if listener is not None:
            self.listen(listener)

    def cancel(self, *, force: bool = False) -> bool:
        """Cancels the call if no worker has begun it; True: it is cancelled.

        With `force` a call that runs is asked to end as well. A worker process that runs it is killed and replaced, and
        the call is cancelled a moment later, as a rule within milliseconds: what it has written so far stays written. On
        threads :func:`check_cancelled` raises in it, and where the call lets that pass, it is cancelled. True says then
        that it was asked: it may still come to its end before. False: it was done already, or nobody here can ask it (a
        forked child; a future that no executor has made).

        What waits for a call that is cancelled raises :class:`concurrent.futures.CancelledError`.
        """
        if super().cancel():
            return True
        if not force or self.done():
            return self.cancelled()
        engine = self._its_engine()
        asked = engine is not None and engine.end_call(self)
        return asked or self.cancelled()  # somebody else may have asked

    def end_cancelled(self, reason: object = None) -> None:  # noqa: ARG002
        """For who has ended its call, as that exception says if any: it is cancelled. REQUIRES: it is no more on its way."""
        with self._condition:  # from here on the standard library's methods are what changes it
            if self._state not in ("PENDING", "RUNNING"):
                return
            self._state = "CANCELLED_AND_NOTIFIED"
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]

    def _its_engine(self) -> Engine | None:
        # None: it is gone, or no executor has made this.
        return None if self._engine is None else self._engine()

    def _pump(self, timeout: float | None) -> float | None:
        # Has the engine go on where this thread is what it goes on by. How long is left to wait.
        engine = self._its_engine()
        if engine is None:
            return timeout
        if engine.inherited:
            engine.refuse_inherited()
        if not engine.pumping():
            return timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done() and (deadline is None or time.monotonic() < deadline):
            engine.pump()
        return None if deadline is None else max(0.0, deadline - time.monotonic())


PoolFuture.__name__ = PoolFuture.__qualname__ = "Future"
PoolFuture.__module__ = "freethreading"


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

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        outcomes = outcomes_of(values, failures)
        values.clear()  # a consumer that drops a result shall not find it kept by the worker
        self.deliver(first, outcomes)

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


def outcomes_of(values: list[Any], failures: list[int]) -> list[Outcome]:
    """What deliver() takes for what deliver_values() takes."""
    outcomes: list[Outcome] = [(True, value) for value in values]
    for index in failures:
        outcomes[index] = (False, values[index])
    return outcomes


class Batch(NamedTuple):
    """What the chunks of a map have in common."""

    function: Callable[..., Any]
    context: Context
    single: bool  # a chunk is one call, whose future has its value


class MapResults(Iterator[Any]):
    """Iterates over the results of an executor's map(), with ``for`` or with ``async for``.

    It ends with the first call that raises (but for `return_exceptions`), and when it is closed or dropped: calls that have
    not begun are cancelled then. Safe to share among threads.
    """

    def __init__(
        self,
        executor: weakref.ref[WorkerPoolExecutor],  # which may be dropped before the results are taken
        batch: Batch,
        chunks: Iterator[tuple[int, Sequence[tuple[Any, ...]]]],
        buffersize: int | None,
        deadline: float | None,
        return_exceptions: bool,
    ) -> None:
        self._executor = executor
        self._batch = batch
        self._chunks = (
            chunks  # read under _input_lock, which is taken before _lock: close() does not wait for the input
        )
        self._futures: collections.deque[Future[Any]] = (
            collections.deque()
        )  # in order; guarded by _lock, as _ready
        self._ready: list[Outcome] = []  # of chunks that have arrived, the next one last
        self._deadline = deadline
        self._return_exceptions = return_exceptions
        self._is_closed = False
        self._lock = threading.Lock()
        self._input_lock = threading.RLock()  # an RLock: the input may be what comes back here
        self._begin(buffersize)
        # While a result is waited for there is one more.
        self._most = None if buffersize is None else buffersize + 1

    def __iter__(self) -> MapResults:
        return self

    def __next__(self) -> Any:
        if self._batch.single and self._most is None:
            return self._next_single()
        while (outcome := self._take()) is None:
            chunk = self._next_chunk()
            if chunk is None:
                raise StopIteration
            self._wait(chunk, self._remaining())
            self._arrived(chunk)
        try:
            return self._value(*outcome)
        finally:
            chunk = outcome = None  # an exception's traceback keeps this frame

    def _next_single(self) -> Any:
        # The next call's own: no other thread meets it.
        try:
            call = self._futures.popleft()
        except IndexError:
            raise StopIteration from None
        try:
            error = call.exception(self._remaining())
        except BaseException:  # of the wait, which may have ended just as the call did
            call.cancel()
            self.close()
            raise
        if error is None:
            return call.result()
        try:
            return self._value(False, error)
        finally:
            del call, error  # the exception's traceback keeps this frame

    def __aiter__(self) -> MapResults:
        return self

    async def __anext__(self) -> Any:
        import asyncio

        while (outcome := self._take()) is None:
            chunk = self._next_chunk()
            if chunk is None:
                raise StopAsyncIteration
            if not chunk.done():
                # A task that is cancelled here may go on with the iteration.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(until_done(chunk.add_done_callback), self._remaining())
            self._wait(chunk, 0)
            self._arrived(chunk)
        try:
            return self._value(*outcome)
        finally:
            chunk = outcome = None

    def close(self) -> None:
        """Ends the iteration: cancels the calls that have not begun."""
        with self._lock:
            # Not by its name: at the interpreter's end that may be gone.
            futures, self._futures = self._futures, type(self._futures)()
            self._ready = []
            self._chunks = iter(())
            self._is_closed = True
        for future in futures:
            future.cancel()

    async def aclose(self) -> None:
        """close(), for those who close an asynchronous iterator."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_input_lock"):
            self.close()

    def _begin(self, most: int | None) -> None:
        # Submits chunks until `most` are out. Under _input_lock, but for the constructor's.
        executor = self._executor()
        if executor is None:
            return
        if most is None and self._batch.single:
            self._futures.extend(executor._submit_each(self._batch, self._chunks))
            return
        while most is None or len(self._futures) < most:
            if (chunk := next(self._chunks, None)) is None:
                return
            future = executor._submit_chunk(self._batch, *chunk)
            with self._lock:
                if not self._is_closed:
                    self._futures.append(future)
                    continue
            future.cancel()
            return

    def _take(self) -> Outcome | None:
        with self._lock:
            return self._ready.pop() if self._ready else None

    def _next_chunk(self) -> Future[Any] | None:
        # The one to wait for.
        if self._most is not None:
            try:
                with self._input_lock:
                    self._begin(self._most)
            except BaseException:
                self.close()
                raise
        with self._lock:
            return self._futures[0] if self._futures else None

    def _wait(self, chunk: Future[Any], timeout: float | None) -> None:
        # Until it is done. Raises, and ends the iteration, where it comes to nothing.
        try:
            error = chunk.exception(timeout)
            if error is None or self._batch.single:
                return
        except BaseException:
            self.close()
            raise
        self.close()
        try:
            raise error
        finally:
            del error, chunk

    def _arrived(self, chunk: Future[Any]) -> None:
        with self._lock:
            if self._futures and self._futures[0] is chunk:  # else another thread was faster
                self._futures.popleft()
                if self._batch.single:
                    error = chunk.exception()
                    self._ready.insert(0, (True, chunk.result()) if error is None else (False, error))
                    return
                outcomes: list[Outcome] = chunk.result()
                outcomes.reverse()
                self._ready[:0] = outcomes
                outcomes.clear()

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _value(self, done: bool, value: Any) -> Any:
        if done or self._return_exceptions:
            return value
        self.close()
        try:
            raise_failure(value)
        finally:
            del value  # the exception's traceback keeps this frame


def raise_failure(error: BaseException) -> NoReturn:
    """Raises what a call has raised, out of an iterator over the results."""
    try:
        if isinstance(error, StopIteration | StopAsyncIteration):
            raise RuntimeError(
                f"a call raised {type(error).__name__}"
            ) from error  # else it would say: the end
        raise error
    finally:
        del error  # the exception's traceback keeps this frame


async def until_done(listen: Callable[[Callable[[Any], object]], object]) -> None:
    """Waits, in a task of asyncio's, until what was given to `listen` is called, from any thread."""
    import asyncio

    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not waiter.done():
            waiter.set_result(None)

    here = threading.get_ident()

    def tell(_: Any) -> None:
        if here == threading.get_ident():  # at once: the loop is in this step, and need not be woken
            loop.call_soon(settle)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    listen(tell)
    here = 0
    await waiter
