"""resize() of pools and executors: who comes, who leaves, what goes on meanwhile."""

from __future__ import annotations

import concurrent.futures
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import freethreading
from freethreading import _core
from support.shared import Shared, die_now_and_then, just
from support.until import until

SECONDS = 30.0

counter: Any = None
gate: Any = None


def share(a: Any, b: Any) -> None:
    global counter, gate
    counter, gate = a, b


def same(value: Any) -> Any:
    return value


def worker_of(_: object = None) -> str:
    return freethreading.current_worker().name


def wait_at_gate(value: Any) -> Any:
    counter.fetch_add(1)
    assert gate.wait(SECONDS)
    return value


def meet(barrier: Any) -> int:
    return int(barrier.wait(SECONDS))


def wait_at_first(number: int) -> int:
    if number == 0:
        counter.fetch_add(1)
        assert gate.wait(SECONDS)
    return number


def count(number: int) -> int:
    counter.fetch_add(1)
    return number


def fail_to_start() -> None:
    raise LookupError("the initializer fails")


class Subject:
    """A pool or an executor, by the methods that the tests need."""

    def __init__(self, kind: str, workers: int, shared: Shared, light: bool = False, **options: Any) -> None:
        """`light`: its workers import nothing of this module."""
        make: Any = freethreading.WorkerPool if kind == "pool" else freethreading.WorkerPoolExecutor
        self.kind = kind
        initializer = () if light else (share, shared.initargs())
        self.subject = make(workers, *initializer, **options)
        self.resize: Callable[[int], None] = self.subject.resize

    def start(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        if self.kind == "executor":
            future = self.subject.submit(function, *args)
            return lambda: future.result(SECONDS)
        result = self.subject.apply_async(function, args)
        return lambda: result.get(SECONDS)

    def start_map(
        self, function: Callable[[Any], Any], items: Any, chunksize: int | None = None
    ) -> Callable[[], list[Any]]:
        if self.kind == "executor":
            results = self.subject.map(
                function, items, chunksize=chunksize or 1, return_exceptions=True, timeout=SECONDS
            )
            return lambda: list(results)
        result = self.subject.map_async(function, items, chunksize, return_exceptions=True)
        return lambda: list(result.get(SECONDS))

    def count(self) -> int:
        return len(freethreading.active_children())

    def check_room(self, workers: int) -> None:
        """So many are at work at the same time."""
        barrier = freethreading.Barrier(workers)
        places = [self.start(meet, barrier) for _ in range(workers)]
        assert sorted(place() for place in places) == list(range(workers))

    def check_strength(self, workers: int) -> None:
        """So many are at work at the same time, and no more are left."""
        self.check_room(workers)
        until(lambda: self.count() == workers, f"there are {workers} workers")

    def close(self) -> None:
        if self.kind == "executor":
            self.subject.shutdown()
        else:
            self.subject.close()
            self.subject.join()


@pytest.fixture
def shared(backend: str) -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.__dict__.clear()
    share(None, None)


@pytest.fixture(params=["pool", "executor"])
def make(request: pytest.FixtureRequest, shared: Shared) -> Iterator[Callable[..., Subject]]:
    made: list[Subject] = []

    def make(workers: int, **options: Any) -> Subject:
        made.append(Subject(request.param, workers, shared, **options))
        return made[-1]

    yield make
    shared.gate.set()
    for subject in made:
        subject.close()


def test_more_workers(make: Callable[..., Subject]) -> None:
    subject = make(1)
    subject.check_strength(1)
    subject.resize(3)
    subject.check_strength(3)


def test_a_pool_starts_them_at_once_an_executor_where_there_is_work(
    make: Callable[..., Subject], shared: Shared
) -> None:
    subject = make(1)
    waiting = [subject.start(wait_at_gate, number) for number in range(3)]
    until(lambda: shared.counter.load() == 1, "one runs")
    subject.resize(5)
    until(lambda: shared.counter.load() == 3, "all run")
    expected = 5 if subject.kind == "pool" else 3
    until(lambda: subject.count() == expected, "as many workers as there are to be")
    shared.gate.set()
    assert [result() for result in waiting] == [0, 1, 2]
    assert subject.count() == expected


def test_fewer_workers(make: Callable[..., Subject]) -> None:
    subject = make(4)
    subject.check_strength(4)
    subject.resize(1)
    until(lambda: subject.count() == 1, "three have left")
    subject.check_strength(1)
    subject.resize(2)
    subject.check_strength(2)


def test_idle_workers_leave_before_busy_ones(make: Callable[..., Subject], shared: Shared) -> None:
    subject = make(3)
    subject.check_strength(3)
    waiting = subject.start(wait_at_gate, 5)
    until(lambda: shared.counter.load() == 1, "it runs")
    subject.resize(1)
    until(lambda: subject.count() == 1, "the others have left")
    behind = subject.start(same, 6)
    shared.gate.set()
    assert (waiting(), behind()) == (5, 6)


def test_what_runs_is_not_disturbed_and_what_waits_is_not_lost(
    make: Callable[..., Subject], shared: Shared
) -> None:
    subject = make(3)
    running = [subject.start(wait_at_gate, number) for number in range(3)]
    behind = [subject.start(same, number) for number in range(50)]
    until(lambda: shared.counter.load() == 3, "three run")
    subject.resize(1)
    assert subject.count() == 3
    shared.gate.set()
    assert [result() for result in running] == [0, 1, 2]
    assert [result() for result in behind] == list(range(50))
    until(lambda: subject.count() == 1, "two have left")


@pytest.mark.parametrize("chunksize", [None, 3])
def test_a_map_goes_on_with_those_that_stay(
    make: Callable[..., Subject], shared: Shared, chunksize: int | None
) -> None:
    subject = make(2)
    subject.check_strength(2)
    # Whichever worker has the first item cannot leave: the other one does, with what it had set out to run.
    results = subject.start_map(wait_at_first, range(20_000), chunksize)
    until(lambda: shared.counter.load() == 1, "it runs")
    subject.resize(1)
    until(lambda: subject.count() == 1, "the other one has left")
    shared.gate.set()
    assert results() == list(range(20_000))


def test_new_workers_take_part_in_a_map_that_runs(make: Callable[..., Subject], shared: Shared) -> None:
    subject = make(1)
    results = subject.start_map(wait_at_gate, range(3))
    until(lambda: shared.counter.load() == 1, "one item runs")
    subject.resize(3)
    until(lambda: shared.counter.load() == 3, "all of them run")
    shared.gate.set()
    assert results() == [0, 1, 2]


def test_those_that_had_the_map_leave_others_take_it_over(
    make: Callable[..., Subject], shared: Shared
) -> None:
    subject = make(2)
    results = subject.start_map(wait_at_gate, range(4))
    until(lambda: shared.counter.load() == 2, "two items run")
    subject.resize(4)
    waiting = [subject.start(wait_at_gate, number) for number in range(2)]
    until(lambda: shared.counter.load() == 4, "the new ones are at work")
    subject.resize(1)
    shared.gate.set()
    assert results() == [0, 1, 2, 3]
    assert [result() for result in waiting] == [0, 1]
    until(lambda: subject.count() == 1, "the others have left")


def test_resized_before_it_has_any_worker(shared: Shared) -> None:
    executor = freethreading.WorkerPoolExecutor(1, share, shared.initargs())
    executor.resize(3)
    assert freethreading.active_children() == []
    waiting = [executor.submit(wait_at_gate, number) for number in range(3)]
    until(lambda: shared.counter.load() == 3, "all run")
    shared.gate.set()
    assert [future.result(SECONDS) for future in waiting] == [0, 1, 2]
    executor.shutdown()


def test_the_size_is_told(backend: str) -> None:
    with freethreading.WorkerPool(2) as pool, freethreading.WorkerPoolExecutor(2) as executor:
        pool.resize(3)
        executor.resize(4)
        assert "pool_size=3" in repr(pool)
        assert executor._max_workers == 4
    pool.join()


def test_with_max_tasks_per_child(shared: Shared) -> None:
    with freethreading.WorkerPoolExecutor(3, share, shared.initargs(), max_tasks_per_child=2) as executor:
        waiting = [executor.submit(wait_at_gate, number) for number in range(3)]
        until(lambda: shared.counter.load() == 3, "all run")
        executor.resize(1)
        behind = [executor.submit(worker_of) for _ in range(9)]
        shared.gate.set()
        assert [future.result(SECONDS) for future in waiting] == [0, 1, 2]
        assert len({future.result(SECONDS) for future in behind}) >= 4
        until(lambda: len(freethreading.active_children()) == 1, "the others have left")


def test_from_a_callback_and_from_a_call(make: Callable[..., Subject]) -> None:
    subject = make(2)
    if subject.kind == "executor":
        future = subject.subject.submit(same, 1)
        future.add_done_callback(lambda _: subject.resize(3))
        assert future.result(SECONDS) == 1
        until(lambda: subject.subject._max_workers == 3, "it was resized")
    else:
        done = threading.Event()
        subject.subject.apply_async(same, (1,), callback=lambda _: (subject.resize(3), done.set()))
        assert done.wait(SECONDS)
    subject.check_strength(3)


@pytest.mark.parametrize("size", [1.5, "2", None, 0, -1])
def test_a_size_that_is_none(make: Callable[..., Subject], size: Any) -> None:
    subject = make(2)
    error = ValueError if isinstance(size, int) else TypeError
    with pytest.raises(error, match=r"workers must be (an integer, not|greater than 0, not)"):
        subject.resize(size)
    subject.check_strength(2)


def test_of_a_closed_one(backend: str) -> None:
    pool, executor = freethreading.WorkerPool(1), freethreading.WorkerPoolExecutor(1)
    pool.close()
    executor.shutdown()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.resize(2)
    with pytest.raises(RuntimeError, match="cannot resize an executor after shutdown"):
        executor.resize(2)
    pool.join()


def test_of_a_broken_one(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1, fail_to_start) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(same, 1).result(SECONDS)
        with pytest.raises(concurrent.futures.BrokenExecutor, match="the initializer fails"):
            executor.resize(2)


def test_in_a_forked_child(make: Callable[..., Subject]) -> None:
    subject = make(1)
    child = os.fork()
    if child == 0:
        try:
            subject.resize(2)
        except RuntimeError as error:
            os._exit(0 if "make a new pool here" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.watchdog(240)
@pytest.mark.parametrize("idle_timeout", [None, 0.005])
def test_again_and_again_while_all_goes_on(
    make: Callable[..., Subject], backend: str, seed: int, idle_timeout: float | None
) -> None:
    # Workers come and go all the time here: they shall do more than to import the tests' libraries.
    subject = make(2, light=True, idle_timeout=idle_timeout)
    ended = threading.Event()
    errors: list[BaseException] = []

    def resize_again_and_again(seed: int) -> None:
        numbers = random.Random(seed)
        try:
            while not ended.is_set():
                subject.resize(numbers.randrange(1, 6))
                ended.wait(numbers.random() * 0.1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=resize_again_and_again, args=(seed + n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    deaths = backend == "multiprocessing"
    function = die_now_and_then if deaths else just
    try:
        for _ in range(2):
            maps = [subject.start_map(function, range(300)), subject.start_map(function, range(300), 7)]
            calls = [subject.start(just, number) for number in range(200)]
            assert [call() for call in calls] == list(range(200))
            for results in maps:
                outcomes = results()
                lost = [n for n, value in enumerate(outcomes) if value != n]
                assert lost == ([n for n in range(300) if n % 97 == 96] if deaths else [])
                assert all(isinstance(outcomes[n], freethreading.WorkerLostError) for n in lost)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert errors == []
    subject.resize(3)
    subject.check_strength(3) if idle_timeout is None else subject.check_room(3)


@pytest.mark.skipif(not hasattr(_core, "set_crash_point"), reason="this build has no crash points")
@pytest.mark.parametrize("point", ["worker.leave.marked", "worker.leave.taken"])
def test_a_worker_dies_while_it_leaves(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    with freethreading.WorkerPoolExecutor(3, _core.set_crash_point, (point,)) as executor:
        barrier = freethreading.Barrier(3)
        places = [executor.submit(meet, barrier) for _ in range(3)]
        assert sorted(place.result(SECONDS) for place in places) == [0, 1, 2]
        executor.resize(1)
        assert list(executor.map(same, range(100))) == list(range(100))
        until(lambda: len(freethreading.active_children()) == 1, "one is left")
        executor.resize(2)
        assert list(executor.map(same, range(100))) == list(range(100))
