"""WorkerPoolExecutor: the contract of concurrent.futures.Executor, on both back ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
from typing import Any

import pytest

import freethreading
from support.subjects import Subject
from support.until import until


def add(a: int, b: int = 0) -> int:
    return a + b


def reject(x: int) -> int:
    raise ValueError(f"rejected: {x}")


def wait_for(event: Any) -> str:
    event.wait(20)
    return "waited"


def own_name() -> str:
    return freethreading.current_worker().name


def own_pid() -> int:
    return os.getpid()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_to_start() -> None:
    raise LookupError("the initializer fails")


def test_is_an_executor(ours: Subject) -> None:
    with freethreading.WorkerPoolExecutor(max_workers=2) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        future = executor.submit(add, 1, b=2)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(20) == 3
        assert list(executor.map(add, range(10), range(10))) == [2 * x for x in range(10)]


def test_exception(ours: Subject) -> None:
    with freethreading.WorkerPoolExecutor(2) as executor:
        future = executor.submit(reject, 7)
        with pytest.raises(ValueError, match="rejected: 7"):
            future.result(20)
        results = executor.map(reject, [1, 2], return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError]


def test_wait_as_completed_and_callbacks(ours: Subject) -> None:
    seen: list[int] = []
    with freethreading.WorkerPoolExecutor(2) as executor:
        futures = [executor.submit(add, x) for x in range(5)]
        futures[0].add_done_callback(lambda future: seen.append(future.result()))
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures, 20)) == list(
            range(5)
        )
        done, pending = concurrent.futures.wait(futures, 20)
        assert len(done) == 5 and not pending
    assert seen == [0]


def test_cancel_of_a_waiting_call(ours: Subject) -> None:
    event = ours.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        running = executor.submit(wait_for, event)
        waiting = [executor.submit(add, x) for x in range(10)]
        assert waiting[-1].cancel()
        assert waiting[-1].cancelled()
        event.set()
        assert running.result(20) == "waited"
        assert [future.result(20) for future in waiting[:-1]] == list(range(9))


def test_shutdown_cancels_what_waits(ours: Subject) -> None:
    event = ours.Event()
    executor = freethreading.WorkerPoolExecutor(1)
    running = executor.submit(wait_for, event)
    waiting = [executor.submit(add, x) for x in range(20)]
    until(running.running, "a worker has it")
    executor.shutdown(wait=False, cancel_futures=True)
    event.set()
    executor.shutdown(wait=True)
    assert running.result(20) == "waited"
    assert waiting[-1].cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(add, 1)


def test_asyncio(ours: Subject) -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        with freethreading.WorkerPoolExecutor(2) as executor:
            return list(await asyncio.gather(*(loop.run_in_executor(executor, add, x, 1) for x in range(10))))

    assert asyncio.run(run()) == list(range(1, 11))


def test_arguments_are_accepted_on_both(ours: Subject) -> None:
    with freethreading.WorkerPoolExecutor(
        1, thread_name_prefix="prefix", mp_context=None, max_tasks_per_child=None
    ) as executor:
        assert executor.submit(own_name).result(20).startswith("prefix")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": "many"}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments(ours: Subject, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        freethreading.WorkerPoolExecutor(**arguments)


def test_failing_initializer_breaks_it(ours: Subject) -> None:
    with freethreading.WorkerPoolExecutor(1, initializer=fail_to_start) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(add, 1).result(20)


def test_map_with_a_timeout(ours: Subject) -> None:
    event = ours.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        results = executor.map(wait_for, [event], timeout=0.05)
        for expected in (concurrent.futures.TimeoutError,):
            with pytest.raises(expected):
                next(results)
        event.set()


def test_map_checks_its_chunksize(ours: Subject) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor, pytest.raises(ValueError):
        list(executor.map(add, [1], chunksize=0))


def test_lambdas(ours: Subject) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        assert executor.submit(lambda: 42).result(20) == 42


def test_max_tasks_per_child_renews_the_worker(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("a matter of processes")
    with freethreading.WorkerPoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(own_pid).result(20) for _ in range(6)]
    assert len(set(pids)) == 3


def test_a_killed_worker_fails_its_own_call(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("a matter of processes")
    with freethreading.WorkerPoolExecutor(1) as executor:
        lost, after = executor.submit(kill_self), executor.submit(add, 1)
        with pytest.raises(freethreading.WorkerLostError) as caught:
            lost.result(20)
        assert caught.value.signal == signal.SIGKILL
        assert isinstance(caught.value, concurrent.futures.process.BrokenProcessPool)
        assert after.result(20) == 1
