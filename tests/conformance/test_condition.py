"""Condition."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.subjects import Subject
from support.until import until


def wait_and_report(condition: Any, ready: Any, result: Any, timeout: float = 20) -> None:
    with condition:
        ready.release()
        result.put(condition.wait(timeout))


def wait_for_items(condition: Any, box: Any, wanted: int, result: Any) -> None:
    with condition:
        result.put(condition.wait_for(lambda: box.qsize() >= wanted, 20))


def put_and_notify(condition: Any, box: Any, count: int) -> None:
    for _ in range(count):
        with condition:
            box.put(1)
            condition.notify_all()


def notify_one(condition: Any) -> None:
    with condition:
        condition.notify()


def test_wait_times_out_and_holds_the_lock_again(subject: Subject) -> None:
    condition = subject.Condition()
    with condition:
        start = time.monotonic()
        assert condition.wait(0.05) is False
        assert 0.04 <= time.monotonic() - start < 5
        condition.notify()  # raises where the lock is not held


def test_notify_from_another_worker(subject: Subject) -> None:
    condition = subject.Condition()
    with condition:
        worker = subject.run(notify_one, condition)
        assert condition.wait(20) is True
    worker.join()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_notify_wakes_that_many(subject: Subject, count: int) -> None:
    condition, ready, result = subject.Condition(), subject.Semaphore(0), subject.Queue()
    workers = [subject.run(wait_and_report, condition, ready, result) for _ in range(3)]
    for _ in workers:
        assert ready.acquire(True, 20)
    with condition:  # every waiter has let the lock go: it waits
        condition.notify(count)
    assert [result.get(timeout=20) for _ in range(count)] == [True] * count
    assert result.empty()
    with condition:
        condition.notify_all()
    assert [result.get(timeout=20) for _ in range(3 - count)] == [True] * (3 - count)
    for worker in workers:
        worker.join()


def test_notify_before_wait_is_not_remembered(subject: Subject) -> None:
    condition = subject.Condition()
    with condition:
        condition.notify()
        condition.notify_all()
        assert condition.wait(0.02) is False


def test_wait_for(subject: Subject) -> None:
    condition, box, result = subject.Condition(), subject.Queue(), subject.Queue()
    worker = subject.run(wait_for_items, condition, box, 3, result)
    feeder = subject.run(put_and_notify, condition, box, 3)
    assert result.get(timeout=20) is True
    worker.join()
    feeder.join()
    for _ in range(3):
        box.get(timeout=20)


def test_wait_for_times_out_with_the_predicates_value(subject: Subject) -> None:
    condition = subject.Condition()
    with condition:
        assert condition.wait_for(lambda: 0, timeout=0.02) == 0
        assert condition.wait_for(lambda: "yes", timeout=0.02) == "yes"


def test_without_the_lock(subject: Subject) -> None:
    condition = subject.Condition()
    for misuse in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises((RuntimeError, AssertionError)):
            misuse()


def test_without_the_lock_is_both_libraries_error(ours: Subject) -> None:
    condition = ours.Condition()
    for misuse in (condition.wait, condition.notify, condition.notify_all):
        for expected in (RuntimeError, AssertionError):
            with pytest.raises(expected):
                misuse()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_with_a_lock_of_the_callers(subject: Subject, kind: str) -> None:
    lock = getattr(subject, kind)()
    condition = subject.Condition(lock)
    with condition:
        worker = subject.run(notify_one, condition)
        assert condition.wait(20) is True
    worker.join()
    with lock:
        condition.notify()


def test_wait_gives_up_every_level_of_an_rlock(subject: Subject) -> None:
    condition = subject.Condition()
    with condition, condition:
        worker = subject.run(notify_one, condition)
        assert condition.wait(20) is True
    worker.join()
    with pytest.raises((RuntimeError, AssertionError)):
        condition.notify()


def test_a_foreign_lock_is_refused(ours: Subject) -> None:
    with pytest.raises(TypeError, match="object"):
        ours.Condition(object())


def test_many_notifications_reach_their_waiters(ours: Subject) -> None:
    condition, ready, result = ours.Condition(), ours.Semaphore(0), ours.Queue()
    workers = [ours.run(wait_and_report, condition, ready, result) for _ in range(6)]
    for _ in workers:
        assert ready.acquire(True, 20)
    for _ in workers:
        with condition:
            condition.notify()
    assert [result.get(timeout=20) for _ in workers] == [True] * 6
    for worker in workers:
        worker.join()
    until(result.empty, "no further result")
