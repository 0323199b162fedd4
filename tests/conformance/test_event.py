"""Event."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.subjects import Subject


def wait_and_report(event: Any, ready: Any, result: Any) -> None:
    ready.release()
    result.put(event.wait(20))


def set_it(event: Any) -> None:
    event.set()


def test_set_clear_is_set(subject: Subject) -> None:
    event = subject.Event()
    assert event.is_set() is False
    event.set()
    assert event.is_set() is True
    event.set()
    event.clear()
    assert event.is_set() is False


def test_wait_of_a_set_one_returns_at_once(subject: Subject) -> None:
    event = subject.Event()
    event.set()
    assert event.wait() is True
    assert event.wait(0) is True


def test_wait_times_out(subject: Subject) -> None:
    event = subject.Event()
    start = time.monotonic()
    assert event.wait(0.05) is False
    assert 0.04 <= time.monotonic() - start < 5


@pytest.mark.parametrize("timeout", [0, -1])
def test_wait_without_waiting(ours: Subject, timeout: float) -> None:
    assert ours.Event().wait(timeout) is False


def test_set_wakes_every_waiter(subject: Subject) -> None:
    event, ready, result = subject.Event(), subject.Semaphore(0), subject.Queue()
    workers = [subject.run(wait_and_report, event, ready, result) for _ in range(4)]
    for _ in workers:
        assert ready.acquire(True, 20)
    event.set()
    assert [result.get(timeout=20) for _ in workers] == [True] * 4
    for worker in workers:
        worker.join()


def test_another_worker_sets_it(subject: Subject) -> None:
    event = subject.Event()
    worker = subject.run(set_it, event)
    assert event.wait(20) is True
    worker.join()
    assert event.is_set()


def test_repr_says_whether_it_is_set(ours: Subject) -> None:
    event = ours.Event()
    assert "unset" in repr(event)
    event.set()
    assert "unset" not in repr(event) and "set" in repr(event)
