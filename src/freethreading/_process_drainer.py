"""The part of a process engine that its own thread runs: the *drainer*.

It starts and replaces workers, takes answers where nobody waits for them who could, and settles what a dead worker had:
docs/design/engine.md, docs/design/calls.md.
"""

from __future__ import annotations

import collections
import multiprocessing.util
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

from freethreading import _imports, _main_module
from freethreading._contexts import Sender
from freethreading._core import BlobLog, Block, Calls, Channel, handing, handle_of, private_memory
from freethreading._engine import (
    CLOSED,
    OPEN,
    TERMINATED,
    Engine,
    Options,
    forget,
    leave,
    report,
    report_exception,
    terminated_error,
)
from freethreading._flight import Flight, describe_call, describe_item, load_answer, named
from freethreading._frames import JOB, PROGRESS, READY, START_FAILED, UNSENT
from freethreading._futures import FutureSink, PoolFuture
from freethreading._loaded import look_up
from freethreading._map_job import SharedFlight
from freethreading._members import IDLE, Crew, Member, pack_setup
from freethreading._process_worker import prepare_start
from freethreading._threads import Thread

# A worker's exit wakes the drainer; the supervisor's does not, nor an answer that nobody waits for: how long it sleeps until
# it looks, and how long once there has been nothing to do for a while.
POLL_SECONDS = 0.2
IDLE_POLL_SECONDS = 1.0
# The same while there is a call to be ended.
ENDING_POLL_SECONDS = 0.005
# How long a pool waits for its first call before it starts its workers: they begin with the modules that it needs.
GRACE_SECONDS = 0.25
# Results that are handed out before the drainer looks at its workers again.
BURST = 256

_hooked_pid = 0


class EndedWork:
    """A flight or a job that is to end with the workers that have it."""

    def __init__(self, number: int, there: Mapping[int, object]) -> None:
        self._number = number
        self._there = there

    def done(self) -> bool:
        """Whether it is no longer there."""
        return self._number not in self._there


