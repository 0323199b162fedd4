"""broadcast(): sent once, unpickled once a worker, buffers that lie in shared memory until somebody writes them."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import freethreading
from freethreading import _broadcast, _core

BIG = 1_000_000


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    yield
    _broadcast._kept.clear()


@pytest.fixture
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


class Counted:
    """Counts how often it was pickled here, and how often made in this process."""

    pickled = 0
    made = 0

    def __init__(self, data: Any = b"") -> None:
        self.data = data
        Counted.made += 1

    def __reduce_ex__(self, protocol: Any) -> Any:
        Counted.pickled += 1
        return Counted, (pickle.PickleBuffer(self.data),)


def look(table: _broadcast.Broadcast[Counted], index: int) -> tuple[int, int, int]:
    element = memoryview(table.value.data)[index]
    return os.getpid(), Counted.made, element


def write(table: _broadcast.Broadcast[Counted], barrier: Any) -> int:
    barrier.wait()  # each worker takes one of the two calls
    data = memoryview(table.value.data)
    data[0] += 1
    return data[0]


def nested(table: _broadcast.Broadcast[Any]) -> int:
    return int(table.value["inner"].value) + table.value["one"]


def keeps(table: _broadcast.Broadcast[Any]) -> bool:
    with table.value:
        return bool(table.value.locked())


def test_on_threads_it_is_the_object_itself() -> None:
    value = [1, threading.Lock()]
    table = freethreading.broadcast(value, shared=False)
    assert table.value is value
    assert copy.copy(table) is table
    with pytest.raises(TypeError, match="made for threads"):
        pickle.dumps(table)
    with pytest.raises(TypeError, match="copy its value"):
        copy.deepcopy(table)


def test_the_back_end_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, shared in (("threading", False), ("multiprocessing", True)):
        monkeypatch.setenv("FREETHREADING_BACKEND", backend)
        table = freethreading.broadcast((1, 2))
        assert table.value == (1, 2)
        assert ("bytes" in repr(table)) is shared


def test_strict_threads_check_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    monkeypatch.setenv("FREETHREADING_STRICT", "1")
    with pytest.raises(freethreading.NotPicklableError, match="obj"):
        freethreading.broadcast(threading.Lock())
    table = freethreading.broadcast([1])
    with freethreading.WorkerPool(1) as pool:
        assert pool.apply(len_of_value, (table,)) == 1
    pool.join()


def len_of_value(table: Any) -> int:
    return len(table.value)


@pytest.mark.usefixtures("on_processes")
def test_it_is_pickled_once_and_made_once_a_worker() -> None:
    before = Counted.pickled
    table = freethreading.broadcast(Counted(bytearray(range(200)) * 5000))
    with freethreading.WorkerPool(2) as pool:
        results = pool.starmap(look, [(table, index) for index in range(100)], chunksize=3)
    pool.join()
    assert Counted.pickled == before + 1
    assert [value for _, _, value in results] == list(range(100))
    assert {made for _, made, _ in results} == {1}


@pytest.mark.usefixtures("on_processes")
def test_a_worker_writes_its_own_pages() -> None:
    table = freethreading.broadcast(Counted(bytearray(BIG)))
    barrier = freethreading.Barrier(2)
    with freethreading.WorkerPool(2) as pool:
        assert pool.starmap(write, [(table, barrier)] * 2, chunksize=1) == [1, 1]
    pool.join()
    assert table.value.data[0] == 0
    again: Any = pickle.loads(pickle.dumps(table))
    assert memoryview(again.value.data)[0] == 0
    memoryview(again.value.data)[0] = 9
    other: Any = pickle.loads(pickle.dumps(table))
    assert other.value is again.value  # the same process
    _broadcast._kept.clear()
    fresh: Any = pickle.loads(pickle.dumps(table))
    assert memoryview(fresh.value.data)[0] == 0
    assert memoryview(again.value.data)[0] == 9


@pytest.mark.usefixtures("on_processes")
def test_its_memory_comes_back_when_it_is_dropped() -> None:
    freethreading.Lock()
    table = freethreading.broadcast(Counted(bytearray(BIG)))
    copied: Any = pickle.loads(pickle.dumps(table))
    assert len(copied.value.data) == BIG
    del copied
    usage = _core.session_usage()
    assert usage is not None
    assert usage["block_bytes"] > BIG
    del table
    _broadcast.purge()
    gc.collect()
    usage = _core.session_usage()
    assert usage is not None
    assert usage["block_bytes"] < BIG


@pytest.mark.usefixtures("on_processes")
def test_a_value_outlives_its_broadcast() -> None:
    table = freethreading.broadcast(Counted(bytearray(b"x" * BIG)))
    value = pickle.loads(pickle.dumps(table)).value
    del table
    _broadcast.purge()
    gc.collect()
    filler = [freethreading.SharedBuffer(BIG, shared=True) for _ in range(3)]
    assert bytes(value.data) == b"x" * BIG
    del filler


@pytest.mark.usefixtures("on_processes")
def test_broadcasts_and_shared_objects_within_one() -> None:
    inner = freethreading.broadcast(41)
    outer = freethreading.broadcast({"inner": inner, "one": 1})
    locked = freethreading.broadcast(freethreading.Lock())
    with freethreading.WorkerPoolExecutor(1) as executor:
        assert executor.submit(nested, outer).result() == 42
        assert executor.submit(keeps, locked).result() is True
    _broadcast.purge()


@pytest.mark.usefixtures("on_processes")
def test_what_cannot_be_sent_is_said_at_once() -> None:
    with pytest.raises(freethreading.NotPicklableError, match=r"obj\['lock'\]"):
        freethreading.broadcast({"lock": threading.Lock()})
