"""imap and imap_unordered: a thread that reads the input, and the iterator over the results (docs/design/engine.md)."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from itertools import islice
from typing import TYPE_CHECKING, Any

from freethreading._contexts import private_copy
from freethreading._core import Taker
from freethreading._engine import ONE, EngineClosedError, Outcome, Task, terminated_error
from freethreading._futures import until_done
from freethreading._map_job import Failure
from freethreading._results import PoolSink, timeout_error
from freethreading._threads import Thread

if TYPE_CHECKING:
    from freethreading._pool import WorkerPool

# Items that are read ahead of the results that were taken: so many at least, and chunks a worker; then what is taken in so
# many seconds, up to a part of what was taken and so many.
LEAST_AHEAD = 64
CHUNKS_AHEAD = 8
SECONDS_AHEAD = 0.004
PART_AHEAD = 8
MOST_AHEAD = 4096
# Items in a row that the codec does not take before the others go as tasks too.
MOST_FOREIGN = 8
# Behind so many results that were collected at a time, whoever waits for the next one looks again after so many seconds
# before he asks to be told.
FLOWING = 16
NAP_SECONDS = 50e-6
# An iterator's finaliser may come by without the lock: how long its feed sleeps until it looks.
LOOK_SECONDS = 0.5


class Feed(PoolSink):
    """The inner half of an iterator over results: reads the input and gathers outcomes.

    A thread of its own reads, since the input may block, and may wait for what the consumer makes of earlier results. It
    stays a bounded number of items ahead of the consumer. Once the pool is joined, or an iterator is dropped that nothing
    was taken from, it runs on to the end of the input; once one is closed, or dropped later, it stops.

    Where the engine has streams, single items go to one, and the consumer collects their outcomes; else they are tasks.
    """

    def __init__(
        self,
        pool: WorkerPool,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        chunksize: int,
        ordered: bool,
    ) -> None:
        self.condition: threading.Condition = threading.Condition(threading.Lock())
        # Results and failures in the order in which the consumer gets them.
        self.ready: collections.deque[Any] = collections.deque()
        self.length: int | None = None  # known when the input has ended
        self.pool: WorkerPool | None = pool
        self.stopped: bool = False  # nobody wants any more of it
        self.input_error: BaseException | None = None  # raised behind the last result
        self._room = threading.Condition(self.condition)  # type: ignore[arg-type] # for the reading thread
        self._is_full = False  # it waits for room
        self._is_bounded = True
        self._is_dropped = False  # nobody can take its results
        self._is_ended = False  # the pool is terminated
        self._is_news = False  # there may be something to collect
        self._batch = 0  # what was collected last
        self._listeners: list[Callable[[Any], object]] = []
        self._items = iter(items)
        self._chunksize = chunksize
        self._ordered = ordered
        self._early: dict[int, list[Any]] = {}  # outcomes whose predecessors are missing
        self._gathered = 0
        self._given = 0  # of these, that went to `ready`
        self._in_tasks = 0  # items that went as tasks where there is no stream
        self._context = copy_context()
        engine = pool._engine
        self._stream = engine.open_stream(function, self, ordered, self._context) if chunksize == 1 else None
        # A function that does not pickle is refused here.
        self._prepared: Callable[..., Any] | None = (
            None if self._stream is not None else engine.prepare(function)
        )
        self._function = function
        self._foreign = 0  # items in a row that were not for the stream
        self._least = max(LEAST_AHEAD, CHUNKS_AHEAD * chunksize * engine.options.workers)
        self._ahead = self._least
        self._looked = time.monotonic(), 0  # when and at how many results taken it was adapted
        reading = private_copy(self._context)  # the input may set variables of its own
        self.thread: Thread = Thread(lambda: reading.run(self._read), "freethreading-feed", daemon=True)

    def start(self) -> None:
        self.thread.start()

    # What the engine asks, and says.

    def begin(self) -> bool:
        return not self.stopped

    @property
    def is_attended(self) -> bool:
        """Whether the consumer collects what a stream has."""
        return self._is_bounded and not self.stopped

    @property
    def is_over(self) -> bool:
        """Whether no item is to begin any more."""
        return self.stopped or self._is_ended

    def news(self) -> None:
        """There may be something to collect."""
        with self.condition:
            self._is_news = True
            listeners = self._wake()
        for listener in listeners:
            listener(self)

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        self._deliver(first, [value if done else Failure(value) for done, value in outcomes])

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        for index in failures:
            values[index] = Failure(values[index])
        self._deliver(first, values)

    # The consumer's side.

    @property
    def yielded(self) -> int:
        """Results that were taken."""
        return self._given - len(self.ready)

    def collect(self, ask: bool = False) -> None:
        """Gathers what a stream has. With `ask`, it says when it has more."""
        stream = self._stream
        if stream is None:
            return
        if ask:
            stream.ask()
        before = self._given
        # Not all at once: while they are taken, the next ones are run.
        stream.collect(max(1, self._ahead // 4))
        self._batch = self._given - before or self._batch

    def nap(self) -> bool:
        """Where results come fast, lets some of them come: to be told of one costs as much as many calls. False: they do
        not."""
        if self._batch < FLOWING:
            return False
        self._batch = 0
        time.sleep(NAP_SECONDS)
        return True

    def let_read(self) -> None:
        """Has the thread read on if there is room."""
        if self._is_full and self._outstanding() <= self._ahead // 2:
            with self.condition:
                self._room.notify_all()

    def is_exhausted(self) -> bool:
        """Whether every result was taken. Raises what the input has raised, once."""
        with self.condition:
            if self.stopped:
                return True
            if self.ready or self.length is None or self._given < self.length:
                return False
            error, self.input_error = self.input_error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the exception's traceback keeps this frame
        return True

    def wait(self, timeout: float | None) -> None:
        """Until there is something to take or to collect, or nothing will come, or `timeout` seconds."""
        with self.condition:
            try:
                if not self._has_something():
                    if self._is_full:
                        self._room.notify_all()
                    self.condition.wait(timeout)
            finally:
                if self._is_news:
                    self._is_news = False
                    self.condition.notify_all()  # one looks for all, but may be interrupted

    def listen(self, listener: Callable[[Any], object]) -> None:
        """Has it called as soon as wait() would return."""
        with self.condition:
            if not self._has_something():
                self._listeners.append(listener)
                return
            self._is_news = False
        listener(self)

    def stop(self) -> None:
        """No more of the input is read, no more items begin, and no more results are kept."""
        with self.condition:
            self._drop()
            listeners = self._wake()
            self._room.notify_all()
        if self._stream is not None:
            self._stream.cancel()
        for listener in listeners:
            listener(self)

    def drop(self) -> None:
        """The iterator is gone. Waits for nobody, as it may run anywhere; the reading thread also looks by itself."""
        if self.yielded:
            self._drop()
        else:
            self._is_dropped = True
            self._is_bounded = False
            self.ready.clear()
        if self.condition.acquire(blocking=False):
            try:
                self._room.notify_all()
            finally:
                self.condition.release()
        if self._stream is not None:
            (self._stream.cancel if self.stopped else self._stream.let_run)()

    def end(self) -> None:
        """The pool is terminated: whatever the input does, there are no more items."""
        self._is_ended = True
        if self._stream is not None:
            self._stream.fail(terminated_error())
        self._end_input(terminated_error())

    def run_on(self) -> None:
        """From now on the input is read without regard to the consumer."""
        with self.condition:
            self._is_bounded = False
            self._room.notify_all()
        if self._stream is not None:
            self._stream.let_run()

    def _has_something(self) -> bool:
        is_over = self.stopped or (self.length is not None and self._given >= self.length)
        return bool(self.ready) or self._is_news or is_over

    def _wake(self) -> list[Callable[[Any], object]]:
        # Under the condition. Those who are to be called behind it.
        self.condition.notify_all()
        listeners, self._listeners = self._listeners, []
        return listeners

    def _drop(self) -> None:
        self.stopped = True
        self.pool = None
        self.ready.clear()
        self._early.clear()

    def _deliver(self, first: int, values: list[Any]) -> None:
        count = len(values)
        if self.stopped:
            self.ready.clear()  # where a finaliser came between
            return
        if self._is_dropped:
            # Nobody is to be told, and this may be the finaliser, in a thread that has the condition.
            values.clear()
            self._gathered += count
            self._given += count
            if self._gathered == self.length:
                self.pool = None
            return
        with self.condition:
            self._gather(first, values)
            if self._gathered == self.length:
                self.pool = None
            listeners = self._wake()
        for listener in listeners:
            listener(self)

    def _gather(self, first: int, values: list[Any]) -> None:
        self._gathered += len(values)
        if not self._ordered:
            self.ready.extend(values)
            self._given += len(values)
            return
        self._early[first] = values
        while (known := self._early.pop(self._given, None)) is not None:
            self.ready.extend(known)
            self._given += len(known)

    # The reading thread.

    def _pulled(self) -> int:
        return self._in_tasks if self._stream is None else self._stream.pulled

    def _outstanding(self) -> int:
        return self._pulled() - self.yielded

    def _read(self) -> None:
        pool = self.pool
        error: BaseException | None = None
        try:
            if pool is not None:
                while (room := self._find_room()) and self._submit(pool, room):
                    pass
        except EngineClosedError:
            error = terminated_error()
        except BaseException as raised:
            stream = self._stream
            if not self._is_ended and (stream is None or raised is not stream.refusal):
                error = raised
        self._items = iter(())
        if self._stream is not None:
            self._stream.seal()
        self._end_input(error)
        if pool is not None:
            pool._feed_ended(self)

    def _end_input(self, error: BaseException | None) -> None:
        with self.condition:
            if self.length is None:
                self.length, self.input_error = self._pulled(), error
            if self._gathered == self.length:
                self.pool = None
            listeners = self._wake()
            self._room.notify_all()
        for listener in listeners:
            listener(self)

    def _find_room(self) -> int:
        # How many items may be read now; 0: none any more.
        with self.condition:
            if self._waits(self._ahead):
                # Until half of it is used up: else the two threads would wake each other for each item.
                self._is_full = True
                while self._waits(self._ahead // 2 + 1):
                    self._room.wait(LOOK_SECONDS)
                self._is_full = False
            if self.is_over:
                return 0
            if not self._is_bounded:
                return MOST_AHEAD
            self._adapt()
            return max(1, self._ahead - self._outstanding())

    def _waits(self, most: int) -> bool:
        return self._is_bounded and not self.is_over and self._outstanding() >= most

    def _adapt(self) -> None:
        # Where results are taken fast, more items are read ahead: what is taken in a moment. So what is kept is bounded by
        # what can be made in it, however large the results are.
        now, yielded = time.monotonic(), self.yielded
        then, before = self._looked
        if yielded - before < self._ahead // 4:
            return
        self._looked = now, yielded
        pace = (yielded - before) / max(now - then, 1e-6)
        most = min(self._least + yielded // PART_AHEAD, MOST_AHEAD)
        self._ahead = max(self._least, min(int(pace * SECONDS_AHEAD), most))

    def _submit(self, pool: WorkerPool, room: int) -> bool:
        # Reads so many items at most, and hands them on. False: the input has ended.
        stream = self._stream
        if stream is None or self._foreign >= MOST_FOREIGN:
            if self._prepared is None:
                self._prepared = pool._engine.prepare(self._function)
            chunk = list(islice(self._items, self._chunksize))
            if not chunk or self.is_over:
                return False
            self._submit_task(pool, chunk)
            return True
        before = stream.pulled
        goes_on, foreign = stream.extend(self._items, room)
        if foreign:
            self._foreign = self._foreign + 1 if stream.pulled == before else 1
            self._submit_task(pool, foreign)
        return goes_on

    def _submit_task(self, pool: WorkerPool, chunk: list[Any]) -> None:
        engine = pool._engine
        if self._prepared is None:
            self._prepared = engine.prepare(self._function)
        stream = self._stream
        first = self._pulled()
        with self.condition:  # end() is to see it either not at all or with an outcome to come
            if self.length is not None:
                return
            if stream is None:
                self._in_tasks += len(chunk)
            else:
                stream.skip()
        try:
            engine.submit(Task(ONE, self._prepared, chunk, self, first, self._context))
        except BaseException as error:
            if stream is None:
                with self.condition:
                    if self.length is None:
                        self._in_tasks -= len(chunk)
                raise
            # What was counted has an outcome.
            stream.refusal = error
            closed = isinstance(error, EngineClosedError)
            self.deliver(first, [(False, terminated_error() if closed else error)])
            raise


class ResultIterator(Taker, Iterator[Any]):
    """Iterates over the results of imap and imap_unordered, with ``for`` or with ``async for``:
    :class:`multiprocessing.pool.IMapIterator`.

    An item's exception is raised in its turn; the iteration goes on behind it. Safe to share among threads.

    Where it is closed, or dropped after something was taken from it, the rest of the input is not read, and what has not
    begun may not run. One that is dropped unused goes on, as multiprocessing's does.
    """

    _feed: Feed
    _ready: collections.deque[Any]
    _return_exceptions: bool

    def __new__(cls, feed: Feed, return_exceptions: bool) -> ResultIterator:
        """Over what the feed gathers."""
        self = super().__new__(cls, feed.ready.popleft, Failure)
        self._feed = feed
        self._ready = feed.ready
        self._return_exceptions = return_exceptions
        return self

    # What next() of Taker calls is _wait(None) and _failed().

    def next(self, timeout: float | None = None) -> Any:
        """The next result; TimeoutError where there is none within `timeout` seconds, StopIteration at the end."""
        try:
            value = self._ready.popleft()
        except IndexError:
            value = self._wait(timeout)
        return value if type(value) is not Failure else self._failed(value)

    def __aiter__(self) -> ResultIterator:
        return self

    async def __anext__(self) -> Any:
        feed = self._feed
        while True:
            try:
                found, value = self._take(feed, False)
            except StopIteration:
                raise StopAsyncIteration from None
            if found:
                break
            await until_done(feed.listen)  # a task that is cancelled here may go on with the iteration
        return value if type(value) is not Failure else self._failed(value)

    def close(self) -> None:
        """Ends the iteration here."""
        pool = self._feed.pool
        self._feed.stop()
        if pool is not None:
            pool._feed_ended(self._feed)  # its input may wait for ever

    async def aclose(self) -> None:
        """close(), for those who close an asynchronous iterator."""
        self.close()

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None:
            feed.drop()

    def _take(self, feed: Feed, may_sleep: bool) -> tuple[bool, Any]:
        # Collects, and takes a result if there is one.
        asks = False
        while True:
            feed.let_read()
            try:
                feed.collect(asks)
            except BaseException:  # a signal handler's: what was collected just now may be lost
                feed.stop()
                raise
            with contextlib.suppress(IndexError):
                return True, self._ready.popleft()
            if feed.is_exhausted():
                raise StopIteration
            if asks:
                return False, None
            asks = not (may_sleep and feed.nap())

    def _wait(self, timeout: float | None) -> Any:
        feed = self._feed
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            pool = feed.pool
            engine = None if pool is None else pool._usable_engine()
            found, value = self._take(feed, True)
            if found:
                return value
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise timeout_error()
            if engine is not None and engine.pumping():
                engine.pump()
            else:
                feed.wait(remaining)

    def _failed(self, failure: Failure) -> Any:
        error = failure.error
        del failure
        if self._return_exceptions:
            return error
        try:
            raise error
        finally:
            del error  # the exception's traceback keeps this frame