class ProcessDrainer(Engine):
    """A process engine's state, and what its drainer does with it.

    Only the drainer touches `_crew` and meets answers to flights and jobs. `_flights`, `_jobs`, `_backlog` and `_wanted`
    are guarded by `_lock`; no outcome is delivered under it.
    """

    exit_grace = 5.0

    def __init__(self, options: Options) -> None:
        if options.max_memory is not None and not private_memory(0):
            raise OSError("max_memory_per_child needs /proc/self/statm, which cannot be read here")
        self._drainer: threading.Thread | None = None
        _main_module.plan()  # before anything is pickled: from here on, what this process defines goes to workers
        self._setup, self._setup_kept = pack_setup(options)
        made_in = copy_context()
        self._made_in, shared = Sender(Context()).pack(made_in)
        self._setup_kept += shared
        self._sender = Sender(made_in)
        self._tasks = Channel()
        self._results = Channel()
        self._inbox = Channel()  # the drainer sleeps on it
        self._functions = BlobLog()
        self._calls = Calls(
            self._tasks,
            self._results,
            self._inbox,
            self._enter_function,
            load_answer,
            report,
            made_in=tuple(made_in.items()),
        )
        self._crew = Crew()
        self._flights: dict[int, Flight] = {}  # in the channel or with a worker
        self._jobs: dict[int, SharedFlight] = {}
        self._backlog: collections.deque[Flight] = collections.deque()  # kept back: can be cancelled
        self._unpublished: collections.deque[tuple[Flight, BaseException]] = collections.deque()
        # Whose workers are to end.
        self._ending: collections.deque[PoolFuture[Any] | EndedWork] = collections.deque()
        self._wanted = 0
        # How many are wanted with the first call, and when at the latest.
        self._at_first = options.workers if options.eager else 0
        self._begins_by = time.monotonic() + GRACE_SECONDS
        self._poll = POLL_SECONDS
        super().__init__(options)
        self._calls.gives(PoolFuture, self._reference)
        self.give = self._calls.give
        _hook_multiprocessing()
        if options.eager:
            with self._lock:
                self._start_drainer()

    # What callers and drainer have in common.

    def _enter_function(self, function: Callable[..., Any]) -> tuple[int, dict[str, Any], str] | None:
        # Its number in the log.
        _imports.learn(function)
        found = named(function)
        return None if found is None else (self._functions.append(found[0]), *found[1:])

    def _share(self, number: int, flight: SharedFlight, times: int) -> None:
        # Has so many workers work on it.
        message, kept = flight.message()
        for _ in range(times):
            self._tasks.put(JOB, number, flight.entry, message, kept)

    def join(self, timeout: float | None = None) -> bool:
        drainer = self._drainer
        if drainer is None or self.inherited:
            return True
        drainer.join(timeout)
        return not drainer.is_alive()

    def join_idle(self) -> None:
        self.join()

    def in_engine(self) -> bool:
        return threading.current_thread() is self._drainer

    def pumping(self) -> bool:
        return threading.current_thread() is self._drainer

    def pump(self) -> None:
        if not self._turn(waited_for=True):
            self._end_workers()

    def worker_count(self) -> int:
        return len(self._crew)

    def _closing(self) -> None:
        self._calls.is_open = False
        if self._drainer is None:
            self._release()
        else:
            self._calls.nudge()

    def _start_drainer(self) -> None:
        # Under the lock. Not a daemon: leave() ends it before the interpreter joins threads.
        drainer = Thread(self._drain, "freethreading-drainer", daemon=False)
        drainer.start()
        self._drainer = drainer
        self._calls.is_open = self._state == OPEN

    def _publish(self, flight: Flight) -> None:
        # Under the lock. Where there is no memory for it, the drainer fails it.
        self._flights[flight.number] = flight
        try:
            flight.sequence = self._tasks.put(flight.task.kind, flight.number, 0, flight.message())
        except BaseException as error:
            del self._flights[flight.number]
            self._unpublished.append((flight, error))
            self._calls.nudge()

    def _feed(self) -> None:
        # Under the lock. Publishes what was kept back where workers could run short; from here on it counts as running.
        while self._backlog and len(self._flights) <= self.options.workers:
            flight = self._backlog.popleft()
            if flight.begin():
                self._publish(flight)
            else:
                flight.drop()

    # The drainer.

    def _drain(self) -> None:
        handing(True)
        try:
            while self._turn():
                pass
        except BaseException as error:
            report_exception()
            self._set_broken(error)
        finally:
            self._end_workers()
            self._release()

    def _turn(self, waited_for: bool = False) -> bool:
        # One round; False: there is nothing left to do. `waited_for`: a callback of the drainer's waits for an answer.
        epochs = self._calls.epochs()  # before it looks: what changes later ends its sleep
        if self._state == TERMINATED or self.broken is not None:
            return False
        self._crew.enlist()
        if self._awaits_first(epochs):
            return True
        self._staff()
        if self._crew.gone():  # whose wake-up may have been before the epochs
            message = self._calls.drain()
        elif (
            waited_for
            or self._flights
            or self._jobs
            or self._backlog
            or self._state != OPEN
            or self._calls.wants_draining
            or self._ending
        ):
            message = self._calls.receive(epochs, ENDING_POLL_SECONDS if self._ending else POLL_SECONDS)
            self._poll = POLL_SECONDS / 2  # without the GIL, what it has made is freed when it runs next
        else:
            self._poll = min(2 * self._poll, IDLE_POLL_SECONDS) if not len(self._calls) else POLL_SECONDS
            message = self._calls.idle(epochs, self._poll)
            if message is None:
                message = self._calls.drain()  # what nobody has waited for
        for _ in range(BURST):
            if message is None:
                break
            self._receive(*message)
            message = self._calls.drain()
        if message is not None:
            self._receive(*message)
        for number, job in list(self._jobs.items()):
            if job.is_due:
                self._progress(number, job)
        self._end_calls()
        buried = [member for member in self._crew.gone() if self._bury(member)]
        if (failed := self._crew.count_failed_start(buried)) is not None and self.broken is None:
            self._set_broken(failed.lost_error("its start, as the ones before it did"))
        while self._unpublished:
            self._fail(*self._unpublished.popleft())
        with self._lock:
            self._feed()
            idle = not self._outstanding()
        if self._state == CLOSED and idle:
            self._tasks.close()  # the workers end, each when it finds the channel empty
            return len(self._crew) != 0
        return True

    def _awaits_first(self, epochs: tuple[int, int]) -> bool:
        # Whether there are no workers because the first call may tell what they need; waits for it. docs/design/imports.md
        left = self._begins_by - time.monotonic()
        with self._lock:
            if not self._at_first:
                return False
            if left <= 0 or self._outstanding() or self._state != OPEN:
                self._want(0)
                return False
        try:
            prepare_start()
        except BaseException as error:
            self._set_broken(error)
            return True
        self._calls.idle(epochs, left)
        return True

    def _staff(self) -> None:
        # Starts the workers that are missing, and has those leave that are too many.
        needed = self._workers_needed()
        missing = self._crew.missing(needed, max(self._wanted, needed), self._tasks)
        if self.broken is not None:
            return
        try:
            for _ in range(missing):
                self._crew.start(self.options, self._worker_args(), (self._inbox, self._results))
            if needed and self._state == OPEN:
                self._crew.keep_standby(self.options, self._worker_args, (self._inbox, self._results))
            else:
                self._crew.dismiss_standby()
        except BaseException as error:
            self._set_broken(error)

    def _worker_args(self) -> tuple[Any, ...]:
        handles = self._tasks.handle, self._results.handle, self._functions.handle
        return *handles, handle_of(self._crew.surplus), self._made_in, self._setup

    def _workers_needed(self) -> int:
        with self._lock:
            if self._state == OPEN:  # whatever is out has one at least
                return self._wanted or min(1, self._outstanding())
            return min(max(self._wanted, 1), self._outstanding())

    def _want(self, workers: int) -> None:
        # So many at least. Under the lock.
        self._wanted = max(self._wanted, workers, self._at_first)
        self._at_first = 0
        self._calls.is_full = self._wanted >= self.options.workers

    def _want_for_work(self) -> bool:
        # One more where there is work for it; whether there is. Under the lock.
        grows = self._wanted < min(self._outstanding(), self.options.workers)
        if grows:
            self._want(self._wanted + 1)
        return grows

    def _outstanding(self) -> int:
        in_jobs = sum(len(flight.job) for flight in self._jobs.values())
        return len(self._flights) + len(self._backlog) + len(self._calls) + in_jobs

    # `_block` keeps alive what the payload refers to, until it has been unpickled.
    def _receive(self, kind: int, number: int, index: int, payload: bytes, _block: Block | None) -> None:
        if kind == READY:
            self._crew.one_is_ready()
        elif kind == START_FAILED:
            self._set_broken(load_answer(kind, payload)[1])
        else:
            self._settle(kind, number, index, payload)

    def _settle(self, kind: int, number: int, index: int, payload: bytes) -> None:
        job = look_up(self._jobs, number)
        if job is not None:
            if kind != PROGRESS:
                job.accept(index, load_answer(kind, payload))
            self._progress(number, job)
            return
        flight = look_up(self._flights, number)
        if flight is None:  # failed meanwhile
            return
        outcomes = [(False, flight.unsent[index]) if kind == UNSENT else load_answer(kind, payload)]
        flight.arrived = index + 1
        if flight.arrived == flight.length:
            with self._lock:
                del self._flights[number]
                self._feed()
            flight.drop()
        self._hand(flight.task, flight.first + index, outcomes)

    def _bury(self, member: Member) -> bool:
        # Settles what a dead worker had. False: that is done already. Invariant BLAME: the count is read before the note (a
        # take that was undone wipes its note before another can be counted), and both before the results are drained.
        record = member.process.record
        taken = self._tasks.taken()
        sequence, number, item = record.task_sequence, record.task_tag, record.item
        # Whatever it published is in the channel by now.
        self._receive_all()
        if not self._crew.remove(member):
            return False  # a callback waited, and its turn of ours buried it
        member.await_end()
        self._tasks.wake()  # it may have been the sentry of those that wait
        if record.leaving == IDLE:
            with self._lock:
                self._wanted -= 1
                self._calls.is_full = False
                # Behind that: who gives work puts it first and then looks at _wanted. So it finds one less or is seen here.
                self._wanted = max(self._wanted, self._crew.staying()) + self._tasks.qsize()
                self._wanted = min(self._wanted, self.options.workers)
                self._calls.is_full = self._wanted >= self.options.workers
        for job_number, job in list(self._jobs.items()):
            self._lose_of_job(job_number, job, member)
        if 0 < sequence <= taken:
            flight = look_up(self._flights, number)
            if flight is not None:
                self._lose(flight, item, member)
            else:
                self._lose_call(number, member)
        return True

    def _end_calls(self) -> None:
        # Has the workers that run them end; again and again, until they are done: one may be about to begin.
        asked = [self._ending.popleft() for _ in range(len(self._ending))]
        for work in {id(each): each for each in asked}.values():
            if work.done():
                continue
            self._ending.append(work)
            for member in self._crew.at(work._number, self._tasks.taken()):
                if member.process.record.ended_in != work._number:
                    member.end_task(work._number)

    def _lose_call(self, number: int, member: Member) -> None:
        # A worker has died with it.
        call = self._calls.pop(number)
        if call is None:  # it was answered
            return
        future, function, index = call
        if member.process.record.ended_in != number:
            self._fail_future(future, member.lost_error(describe_call(function, index)))
            return
        try:
            future.end_cancelled()
        except BaseException:  # a callback's
            report_exception()

    def _progress(self, number: int, job: SharedFlight) -> None:
        try:
            job.progress()
        except BaseException:  # a callback's
            report_exception()
        if job.is_stream and job.job.is_complete:
            self._forget_job(number)

    def _forget_job(self, number: int) -> None:
        # Its last outcome was given to its sink; by any thread.
        with self._lock:
            self._jobs.pop(number, None)
        if self._state != OPEN:
            self._calls.nudge()  # the drainer may wait for it

    def _lose_of_job(self, number: int, job: SharedFlight, member: Member) -> None:
        job.lose(member.number, lambda task: member.lost_error(task))
        if job.job.has_free:  # those who worked on it may have left
            try:
                self._share(number, job, 1)
            except BaseException as error:
                job.fail(error)
        self._progress(number, job)

    def _receive_all(self) -> None:
        while (message := self._calls.drain()) is not None:
            self._receive(*message)

    def _fail_future(self, future: PoolFuture[Any], error: BaseException) -> None:
        try:
            FutureSink(future).deliver(0, [(False, error)])
        except BaseException:
            report_exception()

    def _lose(self, flight: Flight, item: int, member: Member) -> None:
        # The worker died with this flight: its running item fails, the items behind that one fly again.
        lost = None if 0 < item <= flight.arrived else flight.arrived
        rest = flight.rest(flight.arrived if lost is None else lost + 1, self._calls.next_number())
        with self._lock:
            del self._flights[flight.number]
            if rest is not None and not flight.is_cancelled:
                self._publish(rest)
        if lost is not None:
            error = member.lost_error(describe_item(flight.task, flight.first + lost))
            self._hand(flight.task, flight.first + lost, [(False, error)])
        flight.drop()

    def _fail(self, flight: Flight, error: BaseException) -> None:
        # Fails what has not arrived of a flight that flies no more.
        if flight.begin():
            missing = range(flight.arrived, flight.length)
            self._hand(flight.task, flight.first + flight.arrived, [(False, error) for _ in missing])
        flight.drop()

    def _end_workers(self) -> None:
        # Ends whatever workers there still are and fails what is not done.
        self._calls.is_open = False
        self._receive_all()
        with self._lock:
            flights = [*self._flights.values(), *self._backlog]
            self._flights.clear()
            self._backlog.clear()
            jobs = list(self._jobs.values())
            self._jobs.clear()
        self._tasks.close()
        self._tasks.discard_all()
        self._crew.terminate()
        for flight in flights:
            self._fail(flight, self.broken if self.broken is not None else terminated_error())
        for job in jobs:
            try:
                job.fail(self.broken if self.broken is not None else terminated_error())
            except BaseException:  # a callback's
                report_exception()
        for future in self._calls.take_all():
            self._fail_future(future, self.broken if self.broken is not None else terminated_error())
        self._crew.end()

    def _release(self) -> None:
        # The last worker has ended. A pool that is kept when it is closed keeps no memory of the session's.
        self._calls.release()
        self._crew.release()
        for name in ("_tasks", "_results", "_inbox", "_functions"):
            self.__dict__.pop(name, None)
        self._setup, self._setup_kept = None, []
        with self._lock:
            self.options = self.options._replace(initializer=None, initargs=())
        self._sender = Sender(Context())
        forget(self)


def _hook_multiprocessing() -> None:
    # A child process of multiprocessing joins its children before its threads: the workers must have ended by then.
    global _hooked_pid
    if _hooked_pid != os.getpid():
        multiprocessing.util.Finalize(None, leave, exitpriority=20)
        _hooked_pid = os.getpid()
