"""A map whose items workers take one by one: docs/design/jobs.md."""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from freethreading._core import ListTaker, MapJob, handle_of
from freethreading._flight import describe_call
from freethreading._frames import pack, pack_number
from freethreading._futures import raise_failure, until_done

if TYPE_CHECKING:
    from freethreading._engine import Engine, Outcome, Sink


# What a ThreadJob's run() says where somebody has asked to be told.
ASKED = 1
# In so many seconds workers that run short items tell what is done.
TELLING_SECONDS = 0.002


# How long who waits for results sleeps between two looks, and how often he looks before he waits to be told.
LOOK_SECONDS = 0.00005
LOOKS = 10
# How long he waits to be told at a time.
LONGEST_SECONDS = 0.5


class Job(Protocol):
    """What a MapJob and a ThreadJob have in common."""

    @property
    def is_complete(self) -> bool: ...
    def collect(self, most: int = ..., /) -> tuple[int, list[Any], list[int]]: ...
    def collect_into(self, values: list[Any], at: int, /) -> tuple[int, list[int]]: ...
    def withdraw(self, running: bool, error: BaseException, /) -> None: ...
    def ask(self) -> None: ...


class ListSink:
    """Base of a sink that has a list for the outcomes: a job puts them there, each at its item's index."""

    into: list[Any]

    def note_placed(self, count: int, failures: list[int]) -> None:
        """So many more are there; at the indices in `failures` they are exceptions."""
        raise NotImplementedError


J = TypeVar("J", bound=Job)


class JobFlight(Generic[J]):
    """A job of an engine's, from its submission until its last outcome. Thread-safe."""

    is_stream = False  # whether its items come one after another
    _cancelled = CancelledError  # finalisers run when the interpreter has wiped its modules, too

    def __init__(self, job: J, function: Callable[..., Any], sink: Sink, first: int) -> None:
        self.job = job
        self.function = function
        self.sink = sink
        self.first = first  # its first item's index in the sink
        self._list_sink = sink if isinstance(sink, ListSink) else None
        self._into = [] if self._list_sink is None else self._list_sink.into
        self._placed = 0  # outcomes that it has put there
        self._lock = threading.RLock()  # an RLock: a callback of the sink's may come back here
        self._is_news = False
        self.is_withdrawn: bool = False
        # Its engine's: called once, by whoever has given the last outcomes to the sink.
        self.on_complete: Callable[[], object] | None = None

    @property
    def is_due(self) -> bool:
        """Whether its engine has to see to it though nothing was heard of it."""
        return self.is_withdrawn

    def next_to_run(self) -> JobFlight[J]:
        """What a worker that was called to it is to work on: this, or one that comes before."""
        return self

    def progress(self) -> None:
        """Something has become known."""
        self.collect()

    def tell(self, asked: bool) -> None:  # noqa: ARG002
        """A worker that is a thread looks around; `asked`: somebody has asked for it."""
        self.progress()

    def collect(self, most: int = sys.maxsize) -> None:
        """Gives what is known, or so much of it, to the sink. Where another thread does so, leaves it to that one."""
        self._is_news = True
        has_collected = False
        while self._is_news and self._lock.acquire(blocking=False):
            try:
                self._is_news = False
                self._collect_some(most)
                has_collected = True
            finally:
                self._lock.release()
        if has_collected and self.on_complete is not None and self.job.is_complete:
            on_complete, self.on_complete = self.on_complete, None
            if on_complete is not None:  # else another thread was faster
                on_complete()

    def _collect_some(self, most: int) -> None:
        if self._list_sink is not None:
            count, failures = self.job.collect_into(self._into, self.first + self._placed)
            self._placed += count
            if count:
                self._list_sink.note_placed(count, failures)
            return
        first, values, failures = self._collect_from_job(most)
        if values:
            self.sink.deliver_values(self.first + first, values, failures)

    def _collect_from_job(self, most: int) -> tuple[int, list[Any], list[int]]:
        return self.job.collect(most)

    def fail(self, error: BaseException) -> None:
        """What is not done fails."""
        self.job.withdraw(True, error)
        self.progress()

    def ask(self) -> None:
        """Has the next outcome told at once, and gives what is known already to the sink."""
        self.job.ask()
        self.collect()

    def cancel(self) -> None:
        """What has not begun is cancelled; the sink hears of it when a worker leaves. Waits for nobody (finalisers)."""
        self.is_withdrawn = True
        self.job.withdraw(False, self._cancelled())


