"""The engine whose workers are processes: a channel of tasks, a channel of results, and one thread that drains it.

A task message in the channel, or with a worker, is a *flight*. The drainer gives results to their sinks, starts and
replaces workers, and settles what a dead worker had: docs/design/engine.md.
"""

from __future__ import annotations

import collections
import itertools
import multiprocessing.util
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from freethreading import _main_module, _serialize
from freethreading._core import Block, Channel
from freethreading._engine import (
    CLOSED,
    OPEN,
    TERMINATED,
    Engine,
    Options,
    Outcome,
    Task,
    forget,
    leave,
    report_exception,
    terminated_error,
)
from freethreading._exceptions import WorkerLostError
from freethreading._flight import Flight, PreparedFunction, describe_item, encode
from freethreading._frames import ERROR, NUDGE, READY, START_FAILED, UNSENT, VALUE
from freethreading._loaded import look_up
from freethreading._pool_worker import serve
from freethreading._process_worker import PoolProcess, refuse_at_import
from freethreading._threads import Thread

# Rounds in a row in which workers die before they are ready: then something is wrong with all of them.
MAX_FAILED_STARTS = 3
# A worker's exit wakes the drainer; this is how long it sleeps where that wake came just before it slept.
POLL_SECONDS = 0.2
# How long a terminated worker may take to end before it is killed.
TERMINATE_SECONDS = 1.0
# Results that are handed out before the drainer looks at its workers again.
BURST = 256

_hooked_pid = 0


class _Member:
    """A worker process of this engine."""

    __slots__ = ("number", "process", "ready")

    def __init__(self, number: int, process: PoolProcess) -> None:
        self.number = number
        self.process = process
        self.ready = False  # whether its initializer is done

    @property
    def gone(self) -> bool:
        return self.process.record.ended()


