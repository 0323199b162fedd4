"""Semaphore and BoundedSemaphore."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.subjects import Subject


def take_and_report(semaphore: Any, result: Any) -> None:
    result.put(semaphore.acquire(True, 20))


def give(semaphore: Any) -> None:
    semaphore.release()


@pytest.fixture(params=["Semaphore", "BoundedSemaphore"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_value_is_the_number_of_permits(subject: Subject, kind: str) -> None:
    semaphore = getattr(subject, kind)(2)
    assert semaphore.acquire() is True
    assert semaphore.acquire(False) is True
    assert semaphore.acquire(False) is False
    semaphore.release()
    assert semaphore.acquire(False) is True


def test_one_permit_by_default(subject: Subject, kind: str) -> None:
    semaphore = getattr(subject, kind)()
    assert semaphore.acquire(False) is True
    assert semaphore.acquire(False) is False


def test_acquire_times_out(subject: Subject, kind: str) -> None:
    semaphore = getattr(subject, kind)(0) if kind == "Semaphore" else getattr(subject, kind)(1)
    if kind == "BoundedSemaphore":
        semaphore.acquire()
    start = time.monotonic()
    assert semaphore.acquire(True, 0.05) is False
    assert 0.04 <= time.monotonic() - start < 5


def test_release_wakes_another_worker(subject: Subject) -> None:
    semaphore, result = subject.Semaphore(0), subject.Queue()
    worker = subject.run(take_and_report, semaphore, result)
    semaphore.release()
    assert result.get(timeout=20) is True
    worker.join()


def test_any_worker_may_release(subject: Subject) -> None:
    semaphore = subject.Semaphore(0)
    worker = subject.run(give, semaphore)
    assert semaphore.acquire(True, 20) is True
    worker.join()


def test_with_statement(subject: Subject, kind: str) -> None:
    semaphore = getattr(subject, kind)(1)
    with semaphore:
        assert semaphore.acquire(False) is False
    assert semaphore.acquire(False) is True


def test_bounded_release_past_the_bound(subject: Subject) -> None:
    semaphore = subject.BoundedSemaphore(1)
    with pytest.raises(ValueError):
        semaphore.release()
    semaphore.acquire()
    semaphore.release()


def test_release_of_several(ours: Subject) -> None:
    semaphore, result = ours.Semaphore(0), ours.Queue()
    workers = [ours.run(take_and_report, semaphore, result) for _ in range(3)]
    semaphore.release(3)
    assert [result.get(timeout=20) for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()
    assert semaphore.acquire(False) is False


@pytest.mark.parametrize("count", [0, -1])
def test_release_of_less_than_one(ours: Subject, kind: str, count: int) -> None:
    with pytest.raises(ValueError, match="one or more"):
        getattr(ours, kind)(1).release(count)


def test_bounded_release_of_several_past_the_bound_changes_nothing(ours: Subject) -> None:
    semaphore = ours.BoundedSemaphore(2)
    semaphore.acquire()
    with pytest.raises(ValueError):
        semaphore.release(2)
    assert semaphore.acquire(False) is True
    assert semaphore.acquire(False) is False


def test_negative_value(subject: Subject, kind: str) -> None:
    with pytest.raises((ValueError, OSError)):
        getattr(subject, kind)(-1)


def test_a_timeout_needs_blocking(ours: Subject, kind: str) -> None:
    with pytest.raises(ValueError, match="timeout"):
        getattr(ours, kind)().acquire(blocking=False, timeout=1.0)
