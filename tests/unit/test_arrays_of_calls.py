"""Arrays as arguments and as results of calls: copied once, their receiver's own, gone when he drops them."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import freethreading

SECONDS = 30.0
MANY = 100_000  # elements: what is smaller lies within the pickle


class Box:
    """Has arrays among other things."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class DoesNotLoad:
    """Fails where it arrives, behind the array beside it."""

    def __reduce__(self) -> Any:
        return refuse, (np.ones(MANY),)


def refuse(array: Any) -> Any:
    raise LookupError(f"{array.size} of them")


def same(value: Any) -> Any:
    return value


def write(array: Any) -> tuple[bool, float, Any]:
    owns = array.flags.writeable
    array += 1.0
    return owns, float(array.sum()), array


def ones(count: int) -> Any:
    return np.ones(count)


def two(count: int) -> Any:
    array = np.arange(count)
    return Box(array, array, b"x" * count, count)


def die_with(array: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_with(array: Any) -> None:
    raise ValueError(array)


def unloadable() -> Any:
    return DoesNotLoad()


@pytest.fixture
def executor(backend: str) -> Iterator[freethreading.WorkerPoolExecutor]:
    with freethreading.WorkerPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def processes(backend: str) -> None:
    if backend != "multiprocessing":
        pytest.skip("a matter of processes")


@pytest.mark.parametrize("count", [0, 1, 511, 512, MANY])
def test_there_and_back(executor: freethreading.WorkerPoolExecutor, count: int) -> None:
    sent = np.arange(count, dtype=float)
    came = executor.submit(same, sent).result(SECONDS)
    assert np.array_equal(came, sent)
    assert came.flags.writeable


def test_what_arrives_is_its_receivers_own(
    processes: None, executor: freethreading.WorkerPoolExecutor
) -> None:
    sent = np.zeros(MANY)
    writable, total, came = executor.submit(write, sent).result(SECONDS)
    assert writable
    assert total == came.sum() == MANY
    assert not sent.any()
    came[:] = 7
    again = executor.submit(write, came).result(SECONDS)[2]
    assert (came == 7).all()
    assert (again == 8).all()


def test_it_is_sent_as_it_was(processes: None, executor: freethreading.WorkerPoolExecutor) -> None:
    array = np.zeros(MANY)
    futures = []
    for number in range(20):
        array[:] = number
        futures.append(executor.submit(same, array))
    array[:] = -1
    for number, future in enumerate(futures):
        assert (future.result(SECONDS) == number).all()


def test_read_only_views_and_sharing(processes: None, executor: freethreading.WorkerPoolExecutor) -> None:
    array = np.arange(4 * MANY).reshape(4, MANY)
    array.flags.writeable = False
    event = freethreading.Event()
    sent = Box(array, array, array[:, ::2], bytearray(b"y" * MANY), event, "text")
    for came in (
        executor.submit(same, sent).result(SECONDS),
        executor.submit(same, Box(sent)).result(SECONDS),
    ):
        values = came.values if len(came.values) > 1 else came.values[0].values
        assert values[0] is values[1]
        assert not values[0].flags.writeable
        assert np.array_equal(values[0], array)
        assert np.array_equal(values[2], array[:, ::2])
        assert values[3:4] + values[5:] == (bytearray(b"y" * MANY), "text")
        values[4].set()
        assert event.is_set()
        event.clear()


@pytest.mark.parametrize(
    "submit",
    [
        lambda e: e.submit(two, MANY),
        lambda e: e.submit(lambda count: two(count), MANY),
        lambda e: next(iter(e.map(two, [MANY]))),
        lambda e: next(iter(e.map(two, [MANY], chunksize=2))),
    ],
    ids=["submit", "by-value", "map", "batch"],
)
def test_every_way_back(executor: freethreading.WorkerPoolExecutor, submit: Callable[[Any], Any]) -> None:
    result = submit(executor)
    if isinstance(result, concurrent.futures.Future):
        result = result.result(SECONDS)
    array, again, text, count = result.values
    assert array is again
    assert np.array_equal(array, np.arange(MANY))
    assert (text, count) == (b"x" * MANY, MANY)


def test_pools_and_callbacks(backend: str) -> None:
    seen: list[float] = []
    told = threading.Event()

    def tell(array: Any) -> None:
        seen.append(float(array.sum()))
        told.set()

    with freethreading.WorkerPool(2) as pool:
        pool.apply_async(ones, (MANY,), callback=tell)
        assert told.wait(SECONDS)
        assert pool.apply(same, (np.ones(MANY),)).sum() == MANY
        assert [array.sum() for array in pool.map(ones, [MANY, 5, MANY])] == [MANY, 5, MANY]
        assert [array.sum() for array in pool.imap_unordered(ones, [MANY] * 10)] == [MANY] * 10
    assert seen == [MANY]


def test_failures(processes: None, executor: freethreading.WorkerPoolExecutor) -> None:
    with pytest.raises(LookupError, match="100000 of them"):
        executor.submit(same, DoesNotLoad()).result(SECONDS)
    with pytest.raises(LookupError, match="100000 of them"):
        executor.submit(unloadable).result(SECONDS)
    with pytest.raises(ValueError) as info:
        executor.submit(raise_with, np.ones(MANY)).result(SECONDS)
    assert info.value.args[0].sum() == MANY
    with pytest.raises(freethreading.WorkerLostError, match="die_with"):
        executor.submit(die_with, np.ones(MANY)).result(SECONDS)
    assert executor.submit(ones, MANY).result(SECONDS).sum() == MANY


def test_their_memory_comes_back(processes: None, executor: freethreading.WorkerPoolExecutor) -> None:
    array = np.ones(MANY * 10)  # 8 MB
    held = 0
    for _ in range(100):
        assert executor.submit(write, array).result(SECONDS)[1] == 2 * array.size
        cancelled = executor.submit(same, array)
        cancelled.cancel()
        held = max(held, region_bytes())
    assert held < 200_000_000


def region_bytes() -> int:
    """What the memory that all processes share takes of the machine's."""
    sizes = [
        os.stat(f"/proc/self/fd/{number}").st_blocks * 512
        for number in os.listdir("/proc/self/fd")
        if "memfd:freethreading" in link_of(number)
    ]
    assert sizes
    return sum(sizes)


def link_of(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return ""  # the descriptor of the listing itself
