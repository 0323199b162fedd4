"""The synchronisation types as the binding makes them: arguments, places, subclasses, references, text."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from freethreading import (
    AtomicInt64,
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
    SharedBuffer,
    _core,
    get_backend,
)

PARTS: list[Callable[..., Any]] = [
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Event,
    Condition,
    lambda **keywords: Barrier(2, **keywords),
    AtomicInt64,
    lambda **keywords: SharedBuffer(8, **keywords),
]
PART_NAMES = [
    "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Event", "Condition", "Barrier", "AtomicInt64", "SharedBuffer",
]  # fmt: skip
LOCKS = [Lock, RLock]
ACQUIRERS = [Lock, RLock, Semaphore, BoundedSemaphore, Condition]


@pytest.fixture(params=PARTS, ids=PART_NAMES)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    part: Callable[..., Any] = request.param
    return part


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


class Interrupted(Exception):
    pass


# --- arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ACQUIRERS)
def test_acquire_takes_its_arguments_by_position_and_by_name(factory: Any, shared: bool) -> None:
    part = factory(shared=shared)
    for call in (
        lambda: part.acquire(True, 1),
        lambda: part.acquire(True, timeout=-1),
        lambda: part.acquire(blocking=True, timeout=None),
        lambda: part.acquire(False),
        lambda: part.acquire(False, -1),
        lambda: part.acquire(timeout=0),
        lambda: part.acquire(timeout=True),
        lambda: part.acquire(timeout=threading.TIMEOUT_MAX),
    ):
        assert call() is True
        part.release()


@pytest.mark.parametrize("factory", ACQUIRERS)
@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "text"),
    [
        ((False, 1), {}, ValueError, "can't specify a timeout for a non-blocking call"),
        ((), {"blocking": False, "timeout": 0}, ValueError, "can't specify a timeout"),
        ((), {"timeout": threading.TIMEOUT_MAX + 1e5}, OverflowError, "timeout value is too large"),
        ((), {"timeout": float("inf")}, OverflowError, "timeout value is too large"),
        ((), {"timeout": 10**400}, OverflowError, "timeout value is too large"),
        ((), {"timeout": float("nan")}, ValueError, "NaN"),
        ((), {"timeout": "1"}, TypeError, "str"),
        ((True, 1, 2), {}, TypeError, "at most 2 positional"),
        ((True,), {"blocking": True}, TypeError, "multiple values"),
        ((), {"block": True}, TypeError, "unexpected keyword argument 'block'"),
    ],
)
def test_acquire_refuses_bad_arguments(
    factory: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception], text: str
) -> None:
    part = factory(shared=False)
    with pytest.raises(error, match=text):
        part.acquire(*arguments, **keywords)
    assert part.acquire(False) is True


def test_shared_is_by_name_only_and_nothing_else_is_taken(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sharing'"):
        make(sharing=True)
    with pytest.raises(TypeError, match="positional"):
        Lock(True)  # type: ignore[misc]


@pytest.mark.parametrize("factory", [Semaphore, BoundedSemaphore])
def test_semaphore_values(factory: Any, shared: bool) -> None:
    with pytest.raises(ValueError, match="semaphore initial value must be >= 0"):
        factory(-1, shared=shared)
    with pytest.raises(OverflowError):
        factory(1 << 40, shared=shared)
    with pytest.raises(TypeError):
        factory("1", shared=shared)
    semaphore = factory(value=3, shared=shared)
    assert semaphore.get_value() == 3
    with pytest.raises(ValueError, match="n must be one or more"):
        semaphore.release(0)
    with pytest.raises(ValueError, match="n must be one or more"):
        semaphore.release(-(1 << 80))
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        semaphore.release(1 << 80)
    assert semaphore.get_value() == 3


def test_a_bounded_semaphore_is_a_semaphore_with_a_bound(shared: bool) -> None:
    semaphore = BoundedSemaphore(2, shared=shared)
    assert isinstance(semaphore, Semaphore)
    semaphore.acquire()
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        semaphore.release(2)
    semaphore.release()
    assert semaphore.get_value() == 2


def test_barrier_arguments(shared: bool) -> None:
    with pytest.raises(ValueError, match="parties must be >= 1"):
        Barrier(0, shared=shared)
    with pytest.raises(TypeError, match="missing required argument: 'parties'"):
        Barrier(shared=shared)  # type: ignore[call-arg]
    barrier = Barrier(3, None, 5, shared=shared)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def test_a_condition_takes_a_lock_of_ours_only() -> None:
    for lock in (threading.Lock(), threading.RLock(), 1, Semaphore(shared=False)):
        with pytest.raises(TypeError, match=r"must be a freethreading\.Lock or RLock, not "):
            Condition(lock)  # type: ignore[arg-type]


# --- where they lie ------------------------------------------------------------------------------------------------------


def test_shared_none_asks_the_back_end(backend: str, make: Callable[..., Any]) -> None:
    part = make()
    assert get_backend() == backend
    if backend == "multiprocessing":
        assert len(_core.handle_of(part)) == 40
    else:
        with pytest.raises(TypeError, match="made for threads"):
            _core.handle_of(part)


def test_the_environment_must_name_a_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "fibers")
    for call in (get_backend, Lock, Condition):
        with pytest.raises(
            ValueError, match="FREETHREADING_BACKEND is 'fibers'.*'threading' or 'multiprocessing'"
        ):
            call()
    assert isinstance(Lock(shared=False), Lock)


def test_the_gil_question_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FREETHREADING_BACKEND", raising=False)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert get_backend() == "threading"
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    assert get_backend() == "multiprocessing"
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert get_backend() == "multiprocessing"

    def broken() -> bool:
        raise Interrupted

    monkeypatch.setattr(sys, "_is_gil_enabled", broken, raising=False)
    with pytest.raises(Interrupted):
        get_backend()


def test_a_condition_lies_where_its_lock_does(backend: str) -> None:
    lock = Lock(shared=True)
    assert _core.handle_of(Condition(lock))
    with pytest.raises(TypeError, match="made for threads"):
        _core.handle_of(Condition(Lock(shared=False)))
    with pytest.raises(ValueError, match="needs a lock that is shared too"):
        Condition(Lock(shared=False), shared=True)


def test_private_ones_neither_pickle_nor_copy(make: Callable[..., Any]) -> None:
    part = make(shared=False)
    with pytest.raises(TypeError, match="made for threads.*shared=True"):
        pickle.dumps(part)
    for copying in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot copy"):
            copying(part)


def test_shared_ones_do_not_copy(make: Callable[..., Any]) -> None:
    for copying in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot copy"):
            copying(make(shared=True))


# --- subclasses, references, text -----------------------------------------------------------------------------------------


def test_subclasses_may_have_an_init_of_their_own(shared: bool) -> None:
    class Named(Semaphore):
        def __init__(self, name: str, value: int) -> None:
            super().__init__(value, shared=shared)
            self.name = name

    named = Named("permits", 5)
    assert (named.name, named.get_value()) == ("permits", 5)
    with pytest.raises(RuntimeError, match="once only"):
        named.__init__("again", 1)  # type: ignore[misc]


def test_a_subclass_that_never_calls_init_is_a_private_default() -> None:
    class Lazy(Lock):
        def __init__(self) -> None:
            pass

    lazy = Lazy()
    assert lazy.acquire() is True
    lazy.release()


def test_a_condition_calls_what_a_subclass_of_its_lock_overrides() -> None:
    calls: list[str] = []

    class Watched(RLock):
        def acquire(self, *arguments: Any, **keywords: Any) -> bool:
            calls.append("acquire")
            return super().acquire(*arguments, **keywords)

        def __enter__(self) -> bool:
            calls.append("enter")
            return super().__enter__()

    condition = Condition(Watched(shared=False))
    assert condition.acquire(timeout=1) is True
    with condition:
        assert condition.wait(0) is False
    condition.release()
    assert calls == ["acquire", "enter"]
    assert not condition.locked()


def test_weak_references_and_collection(make: Callable[..., Any], shared: bool) -> None:
    part = make(shared=shared)
    reference = weakref.ref(part)
    assert reference() is part
    del part
    assert reference() is None


def test_cycles_through_a_barrier_and_a_condition_are_collected() -> None:
    class Keeper:
        def call(self) -> None:
            pass

    class OurLock(Lock):
        pass

    keeper = Keeper()
    keeper.barrier = Barrier(1, keeper.call, shared=False)  # type: ignore[attr-defined]
    lock = OurLock(shared=False)
    lock.condition = Condition(lock)  # type: ignore[attr-defined]
    references = [weakref.ref(keeper), weakref.ref(lock)]
    del keeper, lock
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_reprs_say_the_state(shared: bool) -> None:
    lock, rlock, event, barrier = (
        Lock(shared=shared),
        RLock(shared=shared),
        Event(shared=shared),
        Barrier(2, shared=shared),
    )
    assert repr(lock).startswith("<unlocked freethreading.Lock object at 0x")
    with lock, rlock:
        assert repr(lock).startswith("<locked freethreading.Lock object at 0x")
        assert "count=1" in repr(rlock)
    assert repr(Semaphore(2, shared=shared)).endswith(": value=2>")
    assert repr(BoundedSemaphore(2, shared=shared)).endswith(": value=2/2>")
    assert repr(event).endswith(": unset>")
    assert repr(Condition(shared=shared)).startswith(
        "<freethreading.Condition(<unlocked freethreading.RLock "
    )
    assert repr(barrier).endswith(": waiters=0/2>")
    barrier.abort()
    assert repr(barrier).endswith(": broken>")


# --- inside threading.Condition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", LOCKS)
def test_locks_work_inside_a_threading_condition(factory: Any, shared: bool) -> None:
    condition = threading.Condition(factory(shared=shared))
    box: list[int] = []

    def put() -> None:
        with condition:
            box.append(1)
            condition.notify()

    with condition:
        thread = threading.Thread(target=put)
        thread.start()
        assert condition.wait_for(lambda: box, 20)
    thread.join()


def test_rlock_gives_up_all_its_levels_and_takes_them_back(shared: bool) -> None:
    lock = RLock(shared=shared)
    for _ in range(3):
        lock.acquire()
    saved = lock._release_save()
    assert not lock.locked()
    assert lock._recursion_count() == 0
    lock._acquire_restore(saved)
    assert lock._recursion_count() == 3
    with pytest.raises(ValueError, match="_release_save"):
        lock._acquire_restore(saved)
    for _ in range(3):
        lock.release()
    for misuse in (lock.release, lock._release_save):
        with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
            misuse()
        with pytest.raises(AssertionError):
            misuse()


@pytest.mark.parametrize("factory", LOCKS)
def test_at_fork_reinit_frees_the_lock(factory: Any, shared: bool) -> None:
    lock = factory(shared=shared)
    lock.acquire()
    lock._at_fork_reinit()
    assert not lock.locked()
    with lock:
        assert lock.locked()


# --- waiting -----------------------------------------------------------------------------------------------------------


def test_a_wait_lets_other_threads_run() -> None:
    event = Event(shared=False)
    thread = threading.Thread(target=event.set)
    thread.start()
    assert event.wait(20) is True
    thread.join()


def test_waits_respect_their_timeout(shared: bool) -> None:
    lock = Lock(shared=shared)
    lock.acquire()
    event, semaphore, condition = Event(shared=shared), Semaphore(0, shared=shared), Condition(shared=shared)
    with condition:
        for wait in (lock.acquire, event.wait, semaphore.acquire, condition.wait):
            start = time.monotonic()
            assert wait(timeout=0.02) is False
            assert 0.02 <= time.monotonic() - start < 5
    for late in (event.wait, condition.wait):
        with condition:
            assert late(timeout=-1) is False
