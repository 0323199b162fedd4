"""The synchronisation types when something cuts in: signal handlers that raise, actions that fail, owners that die."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from freethreading import (
    Barrier,
    Condition,
    Event,
    Lock,
    OwnerDiedWarning,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
    _core,
)
from support.until import until

LOCKS = [Lock, RLock]


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


class Interrupted(Exception):
    pass


@pytest.fixture
def interruptions() -> Iterator[list[int]]:
    """A SIGUSR1 whose handler raises Interrupted; gives the list of those that came."""
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield came
    signal.signal(signal.SIGUSR1, before)


def interrupt_when(ready: Callable[[], object]) -> threading.Thread:
    """A thread that signals this process's main thread once ready() is true."""

    def run() -> None:
        until(ready, "the moment to interrupt")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def assert_interrupted(call: Callable[[], Any]) -> None:
    """Calls, is interrupted meanwhile, and wants to see the interruption's exception."""
    calling: list[bool] = []
    thread = interrupt_when(lambda: calling)
    try:
        with pytest.raises(Interrupted):
            calling.append(True)
            call()
    finally:
        thread.join()


def held_by_another_thread(lock: Any) -> Any:
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    return lock


def full_queue(shared: bool) -> Any:
    items: Queue[int] = Queue(1, shared=shared)
    items.put(1)
    return items


BLOCKED: dict[str, Callable[[bool], Callable[[], Any]]] = {
    "Lock.acquire": lambda shared: held_by_another_thread(Lock(shared=shared)).acquire,
    "Lock.__enter__": lambda shared: held_by_another_thread(Lock(shared=shared)).__enter__,
    "RLock.acquire": lambda shared: held_by_another_thread(RLock(shared=shared)).acquire,
    "Semaphore.acquire": lambda shared: Semaphore(0, shared=shared).acquire,
    "Event.wait": lambda shared: Event(shared=shared).wait,
    "Condition.acquire": lambda shared: held_by_another_thread(Condition(shared=shared)).acquire,
    "Queue.get": lambda shared: Queue(shared=shared).get,
    "Queue.put": lambda shared: partial(full_queue(shared).put, 2),
    "Queue.join": lambda shared: full_queue(shared).join,
    "SimpleQueue.get": lambda shared: SimpleQueue(shared=shared).get,
}


@pytest.mark.parametrize("busy", [False, True], ids=["", "beside a busy thread"])
@pytest.mark.parametrize("name", BLOCKED)
def test_a_handler_that_raises_ends_the_wait(
    name: str, busy: bool, shared: bool, interruptions: list[int]
) -> None:
    call = BLOCKED[name](shared)
    ended = threading.Event()

    def keep_the_interpreter() -> None:
        while not ended.is_set():
            pass

    keeper = threading.Thread(target=keep_the_interpreter)
    if busy:
        keeper.start()
    try:
        assert_interrupted(call)
    finally:
        ended.set()
        if busy:
            keeper.join()
    assert len(interruptions) == 1


def test_an_interrupted_put_leaves_nothing_and_an_interrupted_get_takes_nothing(
    shared: bool, interruptions: list[int]
) -> None:
    items = full_queue(shared)
    assert_interrupted(lambda: items.put([2]))
    assert items.get() == 1
    assert_interrupted(items.get)
    items.put(3)
    assert items.get_nowait() == 3
    assert items.empty()


def test_a_handler_that_returns_does_not_end_the_wait(shared: bool) -> None:
    event = Event(shared=shared)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: event.set())
    try:
        thread = interrupt_when(lambda: True)
        assert event.wait(20) is True
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupted_condition_wait_holds_the_lock_again(shared: bool, interruptions: list[int]) -> None:
    condition = Condition(shared=shared)
    with pytest.raises(Interrupted), condition:
        thread = interrupt_when(lambda: not condition.locked())
        try:
            condition.wait()
        finally:
            assert condition._is_owned()
    thread.join()
    assert not condition.locked()


def test_an_interrupted_wait_takes_a_contended_lock_before_it_raises(
    shared: bool, interruptions: list[int]
) -> None:
    condition = Condition(shared=shared)
    held, interrupted = threading.Event(), threading.Event()

    def hold_the_lock() -> None:
        with condition:
            held.set()
            until(lambda: len(interruptions) == 1, "the interruption")
        interrupted.set()

    with pytest.raises(Interrupted), condition:
        holder = threading.Thread(target=hold_the_lock)
        holder.start()
        thread = interrupt_when(held.is_set)
        try:
            condition.wait()
        finally:
            assert condition._is_owned()
    holder.join()
    thread.join()


def test_a_notification_is_not_lost_on_a_waiter_that_raises(shared: bool, interruptions: list[int]) -> None:
    condition = Condition(shared=shared)
    notified: list[bool] = []

    def wait() -> None:
        with condition:
            notified.append(condition.wait(20))

    def notify_first_and_interrupt() -> None:
        until(lambda: not condition.locked() and ", 1)>" in repr(condition), "the main thread's wait")
        other.start()
        until(lambda: repr(condition).endswith(", 2)>"), "the other's wait")
        with condition:
            condition.notify()  # the main thread is the oldest waiter
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            until(lambda: len(interruptions) == 1, "the interruption")

    other = threading.Thread(target=wait)
    helper = threading.Thread(target=notify_first_and_interrupt)
    with pytest.raises(Interrupted), condition:
        helper.start()
        condition.wait(20)
    helper.join()
    other.join()
    assert notified == [True]


def test_an_interrupted_barrier_is_broken(shared: bool, interruptions: list[int]) -> None:
    barrier = Barrier(2, shared=shared)
    thread = interrupt_when(lambda: barrier.n_waiting == 1)
    with pytest.raises(Interrupted):
        barrier.wait()
    thread.join()
    assert barrier.broken


def test_an_action_that_raises_breaks_the_barrier(shared: bool) -> None:
    def action() -> None:
        raise Interrupted

    barrier = Barrier(1, action, shared=shared)
    with pytest.raises(Interrupted):
        barrier.wait()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


# --- death ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["met", "swept"])
def death(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """What happens between a death and the next caller: nothing, or somebody's sweep of what the dead process held."""
    yield _core.sweep_sessions if request.param == "swept" else lambda: None
    _core.sweep_sessions()  # the dead child's references to what it inherited


def die_holding(lock: Any) -> None:
    with warnings.catch_warnings():
        # The watchdog is a thread, and 3.12 warns of any fork beside one.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        lock.acquire()
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("factory", LOCKS)
def test_a_lock_whose_process_died_is_taken_over_with_a_warning(
    factory: Any, death: Callable[[], None]
) -> None:
    lock = factory(shared=True)
    die_holding(lock)
    death()
    with pytest.warns(OwnerDiedWarning, match="died without releasing it"):
        assert lock.acquire(timeout=20) is True
    lock.release()
    with lock:
        pass


@pytest.mark.parametrize("factory", LOCKS)
def test_where_warnings_are_errors_the_lock_is_not_held(factory: Any, death: Callable[[], None]) -> None:
    lock = factory(shared=True)
    die_holding(lock)
    death()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OwnerDiedWarning):
            lock.acquire(timeout=20)
    assert not lock.locked()
