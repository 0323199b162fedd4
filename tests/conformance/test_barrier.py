"""Barrier."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from support.subjects import Subject
from support.until import until


def meet(barrier: Any, result: Any, rounds: int = 1) -> None:
    try:
        for _ in range(rounds):
            result.put(barrier.wait(20))
    except threading.BrokenBarrierError:
        result.put("broken")


def test_indices_are_each_given_once(subject: Subject) -> None:
    barrier, result = subject.Barrier(3), subject.Queue()
    workers = [subject.run(meet, barrier, result) for _ in range(3)]
    assert sorted(result.get(timeout=20) for _ in workers) == [0, 1, 2]
    for worker in workers:
        worker.join()


def test_used_again_and_again(subject: Subject) -> None:
    barrier, result = subject.Barrier(2), subject.Queue()
    workers = [subject.run(meet, barrier, result, 50) for _ in range(2)]
    indices = [result.get(timeout=20) for _ in range(100)]
    assert indices.count(0) == indices.count(1) == 50
    for worker in workers:
        worker.join()


def test_of_one(subject: Subject) -> None:
    barrier = subject.Barrier(1)
    assert barrier.wait() == 0
    assert barrier.wait(1) == 0
    assert barrier.parties == 1
    assert barrier.n_waiting == 0
    assert barrier.broken is False


def test_times_out_and_breaks(subject: Subject) -> None:
    barrier = subject.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.02)
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def test_default_timeout(subject: Subject) -> None:
    barrier = subject.Barrier(2, timeout=0.02)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()


def test_abort_breaks_the_waiters(subject: Subject) -> None:
    barrier, result = subject.Barrier(3), subject.Queue()
    workers = [subject.run(meet, barrier, result) for _ in range(2)]
    until(lambda: barrier.n_waiting == 2, "both wait")
    barrier.abort()
    assert [result.get(timeout=20) for _ in workers] == ["broken"] * 2
    assert barrier.broken
    for worker in workers:
        worker.join()


def test_reset_breaks_the_waiters_and_mends_the_barrier(subject: Subject) -> None:
    barrier, result = subject.Barrier(2), subject.Queue()
    worker = subject.run(meet, barrier, result)
    until(lambda: barrier.n_waiting == 1, "it waits")
    barrier.reset()
    assert result.get(timeout=20) == "broken"
    worker.join()
    until(lambda: barrier.n_waiting == 0, "nobody waits")
    worker = subject.run(meet, barrier, result)
    barrier.wait(20)
    assert result.get(timeout=20) in (0, 1)
    worker.join()


def test_action_runs_once_a_round_before_anyone_goes_on(subject: Subject) -> None:
    if subject.processes:
        pytest.skip("an action that counts in the caller's memory needs threads; see the next test")
    rounds: list[int] = []
    barrier, result = subject.Barrier(2, lambda: rounds.append(1)), subject.Queue()
    workers = [subject.run(meet, barrier, result, 5) for _ in range(2)]
    for worker in workers:
        worker.join()
    assert len(rounds) == 5


def count_in(queue: Any) -> None:
    queue.put("action")


def test_action_of_another_worker(ours: Subject) -> None:
    import functools

    seen, result = ours.Queue(), ours.Queue()
    barrier = ours.Barrier(2, functools.partial(count_in, seen))
    workers = [ours.run(meet, barrier, result, 5) for _ in range(2)]
    for worker in workers:
        worker.join()
    assert seen.qsize() == 5


def test_failing_action_breaks_it(subject: Subject) -> None:
    def fail() -> None:
        raise KeyError("action")

    barrier = subject.Barrier(1, fail)
    with pytest.raises(KeyError):
        barrier.wait()
    assert barrier.broken


@pytest.mark.parametrize("parties", [0, -1])
def test_too_few_parties(ours: Subject, parties: int) -> None:
    with pytest.raises(ValueError, match="parties"):
        ours.Barrier(parties)
