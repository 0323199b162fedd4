"""idle_timeout of pools and executors: idle workers leave, down to none, and no call is lost by it."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import freethreading
from freethreading import _core
from support.until import until

SECONDS = 30.0
SHORT = 0.01  # seconds

started: Any = None
gate: Any = None


def share(a: Any, b: Any) -> None:
    global started, gate
    started, gate = a, b


def same(value: Any) -> Any:
    return value


def wait_at_gate(value: Any) -> Any:
    started.fetch_add(1)
    assert gate.wait(SECONDS)
    return value


def wait_at_first(number: int) -> int:
    return int(wait_at_gate(number)) if number == 0 else number


def worker_of(_: object = None) -> tuple[int, str]:
    return os.getpid(), freethreading.current_worker().name


def meet(barrier: Any) -> int:
    return int(barrier.wait(SECONDS))


def workers() -> int:
    return len(freethreading.active_children())


class Shared:
    """What calls count in and wait at."""

    def __init__(self) -> None:
        self.started: Any = freethreading.AtomicInt64()
        self.gate: Any = freethreading.Event()


@pytest.fixture
def shared(backend: str) -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.__dict__.clear()
    share(None, None)


@pytest.fixture(params=["pool", "executor"])
def make(request: pytest.FixtureRequest, shared: Shared) -> Iterator[Callable[..., Any]]:
    """Makes a pool or an executor with apply(function, args), and map(function, items) that gives a list."""
    made: list[Any] = []

    def make(workers: int, idle_timeout: float | None = SHORT, **options: Any) -> Any:
        kind: Any = freethreading.WorkerPool if request.param == "pool" else freethreading.WorkerPoolExecutor
        subject = kind(workers, share, (shared.started, shared.gate), idle_timeout=idle_timeout, **options)
        made.append(subject)
        return subject

    yield make
    shared.gate.set()
    for subject in made:
        close(subject)


def close(subject: Any) -> None:
    if hasattr(subject, "submit"):
        subject.shutdown()
    else:
        subject.close()
        subject.join()


def start(subject: Any, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    if hasattr(subject, "submit"):
        future = subject.submit(function, *args)
        return lambda: future.result(SECONDS)
    result = subject.apply_async(function, args)
    return lambda: result.get(SECONDS)


def test_idle_workers_leave_and_calls_start_others(make: Callable[..., Any]) -> None:
    subject = make(2)
    for _ in range(3):
        assert start(subject, same, 5)() == 5
        until(lambda: workers() == 0, "none is left")
        assert list(subject.map(same, range(100))) == list(range(100))
        until(lambda: workers() == 0, "none is left")
        assert list(subject.map(same, range(10), chunksize=3)) == list(range(10))
        until(lambda: workers() == 0, "none is left")


def test_as_many_come_as_there_is_work_for(make: Callable[..., Any]) -> None:
    subject = make(3)
    start(subject, same, 5)()
    until(lambda: workers() == 0, "none is left")
    barrier = freethreading.Barrier(3)
    places = [start(subject, meet, barrier) for _ in range(3)]
    assert sorted(place() for place in places) == [0, 1, 2]


def test_a_busy_worker_stays(make: Callable[..., Any], shared: Shared) -> None:
    subject = make(2)
    waiting = start(subject, wait_at_gate, 5)
    until(lambda: shared.started.load() == 1 and workers() == 1, "the idle one has left")
    before = freethreading.active_children()
    # There is room for another, which does what the busy one cannot.
    assert start(subject, same, 6)() == 6
    until(lambda: workers() == 1, "it has left")
    assert freethreading.active_children() == before
    shared.gate.set()
    assert waiting() == 5


@pytest.mark.parametrize("chunksize", [None, 1])
def test_a_call_beside_the_last_item_of_a_map(
    make: Callable[..., Any], shared: Shared, chunksize: int | None
) -> None:
    subject = make(2)
    if hasattr(subject, "submit"):
        results = subject.map(wait_at_first, range(50))
        outcome: Callable[[], list[int]] = lambda: list(results)  # noqa: E731
    else:
        outcome = subject.map_async(wait_at_first, range(50), chunksize).get
    until(lambda: shared.started.load() == 1 and workers() == 1, "the one that has no more to do has left")
    assert start(subject, same, 6)() == 6
    shared.gate.set()
    assert outcome() == list(range(50))


def test_without_it_workers_stay(make: Callable[..., Any]) -> None:
    for forever in (None, float("inf"), 1e300):
        subject = make(1, forever)
        before = start(subject, worker_of)()
        for _ in range(3):
            assert start(subject, worker_of)() == before
        close(subject)


def test_closed_when_there_is_none_left(make: Callable[..., Any]) -> None:
    subject = make(2)
    start(subject, same, 1)()
    until(lambda: workers() == 0, "none is left")
    close(subject)
    with pytest.raises((ValueError, RuntimeError)):
        start(subject, same, 1)


def test_resized_when_there_is_none_left(make: Callable[..., Any]) -> None:
    subject = make(1)
    start(subject, same, 1)()
    until(lambda: workers() == 0, "none is left")
    subject.resize(3)
    barrier = freethreading.Barrier(3)
    places = [start(subject, meet, barrier) for _ in range(3)]
    assert sorted(place() for place in places) == [0, 1, 2]
    subject.resize(1)
    assert list(subject.map(same, range(100))) == list(range(100))
    until(lambda: workers() == 0, "none is left")


def test_with_max_tasks_per_child(shared: Shared) -> None:
    with freethreading.WorkerPoolExecutor(2, max_tasks_per_child=1, idle_timeout=SHORT) as executor:
        for number in range(6):
            assert executor.submit(same, number).result(SECONDS) == number
        until(lambda: workers() == 0, "none is left")
        assert list(executor.map(same, range(6))) == list(range(6))


@pytest.mark.watchdog(240)
def test_no_call_is_lost(make: Callable[..., Any], seed: int) -> None:
    # Calls come when workers are about to leave.
    subject = make(2, 0.002)
    errors: list[BaseException] = []

    def call(seed: int) -> None:
        numbers = random.Random(seed)
        pause = threading.Event()
        try:
            for number in range(60):
                assert start(subject, same, number)() == number
                pause.wait(numbers.random() * 0.006)
                if number % 10 == 9:
                    assert list(subject.map(same, range(20))) == list(range(20))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(seed + n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    until(lambda: workers() == 0, "none is left")


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError),
    ],
)  # fmt: skip
def test_a_timeout_that_is_none(backend: str, seconds: Any, error: type[Exception]) -> None:
    for kind in (freethreading.WorkerPool, freethreading.WorkerPoolExecutor):
        with pytest.raises(error, match="idle_timeout must be"):
            kind(1, idle_timeout=seconds)


@pytest.mark.skipif(not hasattr(_core, "set_crash_point"), reason="this build has no crash points")
def test_a_worker_dies_while_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPoolExecutor(
        2, _core.set_crash_point, ("worker.leave.said",), idle_timeout=SHORT
    ) as executor:
        for number in range(5):
            assert executor.submit(same, number).result(SECONDS) == number
            until(lambda: workers() == 0, "none is left")


def test_a_worker_that_is_killed_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPoolExecutor(1, idle_timeout=1000) as executor:
        pid, _ = executor.submit(worker_of).result(SECONDS)
        os.kill(pid, signal.SIGKILL)
        assert executor.submit(worker_of).result(SECONDS)[0] != pid
