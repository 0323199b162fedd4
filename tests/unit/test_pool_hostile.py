"""What a pool is not made for and has to survive: hostile callbacks, endless inputs, pools in workers, forks."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import freethreading
from support.until import until
from support.watchdog import watch_child

MANY = 10_000
SECONDS = 60


def square(x: int) -> int:
    return x * x


def squares_of_a_pool_below(count: int) -> list[int]:
    with freethreading.WorkerPool(2) as pool:
        found = pool.map(square, range(count))
    pool.join()
    return found


def depth(levels: int) -> int:
    if levels == 0:
        return 0
    with freethreading.WorkerPoolExecutor(1) as executor:
        return 1 + executor.submit(depth, levels - 1).result(SECONDS)


def exit_code_of_a_child() -> int:
    child = os.fork()
    if child == 0:
        os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class NeedsTwo(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def raise_needs_two() -> None:
    raise NeedsTwo("one", "two")


def raise_holds_a_lock() -> None:
    raise HoldsALock


def in_child(function: Callable[[], int]) -> int:
    """The exit code of a forked child that calls the function."""
    child = os.fork()
    if child == 0:
        code = 99
        watch_child()
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def pool(backend: str) -> Iterator[freethreading.WorkerPool]:
    with freethreading.WorkerPool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def executor(backend: str) -> Iterator[freethreading.WorkerPoolExecutor]:
    with freethreading.WorkerPoolExecutor(2) as executor:
        yield executor


def test_many_tasks(pool: freethreading.WorkerPool, executor: freethreading.WorkerPoolExecutor) -> None:
    expected = [x * x for x in range(MANY)]
    assert pool.map(square, range(MANY), chunksize=1) == expected
    assert [
        result.get(SECONDS) for result in [pool.apply_async(square, (x,)) for x in range(MANY)]
    ] == expected
    assert [
        future.result(SECONDS) for future in [executor.submit(square, x) for x in range(MANY)]
    ] == expected


def test_callbacks_that_submit(
    pool: freethreading.WorkerPool, executor: freethreading.WorkerPoolExecutor
) -> None:
    seen: list[int] = []

    def again(value: int) -> None:
        seen.append(value)
        if len(seen) < 50:
            pool.apply_async(square, (len(seen),), callback=again)

    pool.apply_async(square, (0,), callback=again)
    until(lambda: len(seen) == 50, "each callback's call ran")
    done: list[Any] = []

    def once_more(future: Any) -> None:
        done.append(future.result())
        if len(done) < 50:
            executor.submit(square, len(done)).add_done_callback(once_more)

    executor.submit(square, 0).add_done_callback(once_more)
    until(lambda: len(done) == 50, "each callback's call ran")
    assert seen == done == [x * x for x in range(50)]


def test_an_endless_input(pool: freethreading.WorkerPool) -> None:
    results = pool.imap(square, itertools.count())
    assert list(itertools.islice(results, 500)) == [x * x for x in range(500)]
    del results  # its feeder reads on, until the pool is terminated
    assert pool.apply(square, (3,)) == 9


def test_pools_in_workers(pool: freethreading.WorkerPool, executor: freethreading.WorkerPoolExecutor) -> None:
    assert pool.map(squares_of_a_pool_below, [3, 4]) == [[0, 1, 4], [0, 1, 4, 9]]
    assert executor.submit(depth, 3).result(SECONDS) == 3


def test_a_task_that_forks(pool: freethreading.WorkerPool) -> None:
    assert pool.apply(exit_code_of_a_child) == 5
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


def test_a_fork_in_the_middle(pool: freethreading.WorkerPool) -> None:
    release = freethreading.Event()
    waiting = pool.apply_async(release.wait, (SECONDS,))

    def use_the_parents() -> int:
        try:
            pool.apply(square, (1,))
        except RuntimeError:
            return 3
        return 4

    def make_another() -> int:
        with freethreading.WorkerPool(1) as mine:
            found: int = mine.apply(square, (6,))
        mine.join()
        return found

    assert in_child(use_the_parents) == 3
    assert in_child(make_another) == 36
    release.set()
    assert waiting.get(SECONDS) is True


def test_forks_while_the_engine_looks_up_modules(backend: str) -> None:
    def write_to_the_modules() -> int:
        sys.modules.setdefault("__main__", sys)
        return 5

    for _ in range(5):
        with freethreading.WorkerPool(2) as pool:
            results = [pool.apply_async(square, (3,)) for _ in range(10)]
            codes = [in_child(write_to_the_modules) for _ in range(5)]
            assert codes == [5] * 5
            assert [result.get(SECONDS) for result in results] == [9] * 10
        pool.join()


def test_exceptions_that_do_not_travel(pool: freethreading.WorkerPool) -> None:
    with pytest.raises(Exception, match="one"):
        pool.apply(raise_needs_two)
    with pytest.raises(Exception, match="holds a lock"):
        pool.apply(raise_holds_a_lock)
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


def test_shutdown_cancels_all_that_has_not_begun(backend: str) -> None:
    started, release = freethreading.Semaphore(0), freethreading.Event()

    executor = freethreading.WorkerPoolExecutor(1)
    running = executor.submit(_wait, started, release)
    assert started.acquire(timeout=SECONDS)
    behind = [executor.submit(square, x) for x in range(100)]
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    executor.shutdown()
    assert running.result(SECONDS) is True
    # A worker is given a task or two before it is done with the one that it runs; those have begun.
    assert sum(future.cancelled() for future in behind) >= 98
    assert all(future.done() for future in behind)


def _wait(started: Any, release: Any) -> bool:
    started.release()
    return bool(release.wait(SECONDS))
