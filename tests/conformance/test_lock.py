"""Lock and RLock: the contract that threading and multiprocessing share, and what ours add."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from support.subjects import Subject
from support.until import until


def hold_until(lock: Any, held: Any, let_go: Any) -> None:
    with lock:
        held.set()
        let_go.wait(20)


def try_to_take(lock: Any, result: Any) -> None:
    result.put(lock.acquire(False))


def take_and_report(lock: Any, result: Any) -> None:
    result.put(lock.acquire(True, 20))
    lock.release()


def release_it(lock: Any) -> None:
    lock.release()


def release_and_report(lock: Any, result: Any) -> None:
    try:
        lock.release()
    except Exception as error:
        result.put(type(error).__mro__[1].__name__)
    else:
        result.put("released")


def add_many(lock: Any, counter: Any, rounds: int) -> None:
    for _ in range(rounds):
        with lock:
            value = counter.get()
            counter.put(value + 1)


@pytest.fixture(params=["Lock", "RLock"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_acquire_returns_true_and_release_none(subject: Subject, kind: str) -> None:
    lock = getattr(subject, kind)()
    assert lock.acquire() is True
    assert lock.release() is None


def test_with_statement_holds_it(subject: Subject) -> None:
    lock = subject.Lock()
    with lock as entered:
        assert entered is True
        assert lock.acquire(False) is False
    assert lock.acquire(False) is True
    lock.release()


def test_with_statement_releases_after_an_exception(subject: Subject, kind: str) -> None:
    lock = getattr(subject, kind)()
    with pytest.raises(KeyError), lock:
        raise KeyError("inside")
    assert lock.acquire(False)
    lock.release()


def test_acquire_times_out(subject: Subject) -> None:
    lock = subject.Lock()
    lock.acquire()
    start = time.monotonic()
    assert lock.acquire(timeout=0.05) is False
    assert 0.04 <= time.monotonic() - start < 5
    lock.release()


def test_another_worker_cannot_take_a_held_one(subject: Subject, kind: str) -> None:
    lock, result = getattr(subject, kind)(), subject.Queue()
    with lock:
        worker = subject.run(try_to_take, lock, result)
        assert result.get(timeout=20) is False
        worker.join()


def test_another_worker_gets_it_after_release(subject: Subject, kind: str) -> None:
    lock, result = getattr(subject, kind)(), subject.Queue()
    lock.acquire()
    worker = subject.run(take_and_report, lock, result)
    lock.release()
    assert result.get(timeout=20) is True
    worker.join()


def test_any_worker_may_release_a_lock(subject: Subject) -> None:
    lock = subject.Lock()
    lock.acquire()
    worker = subject.run(release_it, lock)
    assert lock.acquire(timeout=20) is True
    worker.join()
    lock.release()


def test_only_the_owner_may_release_an_rlock(subject: Subject) -> None:
    lock, result = subject.RLock(), subject.Queue()
    with lock:
        worker = subject.run(release_and_report, lock, result)
        assert result.get(timeout=20) != "released"
        worker.join()


def test_release_of_an_unheld_one_is_an_error(subject: Subject, kind: str) -> None:
    expected = (RuntimeError, ValueError, AssertionError)
    with pytest.raises(expected):
        getattr(subject, kind)().release()


def test_release_of_an_unheld_one_is_both_libraries_error(ours: Subject) -> None:
    for expected in (RuntimeError, ValueError):
        with pytest.raises(expected):
            ours.Lock().release()
    for expected in (RuntimeError, AssertionError):
        with pytest.raises(expected):
            ours.RLock().release()


def test_rlock_is_taken_again_by_its_owner(subject: Subject) -> None:
    lock, result = subject.RLock(), subject.Queue()
    for _ in range(3):
        assert lock.acquire() is True
    lock.release()
    lock.release()
    worker = subject.run(try_to_take, lock, result)
    assert result.get(timeout=20) is False
    worker.join()
    lock.release()
    worker = subject.run(take_and_report, lock, result)
    assert result.get(timeout=20) is True
    worker.join()


def test_mutual_exclusion(subject: Subject) -> None:
    lock, counter = subject.Lock(), subject.Queue()
    counter.put(0)
    workers = [subject.run(add_many, lock, counter, 200) for _ in range(3)]
    for worker in workers:
        worker.join()
    assert counter.get(timeout=20) == 600


def test_bad_arguments(subject: Subject) -> None:
    lock = subject.Lock()
    with pytest.raises(TypeError):
        lock.acquire(timeout="soon")
    with pytest.raises(TypeError):
        lock.acquire(nonsense=1)


@pytest.mark.parametrize("timeout", [None, -1, -0.5])
def test_none_and_negative_wait_for_ever(ours: Subject, kind: str, timeout: float | None) -> None:
    lock, held, let_go = getattr(ours, kind)(), ours.Event(), ours.Event()
    worker = ours.run(hold_until, lock, held, let_go)
    assert held.wait(20)
    outcome: list[bool] = []
    waiter = threading.Thread(target=lambda: outcome.append(lock.acquire(timeout=timeout)))
    waiter.start()
    let_go.set()
    waiter.join(20)
    assert outcome == [True]
    worker.join()
    if kind == "Lock":
        lock.release()


def test_zero_timeout_does_not_wait(ours: Subject) -> None:
    lock = ours.Lock()
    lock.acquire()
    assert lock.acquire(timeout=0) is False
    lock.release()


def test_a_timeout_needs_blocking(ours: Subject, kind: str) -> None:
    with pytest.raises(ValueError, match="timeout"):
        getattr(ours, kind)().acquire(False, 1.0)


def test_a_timeout_past_the_clock_is_an_overflow(ours: Subject, kind: str) -> None:
    with pytest.raises(OverflowError):
        getattr(ours, kind)().acquire(timeout=1e100)


def test_locked(ours: Subject, kind: str) -> None:
    lock = getattr(ours, kind)()
    assert lock.locked() is False
    with lock:
        assert lock.locked() is True
    assert lock.locked() is False


def test_inside_threading_condition(ours: Subject, kind: str) -> None:
    condition = threading.Condition(getattr(ours, kind)())
    done: list[int] = []

    def waiter() -> None:
        with condition:
            assert condition.wait_for(lambda: done, timeout=20)

    thread = threading.Thread(target=waiter)
    thread.start()
    with condition:
        done.append(1)
        condition.notify_all()
    thread.join(20)
    assert not thread.is_alive()


def test_repr_says_whether_it_is_locked(ours: Subject, kind: str) -> None:
    lock = getattr(ours, kind)()
    assert "unlocked" in repr(lock)
    with lock:
        assert "unlocked" not in repr(lock) and "locked" in repr(lock)


def test_waiters_all_get_it(ours: Subject) -> None:
    lock, result = ours.Lock(), ours.Queue()
    lock.acquire()
    workers = [ours.run(take_and_report, lock, result) for _ in range(4)]
    lock.release()
    assert [result.get(timeout=20) for _ in workers] == [True] * 4
    for worker in workers:
        worker.join()
    until(lambda: not lock.locked(), "the lock is free")
