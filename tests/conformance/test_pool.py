"""WorkerPool: the contract of multiprocessing.Pool, on both back ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import freethreading
from support.subjects import Subject
from support.until import until


def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 0) -> int:
    return a + b


def reject_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd: {x}")
    return x


def worker_name(_: object) -> str:
    return freethreading.current_worker().name


def kill_self_at(x: int, victim: int) -> int:
    if x == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def kill_self_at_three(x: int) -> int:
    return kill_self_at(x, 3)


def wait_for(event: Any) -> str:
    event.wait(20)
    return "waited"


STATE: dict[str, int] = {}


def set_state(value: int) -> None:
    STATE["value"] = value


def get_state(_: object) -> int:
    return STATE["value"]


def fail_to_start() -> None:
    raise LookupError("the initializer fails")


def give_unpicklable(_: object) -> object:
    return threading.Lock()


class Unrebuildable(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"needs {first} and {second}")


def raise_unrebuildable(_: object) -> None:
    raise Unrebuildable(1, 2)


@pytest.fixture
def pool(ours: Subject) -> Iterator[freethreading.WorkerPool]:
    with freethreading.WorkerPool(workers=2) as pool:
        yield pool
    pool.join()


def test_apply(pool: freethreading.WorkerPool) -> None:
    assert pool.apply(add, (1,), {"b": 2}) == 3
    assert pool.apply_async(add, (1, 2)).get(20) == 3


def test_maps(pool: freethreading.WorkerPool) -> None:
    squares = [x * x for x in range(50)]
    assert pool.map(square, range(50)) == squares
    assert pool.map(square, iter(range(50)), chunksize=7) == squares
    assert pool.map_async(square, range(50)).get(20) == squares
    assert pool.starmap(add, [(1, 2), (3, 4)]) == [3, 7]
    assert pool.starmap_async(add, [(1, 2), (3,)]).get(20) == [3, 3]
    assert list(pool.imap(square, range(50))) == squares
    assert list(pool.imap(square, range(50), chunksize=9)) == squares
    assert sorted(pool.imap_unordered(square, range(50), 4)) == squares
    assert pool.map(square, []) == []


def test_an_exception_comes_back_with_its_remote_traceback(pool: freethreading.WorkerPool) -> None:
    with pytest.raises(ValueError, match="odd: 1") as caught:
        pool.apply(reject_odd, (1,))
    import traceback

    assert "in reject_odd" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match="odd"):
        pool.map(reject_odd, range(4))
    assert pool.map(reject_odd, [2]) == [2]


def test_return_exceptions(pool: freethreading.WorkerPool) -> None:
    for outcome in (
        pool.map(reject_odd, range(4), return_exceptions=True),
        list(pool.imap(reject_odd, range(4), return_exceptions=True)),
        pool.starmap(reject_odd, [(x,) for x in range(4)], return_exceptions=True),
    ):
        assert [item if isinstance(item, int) else type(item) for item in outcome] == [
            0,
            ValueError,
            2,
            ValueError,
        ]


def test_an_iterator_goes_on_after_an_items_exception(pool: freethreading.WorkerPool) -> None:
    results = pool.imap(reject_odd, range(4))
    assert results.next(20) == 0
    with pytest.raises(ValueError):
        results.next(timeout=20)
    assert next(results) == 2
    with pytest.raises(ValueError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_iterators_time_out(pool: freethreading.WorkerPool, ours: Subject) -> None:
    event = ours.Event()
    results = pool.imap(wait_for, [event])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.02)
    event.set()
    assert results.next(timeout=20) == "waited"


def test_async_result(pool: freethreading.WorkerPool, ours: Subject) -> None:
    event = ours.Event()
    result = pool.apply_async(wait_for, (event,))
    assert result.ready() is False
    with pytest.raises(ValueError):
        result.successful()
    for expected in (multiprocessing.TimeoutError, TimeoutError):
        with pytest.raises(expected):
            result.get(timeout=0.02)
    event.set()
    result.wait(20)
    assert result.ready() and result.successful()
    assert result.get() == "waited"
    failed = pool.apply_async(reject_odd, (1,))
    failed.wait(20)
    assert failed.ready() and not failed.successful()


def test_callbacks(pool: freethreading.WorkerPool) -> None:
    good: list[int] = []
    bad: list[str] = []
    pool.apply_async(square, (3,), callback=good.append).wait(20)
    pool.apply_async(reject_odd, (3,), error_callback=lambda error: bad.append(str(error))).wait(20)
    pool.map_async(square, [1, 2], callback=good.extend).wait(20)
    until(lambda: len(good) == 3 and bad, "the callbacks ran")
    assert sorted(good) == [1, 4, 9] and bad == ["odd: 3"]


def test_input_iterators_exception_reaches_the_caller(pool: freethreading.WorkerPool) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("input")

    with pytest.raises(LookupError, match="input"):
        pool.map(square, broken())
    results = pool.imap(square, broken())
    with pytest.raises(LookupError, match="input"):
        list(results)
    assert pool.apply(square, (2,)) == 4


def test_close_then_join_finishes_what_was_given(ours: Subject) -> None:
    pool = freethreading.WorkerPool(workers=2)
    results = [pool.apply_async(square, (x,)) for x in range(20)]
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))
    pool.join()
    assert [result.get(20) for result in results] == [x * x for x in range(20)]


def test_join_of_a_running_pool(ours: Subject) -> None:
    with freethreading.WorkerPool(workers=1) as pool, pytest.raises(ValueError, match="still running"):
        pool.join()
    pool.join()


def test_terminate_with_work_waiting(ours: Subject) -> None:
    event = ours.Event()
    pool = freethreading.WorkerPool(workers=1)
    for _ in range(5):
        pool.apply_async(wait_for, (event,))
    if not ours.processes:
        event.set()  # a running thread cannot be ended
    pool.terminate()
    pool.terminate()
    pool.join()


def test_initializer_runs_once_in_each_worker(ours: Subject) -> None:
    with freethreading.WorkerPool(workers=2, initializer=set_state, initargs=(7,)) as pool:
        assert pool.map(get_state, range(8)) == [7] * 8
    pool.join()


def test_failing_initializer(ours: Subject) -> None:
    with freethreading.WorkerPool(workers=1, initializer=fail_to_start) as pool:
        with pytest.raises(LookupError, match="the initializer fails"):
            pool.apply(square, (1,))
    pool.join()


@pytest.mark.parametrize("workers", [0, -1])
def test_too_few_workers(ours: Subject, workers: int) -> None:
    with pytest.raises(ValueError):
        freethreading.WorkerPool(workers=workers)


def test_initializer_must_be_callable(ours: Subject) -> None:
    with pytest.raises(TypeError, match="callable"):
        freethreading.WorkerPool(workers=1, initializer="no")  # type: ignore[arg-type]


def test_workers_are_children_with_names(pool: freethreading.WorkerPool) -> None:
    names = set(pool.map(worker_name, range(20), chunksize=1))
    assert names <= {worker.name for worker in freethreading.active_children()}
    assert len(freethreading.active_children()) == 2


def test_lambdas_and_closures(pool: freethreading.WorkerPool) -> None:
    offset = 10
    assert pool.map(lambda x: x + offset, range(3)) == [10, 11, 12]


def test_primitives_as_arguments_and_results(pool: freethreading.WorkerPool, ours: Subject) -> None:
    lock = ours.Lock()
    assert pool.apply(lock.acquire) is True
    assert lock.locked()
    lock.release()
    items = ours.Queue()
    pool.map(items.put, range(5))
    assert sorted(items.get(timeout=20) for _ in range(5)) == list(range(5))


class TestProcessesOnly:
    """What cannot happen to threads."""

    @pytest.fixture
    def pool(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[freethreading.WorkerPool]:
        monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
        with freethreading.WorkerPool(workers=2) as pool:
            yield pool
        pool.join()

    def test_a_killed_worker_fails_its_own_item(self, pool: freethreading.WorkerPool) -> None:
        outcome = pool.map(kill_self_at_three, range(8), chunksize=4, return_exceptions=True)
        assert isinstance(outcome[3], freethreading.WorkerLostError)
        assert [item for item in outcome if isinstance(item, int)] == [0, 1, 2, 4, 5, 6, 7]
        lost = outcome[3]
        assert lost.exitcode == -signal.SIGKILL and lost.pid > 0
        assert "SIGKILL" in str(lost)
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
        until(lambda: len(freethreading.active_children()) == 2, "the pool is at full strength")

    def test_an_idle_killed_worker_is_replaced(self, pool: freethreading.WorkerPool) -> None:
        pool.map(square, range(4))
        victim = freethreading.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        until(
            lambda: (
                victim.pid not in {worker.pid for worker in freethreading.active_children()}
                and len(freethreading.active_children()) == 2
            ),
            "it is replaced",
        )
        assert pool.map(square, range(20), chunksize=1) == [x * x for x in range(20)]

    def test_an_unpicklable_result_fails_its_own_item(self, pool: freethreading.WorkerPool) -> None:
        with pytest.raises(Exception, match="lock"):
            pool.apply(give_unpicklable, (1,))
        assert pool.apply(square, (3,)) == 9

    def test_an_exception_that_cannot_be_rebuilt(self, pool: freethreading.WorkerPool) -> None:
        with pytest.raises(Exception, match="needs 1 and 2"):
            pool.apply(raise_unrebuildable, (1,))
        assert pool.apply(square, (3,)) == 9

    def test_an_unpicklable_argument_fails_its_call(self, pool: freethreading.WorkerPool) -> None:
        with open(__file__) as stream, pytest.raises(ValueError, match="must be picklable"):
            pool.apply(square, (stream,))
        assert pool.apply(square, (3,)) == 9
