"""Executors, pools, futures and maps in programs of asyncio's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import freethreading
from support.until import until


def square(x: int) -> int:
    return x * x


def fail(x: int) -> int:
    raise ValueError(f"no {x}")


def stop(kind: type[BaseException]) -> None:
    raise kind("stopped")


def wait_for(event: Any) -> bool:
    return bool(event.wait(30))


def test_await_and_async_with(backend: str) -> None:
    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(2) as executor:
            assert await executor.submit(square, 3) == 9
            assert await asyncio.gather(*(executor.submit(square, x) for x in range(20))) == [
                x * x for x in range(20)
            ]
            with pytest.raises(ValueError, match="no 4"):
                await executor.submit(fail, 4)
            done = executor.submit(square, 5)
            assert done.result(30) == 25
            assert await done == 25
            assert await asyncio.get_running_loop().run_in_executor(executor, square, 6) == 36
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(square, 1)

    asyncio.run(main())


def test_tiny_calls_leave_the_loop_to_others(backend: str) -> None:
    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        async with freethreading.WorkerPoolExecutor(1) as executor:
            for number in range(300):
                assert await executor.submit(abs, -number) == number
        assert turns >= 300
        task.cancel()

    asyncio.run(main())


def test_pool(backend: str) -> None:
    async def main() -> None:
        async with freethreading.WorkerPool(2) as pool:
            assert await pool.apply_async(square, (3,)) == 9
            assert await pool.map_async(square, range(5)) == [0, 1, 4, 9, 16]
            assert await pool.map_async(square, []) == []
            with pytest.raises(ValueError, match="no 4"):
                await pool.apply_async(fail, (4,))
            done = pool.apply_async(square, (5,))
            done.wait(30)
            assert await done == 25
        with pytest.raises(ValueError, match="not running"):
            pool.apply_async(square, (3,))

    asyncio.run(main())


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_call_that_raises_what_ends_iterations(backend: str, kind: type[BaseException]) -> None:
    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            expected = RuntimeError if kind is StopIteration else kind
            with pytest.raises(expected):
                await asyncio.wait_for(executor.submit(stop, kind), 30)
            with pytest.raises(RuntimeError, match=f"a call raised {kind.__name__}"):
                async for _ in executor.map(stop, [kind]):
                    pass
            with pytest.raises(RuntimeError, match=f"a call raised {kind.__name__}"):
                list(executor.map(stop, [kind]))

    asyncio.run(main())


def test_cancelling_an_await_cancels_the_call(backend: str) -> None:
    event: Any = freethreading.Event()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            running = executor.submit(wait_for, event)
            waiting = [executor.submit(square, x) for x in range(5)]
            task = asyncio.ensure_future(wait_in_vain(waiting[-1]))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert waiting[-1].cancelled()
            with pytest.raises(asyncio.CancelledError):
                await waiting[-1]
            event.set()
            assert await running
            assert await waiting[0] == 0

    async def wait_in_vain(future: Any) -> None:
        await future

    asyncio.run(main())


def test_a_loop_that_is_closed_while_a_call_runs(backend: str) -> None:
    event: Any = freethreading.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        running = executor.submit(wait_for, event)
        until(running.running, "a worker has it")

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(running, 0.01)

        asyncio.run(give_up())
        if backend == "threading":
            event.set()
            assert running.result(30)
        else:  # its worker is ended
            with pytest.raises(concurrent.futures.CancelledError):
                running.result(30)


def test_a_shield_keeps_a_call(backend: str) -> None:
    event: Any = freethreading.Event()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            running = executor.submit(wait_for, event)
            await asyncio.to_thread(until, running.running, "a worker has it")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(running), 0.01)
            event.set()
            assert await running

    asyncio.run(main())


def test_async_for(backend: str) -> None:
    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(2) as executor:
            assert [x async for x in executor.map(square, range(10))] == [x * x for x in range(10)]
            assert [x async for x in executor.map(square, range(10), chunksize=3)] == [
                x * x for x in range(10)
            ]
            results = executor.map(fail, range(3), return_exceptions=True)
            assert [type(x) async for x in results] == [ValueError] * 3
            seen = []
            with pytest.raises(ValueError, match="no 0"):
                async for x in executor.map(fail, range(3)):
                    seen.append(x)
            assert seen == []

    asyncio.run(main())


def test_async_for_over_an_input_without_an_end(backend: str) -> None:
    pulled = itertools.count()

    async def first(results: AsyncIterator[Any], count: int) -> list[Any]:
        found: list[Any] = []
        async for result in results:
            found.append(result)
            if len(found) == count:
                break
        return found

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(2) as executor:
            results = executor.map(square, pulled, buffersize=4)
            assert await first(results, 20) == [x * x for x in range(20)]
            await results.aclose()
            assert await first(results, 1) == []
        assert next(pulled) <= 20 + 4 + 1

    asyncio.run(main())


def test_the_wait_of_an_async_for_ends(backend: str) -> None:
    event: Any = freethreading.Event()

    async def main() -> None:
        async with freethreading.WorkerPoolExecutor(1) as executor:
            # It has the one worker.
            running = executor.submit(wait_for, event)
            await asyncio.to_thread(until, running.running, "a worker has it")
            results = executor.map(square, [5], timeout=0.01)
            with pytest.raises(concurrent.futures.TimeoutError):
                await anext(results)
            with pytest.raises(StopAsyncIteration):
                await anext(results)
            # A cancelled wait takes nothing from the iteration.
            results = executor.map(square, [7])
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(results), 0.01)
            event.set()
            assert [x async for x in results] == [49]

    asyncio.run(main())


def test_an_iterator_of_a_map_is_shared_among_threads(backend: str) -> None:
    found: list[int] = []
    with freethreading.WorkerPoolExecutor(2) as executor:
        results = executor.map(square, range(500), chunksize=7, buffersize=3)
        threads = [threading.Thread(target=lambda: found.extend(results)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == [x * x for x in range(500)]


def test_an_input_that_fails_in_the_middle(backend: str) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise LookupError("the input fails")

    with freethreading.WorkerPoolExecutor(1) as executor:
        results = executor.map(square, items(), buffersize=2)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(LookupError, match="the input fails"):
            list(results)
        assert list(results) == []
        with pytest.raises(LookupError, match="the input fails"):
            executor.map(square, items())


def test_closing_a_map_does_not_wait_for_its_input(backend: str) -> None:
    release = threading.Event()
    reading = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        reading.set()
        release.wait(30)
        yield 2

    with freethreading.WorkerPoolExecutor(1) as executor:
        results = executor.map(square, items(), buffersize=1)
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(results))
        thread.start()
        assert reading.wait(30)
        results.close()
        release.set()
        thread.join(30)
        assert not thread.is_alive()
        assert found in ([], [1])


def test_a_handlers_exception_is_not_taken_for_a_calls(backend: str) -> None:
    class Stop(BaseException):
        pass

    event: Any = freethreading.Event()

    def stop(*_: object) -> None:
        event.set()  # the call ends as well
        future.result(30)
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for return_exceptions in (False, True):
            event.clear()
            with freethreading.WorkerPoolExecutor(1) as executor:
                results: Any = executor.map(
                    wait_for, [event], buffersize=1, return_exceptions=return_exceptions
                )
                future = results._futures[0]
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(Stop):
                    next(results)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_awaiting_a_result_that_is_there_leaves_nothing(backend: str) -> None:
    with freethreading.WorkerPool(1) as pool:

        async def main() -> None:
            result = pool.map_async(square, [3])
            for _ in range(3):
                assert await result == [9]
            assert result._listeners == []

        asyncio.run(main())