class SharedFlight(JobFlight[MapJob]):
    """One whose workers are processes."""

    def __init__(
        self,
        job: MapJob,
        function: Callable[..., Any],
        sink: Sink,
        first: int,
        entry: int,
        pickled: tuple[bytes, Sequence[object]] = (b"", ()),
    ) -> None:
        super().__init__(job, function, sink, first)
        self.entry = entry  # the function's number in the log; 0: it goes with the job
        self.pickled = pickled  # then its pickle, and the shared objects that it refers to

    def message(self) -> tuple[bytes, list[object]]:
        """The payload of a JOB message, and the shared objects that it refers to."""
        buffer = self.job.buffer
        earlier = self._earlier()
        numbered = [pack_number(number) + handle_of(each) for number, each in earlier]
        kept = [buffer, *self.pickled[1], *(each for _, each in earlier)]
        return pack([handle_of(buffer), self.pickled[0], *numbered]), kept

    def _earlier(self) -> list[tuple[int, Any]]:
        # Numbers and buffers of the jobs that are to be worked on before, the last one of them first.
        return []

    def accept(self, index: int, outcome: Outcome) -> None:
        """An outcome that came as a message."""
        self.job.accept(index, *outcome)

    def lose(self, worker: int, error: Callable[[str], BaseException]) -> None:
        """A worker died: what it ran fails; what it had not begun is there for the others."""
        for index in self.job.settle(worker):
            self.accept(index, (False, error(describe_call(self.function, self.first + index))))


