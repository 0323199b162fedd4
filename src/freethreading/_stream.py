"""A map whose items go to the workers as they come: docs/design/jobs.md.

A stream puts them into *open jobs*, one behind the other, where workers take them at once; whoever waits for results
collects them himself, and is told when there are some.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from freethreading._core import MapJob, ThreadJob
from freethreading._engine import OPEN, EngineClosedError, Sink, Task, terminated_error
from freethreading._map_job import J, JobFlight, SharedFlight

if TYPE_CHECKING:
    from freethreading._process_engine import ProcessEngine
    from freethreading._thread_engine import ThreadEngine

# What ends an extend() of an open job, as in extend.hpp.
ENDED = 1
FULL = 2
FOREIGN = 3

# Items that an open job may have: the first one's, and those of later ones at most.
FIRST_ITEMS = 64
MOST_ITEMS = 1024
# Bytes of their encodings. A larger item goes by itself.
ROOM = 1 << 16


class StreamSink(Protocol):
    """Where the outcomes of a stream go: a Sink that is also told that there are some."""

    @property
    def is_attended(self) -> bool:
        """Whether somebody is to collect them. If not, workers and engine do."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether no item is to begin any more."""
        ...

    def news(self) -> None:
        """There may be outcomes to collect."""
        ...


class StreamFlight(JobFlight[J]):
    """An open job of a stream's."""

    is_stream = True
    stream: Stream

    @property
    def is_due(self) -> bool:
        return self.is_withdrawn or not self._is_collected_for()

    def progress(self) -> None:
        if self._is_collected_for() and not self.is_withdrawn:
            self.stream.sink.news()
        else:
            self.keep_telling()
            self.collect()

    def tell(self, asked: bool) -> None:
        if asked or self.is_due:
            self.progress()

    def keep_telling(self) -> None:
        """Workers tell of what is done though nobody asks."""

    def _is_collected_for(self) -> bool:
        # An engine that is closed waits for the end of its jobs, not for those who are to have their results.
        return self.stream.sink.is_attended and not self.stream.is_closing()

    def _collect_from_job(self, most: int) -> tuple[int, list[Any], list[int]]:
        job: Any = self.job
        found: tuple[int, list[Any], list[int]] = (job.collect if self.stream.ordered else job.collect_any)(
            most
        )
        return found


class ThreadStreamFlight(StreamFlight[ThreadJob]):
    """One whose workers are threads."""

    task: Task  # has a worker work on it

    def next_to_run(self) -> JobFlight[ThreadJob]:
        """What a worker that was called to it is to work on: an earlier one first."""
        return next(self.stream.before(self), self)


class SharedStreamFlight(StreamFlight[MapJob], SharedFlight):
    """One whose workers are processes."""

    number: int  # the job's

    def _earlier(self) -> list[tuple[int, Any]]:
        return [(each.number, each.job.buffer) for each in self.stream.before(self)][::-1]

    def keep_telling(self) -> None:
        self.job.keep_telling()


