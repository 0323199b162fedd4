"""Maps that workers share out among themselves: what comes back, who runs what, deaths in the middle."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import freethreading
from freethreading._core import ListTaker, MapJob, ThreadJob
from freethreading._map_job import Gathered
from support.shared import Shared, die_at, reject_odd
from support.until import until

SECONDS = 30.0
WORKERS = 2

counter: Any = None
gate: Any = None
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


def share(a: Any, b: Any) -> None:
    global counter, gate
    counter, gate = a, b


def same(value: Any) -> Any:
    return value


class Kept(threading.local):
    """Of each thread."""

    def __init__(self) -> None:
        self.items: list[tuple[int, str]] = []


of_thread = Kept()


def keep_every_third(number: int) -> bool:
    """Keeps some; whether those that were kept are what they were."""
    if number % 3 == 0:
        of_thread.items.append((number, str(number)))
    return all(str(item) == text for item, text in of_thread.items[-50:])


def add(a: int, b: int) -> int:
    return a + b


def count(number: int) -> int:
    counter.fetch_add(1)
    return number


def wait_first_open_last(item: tuple[int, int]) -> int:
    number, last = item
    if number == 0:
        assert gate.wait(SECONDS)
    if number == last:
        gate.set()
    return number


def wait_at_zero(number: int) -> int:
    counter.fetch_add(1)
    if number == 0:
        gate.wait(SECONDS)
    return number


def wait_soon(number: int) -> int:
    """All workers wait, each in one of the first thousand items."""
    counter.fetch_add(1)
    if number == 0 or number > 500:
        gate.wait(SECONDS)
    return number


def large_at_three(number: int) -> Any:
    return {number} if number % 5 == 4 else "x" * 1000 * (number % 5 == 3) + str(number)


def fork_at_two(number: int) -> int:
    if number == 2:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
    return number


def leave_at_one(number: int) -> int:
    if number == 1:
        raise SystemExit(3)
    if number == 2:
        raise KeyboardInterrupt
    return number


class DoesNotLoad:
    def __call__(self, number: int) -> int:
        raise AssertionError

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise LookupError("'no such thing'")


def set_variable(number: int) -> int:
    before = variable.get()
    variable.set(number + 1)
    return before


@pytest.fixture
def shared(backend: str) -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.__dict__.clear()
    share(None, None)


@pytest.fixture
def processes(backend: str) -> None:
    if backend != "multiprocessing":
        pytest.skip("a matter of processes")


@pytest.fixture
def pool(shared: Shared) -> Iterator[freethreading.WorkerPool]:
    with freethreading.WorkerPool(WORKERS, share, shared.initargs()) as pool:
        yield pool
        shared.gate.set()


@pytest.fixture
def executor(shared: Shared) -> Iterator[freethreading.WorkerPoolExecutor]:
    with freethreading.WorkerPoolExecutor(WORKERS, share, shared.initargs()) as executor:
        yield executor
        shared.gate.set()


@pytest.fixture(params=["pool", "executor"])
def run_map(request: pytest.FixtureRequest, shared: Shared) -> Iterator[Callable[..., list[Any]]]:
    """map(function, items) of either kind, all outcomes as a list."""
    kind: Any = freethreading.WorkerPool if request.param == "pool" else freethreading.WorkerPoolExecutor
    with kind(WORKERS, share, shared.initargs()) as subject:
        yield lambda function, items: list(subject.map(function, items, return_exceptions=True))
        shared.gate.set()


def test_such_a_map_is_shared_out(processes: None, pool: freethreading.WorkerPool) -> None:
    engine = pool._engine
    assert engine.for_map(same) is same
    assert engine.for_map(lambda x: x) is not None
    assert engine.for_map(threading.Lock().acquire) is None
    changed = contextvars.copy_context()
    changed.run(variable.set, 1)
    assert changed.run(engine.for_map, same) is None
    with freethreading.WorkerPoolExecutor(1, max_tasks_per_child=1) as executor:
        assert executor._engine.for_map(same) is None


def test_functions_that_go_by_value(run_map: Callable[..., list[Any]]) -> None:
    counter, gate = freethreading.AtomicInt64(), freethreading.Event()
    calls: list[int] = []

    def closure(number: int) -> tuple[int, bool]:
        counter.fetch_add(1)
        calls.append(number)
        if number == 0:
            gate.wait(SECONDS)
        if number == 4999:
            gate.set()
        return number + offset, len(calls) <= 5000

    offset = 3
    # The first item ends behind the last one, so the second worker, if not the first, has taken items of the first one's.
    assert run_map(closure, range(5000)) == [(number + 3, True) for number in range(5000)]
    assert counter.load() == 5000
    assert run_map(lambda text: text * 2, ["a", "b"]) == ["aa", "bb"]


def test_a_function_that_does_not_load(processes: None, run_map: Callable[..., list[Any]]) -> None:
    outcomes = run_map(DoesNotLoad(), range(3))
    assert [(type(outcome), str(outcome)) for outcome in outcomes] == [(LookupError, "'no such thing'")] * 3
    assert run_map(same, [1]) == [1]


def test_a_death_in_a_function_that_goes_by_value(processes: None, run_map: Callable[..., list[Any]]) -> None:
    kept = freethreading.AtomicInt64(7)  # each worker that comes later finds it too
    outcomes = run_map(lambda number: die_at((number, [3, 60, 90])) + kept.load(), range(100))
    lost = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, freethreading.WorkerLostError)]
    assert lost == [3, 60, 90]
    assert [outcome for n, outcome in enumerate(outcomes) if n not in lost] == [
        n + 7 for n in range(100) if n not in lost
    ]


@pytest.mark.parametrize("length", [0, 1, 2, 7, 1000, 40_000])
def test_results_come_in_order(run_map: Callable[..., list[Any]], length: int) -> None:
    assert run_map(same, range(length)) == list(range(length))


def test_results_of_every_size_and_kind(run_map: Callable[..., list[Any]]) -> None:
    assert run_map(large_at_three, range(500)) == [large_at_three(number) for number in range(500)]
    values = [None, True, 2**80, 1.5, "text", b"bytes", (1, (2,)), [3, [4]], {"k": {"v": 5}}, "y" * 100_000]
    assert run_map(same, values * 20) == values * 20


def test_exceptions_stand_where_they_were_raised(run_map: Callable[..., list[Any]]) -> None:
    outcomes = run_map(reject_odd, range(100))
    assert outcomes[::2] == list(range(0, 100, 2))
    assert [str(error) for error in outcomes[1::2]] == [f"odd: {number}" for number in range(1, 100, 2)]
    outcomes = run_map(leave_at_one, range(4))
    assert isinstance(outcomes[1], SystemExit) and isinstance(outcomes[2], KeyboardInterrupt)
    assert [outcomes[0], outcomes[3]] == [0, 3]


def test_the_first_exception_is_raised(
    pool: freethreading.WorkerPool, executor: freethreading.WorkerPoolExecutor
) -> None:
    with pytest.raises(ValueError, match="odd: 1"):
        pool.map(reject_odd, range(100))
    results = executor.map(reject_odd, range(100))
    assert next(results) == 0
    with pytest.raises(ValueError, match="odd: 1"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("odd", [0, 50, 9_000, 39_999])
def test_an_item_that_is_not_for_the_codec(run_map: Callable[..., list[Any]], odd: int) -> None:
    items: list[Any] = list(range(40_000))
    items[odd] = {"a", "set"}
    assert run_map(same, items) == items


def test_starred_items(pool: freethreading.WorkerPool, executor: freethreading.WorkerPoolExecutor) -> None:
    assert pool.starmap(add, [(n, 1) for n in range(100)]) == list(range(1, 101))
    assert pool.starmap(add, [[n, 1] for n in range(10)]) == list(range(1, 11))
    assert list(executor.map(add, iter(range(100)), iter(range(100)))) == list(range(0, 200, 2))
    assert list(executor.map(add, range(5), [1, {2}][:1])) == [1]


def test_each_item_runs_once(run_map: Callable[..., list[Any]], shared: Shared) -> None:
    for _ in range(20):
        shared.counter.store(0)
        assert run_map(count, range(2000)) == list(range(2000))
        assert shared.counter.load() == 2000


def test_the_end_shows_only_behind_the_last_outcomes() -> None:
    gathered = Gathered(2)
    seen = []

    class Watched(collections.deque[list[Any]]):
        def append(self, results: list[Any]) -> None:
            seen.append(gathered.is_over())
            super().append(results)

    gathered.ready = Watched()
    gathered.deliver_values(0, [1, 2], [])
    assert seen == [False]
    assert gathered.is_over()
    assert list(gathered.ready) == [[1, 2]]


@pytest.mark.parametrize(
    "numbers",
    [
        range(10, 0, -3),
        range(-5, 5, 2),
        range(0),
        range(2**62, 2**62 + 5),
        range(2**63 - 3, 2**63 + 3),
        range(250, 600),  # small ones, of which there is one for all, and others
        range(2**30 - 300, 2**30 + 300),  # of one digit, then of two
        range(600, -600, -1),
        range(-(2**63) + 2, -(2**63) - 2, -1),
        range(2**70, 2**70 + 9, 4),
    ],
    ids=str,
)
def test_the_numbers_of_a_range(run_map: Callable[..., list[Any]], numbers: range) -> None:
    assert run_map(same, numbers) == list(numbers)


@pytest.mark.parametrize("length", [2, 10, 5000])
def test_others_take_what_waits_behind_a_long_item(run_map: Callable[..., list[Any]], length: int) -> None:
    # The first item ends when the last one has run: whatever the first worker set out to run, the other one takes over.
    assert run_map(wait_first_open_last, [(n, length - 1) for n in range(length)]) == list(range(length))


@pytest.mark.parametrize("victims", [[0], [3], [99], [10, 11, 50], list(range(0, 40, 3))], ids=str)
def test_a_death_costs_one_item(
    processes: None, run_map: Callable[..., list[Any]], victims: list[int]
) -> None:
    outcomes = run_map(die_at, [(number, victims) for number in range(100)])
    for number, outcome in enumerate(outcomes):
        if number in victims:
            assert isinstance(outcome, freethreading.WorkerLostError)
            assert f"die_at() of item {number}" in str(outcome)
        else:
            assert outcome == number


def test_an_item_that_forks(processes: None, run_map: Callable[..., list[Any]]) -> None:
    assert run_map(fork_at_two, range(6)) == list(range(6))


def test_items_leave_no_context_behind(pool: freethreading.WorkerPool) -> None:
    assert pool.map(set_variable, range(200)) == [0] * 200


def test_an_iterator_that_is_closed_stops(executor: freethreading.WorkerPoolExecutor, shared: Shared) -> None:
    results = executor.map(wait_soon, range(100_000))
    until(lambda: shared.counter.load() > 0, "it has begun")
    results.close()
    with pytest.raises(StopIteration):
        next(results)
    shared.gate.set()
    assert executor.submit(add, 1, 2).result(SECONDS) == 3
    until(lambda: not executor._engine._jobs, "the engine has let it go")  # type: ignore[attr-defined]
    assert shared.counter.load() < 100_000


def test_a_shutdown_that_cancels(shared: Shared) -> None:
    executor = freethreading.WorkerPoolExecutor(1, share, shared.initargs())
    results = executor.map(wait_at_zero, range(50))
    until(lambda: shared.counter.load() > 0, "it has begun")
    executor.shutdown(wait=False, cancel_futures=True)
    shared.gate.set()
    assert next(results) == 0
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    executor.shutdown()
    assert shared.counter.load() == 1


def test_a_timeout(executor: freethreading.WorkerPoolExecutor, shared: Shared) -> None:
    results = executor.map(wait_at_zero, range(10), timeout=0.05)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    shared.gate.set()


def test_terminate_fails_what_is_not_done(shared: Shared) -> None:
    pool = freethreading.WorkerPool(1, share, shared.initargs())
    result = pool.map_async(wait_at_zero, range(10))
    until(lambda: shared.counter.load() > 0, "it has begun")
    pool.terminate()
    shared.gate.set()
    with pytest.raises(RuntimeError, match="terminated"):
        result.get(SECONDS)
    pool.join()
    assert shared.counter.load() == 1


@pytest.mark.parametrize("how", ["close", "drop", "cancel"])
def test_a_large_map_that_is_left_early_lets_the_executor_end(shared: Shared, how: str) -> None:
    executor = freethreading.WorkerPoolExecutor(WORKERS, share, shared.initargs())
    results = executor.map(same, range(300_000))
    assert next(results) == 0
    if how == "close":
        results.close()
    elif how == "drop":
        del results
    else:
        executor.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(concurrent.futures.CancelledError):
            assert list(results) == list(range(1, 300_000))  # they were faster
    executor.shutdown()


def test_a_close_wakes_who_waits(executor: freethreading.WorkerPoolExecutor, shared: Shared) -> None:
    results = executor.map(wait_at_zero, range(10))
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(list(results)))
    thread.start()
    until(lambda: shared.counter.load() > 0, "it has begun")
    results.close()
    thread.join(SECONDS)
    assert found == [[]]
    shared.gate.set()


@pytest.mark.parametrize("how", ["close", "del"])
def test_a_child_leaves_its_parents_map_alone(
    processes: None, executor: freethreading.WorkerPoolExecutor, shared: Shared, how: str
) -> None:
    results = executor.map(wait_at_zero, range(1000))
    until(lambda: shared.counter.load() > 0, "it has begun")
    child = os.fork()
    if child == 0:
        if how == "close":
            results.close()
        del results
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    shared.gate.set()
    assert list(results) == list(range(1000))


def test_a_callback_gets_the_whole_list(pool: freethreading.WorkerPool) -> None:
    found: list[Any] = []
    pool.map_async(same, range(20_000), callback=found.append).wait(SECONDS)
    assert found == [list(range(20_000))]


def test_threads_share_an_iterator(executor: freethreading.WorkerPoolExecutor) -> None:
    results = executor.map(same, range(5000))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(results)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(5000))


def test_an_iterator_that_is_dropped_stops(
    executor: freethreading.WorkerPoolExecutor, shared: Shared
) -> None:
    results = executor.map(wait_soon, range(100_000))
    until(lambda: shared.counter.load() > 0, "it has begun")
    del results
    shared.gate.set()
    until(lambda: not executor._engine._jobs, "the engine has let it go")  # type: ignore[attr-defined]
    assert shared.counter.load() < 100_000


def test_a_callback_of_a_map_waits_for_another_map(pool: freethreading.WorkerPool) -> None:
    found: list[Any] = []
    ended = threading.Event()

    def ask(values: list[int]) -> None:
        found.append(pool.map(same, [*values, 3]))
        ended.set()

    pool.map_async(same, [1, 2], callback=ask)
    assert ended.wait(SECONDS)
    assert found == [[1, 2, 3]]


def test_items_that_are_kept_stay_what_they_are(run_map: Callable[..., list[Any]]) -> None:
    # A worker uses an int again that nobody else has.
    assert run_map(keep_every_third, range(1000, 5000)) == [True] * 4000


def test_what_a_job_says_of_itself() -> None:
    job = MapJob.encode([1, 2, 3], False, 2)
    assert job is not None
    assert len(job) == 3 and job.has_free and not job.is_complete
    assert job.collect() == (0, [], [])
    assert job.settle(7) == []
    error = ValueError()
    job.withdraw(False, error)
    assert not job.has_free
    assert job.collect() == (0, [error] * 3, [0, 1, 2])
    assert job.is_complete
    job = MapJob.encode(range(4), False, 2)
    assert job is not None and len(job) == 4
    job.withdraw(False, error)
    into: list[Any] = [None] * 5
    assert job.collect_into(into, 1) == (4, [1, 2, 3, 4])
    assert into == [None, error, error, error, error]
    assert job.is_complete
    large = MapJob.encode(range(2**63, 2**63 + 2), False, 2)  # its numbers are encoded
    assert large is not None and len(large) == 2
    assert MapJob.encode([1, {2}], False, 2) is None
    assert MapJob.encode([[1]], True, 2) is None
    with pytest.raises(TypeError):
        MapJob.encode(3, False, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        MapJob()


def test_what_a_job_of_threads_says_of_itself() -> None:
    context = contextvars.Context()
    job = ThreadJob(range(5), False, 2)
    assert len(job) == 5 and not job.is_complete
    while job.run(reject_odd, context, None, None):
        pass
    first, values, failures = job.collect()
    assert (first, failures, values[::2]) == (0, [1, 3], [0, 2, 4])
    assert [str(error) for error in values[1::2]] == ["odd: 1", "odd: 3"]
    assert job.is_complete and job.collect() == (5, [], [])
    job = ThreadJob(range(5), False, 2)
    into: list[Any] = [None] * 7
    assert job.collect_into(into, 1) == (0, [])
    while job.run(reject_odd, context, None, None):
        pass
    assert job.collect_into(into, 1) == (5, [2, 4])
    assert (into[:2], str(into[2]), into[3], str(into[4]), into[5:]) == (
        [None, 0],
        "odd: 1",
        2,
        "odd: 3",
        [4, None],
    )
    assert job.is_complete and job.collect_into(into, 6) == (0, [])
    for where in ((into, 8), (into, -1), ((), 0), (into,)):
        with pytest.raises(TypeError):
            job.collect_into(*where)  # type: ignore[arg-type]
    job = ThreadJob(range(3), False, 1)
    surplus = freethreading.AtomicInt64(1, shared=False)
    for number in range(3):  # an item at a time
        assert job.run(same, context, None, surplus)
        assert job.collect() == (number, [number], [])
    assert not job.run(same, context, None, surplus)
    job = ThreadJob([(1, 2), (3, 4)], True, 1)
    error = ValueError()
    job.withdraw(False, error)
    assert not job.run(add, context, None, None)
    assert job.collect() == (0, [error] * 2, [0, 1])
    with pytest.raises(TypeError):
        ThreadJob(3, False, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        job.run(add, None, None, None)  # type: ignore[arg-type]


class Given(ListTaker):
    """Over lists that are there."""

    def _wait(self, _: None) -> None:
        raise StopIteration

    def _failed(self, failure: ValueError) -> str:
        return f"failed: {failure}"


def test_values_are_taken_out_of_their_lists() -> None:
    first = [1, ValueError("odd"), 3]
    lists = collections.deque([first, [4]])
    given = Given(lists, ValueError)
    assert given._has_values
    assert next(given) == 1
    assert (first[0], len(lists)) == (None, 1)
    assert list(given) == ["failed: odd", 3, 4]
    assert not given._has_values and next(given, None) is None
    lists.append([5, 6])
    assert next(given) == 5
    given._drop_list()
    assert not given._has_values
    lists.append([])
    with pytest.raises(TypeError, match=r"a list with values is needed, not \[\]"):
        next(given)
    with pytest.raises(TypeError, match="takes a deque and a type, not 1"):
        Given(lists, 1)  # type: ignore[arg-type]


def test_threads_that_share_lists_take_each_value_once() -> None:
    lists = collections.deque([list(range(k, k + 50)) for k in range(0, 20_000, 50)])
    given = Given(lists, ValueError)
    found: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=mine.extend, args=(given,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for mine in found for number in mine) == list(range(20_000))
    assert all(mine == sorted(mine) for mine in found)