class Failure:
    """Stands among results for an exception."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class JoinSink:
    """The sink of a task that has a thread work on a job: it has no outcomes of its own."""

    def __init__(self, flight: JobFlight[Any]) -> None:
        self._flight = flight
        self.cancellable: bool = flight.sink.cancellable

    def begin(self) -> bool:
        return True

    def cancel(self) -> None:
        self._flight.cancel()
        self._flight.progress()

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:  # noqa: ARG002
        """The task failed: the engine has ended."""
        self._flight.fail(outcomes[0][1])

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:  # noqa: ARG002
        raise AssertionError("it has no values")


class Gathered:
    """The sink of a job whose results an iterator gives; it does not know the iterator, which may be dropped."""

    cancellable = True

    def __init__(self, length: int) -> None:
        # In order: lists of values, and of Failures; none is empty. Who takes a value takes it out of its list.
        self.ready: collections.deque[list[Any]] = collections.deque()
        self.condition: threading.Condition = threading.Condition(threading.Lock())
        self._missing = length  # outcomes not yet in `ready`; written under the condition, as what follows
        self._listeners: list[Callable[[Any], object]] = []
        self._is_closed = False

    def begin(self) -> bool:
        return True

    def cancel(self) -> None:
        raise AssertionError("it is the job that is cancelled")

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        failures = [index for index, (done, _) in enumerate(outcomes) if not done]
        self.deliver_values(first, [value for _, value in outcomes], failures)

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:  # noqa: ARG002
        for index in failures:
            values[index] = Failure(values[index])
        with self.condition:
            if not self._is_closed:
                self.ready.append(values)
            # Behind them: who finds nothing missing, and nothing ready, has had all.
            self._missing -= len(values)
            listeners, self._listeners = self._listeners, []
            self.condition.notify_all()
        for listener in listeners:
            listener(self)

    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self._is_closed or not self._missing

    def listen(self, listener: Callable[[Any], object]) -> None:
        """Has it called as soon as there is an outcome, or none will come."""
        with self.condition:
            if not self.ready and not self.is_over():
                self._listeners.append(listener)
                return
        listener(self)

    def wait(self, timeout: float | None) -> None:
        """Until there is an outcome, or none will come, or `timeout` seconds."""
        with self.condition:
            if not self.ready and not self.is_over():
                self.condition.wait(timeout)

    def close(self) -> None:
        """Keeps nothing any more. Waits for nobody: it may run in a finaliser."""
        self._is_closed = True
        self.ready.clear()
        if self.condition.acquire(blocking=False):  # else there is somebody who wakes them
            try:
                listeners, self._listeners = self._listeners, []
                self.condition.notify_all()
            finally:
                self.condition.release()
            for listener in listeners:
                listener(self)


class JobResults(ListTaker, Iterator[Any]):
    """Iterates over the results of an executor's map(), with ``for`` or with ``async for``.

    It ends with the first call that raises (but for `return_exceptions`), and when it is closed or dropped: calls that have
    not begun are cancelled then. Safe to share among threads.
    """

    _engine: weakref.ref[Engine]
    _gathered: Gathered
    _flight: JobFlight[Any]
    _deadline: float | None
    _return_exceptions: bool

    def __new__(
        cls,
        engine: weakref.ref[Engine],
        gathered: Gathered,
        flight: JobFlight[Any],
        deadline: float | None,
        return_exceptions: bool,
    ) -> JobResults:
        """Over what is gathered of the flight."""
        self = super().__new__(cls, gathered.ready, Failure)
        self._engine = engine
        self._gathered = gathered
        self._flight = flight
        self._deadline = deadline
        self._return_exceptions = return_exceptions
        return self

    def __aiter__(self) -> JobResults:
        return self

    async def __anext__(self) -> Any:
        import asyncio

        gathered = self._gathered
        while not self._has_values and not gathered.is_over():
            self._flight.ask()
            # A task that is cancelled here may go on with the iteration.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(until_done(gathered.listen), self._remaining())
            self._check_time()
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Ends the iteration: cancels the calls that have not begun."""
        if not self._gathered.is_over():
            self._flight.cancel()
        self._gathered.close()
        self._drop_list()

    async def aclose(self) -> None:
        """close(), for those who close an asynchronous iterator."""
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_return_exceptions"):
            self.close()

    # What next() of ListTaker calls is _wait(None) and _failed().

    def _wait(self, _: None) -> None:
        # Until there is an outcome, or none will come.
        engine = self._engine()
        if engine is not None and engine.inherited:
            engine.refuse_inherited()
        pumping = engine is not None and engine.pumping()
        gathered = self._gathered
        try:
            while not self._has_values:
                if gathered.is_over():
                    self._look_behind_the_end()
                    return
                self._check_time()
                if pumping and engine is not None:
                    engine.pump()
                else:
                    self._await_news()
        except BaseException:
            self.close()
            raise

    def _look_behind_the_end(self) -> None:
        # The last ones were there before it was known that there will be no more.
        if not self._has_values:
            raise StopIteration

    def _await_news(self) -> None:
        # Workers tell by themselves, but for one that is in a long item. Who looks by himself has the results of short ones
        # sooner, and while they work on the next ones.
        gathered = self._gathered
        for _ in range(LOOKS):
            self._flight.collect()
            if self._has_values or gathered.is_over():
                return
            time.sleep(LOOK_SECONDS)
        remaining = self._remaining()
        gathered.wait(TELLING_SECONDS if remaining is None else min(TELLING_SECONDS, remaining))
        if not self._has_values and not gathered.is_over():
            self._flight.ask()
            remaining = self._remaining()
            # Not for ever: who closes it (in a finaliser) wakes nobody who is just about to sleep.
            gathered.wait(LONGEST_SECONDS if remaining is None else min(LONGEST_SECONDS, remaining))

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _check_time(self) -> None:
        if not self._has_values and not self._gathered.is_over() and self._remaining() == 0.0:
            from freethreading._exceptions import TaskTimeoutError  # expensive to import

            self.close()
            raise TaskTimeoutError

    def _failed(self, failure: Failure) -> Any:
        error = failure.error
        del failure
        if self._return_exceptions:
            return error
        self.close()
        try:
            raise_failure(error)
        finally:
            del error  # the exception's traceback keeps this frame