class ProcessEngine(Engine):
    """Workers are processes; tasks and results pass through the session's region.

    Only the drainer touches `_members` and reads the result channel. `_flights`, `_backlog` and `_wanted` are guarded
    by `_lock`; no outcome is delivered under it.
    """

    exit_grace = 5.0

    def __init__(self, options: Options) -> None:
        self._drainer: threading.Thread | None = None
        _main_module.plan()  # before anything is pickled: from here on, what this process defines goes to workers
        self._setup, self._setup_kept = _pack_setup(options)
        self._tasks = Channel()
        self._results = Channel()
        self._inbox: Channel | None = self._results  # what _nudge() writes to, from any thread
        self._members: list[_Member] = []
        self._flights: dict[int, Flight] = {}  # in the channel or with a worker
        self._backlog: collections.deque[Flight] = collections.deque()  # kept back: can be cancelled
        self._unpublished: collections.deque[tuple[Flight, BaseException]] = collections.deque()
        self._numbers = itertools.count(1)
        self._member_numbers = itertools.count()
        self._wanted = options.workers if options.eager else 0
        self._failed_starts = 0  # rounds in a row in which workers died before they were ready
        self._nudged = False
        super().__init__(options)
        _hook_multiprocessing()
        if options.eager:
            with self._lock:
                self._start_drainer()

    # The callers' side.

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return PreparedFunction(function)

    def submit(self, task: Task) -> None:
        self._refuse()
        refuse_at_import()
        flight = encode(task, next(self._numbers))  # outside the lock: runs the user's code
        with self._lock:
            try:
                self._refuse()
                if self._drainer is None:
                    self._start_drainer()
            except BaseException:
                flight.drop()
                raise
            if task.sink.cancellable:
                self._backlog.append(flight)
                self._feed()
            else:
                self._publish(flight)
            if self._wanted < min(self._outstanding(), self.options.workers):
                self._wanted += 1
                self._nudge()

    def cancel_pending(self) -> None:
        with self._lock:
            flights = list(self._backlog)
            self._backlog.clear()
        for flight in flights:
            flight.drop()
            flight.task.sink.cancel()
        self._nudge()

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
        if not self._turn():
            self._end_workers()

    def worker_count(self) -> int:
        return len(self._members)

    def _closing(self) -> None:
        if self._drainer is None:
            self._release()
        else:
            self._nudge()

    def _nudge(self) -> None:
        # Wakes the drainer. A message, since a mere wake-up would be lost while it is not asleep.
        inbox = self._inbox
        if not self._nudged and inbox is not None:
            self._nudged = True
            inbox.put(NUDGE, 0, 0, b"")

    def _start_drainer(self) -> None:
        # Under the lock. Not a daemon: leave() ends it before the interpreter joins threads.
        drainer = Thread(self._drain, "freethreading-drainer", daemon=False)
        drainer.start()
        self._drainer = drainer

    def _publish(self, flight: Flight) -> None:
        # Under the lock. Where there is no memory for it, the drainer fails it.
        self._flights[flight.number] = flight
        try:
            self._tasks.put(flight.task.kind, flight.number, 0, flight.message())
        except BaseException as error:
            del self._flights[flight.number]
            self._unpublished.append((flight, error))
            self._nudge()

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
        try:
            while self._turn():
                pass
        except BaseException as error:
            report_exception()
            self._set_broken(error)
        finally:
            self._end_workers()
            self._release()

    def _turn(self) -> bool:
        # One round; False: there is nothing left to do.
        if self._state == TERMINATED or self.broken is not None:
            return False
        self._staff()
        message = self._results.get(POLL_SECONDS)
        for _ in range(BURST):
            if message is None:
                break
            self._receive(*message)
            message = self._results.try_get()
        if message is not None:
            self._receive(*message)
        gone = [member for member in self._members if member.gone]
        self._count_failed_start([member for member in gone if self._bury(member)])
        while self._unpublished:
            self._fail(*self._unpublished.popleft())
        with self._lock:
            self._feed()
            idle = not self._outstanding()
        if self._state == CLOSED and idle:
            self._tasks.close()  # the workers end, each when it finds the channel empty
            return bool(self._members)
        return True

    def _staff(self) -> None:
        # Starts the workers that are missing.
        while len(self._members) < self._workers_needed() and self.broken is None:
            number = next(self._member_numbers)
            prefix = self.options.name_prefix
            process = PoolProcess(
                target=serve,
                name=f"{prefix}_{number}" if prefix else None,
                args=(number, self._tasks.handle, self._results.handle, self._setup, self.options.max_tasks),
                on_queue=self._results,
            )
            try:
                process.start()
            except BaseException as error:
                self._set_broken(error)
                return
            self._members.append(_Member(number, process))

    def _workers_needed(self) -> int:
        with self._lock:
            if self._state == OPEN:
                return self._wanted
            return min(self.options.workers, self._outstanding())

    def _outstanding(self) -> int:
        return len(self._flights) + len(self._backlog)

    # `_block` keeps alive what the payload refers to, until it has been unpickled.
    def _receive(self, kind: int, number: int, index: int, payload: bytes, _block: Block | None) -> None:
        if kind == NUDGE:
            self._nudged = False
        elif kind == READY:
            self._failed_starts = 0
            for member in self._members:
                if member.number == number:
                    member.ready = True
        elif kind == START_FAILED:
            _, error = _load(ERROR, payload)
            self._set_broken(error)
        else:
            self._settle(kind, number, index, payload)

    def _settle(self, kind: int, number: int, index: int, payload: bytes) -> None:
        flight = look_up(self._flights, number)
        if flight is None:  # failed meanwhile
            return
        outcomes = [(False, flight.unsent[index]) if kind == UNSENT else _load(kind, payload)]
        flight.arrived = index + 1
        if flight.arrived == flight.length:
            with self._lock:
                del self._flights[number]
                self._feed()
            flight.drop()
        self._hand(flight.task, flight.first + index, outcomes)

    def _count_failed_start(self, buried: list[_Member]) -> None:
        # Those that die together, as with their supervisor, are one failure.
        unready = [member for member in buried if not member.ready]
        if not unready:
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS and self.broken is None:
            self._set_broken(self._lost_error(unready[0], "its start, as the ones before it did"))

    def _bury(self, member: _Member) -> bool:
        # Settles what a dead worker had. False: that is done already. Invariant BLAME: the count is read before the note (a
        # take that was undone wipes its note before another can be counted), and both before the results are drained.
        record = member.process.record
        taken = self._tasks.taken()
        sequence, number, item = record.task_sequence, record.task_tag, record.item
        # Whatever it published is in the channel by now.
        while (message := self._results.try_get()) is not None:
            self._receive(*message)
        if member not in self._members:
            return False  # a callback waited, and its turn of ours buried it
        self._members.remove(member)
        member.process.join()  # at once: it was reaped
        flight = look_up(self._flights, number) if 0 < sequence <= taken else None
        if flight is not None:
            self._lose(flight, item, member)
        return True

    def _lose(self, flight: Flight, item: int, member: _Member) -> None:
        # The worker died with this flight: its running item fails, the items behind that one fly again.
        lost = None if 0 < item <= flight.arrived else flight.arrived
        rest = flight.rest(flight.arrived if lost is None else lost + 1, next(self._numbers))
        with self._lock:
            del self._flights[flight.number]
            if rest is not None:
                self._publish(rest)
        if lost is not None:
            error = self._lost_error(member, describe_item(flight.task, flight.first + lost))
            self._hand(flight.task, flight.first + lost, [(False, error)])
        flight.drop()

    def _fail(self, flight: Flight, error: BaseException) -> None:
        # Fails what has not arrived of a flight that flies no more.
        if flight.begin():
            missing = range(flight.arrived, flight.length)
            self._hand(flight.task, flight.first + flight.arrived, [(False, error) for _ in missing])
        flight.drop()

    def _lost_error(self, member: _Member, task: str) -> BaseException:
        return WorkerLostError(pid=member.process.pid or None, exitcode=member.process.exitcode, task=task)

    def _end_workers(self) -> None:
        # Ends whatever workers there still are and fails what is not done.
        with self._lock:
            flights = [*self._flights.values(), *self._backlog]
            self._flights.clear()
            self._backlog.clear()
        self._tasks.close()
        self._tasks.discard_all()
        for member in self._members:
            member.process.terminate()
        for flight in flights:
            self._fail(flight, self.broken if self.broken is not None else terminated_error())
        deadline = time.monotonic() + TERMINATE_SECONDS
        for member in self._members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            if not member.gone:
                member.process.kill()
                member.process.join()
        self._members = []

    def _release(self) -> None:
        # The last worker has ended. A pool that is kept when it is closed keeps no memory of the session's.
        self._inbox = None
        for name in ("_tasks", "_results"):
            self.__dict__.pop(name, None)
        self._setup_kept = []
        forget(self)


def _load(kind: int, payload: bytes) -> Outcome:
    # What a result message says; where it cannot be rebuilt here, why.
    try:
        if kind == VALUE:
            return True, _serialize.loads(payload)
        return False, _serialize.load_exception(payload)
    except BaseException as error:
        return False, error


def _pack_setup(options: Options) -> tuple[Any, list[object]]:
    # What a worker gets to initialise itself with, and the shared objects that live as long as the engine for it.
    if options.initializer is None:
        return None, []
    try:
        packed = _serialize.dumps((options.initializer, options.initargs), where=("initializer", "initargs"))
    except RuntimeError:
        # A lock or queue of multiprocessing's: pickles only while a process is being started, with the process.
        return (options.initializer, options.initargs), []
    return packed.data, packed.shared


def _hook_multiprocessing() -> None:
    # A child process of multiprocessing joins its children before its threads: the workers must have ended by then.
    global _hooked_pid
    if _hooked_pid != os.getpid():
        multiprocessing.util.Finalize(None, leave, exitpriority=20)
        _hooked_pid = os.getpid()
