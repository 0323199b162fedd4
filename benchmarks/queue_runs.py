"""Workers that send each other messages, and what it took them.

No run hangs: the program's waits end with `Late` at the deadline, its worker processes kill themselves soon after, and
should the interpreter itself be stuck then every stack is printed and the program ends. Every run takes out of its queues
all that was put in and joins its workers, so a peer's feeder thread has nothing left to write.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import functools
import itertools
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from queue import Empty, Full
from typing import Any

from .queue_peers import ANY, Peer, Room

DEADLINE = 120.0  # seconds for one run; some peers need several for a case
GRACE = 15  # seconds after which what should have ended is ended

Step = tuple[Callable[..., None], tuple[Any, ...]]


class Late(Exception):
    """The deadline of a run has passed."""


@contextlib.contextmanager
def deadline(seconds: float = 0.0) -> Iterator[None]:
    """Raises Late in the main thread when the block takes longer."""

    def late(*_: object) -> None:
        raise Late(f"not done after {seconds:g} s")

    seconds = seconds or DEADLINE
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 2 * GRACE, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- what a worker does ----------------------------------------------------------------------------------------------


def work(parent: int, go: Any, done: Any, index: int, steps: list[Step]) -> None:
    """Says that it is there, then waits for its go and reports when it began and ended, at each step."""
    alone = os.getpid() != parent
    if alone:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(DEADLINE) + GRACE)
    try:
        done.put((index, 0.0, 0.0))
        for body, arguments in steps:
            go.get()
            begin = time.perf_counter()
            body(*arguments)
            done.put((index, begin, time.perf_counter()))
    except BaseException as error:
        done.put(repr(error))
        raise
    finally:
        if alone:
            signal.alarm(0)


def patient(method: Any, timeout: float | None) -> Any:
    """The method with that timeout at each call; None leaves it as it is."""
    return method if timeout is None else functools.partial(method, timeout=timeout)


def produce(queue: Any, message: object, count: int, timeout: float | None = None) -> None:
    put, turns = patient(queue.put, timeout), iter(range(count))
    while True:
        try:
            for _ in turns:
                put(message)
            return
        except Full:  # faster-fifo gives up after 10 s; its own benchmark tries again too
            turns = itertools.chain((0,), turns)


def consume(queue: Any, count: int, timeout: float | None = None) -> None:
    get, turns = patient(queue.get, timeout), iter(range(count))
    while True:
        try:
            for _ in turns:
                get()
            return
        except Empty:
            turns = itertools.chain((0,), turns)


def consume_and_keep(queue: Any, count: int, keep: int) -> None:
    kept: collections.deque[Any] = collections.deque(maxlen=keep)
    for _ in range(count):
        kept.append(queue.get())


def produce_many(queue: Any, batch: list[Any], count: int) -> None:
    for _ in range(count // len(batch)):
        queue.put_many(batch)


def consume_many(
    queue: Any, count: int, get_many: Callable[..., list[Any]], limit: int, timeout: float | None = None
) -> None:
    get_some = patient(get_many, timeout)
    while count:
        with contextlib.suppress(Empty):
            count -= len(get_some(queue, min(limit, count)))


def put_and_get(queue: Any, count: int) -> None:
    put, get = queue.put, queue.get
    for _ in range(count):
        put(7)
        get()


def echo(there: Any, back: Any, count: int) -> None:
    for _ in range(count):
        back.put(there.get())


# --- what the program does with its workers --------------------------------------------------------------------------


class Crew:
    """Workers of a peer, each with its steps; a failure or the deadline ends them."""

    def __init__(self, peer: Peer, jobs: list[list[Step]], queues: list[Any]):
        self._queues = queues
        self._go = [peer.control() for _ in jobs]  # each its own, or who is done first takes the others'
        self._done = peer.control()
        self._processes = peer.processes
        self._deadline = contextlib.ExitStack()
        self.workers: list[Any] = []
        self._peer, self._jobs = peer, jobs

    def __enter__(self) -> Crew:
        self._deadline.enter_context(deadline())
        try:
            for index, steps in enumerate(self._jobs):
                self.workers.append(
                    self._peer.start(work, os.getpid(), self._go[index], self._done, index, steps)
                )
            self._reports()  # all are there
        except BaseException:
            self._end(failed=True)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end(failed=kind is not None)

    def go(self) -> None:
        """Lets every worker begin its next step."""
        for go in self._go:
            go.put(None)

    def spans(self) -> list[tuple[float, float]]:
        """When each worker began and ended the step, in the order of the jobs."""
        return [(begin, end) for _, begin, end in sorted(self._reports())]

    def _reports(self) -> list[tuple[int, float, float]]:
        reports = []
        for _ in self.workers:
            report = self._done.get()
            if isinstance(report, str):
                raise RuntimeError(f"a worker failed: {report}")
            reports.append(report)
        return reports

    def _end(self, failed: bool) -> None:
        try:
            if not failed:
                for worker in self.workers:
                    worker.join()
                for queue in (*self._queues, *self._go, self._done):
                    close(queue)
        except Late:
            failed = True
            raise
        finally:
            self._deadline.close()
            if failed:
                self._kill()

    def _kill(self) -> None:
        """Ends what processes can be made to end; threads that still wait are left behind."""
        for worker in self.workers:
            if self._processes:
                worker.kill()
            worker.join(GRACE if self._processes else 0.1)
        for queue in (*self._queues, *self._go, self._done):
            close(queue, failed=True)


def close(queue: Any, failed: bool = False) -> None:
    """Ends a queue's feeder too, where it has one; what it has not written after a failure is given up."""
    for name in ("cancel_join_thread",) * failed + ("close", "join_thread"):
        method = getattr(queue, name, None)
        if method is not None:
            method()


