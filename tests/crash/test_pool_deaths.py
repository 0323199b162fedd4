"""Deaths of a pool's workers, and of what starts them: where x how -> what is expected of the tasks.

Every case runs on WorkerPool and on WorkerPoolExecutor. Whatever dies: what was not running gives its result, the pool
is at full strength again, and nothing is left behind (the fixtures look).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import freethreading
from freethreading import _core
from support import processes
from support.until import until

WORKERS = 2
ITEMS = 8
SECONDS = 30

# How a worker dies, and the exit code that is told of it.
HOW: dict[str, tuple[Callable[[], object], int]] = {
    "SIGKILL": (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
    "SIGSEGV": (lambda: os.kill(os.getpid(), signal.SIGSEGV), -signal.SIGSEGV),
    "os._exit": (lambda: os._exit(7), 7),
    "os._exit(0)": (lambda: os._exit(0), 0),
}
# Points of a put: whether the outcome that is being published has arrived with it. BIG: reached by big ones only.
PUT_POINTS = {
    "queue.put.locked": False,
    "queue.put.written": False,
    "queue.put.published": True,
    "queue.put.intent": False,
    "queue.put.linked": False,
    "queue.put.block_published": True,
    "queue.put.cleared": True,
    "queue.put.unlocked": True,
}
BIG = {"queue.put.intent", "queue.put.linked", "queue.put.block_published", "queue.put.cleared"}
# Points of a take: whether the task has gone with the taker.
GET_POINTS = {
    "queue.get.locked": False,
    "queue.get.intent": False,
    "queue.get.note_tagged": False,
    "queue.get.noted": False,
    "queue.get.adopted": False,
    "queue.get.committed": True,
    "queue.get.cleared": True,
}
# Those that no worker of a pool comes by: a channel counts nobody's takes, has no bound, and its takers' notes are wiped by
# whoever repairs.
NOT_OF_POOLS = {"queue.get.owed", "queue.get.unlocked", "queue.get.note_wiped"}

crash_points = pytest.mark.skipif(
    not hasattr(_core, "set_crash_point"), reason="this build has no crash points"
)


class Pool:
    """Either kind of pool, by the methods that the tests need."""

    def __init__(self, kind: str, initializer: Any = None, initargs: tuple[Any, ...] = ()) -> None:
        self.pool: Any
        if kind == "executor":
            self.pool = freethreading.WorkerPoolExecutor(WORKERS, initializer, initargs)
        else:
            self.pool = freethreading.WorkerPool(WORKERS, initializer, initargs)
        self.kind = kind

    def map(self, function: Callable[..., Any], items: Any, chunksize: int | None = 1) -> list[Any]:
        return self.start_map(function, items, chunksize)()

    def start_map(
        self, function: Callable[..., Any], items: Any, chunksize: int | None = 1
    ) -> Callable[[], list[Any]]:
        """Starts a map; what comes back waits for its outcomes. Without a chunk size workers share it out."""
        if self.kind == "executor":
            given = {} if chunksize is None else {"chunksize": chunksize}
            outcomes = self.pool.map(function, items, return_exceptions=True, timeout=SECONDS, **given)
            return lambda: list(outcomes)
        result = self.pool.map_async(function, items, chunksize, return_exceptions=True)
        return lambda: list(result.get(SECONDS))

    def start(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Starts one call; what comes back waits for its value."""
        if self.kind == "executor":
            future = self.pool.submit(function, *args)
            return lambda: future.result(SECONDS)
        result = self.pool.apply_async(function, args)
        return lambda: result.get(SECONDS)

    def workers(self) -> list[int]:
        return [worker.pid for worker in freethreading.active_children()]

    def check_full_strength(self) -> None:
        """All the workers there should be are there, at work at the same time."""
        barrier = freethreading.Barrier(WORKERS)
        for result in [self.start(barrier.wait, SECONDS) for _ in range(WORKERS)]:
            assert result() in range(WORKERS)
        until(lambda: len(self.workers()) == WORKERS, "the pool is at full strength")

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self.kind == "executor":
            self.pool.shutdown()
        else:
            self.pool.close()
            self.pool.join()