class Stream:
    """The open jobs of one map. One thread at a time may extend() it; anybody may call the rest."""

    def __init__(self, function: Callable[..., Any], sink: Any, ordered: bool) -> None:
        self.function = function
        self.sink: StreamSink = sink
        self.ordered = ordered
        self.refusal: BaseException | None = (
            None  # why the engine has not taken an item; its outcome says so too
        )
        self._flight: StreamFlight[Any] | None = None  # that takes items
        # Those that are not complete, in order. Replaced under the lock, read without.
        self._flights: tuple[StreamFlight[Any], ...] = ()
        self._lock = threading.Lock()
        self._last: tuple[int, Any] = 0, ()  # the index of the last job's first item, and that job
        self._items = FIRST_ITEMS

    @property
    def pulled(self) -> int:
        """Items that it has taken or passed."""
        first, job = self._last
        return first + len(job)

    def extend(self, items: Iterator[Any], most: int) -> tuple[bool, list[Any]]:
        """Hands up to `most` items to the workers: whether there may be more of them, and one that is not for the codec,
        behind those that it took, where there is one. Raises what the input raises, and what the engine says.
        """
        last = self.pulled + most
        while (missing := last - self.pulled) > 0:
            flight = self._flight
            if flight is None:
                flight = self._begin()
            if flight is None:
                return False, []
            why, item = flight.job.extend(items, missing, self._invite)
            while why == FULL:
                is_new = not len(flight.job)
                self.seal()
                if self.sink.is_over:
                    return False, []
                if is_new:
                    return True, [item]  # no job has room for it
                flight = self._begin()
                if flight is None:
                    return False, []
                why, item = flight.job.extend(iter((item,)), 1, self._invite)
            if why == ENDED:
                self.seal()
                return False, []
            if why == FOREIGN:
                return True, [item]
        return True, []

    def skip(self) -> None:
        """The next item goes another way."""
        flight = self._flight
        if flight is not None and not len(flight.job):
            flight.first += 1
            self._last = flight.first, flight.job
        else:
            self.seal()
            self._last = self.pulled + 1, ()

    def seal(self) -> None:
        """The job that takes items takes no more."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        flight.job.seal()
        if flight.job.is_complete:  # it was collected before
            self._dismiss(flight)

    def collect(self, most: int) -> None:
        """Gives the sink what is known, or about so much of it."""
        last = -1
        # Looked up anew: one that has begun meanwhile was left out by those who found this thread at the one before.
        while (flight := next((each for each in self._flights if each.first > last), None)) is not None:
            last = flight.first
            flight.collect(most)
            if flight.job.is_complete:
                self._dismiss(flight)
            elif self.ordered:
                return

    def ask(self) -> None:
        """Has the sink told of the next outcome. What is known already is not told of: it is to be collected behind this."""
        for flight in self._flights:
            flight.job.ask()

    def before(self, flight: StreamFlight[Any]) -> Iterator[Any]:
        """The jobs before it that have items left which nobody has set out to run: they begin first."""
        for each in self._flights:
            if each.first >= flight.first:  # that one may have been complete for long
                return
            if each.job.has_waiting:
                yield each

    def let_run(self) -> None:
        """The sink is not attended any more. Waits for nobody: it may run in a finaliser."""
        for flight in self._flights:
            flight.keep_telling()
            self._let_collect(flight)
            self._forget_later(flight)

    def cancel(self) -> None:
        """What has not begun does not run. Waits for nobody: it may run in a finaliser."""
        for flight in self._flights:
            flight.cancel()
            flight.progress()
            self._forget_later(flight)

    def fail(self, error: BaseException) -> None:
        """What is not done fails."""
        for flight in self._flights:
            flight.fail(error)

    @abstractmethod
    def is_closing(self) -> bool:
        """Whether the engine ends as soon as what it has is done."""

    @abstractmethod
    def _make_flight(self, first: int, items: int) -> StreamFlight[Any]: ...

    @abstractmethod
    def _call(self, flight: Any) -> None:
        """Has one more worker work on it. Raises where the engine takes nothing any more."""

    @abstractmethod
    def _forget(self, flight: Any) -> None:
        """It is complete: the engine need not know it any more."""

    @abstractmethod
    def _forget_later(self, flight: Any) -> None:
        """The engine is to look whether it is complete. Waits for nobody."""

    def _let_collect(self, flight: Any) -> None:
        """What is known of it is collected though nobody asks. Waits for nobody."""
        flight.progress()

    def _begin(self) -> StreamFlight[Any] | None:
        # None: no item is to begin any more.
        first = self.pulled
        flight = self._make_flight(first, self._items)
        flight.job.ask()  # somebody may have asked before it was there
        self._items = min(2 * self._items, MOST_ITEMS)
        with self._lock:
            self._flights = (*self._flights, flight)
        self._last = first, flight.job
        self._flight = flight
        if not self.sink.is_attended:
            flight.keep_telling()
        if self.sink.is_over:
            flight.cancel()
            return None
        return flight

    def _invite(self) -> None:
        flight = self._flight
        assert flight is not None
        try:
            self._call(flight)
        except BaseException as error:
            self.refusal = error
            flight.fail(terminated_error() if isinstance(error, EngineClosedError) else error)
            raise

    def _dismiss(self, flight: StreamFlight[Any]) -> None:
        with self._lock:
            self._flights = tuple(each for each in self._flights if each is not flight)
        self._forget(flight)


class ThreadStream(Stream):
    """One whose workers are threads."""

    def __init__(
        self,
        engine: ThreadEngine,
        function: Callable[..., Any],
        sink: Sink,
        ordered: bool,
        context: Context,
    ) -> None:
        super().__init__(function, sink, ordered)
        self._engine = engine
        self._context = context

    def is_closing(self) -> bool:
        return False  # its workers have nobody to wait for

    def _make_flight(self, first: int, items: int) -> ThreadStreamFlight:
        sink: Any = self.sink
        job = ThreadJob.open(items, self._engine.options.workers)
        flight = ThreadStreamFlight(job, self.function, sink, first)
        flight.stream = self
        flight.task = self._engine.enter_job(flight, self._context)
        return flight

    def _call(self, flight: ThreadStreamFlight) -> None:
        self._engine.join_job(flight.task)

    def _forget(self, flight: ThreadStreamFlight) -> None:
        self._engine.forget_job(flight)

    def _forget_later(self, flight: ThreadStreamFlight) -> None:
        if flight.job.is_complete:  # else the worker that has it does so
            self._engine.forget_job(flight)


class ProcessStream(Stream):
    """One whose workers are processes."""

    def __init__(
        self,
        engine: ProcessEngine,
        function: Callable[..., Any],
        sink: Sink,
        ordered: bool,
        entry: int,
        pickled: tuple[bytes, Sequence[object]],
    ) -> None:
        super().__init__(function, sink, ordered)
        self._engine = engine
        self._name = entry, pickled  # the function's, as a SharedFlight takes it

    def is_closing(self) -> bool:
        return self._engine.state != OPEN

    def _make_flight(self, first: int, items: int) -> SharedStreamFlight:
        sink: Any = self.sink
        job = MapJob.open(items, ROOM, self._engine.options.workers)
        flight = SharedStreamFlight(job, self.function, sink, first, *self._name)
        flight.stream = self
        engine = self._engine
        flight.number = engine._calls.next_number()
        with engine._lock:
            engine._refuse()
            if engine._drainer is None:
                engine._start_drainer()
            is_first = not engine._jobs  # the drainer may be idle, and then no answer wakes it
            engine._jobs[flight.number] = flight
        if is_first:
            engine._calls.nudge()
        return flight

    def _call(self, flight: SharedStreamFlight) -> None:
        engine = self._engine
        with engine._lock:
            engine._refuse()
            engine._share(flight.number, flight, 1)
            grows = engine._want_for_work()
        if grows:
            engine._calls.nudge()

    def _forget(self, flight: SharedStreamFlight) -> None:
        engine = self._engine
        with engine._lock:
            engine._jobs.pop(flight.number, None)
        if engine.state != OPEN:
            engine._calls.nudge()

    def _forget_later(self, flight: SharedStreamFlight) -> None:  # noqa: ARG002 - it looks at all that are due
        self._engine._calls.nudge()

    def _let_collect(self, flight: SharedStreamFlight) -> None:  # noqa: ARG002 - it looks at all that are due
        self._engine._calls.nudge()