def flow(
    peer: Peer, producers: list[Step], consumers: list[Step], queue: Any, warm: list[list[Step]] | None = None
) -> float:
    """Seconds from the first producer's begin to the last worker's end, after a step to get warm."""
    jobs = [[step] for step in producers + consumers]
    if warm:
        jobs = [before + after for before, after in zip(warm, jobs)]
    with Crew(peer, jobs, [queue]) as crew:
        if warm:
            crew.go()
            crew.spans()
        crew.go()
        spans = crew.spans()
    return max(end for _, end in spans) - min(begin for begin, _ in spans[: len(producers)])


def send(
    peer: Peer,
    message: object,
    count: int,
    *,
    producers: int = 1,
    consumers: int = 1,
    keep: int = 0,
    batch: int = 0,
    room: Room = ANY,
    warm: int | None = None,
    timeouts: tuple[float | None, float | None] = (None, None),
) -> float:
    """Seconds an item of `count` items, by as many producers and consumers.

    `batch` is what one get_many() may bring; `timeouts` are those of each put and get, which are tried again.
    """
    queue = peer.make(room)
    shares = count // producers, count // consumers
    assert shares[0] * producers == shares[1] * consumers

    def job(index: int, of: tuple[int, int]) -> Step:
        if index < producers:
            return produce, (queue, message, of[0], timeouts[0])
        if batch:
            return consume_many, (queue, of[1], peer.get_many, batch, timeouts[1])
        return (consume_and_keep, (queue, of[1], keep)) if keep else (consume, (queue, of[1], timeouts[1]))

    some = max(shares[0] // (10 * consumers), 1) if warm is None else warm
    few = (some * consumers, some * producers)
    everybody = range(producers + consumers)
    steps = [job(index, shares) for index in everybody]
    spent = flow(
        peer, steps[:producers], steps[producers:], queue, [[job(index, few)] for index in everybody]
    )
    return spent / (shares[0] * producers)


def send_batches(peer: Peer, batch: list[Any], count: int) -> float:
    """Seconds an item of one producer's put_many() and one consumer's get_many()."""
    queue = peer.make(ANY)
    steps: list[list[Step]] = [
        [(produce_many, (queue, batch, n)), (consume_many, (queue, n, peer.get_many, len(batch)))]
        for n in (10 * len(batch), count)
    ]
    warm, real = steps
    return flow(peer, real[:1], real[1:], queue, [[step] for step in warm]) / count


def churn(peer: Peer, workers: int, count: int) -> float:
    """Seconds an operation while each worker puts and gets `count` times on one queue."""
    queue = peer.make(ANY)
    steps: list[Step] = [(put_and_get, (queue, count))] * workers
    return flow(peer, steps, [], queue) / (2 * count * workers)


def ping_pong(peer: Peer, message: object, count: int, pause: float = 0.0) -> float:
    """Median seconds of a message's way to a worker and back, each after a pause."""
    there, back = peer.make(ANY), peer.make(ANY)
    early = 2 if pause else max(count // 10, 2)
    samples = []
    with Crew(peer, [[(echo, (there, back, early + count))]], [there, back]) as crew:
        crew.go()
        for round_ in range(early + count):
            if pause:
                time.sleep(pause)
            begin = time.perf_counter()
            there.put(message)
            back.get()
            if round_ >= early:
                samples.append(time.perf_counter() - begin)
        crew.spans()
    return statistics.median(samples)


def idle_percent(peer: Peer, settle: float, seconds: float) -> float:
    """CPU time, in percent of the time, of the process in which a worker waits for a message that does not come."""
    queue = peer.make(ANY)
    with Crew(peer, [[(consume, (queue, 1))]], [queue]) as crew:
        crew.go()
        clock = cpu_clock(crew.workers[0].pid) if peer.processes else time.CLOCK_PROCESS_CPUTIME_ID
        time.sleep(settle)
        begin, start = time.clock_gettime(clock), time.perf_counter()
        time.sleep(seconds)
        used, spent = time.clock_gettime(clock) - begin, time.perf_counter() - start
        queue.put(7)
        crew.spans()
    return used / spent * 100


def cpu_clock(pid: int) -> int:
    """The CPU clock of a process, as clock_getcpuclockid(3) makes it on Linux."""
    return ~pid << 3 | 2
