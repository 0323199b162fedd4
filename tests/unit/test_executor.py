"""WorkerPoolExecutor beyond its contract with concurrent.futures: cancelling, shutting down, ending, breaking."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait as futures_wait
from typing import Any

import pytest

import freethreading
from support.program import run_program
from support.until import until


def square(x: int) -> int:
    return x * x


def fail(x: int) -> int:
    raise ValueError(f"no {x}")


def wait_for(event: Any) -> bool:
    return bool(event.wait(30))


def name_of_worker(_: object = None) -> str:
    return freethreading.current_worker().name


def exit_at(item: int, victim: int) -> int:
    if item == victim:
        os._exit(7)
    return item


def fail_to_start() -> None:
    raise LookupError("the initializer fails")


@pytest.fixture
def executor(backend: str) -> Iterator[freethreading.WorkerPoolExecutor]:
    with freethreading.WorkerPoolExecutor(2) as executor:
        yield executor


def test_workers_are_started_as_they_are_needed(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(5) as executor:
        assert freethreading.active_children() == []
        for _ in range(4):
            assert executor.submit(square, 3).result(30) == 9
        assert len(freethreading.active_children()) == 1


def test_a_future_runs_and_cannot_be_cancelled_then(backend: str) -> None:
    event = freethreading.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        future = executor.submit(wait_for, event)
        until(future.running, "it runs")
        assert not future.cancel()
        event.set()
        assert future.result(30) is True


def test_cancelled_futures_are_told_to_who_waits(backend: str) -> None:
    event = freethreading.Event()
    executor = freethreading.WorkerPoolExecutor(1)
    executor.submit(wait_for, event)
    futures = [executor.submit(square, x) for x in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    event.set()
    done, pending = concurrent.futures.wait(futures, 30)
    assert len(done) == 20
    assert not pending
    assert sum(future.cancelled() for future in futures) >= 18
    executor.shutdown()


def test_map_in_chunks_and_with_a_buffer(executor: freethreading.WorkerPoolExecutor) -> None:
    expected = [x**2 for x in range(23)]
    for chunksize in (1, 4, 50):
        for buffersize in (None, 1, 3):
            results = executor.map(pow, range(23), [2] * 30, chunksize=chunksize, buffersize=buffersize)
            assert list(results) == expected
    assert list(executor.map(square, [])) == []


def test_a_buffer_bounds_what_is_read_ahead(executor: freethreading.WorkerPoolExecutor) -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for x in range(100):
            pulled.append(x)
            yield x

    results = executor.map(square, items(), buffersize=4)
    assert len(pulled) == 4
    next(results)
    assert len(pulled) == 5
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"chunksize": 0}, ValueError), ({"buffersize": 0}, ValueError), ({"buffersize": "two"}, TypeError)],
    ids=str,
)
def test_map_refuses_bad_arguments_at_the_call(
    executor: freethreading.WorkerPoolExecutor, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        executor.map(square, [1], **arguments)


def test_map_raises_in_turn(executor: freethreading.WorkerPoolExecutor) -> None:
    results = executor.map(square, [1, 2, None, 3], chunksize=2)
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(TypeError):
        next(results)
    outcome = list(executor.map(square, [1, None, 3], chunksize=2, return_exceptions=True))
    assert [outcome[0], type(outcome[1]), outcome[2]] == [1, TypeError, 9]


def test_what_does_not_pickle_comes_through_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPoolExecutor(1) as executor:
        future = executor.submit(square, threading.Lock())
        assert future.done()
        with pytest.raises(ValueError, match=r"must be picklable"):
            future.result()
        assert executor.submit(square, 2).result(30) == 4


def test_a_broken_initializer_breaks_pending_and_later_calls(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1, initializer=fail_to_start) as executor:
        future = executor.submit(square, 1)
        error = future.exception(30)
        assert isinstance(error, concurrent.futures.BrokenExecutor)
        assert isinstance(error.__cause__, LookupError)
        with pytest.raises(concurrent.futures.BrokenExecutor, match="initializer"):
            executor.submit(square, 1)


def test_names(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1, thread_name_prefix="mine") as executor:
        assert executor.submit(name_of_worker).result(30) == "mine_0"
    with freethreading.WorkerPoolExecutor(1) as first, freethreading.WorkerPoolExecutor(1) as second:
        names = [executor.submit(name_of_worker).result(30) for executor in (first, second)]
        assert names[0] != names[1]


def test_workers_are_renewed(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1, max_tasks_per_child=2, thread_name_prefix="w") as executor:
        names = [executor.submit(name_of_worker).result(30) for _ in range(6)]
    assert names == ["w_0", "w_0", "w_1", "w_1", "w_2", "w_2"]


def test_shutdown_in_a_call_and_in_a_callback(backend: str) -> None:
    executor = freethreading.WorkerPoolExecutor(2)
    called = threading.Event()

    def end(_: object) -> None:
        executor.shutdown(wait=True)
        called.set()

    executor.submit(square, 2).add_done_callback(end)
    assert called.wait(30)
    executor.shutdown(wait=True)
    executor.shutdown(wait=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)


def test_a_threads_call_may_shut_its_executor_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    executor = freethreading.WorkerPoolExecutor(2)
    assert executor.submit(executor.shutdown).result(30) is None
    executor.shutdown()


def test_a_dropped_executor_finishes_its_work_and_ends(backend: str) -> None:
    executor = freethreading.WorkerPoolExecutor(2)
    futures = [executor.submit(square, x) for x in range(10)]
    del executor
    gc.collect()
    assert [future.result(30) for future in futures] == [x * x for x in range(10)]
    until(lambda: not freethreading.active_children(), "its workers end")


def test_a_callback_that_raises_system_exit_harms_nobody(
    executor: freethreading.WorkerPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
    future = executor.submit(square, 3)
    future.add_done_callback(lambda _: sys.exit(1)) if not future.done() else reported.append(SystemExit)
    until(lambda: reported == [SystemExit], "it is reported")
    assert executor.submit(square, 4).result(30) == 16


@pytest.mark.parametrize("wait", ["result", "exception", "map"])
def test_a_callback_may_wait_for_another_call(backend: str, wait: str) -> None:
    got: list[Any] = []
    called = threading.Event()

    def call_again(done: Future[int]) -> None:
        if wait == "map":
            got.append(list(executor.map(abs, [-done.result()])))
        else:
            got.append(getattr(executor.submit(abs, -done.result()), wait)())
        called.set()

    with freethreading.WorkerPoolExecutor(2) as executor:
        event = freethreading.Event()
        first = executor.submit(wait_and_return, event, 3)
        first.add_done_callback(call_again)
        event.set()
        assert called.wait(20)
    assert got == [{"result": 3, "exception": None, "map": [3]}[wait]]


def test_a_callback_on_threads_may_wait_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    got: list[Any] = []
    called = threading.Event()

    def wait_for_another(_: object) -> None:
        got.append(len(futures_wait([executor.submit(abs, -1)]).done))
        called.set()

    with freethreading.WorkerPoolExecutor(2) as executor:
        event = freethreading.Event()
        first = executor.submit(wait_and_return, event, 3)
        first.add_done_callback(wait_for_another)
        event.set()
        assert called.wait(20)
    assert got == [1]


def test_a_forked_child_is_told_that_nothing_will_come(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        event = freethreading.Event()
        future = executor.submit(wait_and_return, event, 3)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                future.result()
            except RuntimeError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        event.set()
        assert future.result() == 3


def wait_and_return(event: Any, value: int) -> int:
    event.wait()
    return value


def test_it_is_not_copied(executor: freethreading.WorkerPoolExecutor) -> None:
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="belong to the process that made it"):
            make(executor)


def test_submit_from_a_callback(executor: freethreading.WorkerPoolExecutor) -> None:
    second: list[concurrent.futures.Future[int]] = []
    executor.submit(square, 3).add_done_callback(
        lambda done: second.append(executor.submit(square, done.result()))
    )
    until(lambda: second and second[0].done(), "the second is done")
    assert second[0].result() == 81


@pytest.mark.parametrize("chunksize", [1, 3, 8])
def test_blame_is_exact(monkeypatch: pytest.MonkeyPatch, chunksize: int) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPoolExecutor(2) as executor:
        outcome = list(executor.map(exit_at, range(8), [3] * 8, chunksize=chunksize, return_exceptions=True))
        lost = outcome.pop(3)
        assert isinstance(lost, freethreading.WorkerLostError)
        assert lost.exitcode == 7
        assert outcome == [0, 1, 2, 4, 5, 6, 7]


def test_a_burst_from_many_threads(executor: freethreading.WorkerPoolExecutor) -> None:
    sums: list[int] = []

    def burst() -> None:
        sums.append(sum(future.result(60) for future in [executor.submit(square, x) for x in range(100)]))

    threads = [threading.Thread(target=burst) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sums == [sum(x * x for x in range(100))] * 4


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_the_program_ends_when_pending_work_is_done(backend: str) -> None:
    done = run_program(
        """
        import freethreading, time
        if __name__ == "__main__":
            executor = freethreading.WorkerPoolExecutor(1)
            futures = [executor.submit(time.sleep, 0.01) for _ in range(10)]
            futures[-1].add_done_callback(lambda future: print("the last is done", flush=True))
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (0, "the last is done\n"), done.stderr


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_submit_at_the_programs_end(backend: str) -> None:
    done = run_program(
        """
        import atexit, freethreading
        executor = freethreading.WorkerPoolExecutor(1)
        assert executor.submit(abs, -1).result() == 1
        @atexit.register
        def late():
            try:
                executor.submit(abs, -1)
            except RuntimeError as error:
                print(error)
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (
        0,
        "cannot schedule new futures after interpreter shutdown\n",
    ), done.stderr


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_a_first_pool_at_the_programs_end(backend: str) -> None:
    done = run_program(
        """
        import atexit, freethreading
        @atexit.register
        def late():
            for kind in (freethreading.WorkerPool, freethreading.WorkerPoolExecutor):
                try:
                    kind(1)
                except RuntimeError as error:
                    print(error)
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (
        0,
        "cannot make a pool after interpreter shutdown\n" * 2,
    ), done.stderr


def test_a_child_of_multiprocessing_may_leave_an_executor_running(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_program(
        """
        import multiprocessing, freethreading
        def child():
            executor = freethreading.WorkerPoolExecutor(2)
            pool = freethreading.WorkerPool(2)
            assert executor.submit(abs, -1).result(30) == 1 and pool.map(abs, [-1]) == [1]
        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(30)
            print(process.exitcode)
        """,
        "multiprocessing",
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_waiting_costs_no_time_once_done(executor: freethreading.WorkerPoolExecutor) -> None:
    executor.submit(square, 1).result(30)
    begin = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - begin < 5
