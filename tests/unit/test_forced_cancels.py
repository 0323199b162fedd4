"""Future.cancel(force=True) ends calls that run: processes by killing the worker, threads where the call asks by check_cancelled()."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import random
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import CancelledError
from typing import Any

import pytest

import freethreading
from support.shared import Shared, just
from support.until import until

SECONDS = 60.0


@pytest.fixture(params=["threading", "multiprocessing"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FREETHREADING_BACKEND", request.param)
    return str(request.param)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")


def until_cancelled(counter: Any, _gate: Any) -> None:
    counter.fetch_add(1)
    while True:
        freethreading.check_cancelled()
        time.sleep(0.001)


def start(
    executor: freethreading.WorkerPoolExecutor, shared: Shared, function: Any
) -> freethreading.Future[Any]:
    """Its call, which has begun."""
    begun = shared.counter.load()
    future = executor.submit(function, *shared.initargs())
    until(lambda: shared.counter.load() > begun, "it has begun")
    return future


def worker_of_one() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


# What both kinds of workers do


def test_a_running_call_is_cancelled_and_its_neighbours_are_not(backend: str) -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(2) as executor:
        for _ in range(5):
            told: list[Any] = []
            future = start(executor, shared, until_cancelled)
            future.add_done_callback(told.append)
            others = [executor.submit(just, number) for number in range(50)]
            assert not future.cancel()
            assert future.running()
            assert future.cancel(force=True)
            with pytest.raises(CancelledError):
                future.result(SECONDS)
            assert future.cancelled() and future.done() and not future.running()
            assert future.cancel(force=True) and future.cancel()
            assert concurrent.futures.wait([future], SECONDS).done == {future}
            assert [other.result(SECONDS) for other in others] == list(range(50))
            until(lambda told=told: len(told) == 1, "the callback was called once")
            assert told == [future]
    assert shared.counter.load() == 5
    assert backend == freethreading.get_backend()


def test_those_who_wait_are_told(backend: str) -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(1) as executor:
        future = start(executor, shared, until_cancelled)
        with concurrent.futures.ThreadPoolExecutor(3) as waiters:
            waits = [
                waiters.submit(concurrent.futures.wait, [future], SECONDS),
                waiters.submit(lambda: list(concurrent.futures.as_completed([future], SECONDS))),
                waiters.submit(future.exception, SECONDS),
            ]
            until(lambda: all(wait.running() for wait in waits), "they wait")
            assert future.cancel(force=True)
            assert waits[0].result().done == {future}
            assert waits[1].result() == [future]
            with pytest.raises(CancelledError):
                waits[2].result()


def test_one_that_waits_is_cancelled_and_never_run(backend: str) -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(1) as executor:
        runs = start(executor, shared, until_cancelled)
        waits = executor.submit(until_cancelled, *shared.initargs())
        assert waits.cancel(force=True)
        assert waits.cancelled()
        assert runs.cancel(force=True)
        assert executor.submit(just, 1).result(SECONDS) == 1
    assert shared.counter.load() == 1


def test_one_that_is_done_stays_as_it_is(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        done, failed = executor.submit(just, 1), executor.submit(int, "one")
        assert done.result(SECONDS) == 1
        with pytest.raises(ValueError, match="one"):
            failed.result(SECONDS)
        for future in (done, failed):
            assert not future.cancel(force=True)
            assert not future.cancelled()
        assert done.result(0) == 1
    assert not done.cancel(force=True)


def test_one_whose_executor_is_gone() -> None:
    future: freethreading.Future[int] = freethreading.Future()
    assert future.set_running_or_notify_cancel()
    assert not future.cancel(force=True)
    future.set_result(1)
    assert future.result() == 1


def test_a_call_that_raises_the_same_of_its_own_has_failed(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        future = executor.submit(raise_cancelled)
        assert isinstance(future.exception(SECONDS), CancelledError)
        assert not future.cancelled()


def raise_cancelled() -> None:
    raise CancelledError


def test_a_shutdown_waits_for_those_that_are_to_end(backend: str) -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(2) as executor:
        futures = [start(executor, shared, until_cancelled) for _ in range(2)]
        assert all(future.cancel(force=True) for future in futures)
    assert all(future.cancelled() for future in futures)


def test_an_await_that_is_cancelled_asks_its_call(backend: str) -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            future = executor.submit(until_cancelled, *shared.initargs())
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(future, 0.2)
            assert await executor.submit(just, 1) == 1  # by the one worker, which is free
            assert future.cancelled()

    asyncio.run(main())


def test_callbacks_come_behind_those_who_wait(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    told: list[Any] = []

    def wait_for_itself(future: Any) -> None:
        told.append(concurrent.futures.wait([future], SECONDS).done)

    def leave(_future: Any) -> None:
        raise SystemExit

    with freethreading.WorkerPoolExecutor(1) as executor:
        for callback in (wait_for_itself, leave):
            shared = Shared()
            future = start(executor, shared, until_cancelled)
            future.add_done_callback(callback)
            assert future.cancel(force=True)
            assert concurrent.futures.wait([future], SECONDS).done == {future}, backend
            assert executor.submit(just, 1).result(SECONDS) == 1
    assert [len(done) for done in told] == [1]
    assert [report.exc_type for report in reported] == [SystemExit]


def test_many_that_are_busy_end_together(backend: str) -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(12) as executor:
        futures = [executor.submit(spin, *shared.initargs()) for _ in range(12)]
        until(lambda: shared.counter.load() == 12, "all have begun", SECONDS)
        assert all(future.cancel(force=True) for future in futures for _ in range(3)), backend
        assert concurrent.futures.wait(futures, SECONDS).not_done == set()
        assert all(future.cancelled() for future in futures)
        assert executor.submit(just, 1).result(SECONDS) == 1


def spin(counter: Any, _gate: Any) -> None:
    counter.fetch_add(1)
    while True:
        freethreading.check_cancelled()


def test_several_ask_at_once(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(2) as executor:
        for _ in range(30):
            shared = Shared()
            future = start(executor, shared, spin)
            barrier, answers = threading.Barrier(4), []

            def ask(future: Any = future, barrier: Any = barrier, answers: Any = answers) -> None:
                barrier.wait(SECONDS)
                answers.append(future.cancel(force=True))

            askers = [threading.Thread(target=ask) for _ in range(4)]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join()
            with pytest.raises(CancelledError):
                future.result(SECONDS)
            assert answers == [True] * 4, backend


def test_in_a_forked_child_nobody_is_asked(backend: str) -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(1) as executor:
        future = start(executor, shared, until_cancelled)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 2 if future.cancel(force=True) else 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert future.running(), backend
        assert future.cancel(force=True)


@pytest.mark.watchdog(300)
def test_ten_thousand_random_calls_and_cancels(backend: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    met: Counter[str] = Counter()
    with freethreading.WorkerPoolExecutor(4) as executor:
        for first in range(0, 10_000, 100):
            numbers = range(first, first + 100)
            futures = [executor.submit(work_for, choose.choice(LENGTHS), number) for number in numbers]
            asked = choose.sample(range(100), 20)
            for index in asked:
                met["asked"] += futures[index].cancel(force=choose.random() < 0.5)
            for index, future in enumerate(futures):
                try:
                    assert future.result(SECONDS) == first + index
                    met["done"] += 1
                except CancelledError:
                    assert index in asked
                    met["cancelled"] += 1
    assert met["done"] + met["cancelled"] == 10_000, backend
    assert 0 < met["cancelled"] <= met["asked"]


LENGTHS = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.003)


def work_for(seconds: float, number: int) -> int:
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        freethreading.check_cancelled()
    return number


# What is a matter of processes


def test_a_process_is_ended_and_another_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    shared = Shared()
    with freethreading.WorkerPoolExecutor(1) as executor:
        before = executor.submit(os.getpid).result(SECONDS)
        future = start(executor, shared, wait_for_ever)
        assert future.cancel(force=True)
        assert executor.submit(os.getpid).result(SECONDS) != before
        assert future.cancelled()


def wait_for_ever(counter: Any, _gate: Any) -> None:
    counter.fetch_add(1)
    threading.Event().wait()


# What is a matter of threads


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("max_tasks", [None, 100])
@pytest.mark.parametrize("strict", ["0", "1"])
def test_a_thread_cleans_up_and_goes_on(
    max_tasks: int | None, strict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREETHREADING_STRICT", strict)
    with freethreading.WorkerPoolExecutor(1, max_tasks_per_child=max_tasks) as executor:
        before = executor.submit(threading.get_ident).result(SECONDS)
        begun.clear()
        cleaned.clear()
        future = executor.submit(clean_up)
        assert begun.wait(SECONDS)
        assert future.cancel(force=True)
        with pytest.raises(CancelledError):
            future.result(SECONDS)
        assert cleaned.is_set()
        assert executor.submit(ask_often).result(SECONDS) == before
        assert executor.submit(threading.get_ident).result(SECONDS) == before


begun, cleaned = threading.Event(), threading.Event()


def clean_up() -> None:
    begun.set()
    try:
        while True:
            freethreading.check_cancelled()
            time.sleep(0.001)
    finally:
        cleaned.set()


def ask_often() -> int:
    for _ in range(1000):
        freethreading.check_cancelled()
    return threading.get_ident()


@pytest.mark.usefixtures("threads")
def test_a_call_may_refuse_or_fail() -> None:
    def refuse() -> str:
        begun.set()
        assert go_on.wait(SECONDS)
        for _ in range(2):  # it is asked as often as it looks
            with pytest.raises(CancelledError, match="this call was cancelled"):
                while True:
                    freethreading.check_cancelled()
        return "done all the same"

    def fail() -> None:
        begun.set()
        try:
            while True:
                freethreading.check_cancelled()
        except CancelledError as error:
            raise ValueError("while it cleaned up") from error

    def never_ask() -> str:
        begun.set()
        assert go_on.wait(SECONDS)
        return "did not hear"

    outcomes = []
    go_on = threading.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        for function in (refuse, never_ask, fail):
            begun.clear()
            go_on.clear()
            future = executor.submit(function)
            assert begun.wait(SECONDS)
            assert future.cancel(force=True)
            go_on.set()
            outcomes.append(future.exception(SECONDS) or future.result(0))
            assert not future.cancelled() and not future.cancel(force=True)
    assert outcomes[:2] == ["done all the same", "did not hear"]
    assert isinstance(outcomes[2], ValueError)


@pytest.mark.usefixtures("threads")
def test_an_inner_call_is_not_the_outer_one() -> None:
    asked = threading.Event()
    with freethreading.WorkerPoolExecutor(1) as outer, freethreading.WorkerPoolExecutor(1) as inner:

        def call() -> str:
            begun.set()
            while not asked.is_set():
                time.sleep(0.001)
            assert inner.submit(ask_often).result(SECONDS) != threading.get_ident()
            with pytest.raises(CancelledError):
                freethreading.check_cancelled()
            raise CancelledError  # lets it pass

        begun.clear()
        future = outer.submit(call)
        assert begun.wait(SECONDS)
        assert future.cancel(force=True)
        asked.set()
        with pytest.raises(CancelledError):
            future.result(SECONDS)


@pytest.mark.usefixtures("threads")
def test_callbacks_are_not_in_the_call() -> None:
    told: list[Any] = []

    def ask(future: Any) -> None:
        told.append(future.cancelled())
        freethreading.check_cancelled()
        told.append("went on")

    with freethreading.WorkerPoolExecutor(1) as executor:
        begun.clear()
        future = executor.submit(clean_up)
        assert begun.wait(SECONDS)
        future.add_done_callback(ask)
        assert future.cancel(force=True)
        until(lambda: len(told) == 2, "it was called")
    assert told == [True, "went on"]


@pytest.mark.usefixtures("threads")
def test_a_pool_that_is_terminated_ends_its_calls() -> None:
    begun.clear()
    pool = freethreading.WorkerPool(1)
    result, chunked = pool.apply_async(clean_up), pool.map_async(clean_up_with, range(4), chunksize=2)
    assert begun.wait(SECONDS)
    freethreading.check_cancelled()  # nothing was terminated yet
    pool.terminate()
    pool.join()
    for each in (result, chunked):  # as on processes
        with pytest.raises(RuntimeError, match="the pool was terminated before this call was done"):
            each.get(SECONDS)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("chunksize", [None, 2])
@pytest.mark.parametrize("strict", ["0", "1"])
def test_items_of_a_map_whose_await_is_cancelled(
    chunksize: int | None, strict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREETHREADING_STRICT", strict)

    async def main() -> None:
        async with freethreading.WorkerPool(1) as pool:
            begun.clear()
            result = pool.map_async(clean_up_with, range(4), chunksize)

            async def wait() -> None:
                await result

            task = asyncio.ensure_future(wait())
            await asyncio.to_thread(begun.wait, SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await pool.apply_async(asks) == "asked"  # by the one worker, which is free

    asyncio.run(main())


@pytest.mark.usefixtures("threads")
def test_who_keeps_a_worker_does_not_keep_its_pool() -> None:
    executor = freethreading.WorkerPoolExecutor(1)
    worker = executor.submit(freethreading.current_worker).result(SECONDS)
    engine = weakref.ref(executor._engine)
    executor.shutdown()
    del executor
    until(lambda: gc.collect() >= 0 and engine() is None, "it is gone")
    assert not worker.is_alive()


def clean_up_with(_number: int) -> None:
    clean_up()


# Where there is nothing to cancel


def asks() -> str:
    freethreading.check_cancelled()
    return "asked"


def test_it_does_nothing_elsewhere(backend: str) -> None:
    freethreading.check_cancelled()
    queue: Any = freethreading.Queue()
    worker = freethreading.Worker(target=put_what_it_says, args=(queue,))
    worker.start()
    assert queue.get(timeout=SECONDS) == "asked"
    worker.join()
    with freethreading.WorkerPool(2) as pool:
        assert pool.map(ask_for, range(10)) == ["asked"] * 10
        assert list(pool.imap_unordered(ask_for, range(10))) == ["asked"] * 10
        assert pool.apply(asks) == "asked"


def put_what_it_says(queue: Any) -> None:
    queue.put(asks())


def ask_for(_number: int) -> str:
    return asks()


def test_arguments() -> None:
    future: Any = freethreading.Future()
    with pytest.raises(TypeError):
        future.cancel(True)
    with pytest.raises(TypeError):
        future.cancel(forced=True)
    with pytest.raises(TypeError):
        freethreading.check_cancelled(future)  # type: ignore[call-arg]
    assert repr(future).startswith("<Future at ")

    async def wait() -> int:
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        return int(await future)

    assert asyncio.run(wait()) == 1
    assert isinstance(future, concurrent.futures.Future)
