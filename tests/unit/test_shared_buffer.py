"""SharedBuffer in one process and its forks: size, views, release, what keeps it."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import numpy as np
import pytest

from freethreading import Event, HandleGoneError, Queue, SharedBuffer, WorkerPool, _core
from support import processes


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


@pytest.mark.parametrize("size", [0, 1, 63, 1000, 70_000, 3_000_001])
def test_it_is_zeros_aligned_and_writable(size: int, shared: bool) -> None:
    for _ in range(2):  # the second time in memory that was written
        buffer = SharedBuffer(size, shared=shared)
        assert len(buffer) == buffer.nbytes == size
        view = memoryview(buffer)
        assert (view.format, view.ndim, view.shape, view.readonly) == ("B", 1, (size,), False)
        assert view == bytes(size)
        array = np.frombuffer(buffer, np.uint8)
        assert array.__array_interface__["data"][0] % 64 == 0 or size == 0
        array[:] = 0xA5
        assert bytes(buffer) == b"\xa5" * size
        del view, array


def test_more_than_4_gib() -> None:
    size = 5 << 30
    try:
        buffer = SharedBuffer(size, shared=False)  # pages that nobody touches cost nothing
    except MemoryError:
        pytest.skip("this system does not promise as much")
    with memoryview(buffer) as view:
        view[size - 1] = 7
        assert (view[size - 1], view[(size - 1) % (1 << 32)], len(view)) == (7, 0, size)
    assert buffer.nbytes == size


def test_sizes_that_are_none(shared: bool) -> None:
    for negative in (-1, -(10**30)):
        with pytest.raises(ValueError, match="nbytes must be >= 0"):
            SharedBuffer(negative, shared=shared)
    for wrong in (1.5, "1", None, [1]):
        with pytest.raises(TypeError):
            SharedBuffer(wrong, shared=shared)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        SharedBuffer(shared=shared)  # type: ignore[call-arg]
    assert SharedBuffer(np.int32(8), shared=shared).nbytes == 8


@pytest.mark.parametrize("size", [1 << 45, 1 << 62, sys.maxsize, 10**30])
def test_more_than_there_is_says_how_much(size: int, shared: bool) -> None:
    with pytest.raises(MemoryError, match=f"SharedBuffer of {size} bytes"):
        SharedBuffer(size, shared=shared)


# --- release --------------------------------------------------------------------------------------------------------------


def test_a_released_one_is_of_no_use(shared: bool) -> None:
    buffer = SharedBuffer(8, shared=shared)
    buffer.release()
    buffer.release()
    uses: list[Any] = [len, memoryview, bytes, pickle.dumps, lambda it: it.nbytes, lambda it: it.__enter__()]
    for use in uses:
        with pytest.raises(ValueError, match="was released"):
            use(buffer)
    assert repr(buffer).endswith(": released>")
    with pytest.raises(RuntimeError, match="once only"):
        buffer.__init__(8)  # type: ignore[misc]


def test_views_stand_in_the_way_of_a_release(shared: bool) -> None:
    buffer = SharedBuffer(8, shared=shared)
    view, array = memoryview(buffer)[2:], np.frombuffer(buffer, np.int32)
    for _ in range(2):
        with pytest.raises(BufferError, match=r"views of it exist \(2:"):
            buffer.release()
    view.release()
    with pytest.raises(BufferError, match="views"), buffer:
        pass
    array[0] = 5
    assert bytes(buffer)[0] == 5
    del array
    buffer.release()


def test_a_with_statement_releases(shared: bool) -> None:
    before = processes.region_objects()
    with SharedBuffer(8, shared=shared) as buffer:
        assert processes.region_objects() == before + shared
        with memoryview(buffer) as view:
            view[0] = 1
    assert processes.region_objects() == before
    with pytest.raises(ValueError, match="was released"):
        memoryview(buffer)


def test_a_view_keeps_the_memory(shared: bool) -> None:
    buffer = SharedBuffer(8, shared=shared)
    alive = weakref.ref(buffer)
    view = memoryview(buffer)
    array = np.frombuffer(view, np.uint8)[1:]
    del buffer, view
    gc.collect()
    array[0] = 3
    assert array[0] == 3
    assert alive() is not None
    del array
    assert alive() is None


def test_threads_view_and_release_at_once(shared: bool) -> None:
    for _ in range(200):
        buffer = SharedBuffer(64, shared=shared)
        start = threading.Barrier(3)

        def use(buffer: SharedBuffer = buffer, start: threading.Barrier = start) -> None:
            start.wait()
            with contextlib.suppress(ValueError), memoryview(buffer) as view:
                view[0] = 1

        def release(buffer: SharedBuffer = buffer, start: threading.Barrier = start) -> None:
            start.wait()
            with contextlib.suppress(BufferError):
                buffer.release()

        threads = [threading.Thread(target=target) for target in (use, use, release)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        buffer.release()


# --- handles --------------------------------------------------------------------------------------------------------------


def test_a_pickle_names_the_same_memory() -> None:
    buffer = SharedBuffer(4, shared=True)
    data = pickle.dumps(buffer)
    assert len(data) < 200
    again = pickle.loads(data)
    memoryview(again)[1] = 9
    assert bytes(buffer) == b"\0\x09\0\0"
    buffer.release()
    assert bytes(again) == b"\0\x09\0\0"
    again.release()
    with pytest.raises(HandleGoneError, match="gone"):
        pickle.loads(data)


def test_a_message_keeps_it() -> None:
    items: Queue[Any] = Queue(shared=True)
    with SharedBuffer(100_000, shared=True) as buffer:
        memoryview(buffer)[:3] = b"abc"
        items.put([buffer, buffer])
    first, second = items.get(timeout=20)
    assert first is second
    assert bytes(memoryview(first)[:4]) == b"abc\0"


def wait_for(event: Any) -> bool:
    return bool(event.wait(30))


@pytest.mark.parametrize("subclass", [False, True])
def test_a_call_on_its_way_keeps_it(subclass: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    go_on = Event()
    with WorkerPool(workers=1) as pool:
        first = pool.apply_async(wait_for, (go_on,))
        with (Named if subclass else SharedBuffer)(5) as buffer:
            memoryview(buffer)[0] = 1
            second = pool.apply_async(bytes, (buffer,))
        go_on.set()
        assert first.get(30)
        assert second.get(30) == b"\1\0\0\0\0"
    pool.join()


class Named(SharedBuffer):
    name = "a subclass"


def test_one_that_was_released_is_not_sent() -> None:
    items: Queue[Any] = Queue(shared=True)
    buffer = SharedBuffer(1, shared=True)
    buffer.release()
    with pytest.raises(ValueError, match="was released"):
        items.put(buffer)
    assert items.empty()


def test_strict_threads_take_a_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    monkeypatch.setenv("FREETHREADING_STRICT", "1")
    buffer = SharedBuffer(3)
    with pytest.raises(TypeError, match="made for threads"):
        pickle.dumps(buffer)
    with WorkerPool(workers=1) as pool:
        assert pool.apply(len, (buffer,)) == 3
    pool.join()


# --- forks ----------------------------------------------------------------------------------------------------------------


def in_fork(body: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the watchdog's thread
        child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            _core.leave_sessions()
            os._exit(status)
    return child


def test_a_fork_shares_it_or_copies_it(shared: bool) -> None:
    buffer = SharedBuffer(2, shared=shared)

    def write() -> None:
        memoryview(buffer)[0] = 1

    assert os.waitpid(in_fork(write), 0)[1] == 0
    assert bytes(buffer) == (b"\1\0" if shared else b"\0\0")


def outlive_the_parents() -> None:
    buffer = SharedBuffer(100_000, shared=True)
    memoryview(buffer)[:] = b"x" * 100_000
    ready, go_on = Event(shared=True), Event(shared=True)

    def look() -> None:
        ready.set()
        assert go_on.wait(30)
        assert bytes(buffer) == b"x" * 100_000
        buffer.release()

    child = in_fork(look)
    assert ready.wait(30)
    buffer.release()
    others = [SharedBuffer(100_000, shared=True) for _ in range(3)]  # not in its place
    for other in others:
        memoryview(other)[:] = b"y" * 100_000
    go_on.set()
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_fork_inherits_lives_until_it_ends() -> None:
    before = processes.region_objects()
    outlive_the_parents()
    _core.sweep_sessions()
    assert processes.region_objects() == before


# --- large ones -----------------------------------------------------------------------------------------------------------


def test_other_threads_run_while_memory_is_zeroed() -> None:
    turns, stop = [0], threading.Event()

    def spin() -> None:
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0)  # lets the GIL go

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=spin)
    thread.start()
    sys.setswitchinterval(60)  # nobody is made to let it go
    try:
        for _ in range(50):
            before = turns[0]
            SharedBuffer(64 << 20, shared=True)
            if turns[0] != before:
                break
        else:
            pytest.fail("no other thread ran meanwhile")
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_an_exception_that_leaves_the_block_with_views_of_it_is_the_users() -> None:
    with pytest.raises(KeyError, match="mine"), SharedBuffer(8) as buffer:
        view = memoryview(buffer)
        raise KeyError("mine")
    view[0] = 1
    assert bytes(view[:2]) == b"\1\0"
