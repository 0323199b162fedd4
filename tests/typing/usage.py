"""Programs as users type them: mypy and basedpyright must see these types, in an installed package. Not run."""

import concurrent.futures
from concurrent.futures import Executor
from typing import Any

import numpy as np
from typing_extensions import assert_type

from freethreading import (
    AtomicInt64,
    Barrier,
    Condition,
    Event,
    Future,
    Lock,
    Queue,
    RLock,
    SharedBuffer,
    SimpleQueue,
    Worker,
    WorkerPool,
    WorkerPoolExecutor,
    active_children,
    check_cancelled,
    current_worker,
    enumerate,
    get_backend,
    get_ident,
    set_preload,
    shared_array,
)


def square(x: int) -> int:
    return x * x


def synchronise() -> None:
    with Lock(shared=True) as held, RLock():
        assert_type(held, bool)
    condition = Condition(Lock())
    assert_type(condition.wait_for(lambda: "value", timeout=1.5), str)
    assert_type(Event().wait(None), bool)
    assert_type(Barrier(2, action=print).wait(), int)


def pass_on() -> None:
    queue: Queue[int] = Queue(maxsize=3, max_bytes=None)
    queue.put_many(range(2), block=False)
    queue.put_many(["text"])  # type: ignore[list-item]
    assert_type(queue.get_many(2, timeout=1), list[int])
    assert_type(queue.max_bytes, int | None)
    queue.put(1, timeout=2)
    assert_type(queue.get(), int)
    queue.put("text")  # type: ignore[arg-type]
    assert_type(SimpleQueue[bytes]().get_nowait(), bytes)


def share() -> None:
    assert_type(AtomicInt64(1).fetch_add(2), int)
    assert_type(AtomicInt64().compare_exchange(expected=1, desired=2), bool)
    with SharedBuffer(8) as buffer:
        assert_type(buffer, SharedBuffer)
        assert_type(buffer.nbytes, int)
    assert_type(shared_array((2, 3), "int32", shared=True), np.ndarray[Any, np.dtype[Any]])


def run() -> None:
    set_preload(["json"])
    set_preload(5)  # type: ignore[arg-type]
    worker = Worker(target=square, args=(3,), kwargs={}, daemon=True)
    assert_type(worker.exitcode, int | None)
    with WorkerPool(workers=2) as pool:
        assert_type(pool.map(square, [1, 2]), list[Any])
    with WorkerPoolExecutor(max_workers=2) as executor:
        future = executor.submit(square, 3)
        assert_type(future, Future[int])
        assert_type(future.cancel(force=True), bool)
        any_executors: concurrent.futures.Future[int] = future
        del any_executors
    check_cancelled()
    same: Executor = executor
    del same


def look_around() -> None:
    assert_type(current_worker(), Worker)
    assert_type(enumerate(), list[Worker])
    assert_type(active_children(), list[Worker])
    assert_type(get_ident(), int)
    assert get_backend() in ("threading", "multiprocessing")
