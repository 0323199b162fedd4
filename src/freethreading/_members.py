"""The workers of a process engine, as the program knows them: how they are started, how they end."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import time
from collections.abc import Callable
from typing import Any

from freethreading import _serialize, _supervisor
from freethreading._core import AtomicInt64, Channel
from freethreading._cpus import share_of
from freethreading._engine import Options
from freethreading._launch import Station
from freethreading._pool_worker import serve
from freethreading._process_worker import PoolProcess

# How long a terminated worker may take to end before it is killed.
TERMINATE_SECONDS = 1.0
# WorkerRecord.state: from here on it has its process, or has ended; from here on it has ended.
RUNNING = 2
EXITED = 3
# WorkerRecord.leaving: why a worker leaves of its own accord.
SURPLUS = 1
IDLE = 2
# What the supervisor goes by (core/include/freethreading/pool/worker_record.hpp).
FAR_OVER = 2
# How long there has been no coming and going when the start of another worker is prepared.
STANDBY_SECONDS = 1.0
# Rounds in a row in which workers die before they are ready: then something is wrong with all of them.
MAX_FAILED_STARTS = 3
# How long the drainer waits after the first such round, and twice that after the second.
RETRY_SECONDS = 0.2

_crews = itertools.count(1)


class Member:
    """A worker process of an engine."""

    __slots__ = ("is_dismissed", "max_memory", "number", "process")

    def __init__(self, number: int, process: PoolProcess, max_memory: int | None) -> None:
        self.number = number
        self.process = process
        self.max_memory = max_memory
        self.is_dismissed = False  # a standby that was not needed

    @property
    def ready(self) -> bool:
        """Whether its initializer is done, or it was to have none."""
        return self.is_dismissed or self.process.record.is_ready

    @property
    def gone(self) -> bool:
        return self.process.record.ended()

    @property
    def has_ended(self) -> bool:
        """What its record says; it may have gone with its supervisor."""
        return self.process.record.state >= EXITED

    def await_end(self) -> None:
        """At once as a rule. REQUIRES: gone."""
        self.process.join()
        # One that is lost with its supervisor is counted as ended a moment before it has.
        try:
            descriptor = os.pidfd_open(self.process.pid or 0)
        except OSError:  # it was reaped
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(TERMINATE_SECONDS * 1000)
        finally:
            os.close(descriptor)

    def end_task(self, tag: int) -> None:
        """Has it killed if it is in the task of that tag. It may come too early or too late."""
        _supervisor.end_task(self.process.record, tag)

    def lost_error(self, task: str) -> BaseException:
        """What a task fails with that went with it."""
        from freethreading._exceptions import WorkerLostError  # expensive to import

        process, reason = self.process, None
        if excess := process.record.excess:
            reason = (
                f"It had {excess:,} bytes of memory of its own, more than {FAR_OVER} times max_memory_per_child "
                f"({self.max_memory:,}), and was ended. Give it smaller tasks, or a larger max_memory_per_child."
            )
        return WorkerLostError(pid=process.pid or None, exitcode=process.exitcode, reason=reason, task=task)


class Crew:
    """The workers of an engine. Only the engine's drainer calls it."""

    def __init__(self) -> None:
        self.surplus = AtomicInt64(
            0, shared=True
        )  # how many workers are to leave: those that come first take one each
        self._members: list[Member] = []
        self._numbers = itertools.count()
        self._failed_starts = 0  # rounds in a row in which workers died before they were ready
        self._number = next(_crews)
        self._standby: Member | None = None
        self._changed = 0.0  # when the last worker came or went

    def __len__(self) -> int:
        return len(self._members)

    def gone(self) -> list[Member]:
        """Those that have ended."""
        # Each asks for the supervisor, which costs some system calls, and they have the same one: the first asks for all.
        if self._members and self._members[0].gone:
            all_of_it = self._members if self._standby is None else [*self._members, self._standby]
            return [member for member in all_of_it if member.gone and member is not self._standby]
        return [member for member in self._members if member.has_ended]

    def staying(self) -> int:
        """How many there are that do not leave."""
        return sum(not member.process.record.leaving for member in self._members)

    def missing(self, count: int, most: int, tasks: Channel) -> int:
        """How many workers there are less than `count`. Those beyond `most` are told to leave; `tasks` wakes them."""
        asked = self.surplus.load()
        if not asked and len(self._members) <= most:
            return count - len(self._members)
        while True:
            # Counted behind the load: a worker says that it leaves before it takes one off (take_leave()).
            staying = sum(member.process.record.leaving != SURPLUS for member in self._members)
            surplus = max(0, staying - most)
            if surplus == asked:
                break
            if self.surplus.compare_exchange(asked, surplus):
                if surplus > asked:
                    tasks.wake()
                break
            asked = self.surplus.load()
        return count - staying

    def start(self, options: Options, args: tuple[Any, ...], queues: tuple[Channel, ...]) -> None:
        """Starts a worker; see start_member(). Raises what that raises."""
        station = Station(queues, self._number, options.max_memory)
        self._members.append(start_member(next(self._numbers), options, args, station))
        self._changed = time.monotonic()

    def keep_standby(
        self, options: Options, args: Callable[[], tuple[Any, ...]], queues: tuple[Channel, ...]
    ) -> None:
        """Prepares the start of a worker for the case that one dies while this process can do nothing, once the others have
        been there for a while.
        """
        now = time.monotonic()
        if self._standby is not None or now - self._changed < STANDBY_SECONDS:
            return
        self._changed = now
        if not all(member.ready for member in self._members):
            return
        beside = sum(member.process.record.leaving not in (SURPLUS, IDLE) for member in self._members)
        station = Station(queues, self._number, options.max_memory, beside)
        # Where the system has too little of something, it is tried again.
        with contextlib.suppress(OSError, MemoryError):
            self._standby = start_member(next(self._numbers), options, args(), station)

    def enlist(self) -> None:
        """A standby that was started becomes one of the workers."""
        standby = self._standby
        if standby is None:
            return
        if standby.has_ended or standby.process.record.pid:
            self._standby = None
            standby.process.enlist()
            self._members.append(standby)

    def dismiss_standby(self) -> None:
        """It ends without having run; or it was started, and is a worker as others."""
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.is_dismissed = True  # its end is no failed start
            _supervisor.withdraw(standby.process.record)
            self._members.append(standby)

    def at(self, number: int, taken: int) -> list[Member]:
        """Who has noted a message of that number as one of the first `taken`: its taker, until that takes another."""
        found: list[Member] = []
        for member in self._members:
            record = member.process.record
            if 0 < record.task_sequence <= taken and record.task_tag == number:
                found.append(member)
        return found

    def one_is_ready(self) -> None:
        """The initializer of a worker is done."""
        self._failed_starts = 0

    def remove(self, member: Member) -> bool:
        """False: it was removed already."""
        if member not in self._members:
            return False
        self._members.remove(member)
        self._changed = time.monotonic()
        return True

    def count_failed_start(self, buried: list[Member]) -> Member | None:
        """Those that die together, as with their supervisor, are one failure. Waits a moment behind it; where it is one too
        many, gives one of its workers instead.
        """
        unready = [member for member in buried if not member.ready]
        if not unready:
            return None
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            return unready[0]
        time.sleep(RETRY_SECONDS * self._failed_starts)  # what killed them may take a while to be over
        return None

    def terminate(self) -> None:
        """Tells all to end."""
        self.dismiss_standby()
        for member in self._members:
            if member.process.record.state < RUNNING:  # it may wait for an import
                _supervisor.withdraw(member.process.record)
        for member in self._members:
            member.process.terminate()

    def end(self) -> None:
        """Waits for workers that were told to end, and kills those that take too long."""
        deadline = time.monotonic() + TERMINATE_SECONDS
        for member in self._members:
            member.process.join(max(0.0, deadline - time.monotonic()))
            if not member.gone:
                member.process.kill()
                member.process.join()
        self._members = []

    def release(self) -> None:
        """Keeps no memory of the session's any more. REQUIRES: the last worker has ended."""
        self.__dict__.pop("surplus", None)


def start_member(number: int, options: Options, args: tuple[Any, ...], station: Station) -> Member:
    """Starts a worker: serve(number, *args, ...), with what the options say."""
    prefix = options.name_prefix
    process = PoolProcess(
        target=serve,
        name=f"{prefix}_{number}" if prefix else None,
        args=(number, *args, options.max_tasks, options.idle_timeout, options.max_memory),
        station=station,
        cpus=share_of(options.cpus, options.workers),
    )
    process.start()
    return Member(number, process, options.max_memory)


def pack_setup(options: Options) -> tuple[Any, list[object]]:
    """What a worker gets to initialise itself with, and the shared objects that live as long as the engine for it."""
    if options.initializer is None:
        return None, []
    try:
        packed = _serialize.dumps((options.initializer, options.initargs), where=("initializer", "initargs"))
    except RuntimeError:
        # A lock or queue of multiprocessing's: pickles only while a process is being started, with the process.
        return (options.initializer, options.initargs), []
    return packed.data, packed.shared
