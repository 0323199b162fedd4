"""The engine whose workers are processes: a channel of tasks, a channel of results, and one thread that looks after workers.

A call whose outcome is a future is in `Calls`, in C: whoever waits for it takes answers. Any other task message in the
channel, or with a worker, is a *flight*. What the thread does is in _process_drainer.py, what callers do is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from freethreading._core import MapJob
from freethreading._engine import CALL, OPEN, EngineClosedError, Sink, Task, report_exception
from freethreading._flight import PreparedFunction, encode, name_of, pack_call
from freethreading._futures import PoolFuture
from freethreading._map_job import SharedFlight
from freethreading._process_drainer import EndedWork, ProcessDrainer
from freethreading._process_worker import refuse_at_import
from freethreading._stream import ProcessStream


class ProcessEngine(ProcessDrainer):
    """Workers are processes; tasks and results pass through the session's region."""

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return PreparedFunction(function)

    def carries(self, function: Callable[..., Any]) -> bool:
        return bool(self._calls.number_of(function))

    def submit_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context | None = None,
        item: int | None = None,
        owner: object = None,
        listener: Callable[[Any], object] | None = None,
    ) -> PoolFuture[Any]:
        future: PoolFuture[Any] = PoolFuture(self._reference)
        if owner is not None or listener is not None:
            future.prepare(owner, listener)
        try:
            count = self._calls.submit(future, function, args, kwargs, context, item)
            if count is None:
                count = self._submit_pickled(future, function, args, kwargs, context, item)
        except Exception as error:
            if owner is not None:
                raise
            self._fail_at_once(future, error)
            return future
        if self._wanted < self.options.workers and (self._wanted < count or self._jobs or self._flights):
            self.grow()
        return future

    def _submit_pickled(
        self,
        future: PoolFuture[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context | None,
        item: int | None,
    ) -> int:
        self._refuse()
        refuse_at_import()
        caller = copy_context() if context is None else context
        # Runs the user's code.
        payload, kept, buffers = pack_call(function, args, kwargs, caller, self._sender)
        with self._lock:
            self._refuse()
            if self._drainer is None:
                self._start_drainer()
        count = self._calls.put(future, CALL, payload, kept, name_of(function), item, buffers)
        if count is None:
            self._refuse()
            raise EngineClosedError
        return count

    def grow(self) -> None:
        """One more worker where there is work for it."""
        with self._lock:
            if self._state == OPEN and self._want_for_work():
                self._calls.nudge()

    def submit(self, task: Task) -> None:
        self._refuse()
        refuse_at_import()
        flight = encode(
            task, self._calls.next_number(), self._sender
        )  # outside the lock: runs the user's code
        with self._lock:
            try:
                self._refuse()
                if self._drainer is None:
                    self._start_drainer()
            except BaseException:
                flight.drop()
                raise
            first = not self._flights  # the drainer may be idle, and then no answer wakes it
            if task.sink.cancellable:
                self._backlog.append(flight)
                self._feed()
            else:
                self._publish(flight)
            if self._want_for_work() or first:
                self._calls.nudge()

    def for_map(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        if self.options.max_tasks is not None or not self._calls.is_at_home(None):
            return None
        if self._calls.number_of(function):
            return function
        try:
            return PreparedFunction(function)
        except Exception:
            return None  # said by its chunks

    def submit_map(
        self,
        function: Callable[..., Any],
        items: Sequence[Any],
        star: bool,
        sink: Sink,
        context: Context,  # noqa: ARG002 - for_map() has looked at it
        first: int = 0,
    ) -> SharedFlight | None:
        self._refuse()
        refuse_at_import()
        workers = self.options.workers
        job = MapJob.encode(items, star, workers)
        if job is None:
            return None
        number = self._calls.next_number()
        called = function.function if isinstance(function, PreparedFunction) else function
        flight = SharedFlight(job, called, sink, first, *self._name_for_jobs(function))
        flight.on_complete = partial(self._forget_job, number)
        with self._lock:
            self._refuse()
            if self._drainer is None:
                self._start_drainer()
            self._jobs[number] = flight
            try:
                self._share(number, flight, min(len(job), workers))
            except BaseException as error:
                del self._jobs[number]
                job.withdraw(True, error)
                raise
            self._want(min(len(job), workers))
        self._calls.nudge()
        return flight

    def resize(self, workers: int) -> None:
        with self._lock:
            self._refuse()
            grown = workers - self.options.workers
            self.options = self.options._replace(workers=workers)
            is_full = self.options.eager and self.options.idle_timeout is None
            out = workers if is_full else self._outstanding()
            self._wanted = min(max(self._wanted, out if grown > 0 else 0), workers)
            self._at_first = workers if self._at_first else 0
            self._calls.is_full = self._wanted >= workers
            self._calls.nudge()
            self._feed()
            for number, flight in self._jobs.items():
                if flight.is_stream and grown > 0:
                    flight.job.seal()  # an open one calls its workers by itself, no more than it was made for
                self._share(number, flight, min(grown, len(flight.job)))

    def _name_for_jobs(self, function: Callable[..., Any]) -> tuple[int, tuple[bytes, Sequence[object]]]:
        # What a SharedFlight says of the function that for_map() gave.
        number = 0 if isinstance(function, PreparedFunction) else self._calls.number_of(function)
        if number:
            return number, (b"", ())
        # Else its name may mean something else since for_map() looked.
        prepared = function if isinstance(function, PreparedFunction) else PreparedFunction(function)
        return 0, (prepared.data, prepared.kept)

    def open_stream(
        self,
        function: Callable[..., Any],
        sink: Sink,
        ordered: bool,
        context: Context,  # noqa: ARG002
    ) -> ProcessStream | None:
        prepared = self.for_map(function)
        if prepared is None:
            return None
        return ProcessStream(self, function, sink, ordered, *self._name_for_jobs(prepared))

    def end_call(self, future: PoolFuture[Any]) -> bool:
        if self.inherited:
            return False
        self._ending.append(future)
        self._calls.nudge()
        return True

    def end_map(self, sink: Sink) -> None:
        if self.inherited:
            return
        with self._lock:
            flights = [flight for flight in self._flights.values() if flight.task.sink is sink]
            tasks = self._tasks if flights else None  # which an engine that has ended has not
            for flight in flights:
                flight.is_cancelled = True
            self._ending.extend(
                EndedWork(number, self._jobs) for number, job in self._jobs.items() if job.sink is sink
            )
        for flight in flights:
            if tasks is not None and flight.sequence and tasks.withdraw(flight.sequence):
                with self._lock:
                    self._flights.pop(flight.number, None)
                    self._feed()
                flight.drop()
            else:
                self._ending.append(EndedWork(flight.number, self._flights))
        self._calls.nudge()

    def cancel_pending(self) -> None:
        with self._lock:
            flights = list(self._backlog)
            self._backlog.clear()
            jobs = [flight for flight in self._jobs.values() if flight.sink.cancellable]
        for flight in flights:
            flight.drop()
        for each in [*(flight.task.sink for flight in flights), *jobs, *self._calls.pending()]:
            try:
                each.cancel()
            except BaseException:  # a callback's: the others are cancelled too
                report_exception()
        self._calls.nudge()
