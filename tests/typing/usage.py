"""Programs as users type them: mypy and basedpyright must see these types, in an installed package. Not run."""

from concurrent.futures import Executor, Future
from typing import Any

from typing_extensions import assert_type

from freethreading import (
    Barrier,
    Condition,
    Event,
    Lock,
    Queue,
    RLock,
    SimpleQueue,
    Worker,
    WorkerPool,
    WorkerPoolExecutor,
    active_children,
    current_worker,
    enumerate,
    get_backend,
    get_ident,
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
    queue: Queue[int] = Queue(maxsize=3)
    queue.put(1, timeout=2)
    assert_type(queue.get(), int)
    queue.put("text")  # type: ignore[arg-type]
    assert_type(SimpleQueue[bytes]().get_nowait(), bytes)


def run() -> None:
    worker = Worker(target=square, args=(3,), kwargs={}, daemon=True)
    assert_type(worker.exitcode, int | None)
    with WorkerPool(workers=2) as pool:
        assert_type(pool.map(square, [1, 2]), list[Any])
    with WorkerPoolExecutor(max_workers=2) as executor:
        assert_type(executor.submit(square, 3), Future[int])
    same: Executor = executor
    del same


def look_around() -> None:
    assert_type(current_worker(), Worker)
    assert_type(enumerate(), list[Worker])
    assert_type(active_children(), list[Worker])
    assert_type(get_ident(), int)
    assert get_backend() in ("threading", "multiprocessing")
