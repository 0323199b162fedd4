"""The open jobs below imap, by themselves."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from typing import Any

import pytest

from freethreading._core import MapJob, ThreadJob


def reject_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"odd: {number}")
    return number


def test_what_an_open_job_says_of_itself() -> None:
    calls: list[int] = []

    def invite() -> None:
        calls.append(1)

    job = MapJob.open(3, 1000, 2)
    assert len(job) == 0 and not job.has_free and not job.is_complete
    items: Iterator[Any] = iter([1, 2, {3}, 4, 5, 6])
    assert job.extend(items, 1, invite) == (0, None)
    assert job.extend(items, 9, invite) == (3, {3})
    assert (len(job), len(calls)) == (2, 2)
    assert job.extend(items, 9, invite) == (2, 5)
    assert job.has_free and not job.is_complete
    assert job.extend(items, 9, invite) == (2, 6)
    assert job.extend(items, 9, invite) == (1, None)
    error = ValueError()
    job.withdraw(True, error)
    assert job.collect_any(2) == (0, [error] * 2, [0, 1])
    assert job.collect_any() == (2, [error], [0])
    assert job.is_complete
    small = MapJob.open(10, 8, 1)
    assert small.extend(iter(["too long for it"]), 9, invite) == (2, "too long for it")
    with pytest.raises(ZeroDivisionError):
        MapJob.open(1, 100, 1).extend(iter([1]), 1, lambda: 1 / 0)
    for wrong in ((), (1, 2), (-1, 2, 3), (1, 2**32, 3), ("1", 2, 3)):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            MapJob.open(*wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        job.extend([1], 1, invite)  # type: ignore[arg-type]


def test_a_dead_worker_seals_an_open_job() -> None:
    job = MapJob.open(10, 1000, 2)
    assert job.extend(iter([1]), 1, lambda: None) == (0, None)
    assert job.settle(7) == []
    assert job.has_free
    assert job.extend(iter([2]), 1, lambda: None) == (2, 2)


def test_what_an_open_job_of_threads_says_of_itself() -> None:
    context = contextvars.Context()
    calls: list[int] = []
    job = ThreadJob.open(4, 2)
    assert job.extend(iter(range(3)), 9, lambda: calls.append(1)) == (1, None)
    assert (len(job), len(calls)) == (3, 2)
    assert not job.run(reject_odd, context, None, None)
    assert not job.is_complete
    first, values, failures = job.collect_any(2)
    assert (first, values[0], failures) == (0, 0, [1])
    job.ask()
    assert job.extend(iter([4, 6]), 9, lambda: calls.append(1)) == (2, 6)
    assert len(calls) == 3
    assert job.run(reject_odd, context, None, None)  # somebody has asked
    assert not job.run(reject_odd, context, None, None)
    assert job.collect_any() == (2, [2, 4], [])
    assert job.is_complete
    with pytest.raises(TypeError):
        ThreadJob.open(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        job.extend([1], 1, calls.clear)  # type: ignore[arg-type]
