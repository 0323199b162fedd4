"""imap and imap_unordered: results as they come, inputs that wait, bounds, deaths, ends. Streams and tasks alike."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import freethreading
from freethreading._imap import LEAST_AHEAD, PART_AHEAD
from support.shared import Shared, die_at, reject_odd
from support.until import until

SECONDS = 30.0
WORKERS = 2

counter: Any = None
gate: Any = None
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

METHODS = ["imap", "imap_unordered"]


def share(a: Any, b: Any) -> None:
    global counter, gate
    counter, gate = a, b


def same(value: Any) -> Any:
    return value


def count(number: int) -> int:
    counter.fetch_add(1)
    return number


def wait_at(item: tuple[int, int]) -> int:
    number, at = item
    counter.fetch_add(1)
    if number == at:
        assert gate.wait(SECONDS)
    return number


def wait_first_open_last(item: tuple[int, int]) -> int:
    number, last = item
    if number == 0:
        assert gate.wait(SECONDS)
    if number == last:
        gate.set()
    return number


def begin_slowly(number: int) -> tuple[int, int]:
    begun = counter.fetch_add(1)
    time.sleep(0.0015)  # longer than a turn
    return number, begun


def wait_open(number: int) -> int:
    """Waits at the gate, but for item 1, which opens it once all others wait."""
    if counter.fetch_add(1) == number_of_waits:
        gate.set()
    assert gate.wait(SECONDS)
    return number


number_of_waits = 2


def last_beyond_the_end(a: Any, b: Any, event: Any) -> None:
    """A process that has called it does not end before the event."""
    share(a, b)
    threading.Thread(target=event.wait, args=(SECONDS,), daemon=False).start()


def enlarge(number: int) -> bytes:
    return bytes([number % 256]) * 200_000


def read_variable(_: int) -> int:
    return variable.get()


@pytest.fixture
def shared(backend: str) -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.gate.set()
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
def one_worker(shared: Shared) -> Iterator[freethreading.WorkerPool]:
    with freethreading.WorkerPool(1, share, shared.initargs()) as pool:
        yield pool
        shared.gate.set()


def jobs_of(pool: freethreading.WorkerPool) -> Any:
    engine: Any = pool._engine
    return engine._jobs


# What comes back, and when


@pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 1000, 20_000])
def test_every_result_comes(pool: freethreading.WorkerPool, length: int) -> None:
    assert list(pool.imap(same, range(length))) == list(range(length))
    assert list(pool.imap(same, iter(range(length)))) == list(range(length))
    assert sorted(pool.imap_unordered(same, range(length))) == list(range(length))


def test_they_go_the_short_way_where_they_can(pool: freethreading.WorkerPool) -> None:
    assert pool.imap(same, [1])._feed._stream is not None
    assert pool.imap(same, [1], 2)._feed._stream is None


def test_items_and_results_that_are_not_for_the_codec(pool: freethreading.WorkerPool) -> None:
    values: list[Any] = [1, {2}, 3, "x" * 100_000, {4}, {5}, 6, None, *({n} for n in range(20)), 7]
    assert list(pool.imap(same, values * 20)) == values * 20
    found = list(pool.imap_unordered(same, values * 20))
    assert sorted(map(repr, found)) == sorted(map(repr, values * 20))


def test_functions_and_contexts_that_are_not(pool: freethreading.WorkerPool) -> None:
    assert list(pool.imap(lambda x: x + 1, range(100))) == list(range(1, 101))
    changed = contextvars.copy_context()
    changed.run(variable.set, 7)
    assert list(changed.run(pool.imap, read_variable, range(100))) == [7] * 100
    assert list(pool.imap(read_variable, range(3))) == [0] * 3


@pytest.mark.parametrize("method", METHODS)
def test_exceptions_come_in_their_turn(pool: freethreading.WorkerPool, method: str) -> None:
    results = getattr(pool, method)(reject_odd, range(200))
    found: list[str] = []
    while True:
        try:
            found.append(str(next(results)))
        except StopIteration:
            break
        except ValueError as error:
            found.append(str(error))
    expected = [f"odd: {n}" if n % 2 else str(n) for n in range(200)]
    assert found == expected if method == "imap" else sorted(found) == sorted(expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_result_does_not_wait_for_the_workers_next_item(
    one_worker: freethreading.WorkerPool, shared: Shared, method: str
) -> None:
    # Without an order a result may pass earlier ones, which were done while it was looked which are.
    in_order = sorted if method == "imap_unordered" else list
    for at in (1, 5, 40):
        shared.gate.clear()
        results = getattr(one_worker, method)(wait_at, [(n, at) for n in range(60)])
        assert in_order(results.next(SECONDS) for _ in range(at)) == list(range(at))
        shared.gate.set()
        assert in_order(results) == list(range(at, 60))


def test_a_result_of_a_map_does_not_wait_for_the_workers_next_item(shared: Shared) -> None:
    with freethreading.WorkerPoolExecutor(1, share, shared.initargs()) as executor:
        for at in (1, 5, 40):
            shared.gate.clear()
            results = executor.map(wait_at, [(n, at) for n in range(60)], timeout=SECONDS)
            assert [next(results) for _ in range(at)] == list(range(at))
            shared.gate.set()
            assert list(results) == list(range(at, 60))


def test_others_pass_a_long_item(pool: freethreading.WorkerPool, shared: Shared) -> None:
    results = pool.imap_unordered(wait_at, [(n, 0) for n in range(LEAST_AHEAD)])
    assert sorted(results.next(SECONDS) for _ in range(LEAST_AHEAD - 1)) == list(range(1, LEAST_AHEAD))
    with pytest.raises(TimeoutError):
        results.next(0.01)
    shared.gate.set()
    assert list(results) == [0]


@pytest.mark.parametrize("method", METHODS)
def test_others_take_what_waits_behind_a_long_item(
    pool: freethreading.WorkerPool, shared: Shared, method: str
) -> None:
    for length in (2, 10, LEAST_AHEAD):
        shared.gate.clear()
        items = [(n, length - 1) for n in range(length)]
        assert sorted(getattr(pool, method)(wait_first_open_last, items)) == list(range(length))


def test_a_time_that_is_up(pool: freethreading.WorkerPool, shared: Shared) -> None:
    results = pool.imap(wait_at, [(0, 0), (1, 0)])
    for _ in range(3):
        with pytest.raises(TimeoutError):
            results.next(0.01)
    shared.gate.set()
    assert results.next(SECONDS) == 0
    assert list(results) == [1]


def test_an_exception_of_a_handlers_leaves_the_iteration_whole(
    pool: freethreading.WorkerPool, shared: Shared
) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        results = pool.imap(wait_at, [(n, 0) for n in range(10)])
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            next(results)
    finally:
        signal.signal(signal.SIGALRM, before)
    shared.gate.set()
    assert list(results) == list(range(10))


# Workers come and go


@pytest.mark.parametrize("method", METHODS)
def test_workers_that_come_take_part(shared: Shared, method: str) -> None:
    with freethreading.WorkerPool(1, share, shared.initargs()) as pool:
        results = getattr(pool, method)(wait_open, iter(range(20)))
        until(lambda: shared.counter.load() == 1, "the first one runs")
        pool.resize(3)  # without them nobody opens the gate
        assert sorted(results) == list(range(20))
        assert sorted(getattr(pool, method)(same, range(500))) == list(range(500))


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_leaves_tells_of_its_last_item(
    pool: freethreading.WorkerPool, shared: Shared, method: str
) -> None:
    other = freethreading.Event(shared=True)
    busy = pool.apply_async(other.wait, (SECONDS,))
    results = getattr(pool, method)(wait_at, [(0, 0)])
    until(lambda: shared.counter.load() == 1, "it runs")
    taken: list[int] = []
    consumer = threading.Thread(target=lambda: taken.append(results.next(SECONDS)))
    consumer.start()
    until(lambda: waits(consumer), "somebody waits for it")
    pool.resize(1)
    shared.gate.set()
    consumer.join()
    assert taken == [0]
    other.set()
    assert busy.get(SECONDS) is True


def waits(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "wait":
            return True
        frame = frame.f_back
    return False


def test_a_worker_that_leaves_strands_nothing(processes: None, shared: Shared) -> None:
    event = freethreading.Event()
    with freethreading.WorkerPool(3, last_beyond_the_end, (*shared.initargs(), event)) as pool:
        results = pool.imap(count, iter(range(50_000)))
        taken = [next(results) for _ in range(1000)]
        pool.resize(1)  # the two that leave do not end
        taken += list(results)
        assert taken == list(range(50_000))
        assert pool.map(same, range(1000)) == list(range(1000))
        event.set()
    assert shared.counter.load() == 50_000


@pytest.mark.parametrize("method", METHODS)
def test_a_finaliser_does_not_wait_for_its_own_thread(
    pool: freethreading.WorkerPool, shared: Shared, method: str
) -> None:
    results = getattr(pool, method)(count, range(300))
    until(lambda: shared.counter.load() > 20, "some have run")
    feed = results._feed
    with feed.condition:  # as where the garbage collector comes by in the middle
        del results
    until(lambda: shared.counter.load() == 300, "it runs on")
    del feed
    until(lambda: not jobs_of(pool), "nothing is left of it")


# The input


@pytest.mark.parametrize("method", METHODS)
def test_an_item_does_not_wait_for_the_next_one(
    pool: freethreading.WorkerPool, shared: Shared, method: str
) -> None:
    # Nobody takes a result meanwhile: what was read has to run by itself.
    def items() -> Iterator[int]:
        for number in range(50):
            until(lambda number=number: shared.counter.load() == number, "the items before have run")  # type: ignore[misc]
            yield number

    results = getattr(pool, method)(count, items())
    until(lambda: shared.counter.load() == 50, "all have run")
    assert sorted(results) == list(range(50))


@pytest.mark.parametrize("method", METHODS)
def test_an_input_that_waits_for_each_result(pool: freethreading.WorkerPool, method: str) -> None:
    more: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    more.put(0)
    for result in getattr(pool, method)(same, iter(more.get, None)):
        more.put(result + 1 if result < 500 else None)
    assert result == 500


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", [same, enlarge])
def test_it_is_read_a_bounded_way_ahead(
    pool: freethreading.WorkerPool, method: str, function: Callable[[Any], Any]
) -> None:
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    results = getattr(pool, method)(function, endless())
    feed = results._feed
    for taken in range(1, 1000):
        next(results)
        bound = LEAST_AHEAD + taken // PART_AHEAD
        assert pulled - taken <= bound + 1 and len(feed.ready) <= bound
    results.close()
    until(lambda: not jobs_of(pool), "nothing is left of it")


def test_an_input_that_fails_behind_many(pool: freethreading.WorkerPool) -> None:
    def items() -> Iterator[int]:
        yield from range(700)
        raise LookupError("the input fails")

    results = pool.imap(same, items())
    assert [next(results) for _ in range(700)] == list(range(700))
    with pytest.raises(LookupError, match="the input fails"):
        next(results)
    assert list(results) == []


# Deaths


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("victims", [[0], [63], [64], [150], [10, 11, 50], list(range(0, 60, 7))], ids=str)
def test_a_death_costs_one_item(
    processes: None, pool: freethreading.WorkerPool, method: str, victims: list[int]
) -> None:
    items = [(number, victims) for number in range(300)]
    outcomes = list(getattr(pool, method)(die_at, items, return_exceptions=True))
    lost = [outcome for outcome in outcomes if isinstance(outcome, freethreading.WorkerLostError)]
    said = [int(str(error).split("of item ")[1].split()[0].rstrip(":,.")) for error in lost]
    assert sorted(said) == victims
    assert sorted(set(range(300)) - set(victims)) == sorted(x for x in outcomes if isinstance(x, int))
    if method == "imap":
        assert [number for number in victims if outcomes[number] in lost] == victims


def test_a_death_while_the_input_waits(processes: None, pool: freethreading.WorkerPool) -> None:
    # The dead worker may have been the one that an open job counts on.
    more: queue.SimpleQueue[Any] = queue.SimpleQueue()
    results = pool.imap(die_at, iter(more.get, None), return_exceptions=True)
    for number in range(20):
        more.put((number, [number] if number % 3 == 0 else []))
        outcome = results.next(SECONDS)
        assert isinstance(outcome, freethreading.WorkerLostError) if number % 3 == 0 else outcome == number
    more.put(None)
    assert list(results) == []


# The end


@pytest.mark.parametrize("how", ["close", "drop"])
def test_what_has_not_begun_does_not_run(pool: freethreading.WorkerPool, shared: Shared, how: str) -> None:
    results = pool.imap(wait_at, ((n, n if n in (1, 2) else -1) for n in itertools.count()))
    assert next(results) == 0
    until(lambda: shared.counter.load() == 3, "each worker is in an item")
    if how == "close":
        results.close()
    del results
    shared.gate.set()
    until(lambda: not jobs_of(pool), "nothing is left of it")
    assert pool.apply(same, (3,)) == 3
    assert shared.counter.load() == 3


def test_one_that_is_dropped_unused_runs_on(shared: Shared) -> None:
    with freethreading.WorkerPool(WORKERS, share, shared.initargs()) as pool:
        pool.imap(count, iter(range(3000)))
        until(lambda: shared.counter.load() == 3000, "it has run")
        pool.imap_unordered(count, range(1000))
        finished = pool.imap(count, range(10))
        until(lambda: shared.counter.load() == 4010, "all have run")
        thread: threading.Thread = finished._feed.thread
        until(lambda: not thread.is_alive(), "the input has ended")
        del finished  # whose outcomes nobody has collected
        until(lambda: not jobs_of(pool), "nothing is left of them")
        pool.close()
        pool.join()
    assert shared.counter.load() == 4010
    assert not jobs_of(pool)


@pytest.mark.parametrize("method", METHODS)
def test_join_runs_on_and_keeps_the_results(shared: Shared, method: str) -> None:
    with freethreading.WorkerPool(WORKERS, share, shared.initargs()) as pool:
        results = getattr(pool, method)(count, iter(range(3000)))
        first = [next(results) for _ in range(10)]
        pool.close()
        pool.join()
        assert shared.counter.load() == 3000
        assert sorted(first + list(results)) == list(range(3000))


@pytest.mark.parametrize("method", METHODS)
def test_terminate_in_the_middle(shared: Shared, method: str) -> None:
    pool = freethreading.WorkerPool(WORKERS, share, shared.initargs())
    results = getattr(pool, method)(wait_at, ((n, n if n > 10 else -1) for n in itertools.count()))
    assert sorted(results.next(SECONDS) for _ in range(11)) == list(range(11))
    pool.terminate()
    shared.gate.set()
    with pytest.raises(RuntimeError, match="terminated"):
        list(results)
    results.close()
    pool.join()
    until(lambda: not jobs_of(pool), "nothing is left of it")


def test_a_pool_goes_on_beside_a_stream(pool: freethreading.WorkerPool, shared: Shared) -> None:
    more: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    results = pool.imap(same, iter(more.get, None))
    for number in range(20):
        more.put(number)
        assert next(results) == number
        # No worker stays with an input that waits.
        assert pool.map(same, range(10)) == list(range(10))
        assert pool.apply_async(same, (1,)).get(SECONDS) == 1
    others = [pool.imap(same, range(500)) for _ in range(5)]
    assert [list(other) for other in others] == [list(range(500))] * 5
    more.put(None)
    assert list(results) == []


def test_a_stream_without_an_end_leaves_others_their_turn(one_worker: freethreading.WorkerPool) -> None:
    results = one_worker.imap(same, itertools.count())
    is_over = threading.Event()
    taken = 0

    def take() -> None:
        nonlocal taken
        while not is_over.is_set():
            assert next(results) == taken
            taken += 1

    thread = threading.Thread(target=take)
    thread.start()
    try:
        until(lambda: taken > 1000, "it runs")
        for number in range(20):
            assert one_worker.apply_async(same, (number,)).get(SECONDS) == number
            before = taken
            until(lambda before=before: taken > before, "it goes on")  # type: ignore[misc]
    finally:
        is_over.set()
        thread.join(SECONDS)
    results.close()


@pytest.mark.parametrize("method", METHODS)
def test_items_begin_in_the_order_of_the_input(one_worker: freethreading.WorkerPool, method: str) -> None:
    results = getattr(one_worker, method)(begin_slowly, range(300))
    found = []
    for number in range(300):
        found.append(next(results))
        if number in {30, 100}:  # a worker with other tasks gives up its place
            assert one_worker.apply_async(same, (1,)).get(SECONDS) == 1
    if method == "imap_unordered":  # what became known while others were collected comes later
        found.sort()
    assert found == [(number, number) for number in range(300)]


def test_threads_share_an_iterator_in_order(pool: freethreading.WorkerPool) -> None:
    results = pool.imap(same, range(5000))
    parts: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=part.extend, args=(results,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert all(part == sorted(part) for part in parts)
    assert sorted(itertools.chain.from_iterable(parts)) == list(range(5000))


@pytest.mark.parametrize("how", ["close", "del"])
def test_a_child_leaves_its_parents_iterator_alone(
    processes: None, pool: freethreading.WorkerPool, shared: Shared, how: str
) -> None:
    results = pool.imap(wait_at, ((n, 0) for n in range(1000)))
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


# asyncio


def test_async_for(pool: freethreading.WorkerPool) -> None:
    async def main() -> None:
        assert [x async for x in pool.imap(same, range(1000))] == list(range(1000))
        assert sorted([x async for x in pool.imap_unordered(same, range(1000))]) == list(range(1000))
        found = [x async for x in pool.imap(reject_odd, range(10), 3, return_exceptions=True)]
        assert found[::2] == list(range(0, 10, 2))
        results = pool.imap(reject_odd, range(3))
        assert await anext(results) == 0
        with pytest.raises(ValueError, match="odd: 1"):
            await anext(results)
        assert [x async for x in results] == [2]

    asyncio.run(main())


def test_async_for_reads_a_bounded_way_ahead(pool: freethreading.WorkerPool) -> None:
    pulled = itertools.count()

    async def main() -> None:
        results = pool.imap(same, pulled)
        assert [await anext(results) for _ in range(300)] == list(range(300))
        await results.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    asyncio.run(main())
    assert next(pulled) <= 300 + LEAST_AHEAD + 300 // PART_AHEAD + 1


def test_a_wait_that_is_cancelled_takes_nothing(pool: freethreading.WorkerPool, shared: Shared) -> None:
    async def main() -> None:
        results = pool.imap(wait_at, [(n, 0) for n in range(5)])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(results), 0.01)
        shared.gate.set()
        assert [x async for x in results] == list(range(5))

    asyncio.run(main())


# The jobs under it
