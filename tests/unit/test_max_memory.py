"""max_memory_per_child of pools and executors: large workers are replaced, tasks that grow too large fail alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from typing import Any

import pytest

import freethreading
from freethreading import _core
from support.until import until

SECONDS = 30.0
MIB = 1 << 20
LIMIT = 192 * MIB  # a worker begins with a third of that or less, all the modules of these tests included
LEAK = 220 * MIB  # beyond it, not beyond twice of it
JUMP = 600 * MIB

kept: list[bytes] = []
gate: Any = None


def share(a: Any) -> None:
    global gate
    gate = a


def keep(size: int) -> int:
    kept.append(b"x" * size)
    return os.getpid()


def keep_and_wait(size: int) -> int:
    keep(size)
    assert gate.wait(SECONDS)
    return size


def keep_in_the_initializer(size: int, event: Any) -> None:
    keep(size)
    assert event.wait(SECONDS)


def own_pid(_: object = None) -> int:
    return os.getpid()


def own_memory(_: object = None) -> int:
    return _core.private_memory(0)


def same(value: Any) -> Any:
    return value


def pids() -> set[int]:
    return {worker.pid or 0 for worker in freethreading.active_children()}


class Shared:
    """What calls wait at."""

    def __init__(self) -> None:
        self.gate: Any = freethreading.Event()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    shared = Shared()
    yield shared
    shared.__dict__.clear()
    share(None)


@pytest.fixture(params=["pool", "executor"])
def make(request: pytest.FixtureRequest, shared: Shared) -> Iterator[Callable[..., Any]]:
    """Makes a pool or an executor with run(function, *args), and map()."""
    made: list[Any] = []

    def make(workers: int, limit: int | None = LIMIT, **options: Any) -> Any:
        kind: Any = freethreading.WorkerPool if request.param == "pool" else freethreading.WorkerPoolExecutor
        made.append(kind(workers, share, (shared.gate,), max_memory_per_child=limit, **options))
        return made[-1]

    yield make
    shared.gate.set()
    for subject in made:
        if hasattr(subject, "submit"):
            subject.shutdown()
        else:
            subject.close()
            subject.join()


def run(subject: Any, function: Callable[..., Any], *args: Any) -> Any:
    if hasattr(subject, "submit"):
        return subject.submit(function, *args).result(SECONDS)
    return subject.apply(function, args)


def check_lost(error: object, task: str) -> None:
    assert isinstance(error, freethreading.WorkerLostError)
    assert error.reason is not None and f"max_memory_per_child ({LIMIT:,})" in error.reason
    assert error.reason in str(error) and task in str(error)


def test_a_worker_that_is_too_large_is_replaced(make: Callable[..., Any]) -> None:
    subject = make(1)
    first = run(subject, keep, MIB)
    assert run(subject, keep, MIB) == first
    assert run(subject, keep, LEAK) == first
    # Also where nothing comes behind the task.
    until(lambda: pids() and first not in pids(), "another worker is there")
    second = run(subject, own_pid)
    assert second != first and run(subject, own_pid) == second
    assert run(subject, own_memory) < LIMIT


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_in_the_middle_of_a_map(make: Callable[..., Any], chunksize: int | None) -> None:
    subject = make(2)
    # Every fourth item is large; a worker that has run one of these runs no other.
    items = [LEAK // 2 if number % 4 == 0 else 1 for number in range(32)]
    given = {} if chunksize is None else {"chunksize": chunksize}
    found = list(subject.map(keep, items, **given))
    large = [pid for number, pid in enumerate(found) if number % 4 == 0]
    assert len(found) == 32 and max(large.count(pid) for pid in large) <= 2


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_those_that_begin_too_large_get_on(make: Callable[..., Any], chunksize: int | None) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        limit = executor.submit(own_memory).result(SECONDS) * 3 // 4
    subject = make(2, limit)
    given = {} if chunksize is None else {"chunksize": chunksize}
    assert list(subject.map(same, range(8), **given)) == list(range(8))
    assert len({run(subject, own_pid) for _ in range(3)}) == 3


def test_a_call_that_grows_far_too_large_fails(make: Callable[..., Any]) -> None:
    subject = make(1)
    before = run(subject, own_pid)
    with pytest.raises(freethreading.WorkerLostError) as caught:
        run(subject, keep_and_wait, JUMP)
    check_lost(caught.value, "keep_and_wait()")
    assert run(subject, own_pid) != before


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_an_item_that_grows_far_too_large_fails_alone(
    make: Callable[..., Any], chunksize: int | None
) -> None:
    subject = make(2)
    given = {} if chunksize is None else {"chunksize": chunksize}
    outcomes = list(subject.map(wait_if_large, [1, 2, JUMP, 3, 4, 5], return_exceptions=True, **given))
    check_lost(outcomes.pop(2), "item 2")
    assert outcomes == [1, 2, 3, 4, 5]


def wait_if_large(size: int) -> int:
    if size == JUMP:
        keep(size)
        freethreading.Event(shared=False).wait(SECONDS)
    return size


def test_an_initializer_that_grows_far_too_large_breaks_the_executor(shared: Shared) -> None:
    with freethreading.WorkerPoolExecutor(
        1, keep_in_the_initializer, (JUMP, shared.gate), max_memory_per_child=LIMIT
    ) as executor:
        with pytest.raises(BrokenExecutor) as caught:
            executor.submit(same, 1).result(SECONDS)
        check_lost(caught.value, "its start")


def test_with_an_idle_timeout_and_a_new_size(make: Callable[..., Any]) -> None:
    subject = make(2, idle_timeout=0.01)
    for _ in range(2):
        assert run(subject, keep, LEAK)
        until(lambda: not pids(), "none is left")
    subject.resize(1)
    assert len({run(subject, keep, LEAK) for _ in range(2)}) == 2


def test_with_max_tasks_per_child(shared: Shared) -> None:
    with freethreading.WorkerPoolExecutor(1, max_tasks_per_child=2, max_memory_per_child=LIMIT) as executor:
        sizes = [1, 1, LEAK, 1, 1, LEAK, 1]
        found = [executor.submit(keep, size).result(SECONDS) for size in sizes]
        assert found[0] == found[1] and found[1] != found[2] != found[3]


def test_threads_share_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    with freethreading.WorkerPool(1, max_memory_per_child=1) as pool:
        assert pool.map(same, range(100)) == list(range(100))
        worker = freethreading.active_children()
        assert pool.apply(same, (1,)) == 1
        assert freethreading.active_children() == worker
    pool.join()


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)]
)
def test_a_size_that_is_none(backend: str, size: Any, error: type[Exception]) -> None:
    for kind in (freethreading.WorkerPool, freethreading.WorkerPoolExecutor):
        with pytest.raises(error, match="max_memory_per_child must be"):
            kind(1, max_memory_per_child=size)
