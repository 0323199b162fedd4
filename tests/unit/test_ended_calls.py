"""An await that is cancelled ends the call that it waits for, also one that a worker process runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import freethreading
from support import processes as system
from support.shared import Shared, just
from support.until import until

Call = Callable[..., Any]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def begin(counter: Any, gate: Any) -> bool:
    counter.fetch_add(1)
    return bool(gate.wait(60))


def begin_in_c(counter: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    counter.fetch_add(1)
    time.sleep(60)


def count(counter: Any, number: int) -> int:
    counter.fetch_add(1)
    return number


def pid(_: object = None) -> int:
    return os.getpid()


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


async def cancel_once_begun(awaited: Any, counter: Any, begun: int = 1) -> None:
    """Awaits it in a task, which is cancelled when so many calls have begun."""

    async def wait() -> None:
        await awaited

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)  # now it awaits
    while counter.load() < begun:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("in_c", [False, True])
def test_a_running_call_ends(in_c: bool) -> None:
    shared = Shared()
    told: list[Any] = []

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            before = await executor.submit(pid)
            function, args = (begin_in_c, shared.initargs()[:1]) if in_c else (begin, shared.initargs())
            running = executor.submit(function, *args)
            behind = [executor.submit(just, number) for number in range(20)]
            running.add_done_callback(told.append)
            await cancel_once_begun(running, shared.counter)
            assert await asyncio.gather(*behind) == list(range(20))  # by the worker that came in its place
            assert running.cancelled()
            assert running.cancel(force=True)  # it is cancelled already
            done, waiting = concurrent.futures.wait([running], 0)
            assert (done, waiting) == ({running}, set())
            with pytest.raises(concurrent.futures.CancelledError):
                running.result(0)
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await executor.submit(pid) != before

    asyncio.run(main())
    assert len(told) == 1
    assert shared.counter.load() == 1


@pytest.mark.usefixtures("processes")
def test_those_who_wait_for_it_elsewhere_are_told() -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(2) as executor:
            running = executor.submit(begin, *shared.initargs())
            waits = [
                asyncio.to_thread(running.exception, 30),
                asyncio.to_thread(concurrent.futures.wait, [running], 30),
                asyncio.to_thread(lambda: list(concurrent.futures.as_completed([running], 30))),
            ]
            tasks = [asyncio.ensure_future(wait) for wait in waits]
            await cancel_once_begun(running, shared.counter)
            cancelled, waited, completed = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(cancelled, (asyncio.CancelledError, concurrent.futures.CancelledError))
            assert waited == ({running}, set())
            assert completed == [running]

    asyncio.run(main())


@pytest.mark.usefixtures("processes")
def test_a_pickled_call() -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            counter, gate = shared.initargs()
            running = executor.submit(lambda: begin(counter, gate))
            await cancel_once_begun(running, counter)
            assert await executor.submit(just, 1) == 1
            assert running.cancelled()

    asyncio.run(main())


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("with_callbacks", [False, True])
def test_an_asynchronous_result_of_a_pool(with_callbacks: bool) -> None:
    shared = Shared()
    values: list[Any] = []
    errors: list[Any] = []

    async def main() -> None:
        async with freethreading.WorkerPool(1) as pool:
            told = (values.append, errors.append) if with_callbacks else (None, None)
            running = pool.apply_async(begin, shared.initargs(), {}, *told)
            behind = pool.apply_async(just, (5,))
            await cancel_once_begun(running, shared.counter)
            assert await behind == 5
            running.wait(30)
            assert running.ready()
            assert not running.successful()
            with pytest.raises(concurrent.futures.CancelledError):
                running.get(0)
            # One that has not begun never does.
            blocking = pool.apply_async(begin, shared.initargs())
            pending = pool.apply_async(count, (shared.counter, 7))
            await cancel_once_begun(pending, shared.counter, 2)
            shared.gate.set()
            assert await blocking
            assert await pool.apply_async(just, (6,)) == 6
            assert shared.counter.load() == 2

    asyncio.run(main())
    assert not values
    assert [type(error) for error in errors] == [concurrent.futures.CancelledError] * with_callbacks


def test_a_call_of_a_thread_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared()
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            running = executor.submit(begin, *shared.initargs())
            await cancel_once_begun(running, shared.counter)
            assert running.running()
            shared.gate.set()
            assert await running

    asyncio.run(main())


kept: list[Any] = []


def keep(*shared: Any) -> None:
    kept[:] = shared


def begin_item(number: int) -> int:
    begin(*kept)
    return number


def test_a_map_that_is_awaited(backend: str) -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPool(1, keep, shared.initargs()) as pool:
            running = pool.map_async(begin_item, range(50))
            await cancel_once_begun(running, shared.counter)
            shared.gate.set()
            with pytest.raises(concurrent.futures.CancelledError):
                running.get(30)
            assert await pool.apply_async(just, (6,)) == 6

    asyncio.run(main())
    assert shared.counter.load() == 1  # what has not begun never does
    kept.clear()


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_a_map_that_is_awaited_by_several_workers(backend: str, chunksize: int | None) -> None:
    shared = Shared()
    told: list[Any] = []

    async def main() -> None:
        async with freethreading.WorkerPool(3, keep, shared.initargs()) as pool:
            running = pool.map_async(begin_item, range(60), chunksize, told.append, told.append)
            await cancel_once_begun(running, shared.counter, 3)
            with pytest.raises(concurrent.futures.CancelledError):
                running.get(0)
            assert len(told) == 1
            assert isinstance(told[0], concurrent.futures.CancelledError)
            if backend == "threading":  # those that run go on
                shared.gate.set()
            assert await pool.map_async(just, range(60), chunksize) == list(range(60))

    asyncio.run(main())
    chunk = chunksize or 1
    assert shared.counter.load() == (3 * chunk if backend == "threading" else 3)
    kept.clear()


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("chunksize", [None, 5])
def test_neighbours_of_a_map_that_is_ended(chunksize: int | None) -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPool(2, keep, shared.initargs()) as pool:
            for _ in range(5):
                others = [pool.map_async(just, range(100), size) for size in (None, 1, 7)]
                shared.counter.store(0)
                ended = pool.map_async(begin_item, range(20), chunksize)
                more = [pool.map_async(just, range(100), size) for size in (None, 1, 7)]
                call = pool.apply_async(just, (5,))
                await cancel_once_begun(ended, shared.counter)
                for other in (*others, *more):
                    assert await other == list(range(100))
                assert await call == 5

    asyncio.run(main())


@pytest.mark.usefixtures("processes")
def test_a_worker_that_is_stopped_ends_too() -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            stopped = await executor.submit(pid)
            running = executor.submit(begin, *shared.initargs())
            while shared.counter.load() < 1:
                await asyncio.sleep(0.001)
            os.kill(stopped, signal.SIGSTOP)
            await cancel_once_begun(running, shared.counter)
            assert await executor.submit(just, 1) == 1
            assert running.cancelled()

    asyncio.run(main())


@pytest.mark.usefixtures("processes")
def test_a_pool_that_is_terminated_meanwhile() -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPool(1) as pool:
            running = pool.apply_async(begin, shared.initargs())
            await cancel_once_begun(running, shared.counter)
        running.wait(30)
        assert not running.successful()

    asyncio.run(main())


@pytest.mark.usefixtures("processes")
@pytest.mark.watchdog(300)
def test_calls_that_end_just_then(seed: int) -> None:
    # Whatever of the two comes first, no other call is lost or runs twice, and the future says what became of it.
    shared = Shared()
    dice = random.Random(seed)
    rounds = 150

    async def main() -> int:
        cancelled = 0
        async with freethreading.WorkerPoolExecutor(2) as executor:
            for _ in range(rounds):
                behind = [executor.submit(count, shared.counter, 1) for _ in range(3)]
                ending = executor.submit(pause, dice.uniform(0.0, 0.003))
                behind += [executor.submit(count, shared.counter, 1) for _ in range(3)]
                try:
                    await asyncio.wait_for(ending, dice.uniform(0.0, 0.003))
                except asyncio.TimeoutError:
                    cancelled += 1
                assert await asyncio.wait_for(asyncio.gather(*behind), 60) == [1] * 6
                await asyncio.to_thread(concurrent.futures.wait, [ending], 60)
                assert ending.done()
        return cancelled

    cancelled = asyncio.run(main())
    assert shared.counter.load() == 6 * rounds
    assert cancelled > 0


@pytest.mark.usefixtures("processes")
def test_in_many_tasks_at_once() -> None:
    shared = Shared()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(4) as executor:
            running = [executor.submit(begin, *shared.initargs()) for _ in range(4)]
            others = [executor.submit(just, number) for number in range(100)]
            tasks = [asyncio.ensure_future(cancel_once_begun(each, shared.counter, 4)) for each in running]
            assert await asyncio.gather(*others) == list(range(100))
            await asyncio.gather(*tasks)
            for each in running:
                await asyncio.to_thread(until, each.cancelled, "it is cancelled")

    asyncio.run(main())
    assert shared.counter.load() == 4


def hold_locks_of_the_session(counter: Any) -> None:
    counter.fetch_add(1)
    while True:
        make_shared_objects()


def make_shared_objects() -> None:
    assert all(freethreading.Lock(shared=True) is not None for _ in range(10))


@pytest.mark.usefixtures("processes")
@pytest.mark.watchdog(300)
def test_calls_that_hold_locks_of_the_session() -> None:
    # The program waits for these locks too, meanwhile, and with the GIL.
    shared = Shared()
    with freethreading.WorkerPoolExecutor(2) as executor:
        for number in range(1, 101):
            running: Any = executor.submit(hold_locks_of_the_session, shared.counter)
            until(lambda number=number: shared.counter.load() == number, "it has begun")
            running.cancel(force=True)
            while not running.done():
                make_shared_objects()
            assert running.cancelled()


@pytest.mark.usefixtures("processes")
@pytest.mark.watchdog(300)
def test_callbacks_of_calls_that_end_together_wait_for_others() -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(4) as executor:
        for number in range(1, 9):
            told: list[Any] = []
            running: list[Any] = [executor.submit(begin, *shared.initargs()) for _ in range(3)]
            until(lambda number=number: shared.counter.load() == 3 * number, "all have begun")
            for each in running:
                each.add_done_callback(
                    lambda each, told=told: told.append(
                        (each.cancelled(), executor.submit(just, 7).result(30))
                    )
                )
            for each in running:
                each.cancel(force=True)
            until(lambda told=told: len(told) == 3, "all are told", 60)
            assert told == [(True, 7)] * 3
            assert executor.submit(just, 8).result(30) == 8


@pytest.mark.usefixtures("processes")
def test_an_await_in_a_forked_child_says_that_it_is_in_vain() -> None:
    shared = Shared()
    with freethreading.WorkerPool(1) as pool:
        results = [
            pool.apply_async(begin, shared.initargs()),
            pool.apply_async(just, (1,), callback=just),
            pool.map_async(just, [1, 2]),
        ]

        async def wait_for(result: Any) -> None:
            with pytest.raises(RuntimeError, match="this pool's workers belong to process"):
                await result

        child = os.fork()
        if child == 0:
            code = 1
            try:
                for result in results:
                    asyncio.run(asyncio.wait_for(wait_for(result), 10))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        shared.gate.set()
        assert results[0].get(30)


@pytest.mark.usefixtures("processes")
def test_a_supervisor_that_is_stopped_holds_nobody_up() -> None:
    shared = Shared()
    with freethreading.WorkerPoolExecutor(1) as executor:
        running: Any = executor.submit(begin, *shared.initargs())
        until(lambda: shared.counter.load() == 1, "it has begun")
        member = executor._engine._crew._members[0]  # type: ignore[attr-defined]
        os.kill(system.supervisor_pid(), signal.SIGSTOP)
        try:
            running.cancel(force=True)
            for _ in range(2000):  # more than there is room for
                member.end_task(running._number)
            assert not running.done()
        finally:
            os.kill(system.supervisor_pid(), signal.SIGCONT)
        until(running.done, "it is ended then")
        assert running.cancelled()
        assert executor.submit(just, 1).result(30) == 1
