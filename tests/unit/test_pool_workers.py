"""WorkerPool's workers: how they start and die, and what cannot travel to them or back."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import freethreading
from freethreading import _frames, _process_drainer


def square(x: int) -> int:
    return x * x


def identity(x: Any) -> Any:
    return x


def divide(a: int, b: int) -> float:
    return a / b


def exit_at(x: tuple[int, int]) -> int:
    item, victim = x
    if item == victim:
        os._exit(7)
    return item


def release(semaphore: Any) -> None:
    semaphore.release()


def leave_by(kind: type[BaseException]) -> None:
    raise kind("from a task")


class Refuses:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return divide, (1, 0)


class Unpicklable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise KeyError("the user's own")


def make_refuses() -> Refuses:
    return Refuses()


@pytest.fixture
def process_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[freethreading.WorkerPool]:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPool(2) as pool:
        yield pool
    pool.join()


# Workers


def test_a_failing_initializer_fails_pending_and_later_calls(backend: str) -> None:
    with freethreading.WorkerPool(2, initializer=leave_by, initargs=(LookupError,)) as pool:
        for _ in range(3):
            with pytest.raises(LookupError, match="from a task"):
                pool.map(square, range(10))
        with pytest.raises(LookupError, match="from a task"):
            list(pool.imap(square, range(10)))
    pool.join()


def test_an_unpicklable_initializer_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with pytest.raises(ValueError, match="must be picklable"):
        freethreading.WorkerPool(1, initializer=identity, initargs=(threading.Lock(),))


def test_primitives_of_multiprocessing_as_initargs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    semaphore = multiprocessing.get_context("spawn").Semaphore(0)
    with freethreading.WorkerPool(2, initializer=release, initargs=(semaphore,)) as pool:
        assert pool.map(square, [3]) == [9]
        assert semaphore.acquire(timeout=30)
        assert semaphore.acquire(timeout=30)
    pool.join()


def test_workers_that_die_at_their_start_break_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPool(2, initializer=os._exit, initargs=(3,)) as pool:
        for _ in range(2):
            with pytest.raises(freethreading.WorkerLostError, match="exit code 3"):
                pool.map(square, range(10))
    pool.join()


@pytest.mark.parametrize("victim", [0, 2, 4])
@pytest.mark.parametrize("chunksize", [1, 5, 9])
def test_blame_is_exact(process_pool: freethreading.WorkerPool, victim: int, chunksize: int) -> None:
    outcome = process_pool.map(exit_at, [(x, victim) for x in range(9)], chunksize, return_exceptions=True)
    lost = outcome.pop(victim)
    assert isinstance(lost, freethreading.WorkerLostError)
    assert lost.exitcode == 7
    assert f"item {victim}" in str(lost)
    assert outcome == [x for x in range(9) if x != victim]


def test_many_deaths_in_one_map(process_pool: freethreading.WorkerPool) -> None:
    outcome = process_pool.map(exit_at, [(x, x // 4 * 4) for x in range(24)], 6, return_exceptions=True)
    assert [isinstance(item, freethreading.WorkerLostError) for item in outcome] == [
        x % 4 == 0 for x in range(24)
    ]


def test_a_stopped_worker_is_alive(process_pool: freethreading.WorkerPool) -> None:
    process_pool.map(square, range(4))
    workers = freethreading.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    result = process_pool.apply_async(square, (5,))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.3)
    for worker in workers:
        os.kill(worker.pid, signal.SIGCONT)
    assert result.get(30) == 25
    assert {worker.pid for worker in freethreading.active_children()} == {worker.pid for worker in workers}


# What does not pickle


def test_a_bad_item_fails_alone(process_pool: freethreading.WorkerPool) -> None:
    items = [1, threading.Lock(), Refuses(), Unpicklable(), 2]
    outcome = process_pool.map(identity, items, chunksize=5, return_exceptions=True)
    assert [outcome[0], outcome[4]] == [1, 2]
    assert [type(error).__name__ for error in outcome[1:4]] == [
        "NotPicklableError",
        "ZeroDivisionError",
        "KeyError",
    ]


def test_a_bad_function_is_refused_at_the_call(process_pool: freethreading.WorkerPool) -> None:
    lock = threading.Lock()
    for call in (
        lambda: process_pool.apply_async(lock.acquire),
        lambda: process_pool.map_async(lambda x: lock, [1]),
        lambda: process_pool.imap(lambda x: lock, [1]),
    ):
        with pytest.raises(ValueError, match="must be picklable"):
            call()
    with pytest.raises(KeyError, match="the user's own"):
        process_pool.apply_async(identity, (Unpicklable(),))


def test_a_bad_result_fails_its_item(process_pool: freethreading.WorkerPool) -> None:
    with pytest.raises(ValueError, match="must be picklable"):
        process_pool.apply(threading.Lock)
    with pytest.raises(ZeroDivisionError):
        process_pool.apply(make_refuses)
    assert process_pool.map(square, range(3)) == [0, 1, 4]


def test_strict_threads_refuse_what_does_not_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    monkeypatch.setenv("FREETHREADING_STRICT", "1")
    with freethreading.WorkerPool(1) as pool:
        thing = [1]
        assert pool.apply(identity, (thing,)) is thing
        with pytest.raises(ValueError, match="must be picklable"):
            pool.apply_async(identity, (threading.Lock(),))
        with pytest.raises(ValueError, match="must be picklable"):
            pool.apply(threading.Lock)
        outcome = pool.map(identity, [1, threading.Lock(), 2], return_exceptions=True)
        assert [type(item).__name__ for item in outcome] == ["int", "NotPicklableError", "int"]
    pool.join()


def test_frames_round_trip() -> None:
    frames = [b"function", b"", b"x" * 1000, b"y"]
    assert [bytes(frame) for frame in _frames.unpack(_frames.pack(frames))] == frames


def test_an_idle_pool_hears_of_a_task_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its thread looks by itself once a second: never here.
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    monkeypatch.setattr(_process_drainer, "POLL_SECONDS", 1000.0)
    monkeypatch.setattr(_process_drainer, "IDLE_POLL_SECONDS", 1000.0)
    with freethreading.WorkerPool(1) as pool:
        for number in range(20):
            assert pool.apply_async(square, (number,)).get(30) == number**2
            assert list(pool.imap(square, range(number), chunksize=3)) == [n * n for n in range(number)]


@pytest.mark.parametrize("count", [1.5, float("nan"), float("inf"), "2", 0, -1])
def test_a_number_of_workers_that_is_none(backend: str, count: Any) -> None:
    expected = (
        (ValueError, "greater than 0, not")
        if isinstance(count, int)
        else (TypeError, "an integer or None, not")
    )
    for make in (freethreading.WorkerPool, freethreading.WorkerPoolExecutor):
        with pytest.raises(expected[0], match=expected[1]):
            make(count)


def test_ended_workers_keep_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    descriptors = []
    gc.disable()  # a cycle of references would keep them until it runs
    try:
        for _ in range(3):
            with freethreading.WorkerPool(2) as pool:
                pool.map(abs, [1, 2])
            pool.join()
            descriptors.append(len(os.listdir("/proc/self/fd")))
    finally:
        gc.enable()
        gc.collect()
    assert descriptors[2] == descriptors[0]