@pytest.fixture(params=["pool", "executor"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    name: str = request.param
    return name


@pytest.fixture
def pool(kind: str) -> Iterator[Pool]:
    with Pool(kind) as pool:
        yield pool
        pool.check_full_strength()


def die_at(item: tuple[int, int, str]) -> int:
    number, victim, how = item
    if number == victim:
        HOW[how][0]()
    return number


def die_by(how: str) -> None:
    HOW[how][0]()


def own_pid(_: object = None) -> int:
    return os.getpid()


def crash_when_published(item: tuple[int, int, str, int]) -> bytes:
    number, victim, point, size = item
    if number == victim:
        _core.set_crash_point(point)
    return bytes([number]) * size


def crash_at_the_first_take(point: str, permits: Any, victims: Any, turn: Any) -> None:
    # One worker dies when it takes its first task; the others wait until it has.
    if permits.acquire(blocking=False):
        victims.put(os.getpid())
        _core.set_crash_point(point)
    else:
        turn.wait(SECONDS)


def die_in_the_initializer(how: str, permits: Any) -> None:
    if permits.acquire(blocking=False):
        HOW[how][0]()


def measure(item: bytes) -> int:
    return len(item)


def wait_for(event: Any, started: Any) -> int:
    started.release()
    event.wait(SECONDS)
    return os.getpid()


def check_lost(error: object, exitcode: int, task: str) -> None:
    assert isinstance(error, freethreading.WorkerLostError)
    assert isinstance(error, BrokenProcessPool)
    assert error.exitcode == exitcode
    assert error.signal == (-exitcode if exitcode < 0 else None)
    assert error.pid not in {0, os.getpid()} and error.pid not in processes.alive()
    assert task in str(error.task) and task in str(error)


# In a task


@pytest.mark.parametrize("how", HOW)
def test_in_a_single_call(pool: Pool, how: str) -> None:
    results = [pool.start(own_pid) for _ in range(3)]
    lost = pool.start(die_by, how)
    results += [pool.start(own_pid) for _ in range(3)]
    with pytest.raises(freethreading.WorkerLostError) as caught:
        lost()
    check_lost(caught.value, HOW[how][1], "die_by()")
    assert all(result() > 0 for result in results)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("chunksize", "victim"), [(1, 3), (4, 0), (4, 2), (4, 7), (8, 4)])
def test_in_an_item_of_a_batch(pool: Pool, how: str, chunksize: int, victim: int) -> None:
    outcomes = pool.map(die_at, [(number, victim, how) for number in range(ITEMS)], chunksize)
    check_lost(outcomes[victim], HOW[how][1], f"item {victim}")
    del outcomes[victim]
    assert outcomes == [number for number in range(ITEMS) if number != victim]


@crash_points
@pytest.mark.parametrize("victim", [1, 3], ids=["middle", "last"])
@pytest.mark.parametrize("point", PUT_POINTS)
def test_while_it_publishes_an_outcome(pool: Pool, point: str, victim: int) -> None:
    size = 100_000 if point in BIG else 1
    # "published" is for small ones: a big one's is "block_published".
    items = [(number, victim, point, size) for number in range(ITEMS)]
    outcomes = pool.map(crash_when_published, items, 4)
    if not PUT_POINTS[point]:
        check_lost(outcomes[victim], -signal.SIGKILL, f"item {victim}")
        outcomes[victim] = bytes([victim]) * size
    assert outcomes == [bytes([number]) * size for number in range(ITEMS)]


@crash_points
@pytest.mark.parametrize("victim", [0, 3, ITEMS - 1])
@pytest.mark.parametrize("point", PUT_POINTS)
def test_while_it_publishes_an_outcome_of_a_shared_map(pool: Pool, point: str, victim: int) -> None:
    size = 100_000 if point in BIG else 16  # more than a slot holds
    items = [(number, victim, point, size) for number in range(ITEMS)]
    outcomes = pool.map(crash_when_published, items, None)
    if not PUT_POINTS[point]:
        check_lost(outcomes[victim], -signal.SIGKILL, f"item {victim}")
        outcomes[victim] = bytes([victim]) * size
    assert outcomes == [bytes([number]) * size for number in range(ITEMS)]


@crash_points
@pytest.mark.parametrize("point", PUT_POINTS)
def test_while_it_publishes_the_outcome_of_a_call(pool: Pool, point: str) -> None:
    size = 100_000 if point in BIG else 1
    outcomes = [pool.start(crash_when_published, (number, 2, point, size)) for number in range(ITEMS)]
    if not PUT_POINTS[point]:
        with pytest.raises(freethreading.WorkerLostError) as caught:
            outcomes[2]()
        check_lost(caught.value, -signal.SIGKILL, "crash_when_published()")
        del outcomes[2]
    values = [outcome() for outcome in outcomes]
    assert values == [bytes([n]) * size for n in range(ITEMS) if PUT_POINTS[point] or n != 2]


@crash_points
@pytest.mark.parametrize("point", GET_POINTS)
@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "big"])
def test_while_it_takes_a_call(kind: str, point: str, size: int) -> None:
    if point == "queue.get.adopted":
        size = max(size, 100)  # a smaller one is in the message itself, without a block that could be adopted
    permits, turn = freethreading.Semaphore(1), freethreading.Event()
    victims: freethreading.SimpleQueue[int] = freethreading.SimpleQueue()
    with Pool(kind, crash_at_the_first_take, (point, permits, victims, turn)) as pool:
        outcomes = [pool.start(measure, b"x" * size) for _ in range(ITEMS)]
        victim = victims.get(timeout=SECONDS)
        until(lambda: victim not in processes.alive(), "the worker that takes the first call is dead")
        turn.set()
        if GET_POINTS[point]:
            with pytest.raises(freethreading.WorkerLostError) as caught:
                outcomes[0]()
            check_lost(caught.value, -signal.SIGKILL, "measure()")
            del outcomes[0]
        assert [outcome() for outcome in outcomes] == [size] * len(outcomes)
        pool.check_full_strength()


