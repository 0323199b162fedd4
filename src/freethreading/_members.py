"""The workers of a process engine, as the program knows them: how they are started, how they end."""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from freethreading import _serialize
from freethreading._core import AtomicInt64, Channel, private_memory
from freethreading._cpus import share_of
from freethreading._engine import Options
from freethreading._exceptions import WorkerLostError
from freethreading._pool_worker import serve
from freethreading._process_worker import PoolProcess

# How long a terminated worker may take to end before it is killed.
TERMINATE_SECONDS = 1.0
# WorkerRecord.leaving: why a worker leaves of its own accord.
SURPLUS = 1
IDLE = 2
# A worker that has so many times the memory that one may have is killed in the middle of its task, ...
FAR_OVER = 2
# ... by the drainer, which looks no more often than this.
LOOK_SECONDS = 0.2
# How long a process may take to stop, and how often it is looked at meanwhile.
STOP_SECONDS = 0.05
STOP_POLL_SECONDS = 0.0001
# What state_of() says of one that is stopped, and of one that has ended.
STOPPED = ("T", "t")
ENDED = ("", "Z", "X")
# Rounds in a row in which workers die before they are ready: then something is wrong with all of them.
MAX_FAILED_STARTS = 3
# How long the drainer waits after the first such round, and twice that after the second.
RETRY_SECONDS = 0.2


class Member:
    """A worker process of an engine."""

    __slots__ = ("number", "process", "ready", "reason")

    def __init__(self, number: int, process: PoolProcess) -> None:
        self.number = number
        self.process = process
        self.ready = False  # whether its initializer is done
        self.reason: str | None = None  # why the drainer has killed it

    @property
    def gone(self) -> bool:
        return self.process.record.ended()

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

    def kill_if_too_large(self, limit: int) -> None:
        """Kills it if it has far more memory than `limit` bytes and is in a task, or in its initializer."""
        record = self.process.record
        pid, note = record.pid, (record.task_sequence, record.item)
        if pid <= 0 or self.reason is not None or (self.ready and not record.item):
            return  # one that is in no task looks itself
        memory = private_memory(pid)
        if memory > FAR_OVER * limit and self.kill_if(lambda: (record.task_sequence, record.item) == note):
            self.reason = (
                f"It had {memory:,} bytes of memory of its own, more than {FAR_OVER} times max_memory_per_child "
                f"({limit:,}), and was ended by its pool. Give it smaller tasks, or a larger max_memory_per_child."
            )

    def kill_if(self, is_so: Callable[[], bool]) -> bool:
        """Stops it, and kills it if is_so() holds then; else it goes on. Whether it was killed."""
        process, pid = self.process, self.process.record.pid
        if state_of(pid) in ENDED:
            return False
        is_stopped = state_of(pid) in STOPPED  # by somebody else: it stays so
        kills = False
        try:
            if not is_stopped:
                process.suspend()
                deadline = time.monotonic() + STOP_SECONDS
                while state_of(pid) not in STOPPED:
                    if time.monotonic() > deadline:
                        return False  # it is in the kernel
                    time.sleep(STOP_POLL_SECONDS)
            kills = is_so()
            return kills
        finally:
            if kills:
                process.kill()
            elif not is_stopped:
                process.resume()

    def lost_error(self, task: str) -> BaseException:
        """What a task fails with that went with it."""
        process = self.process
        return WorkerLostError(
            pid=process.pid or None, exitcode=process.exitcode, reason=self.reason, task=task
        )


class Crew:
    """The workers of an engine. Only the engine's drainer calls it."""

    def __init__(self) -> None:
        self.surplus = AtomicInt64(
            0, shared=True
        )  # how many workers are to leave: those that come first take one each
        self._members: list[Member] = []
        self._numbers = itertools.count()
        self._next_look = 0.0
        self._failed_starts = 0  # rounds in a row in which workers died before they were ready

    def __len__(self) -> int:
        return len(self._members)

    def gone(self) -> list[Member]:
        """Those that have ended."""
        return [member for member in self._members if member.gone]

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
        self._members.append(start_member(next(self._numbers), options, args, queues))

    def at(self, number: int, taken: int) -> Member | None:
        """Who has noted the message of that number as one of the first `taken`: its taker, until that takes another."""
        for member in self._members:
            record = member.process.record
            if 0 < record.task_sequence <= taken and record.task_tag == number:
                return member
        return None

    def look_at_memory(self, limit: int) -> None:
        """Kills those that have far more than `limit` bytes. Where the last look was a moment ago, does nothing."""
        now = time.monotonic()
        if now < self._next_look:
            return
        for member in self._members:
            member.kill_if_too_large(limit)
        self._next_look = now + LOOK_SECONDS

    def is_ready(self, number: int) -> None:
        """The initializer of the worker of that number is done."""
        self._failed_starts = 0
        for member in self._members:
            if member.number == number:
                member.ready = True

    def remove(self, member: Member) -> bool:
        """False: it was removed already."""
        if member not in self._members:
            return False
        self._members.remove(member)
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


def start_member(number: int, options: Options, args: tuple[Any, ...], queues: tuple[Channel, ...]) -> Member:
    """Starts a worker: serve(number, *args, ...), with what the options say. Its end wakes the receivers of `queues`."""
    prefix = options.name_prefix
    process = PoolProcess(
        target=serve,
        name=f"{prefix}_{number}" if prefix else None,
        args=(number, *args, options.max_tasks, options.idle_timeout, options.max_memory),
        queues=queues,
        cpus=share_of(options.cpus, options.workers),
    )
    process.start()
    return Member(number, process)


def state_of(pid: int) -> str:
    """What the system says of that process: a letter of proc(5), "" where there is none any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


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
