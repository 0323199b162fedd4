"""Many workers: those that sleep are woken where they are needed, and only there (docs/design/waiting.md, "The sentry")."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

import freethreading
from support import processes
from support.shared import just
from support.until import until

SECONDS = 60.0
WORKERS = 8


def meet(barrier: Any) -> int:
    barrier.wait(SECONDS)
    return os.getpid()


def wait_for(gate: Any) -> int:
    assert gate.wait(SECONDS)
    return os.getpid()


@pytest.mark.parametrize("workers", [2, WORKERS])
def test_calls_that_wait_for_each_other_run_among_short_ones(backend: str, workers: int) -> None:
    barrier: Any = freethreading.Barrier(workers)
    with freethreading.WorkerPoolExecutor(workers) as executor:
        for _ in range(40):
            before = [executor.submit(just, number) for number in range(100)]
            meeting = [executor.submit(meet, barrier) for _ in range(workers)]
            behind = [executor.submit(just, number) for number in range(100)]
            for futures in (before, behind):
                assert [future.result(SECONDS) for future in futures] == list(range(100))
            pids = {future.result(SECONDS) for future in meeting}
            assert len(pids) == (1 if backend == "threading" else workers)


def test_a_worker_that_is_stopped_while_it_waits_keeps_no_call(backend: str) -> None:
    if backend == "threading":
        pytest.skip("a matter of processes")
    gates: Any = freethreading.Event(), freethreading.Event()
    with freethreading.WorkerPoolExecutor(3) as executor:
        held = [executor.submit(wait_for, gate) for gate in gates]
        until(lambda: all(future.running() for future in held), "two are busy")
        third = executor.submit(os.getpid).result(SECONDS)
        until(lambda: third in processes.alive(), "the third waits")
        os.kill(third, signal.SIGSTOP)
        try:
            calls = [executor.submit(just, number) for number in range(50)]
            gates[0].set()  # one of the others is free for them
            assert [call.result(SECONDS) for call in calls] == list(range(50))
            gates[1].set()
            assert third not in {future.result(SECONDS) for future in held}
        finally:
            os.kill(third, signal.SIGCONT)


def test_one_that_is_killed_while_it_waits_keeps_no_call(backend: str) -> None:
    if backend == "threading":
        pytest.skip("a matter of processes")
    with freethreading.WorkerPoolExecutor(WORKERS) as executor:
        for _ in range(20):
            pids = {future.result(SECONDS) for future in [executor.submit(os.getpid) for _ in range(200)]}
            os.kill(pids.pop(), signal.SIGKILL)
            for number in range(20):
                future = executor.submit(just, number)
                # It may have taken one before it died.
                assert future.exception(SECONDS) is not None or future.result() == number


def test_a_callback_that_waits_for_what_was_submitted_just_before(backend: str) -> None:
    for number in range(60):
        told = threading.Event()
        found: list[bool] = []

        def wait(_: object, told: threading.Event = told, found: list[bool] = found) -> None:
            # Where the call was done before, it is this thread.
            found.append(threading.current_thread() is threading.main_thread() or told.wait(10))

        with freethreading.WorkerPoolExecutor(2) as executor:
            executor.submit(just, 1).result(SECONDS)  # one worker is there
            first = executor.submit(sum, range(20 * number))
            first.add_done_callback(wait)
            first.result(SECONDS)  # its worker, or the drainer, is about to call that
            if backend == "threading":
                executor.submit(told.set)
            else:
                told.set()
        assert found == [True]


def test_workers_are_as_many_as_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    gate: Any = freethreading.Event()
    with freethreading.WorkerPoolExecutor(WORKERS) as executor:
        for _ in range(20):
            executor.submit(just, 1).result(SECONDS)  # one at a time: they need few
        held = [executor.submit(wait_for, gate) for _ in range(WORKERS - 1)]
        assert executor.submit(just, 2).result(SECONDS) == 2
        told: Any = freethreading.SimpleQueue()
        # A callback that waits for another call, whose worker is one more.
        first = executor.submit(just, 3)
        first.add_done_callback(lambda _: told.put(executor.submit(just, 4).result(SECONDS)))
        assert told.get(timeout=SECONDS) == 4
        gate.set()
        assert len({future.result(SECONDS) for future in held}) == 1