@crash_points
@pytest.mark.parametrize("point", GET_POINTS)
@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "big"])
def test_while_it_takes_a_task(kind: str, point: str, size: int) -> None:
    permits, turn = freethreading.Semaphore(1), freethreading.Event()
    victims: freethreading.SimpleQueue[int] = freethreading.SimpleQueue()
    with Pool(kind, crash_at_the_first_take, (point, permits, victims, turn)) as pool:
        outcomes = pool.start_map(measure, [b"x" * size] * ITEMS, 4)
        victim = victims.get(timeout=SECONDS)
        until(lambda: victim not in processes.alive(), "the worker that takes the first task is dead")
        turn.set()
        found = outcomes()
        if GET_POINTS[point]:
            check_lost(found[0], -signal.SIGKILL, "item 0")
            found[0] = size
        assert found == [size] * ITEMS
        pool.check_full_strength()


@crash_points
def test_every_crash_point_of_puts_and_takes_is_in_the_tables() -> None:
    found = {name for name in _core.list_crash_points() if name.startswith(("queue.put.", "queue.get."))}
    assert found == {*PUT_POINTS, *GET_POINTS, *NOT_OF_POOLS}


# Not in a task


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_idle(pool: Pool, how: int) -> None:
    pool.check_full_strength()
    for victim in pool.workers():
        os.kill(victim, how)
    assert pool.map(abs, range(-ITEMS, 0)) == list(range(ITEMS, 0, -1))


@pytest.mark.parametrize("how", HOW)
def test_in_the_initializer(kind: str, how: str) -> None:
    permits = freethreading.Semaphore(2)  # a third in a row would break the pool
    with Pool(kind, die_in_the_initializer, (how, permits)) as pool:
        assert pool.map(abs, range(-ITEMS, 0), 3) == list(range(ITEMS, 0, -1))
        pool.check_full_strength()


def test_stopped_and_continued(pool: Pool) -> None:
    event, started = freethreading.Event(), freethreading.Semaphore(0)
    waiting = pool.start(wait_for, event, started)
    started.acquire(timeout=SECONDS)
    other = pool.start(own_pid)()
    pids = [pid for pid in pool.workers() if pid != other]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    event.set()
    # The others go on: a stopped worker has its task, and only that.
    assert set(pool.map(own_pid, range(ITEMS))) == {other}
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert waiting() in pids


def test_the_zygote_killed(pool: Pool) -> None:
    pool.check_full_strength()
    table = processes.Table()
    for pid in table.zygotes() | table.spares():
        # A spare that nobody was told of leaves with the zygote.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pool.workers():
        os.kill(pid, signal.SIGKILL)  # so that new ones are needed
    assert pool.map(abs, range(-ITEMS, 0)) == list(range(ITEMS, 0, -1))


def test_the_supervisor_killed(pool: Pool) -> None:
    event, started = freethreading.Event(), freethreading.Semaphore(0)
    waiting = [pool.start(wait_for, event, started) for _ in range(WORKERS)]
    for _ in range(WORKERS):
        started.acquire(timeout=SECONDS)
    behind = pool.start(own_pid)
    os.kill(processes.supervisor_pid(), signal.SIGKILL)
    for lost in waiting:
        with pytest.raises(freethreading.WorkerLostError) as caught:
            lost()
        check_lost(caught.value, -signal.SIGKILL, "wait_for()")
    assert behind() > 0


# The program

BUSY = """
import json, os, sys
import freethreading
from support import processes
from support.until import until

def wait(event, started):
    started.release()
    event.wait()

event, started = freethreading.Event(), freethreading.Semaphore(0)
pool = freethreading.{kind}(2)
submit = getattr(pool, "submit", None) or (lambda function, *args: pool.apply_async(function, args))
results = [submit(wait, event, started) for _ in range(4)]
started.acquire(), started.acquire()
def family():
    table = processes.Table()
    found[:] = table.ours(), table.spares()
    return found[0] - found[1]

found = []
until(lambda: len(family()) == {others}, "a fork that will be a spare is one")
print(json.dumps(sorted(found[0])), flush=True)
event.wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_nothing_outlives_the_program(kind: str, how: int, tmp_path: Path) -> None:
    name = {"pool": "WorkerPool", "executor": "WorkerPoolExecutor"}[kind]
    program = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(kind=name, others=2 + WORKERS)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "TMPDIR": str(tmp_path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None and program.stderr is not None
    family = set(json.loads(program.stdout.readline()))
    assert len(family) >= 2 + WORKERS
    program.send_signal(how)
    program.wait()
    until(lambda: not family & processes.alive(), "workers, zygote and supervisor have ended", 1.0)
    assert program.stderr.read() == ""
    program.stdout.close()
    program.stderr.close()
    assert not list(tmp_path.iterdir())
    assert not [name for name in os.listdir("/dev/shm") if "freethreading" in name]
