"""How the shared synchronisation types are named and pickled: handles, what keeps an object, subclasses."""

from __future__ import annotations

import gc
import pickle
import threading
from typing import Any

import pytest

from freethreading import Barrier, Condition, Event, HandleGoneError, Lock, Queue, Semaphore, _core


def test_a_handle_opens_the_same_object() -> None:
    event = Event(shared=True)
    other = _core.open_handle(_core.handle_of(event))
    assert isinstance(other, Event)
    event.set()
    assert other.is_set()
    assert _core.handle_of(other) == _core.handle_of(event)


def test_a_second_proxy_keeps_the_object() -> None:
    semaphore = Semaphore(4, shared=True)
    other = _core.open_handle(_core.handle_of(semaphore))
    del semaphore
    assert other.get_value() == 4


def test_the_handle_of_a_gone_object_is_a_clear_error() -> None:
    lock = Lock(shared=True)
    handle = _core.handle_of(lock)
    del lock
    with pytest.raises(HandleGoneError, match="gone"):
        _core.open_handle(handle)


def test_a_message_keeps_the_object_until_its_block_ends() -> None:
    lock = Lock(shared=True)
    handle = _core.handle_of(lock)
    channel = _core.Channel()
    channel.put(1, 2, 3, b"payload", [lock])
    del lock
    message = channel.get()
    assert message is not None
    assert message[:4] == (1, 2, 3, b"payload")
    assert _core.open_handle(handle).acquire() is True
    del message
    with pytest.raises(HandleGoneError, match="gone"):
        _core.open_handle(handle)


def test_a_message_keeps_shared_objects_only() -> None:
    channel = _core.Channel()
    for wrong in (1, Lock(shared=False), b"handle"):
        with pytest.raises(TypeError, match="not a shared object"):
            channel.put(1, 2, 3, b"payload", [Lock(shared=True), wrong])
    assert channel.qsize() == 0


def test_the_handle_of_another_session_is_a_clear_error() -> None:
    handle = bytearray(_core.handle_of(Lock(shared=True)))
    handle[8:16] = b"\xff" * 8
    with pytest.raises(HandleGoneError, match="does not have the memory"):
        _core.open_handle(bytes(handle))


@pytest.mark.parametrize("handle", [b"", b"x" * 40, bytes(40)])
def test_bytes_that_are_no_handle(handle: bytes) -> None:
    with pytest.raises(ValueError, match="not a handle"):
        _core.open_handle(handle)
    with pytest.raises(TypeError):
        _core.open_handle("text")  # type: ignore[arg-type]


def test_an_unpickled_condition_has_its_lock_and_a_barrier_its_action() -> None:
    lock = Lock(shared=True)
    original = Condition(lock)
    condition, again = pickle.loads(pickle.dumps((original, lock)))
    with condition:
        assert lock.locked()
        assert again.locked()
        condition.notify_all()
    first = Barrier(1, gc.isenabled, 3, shared=True)
    barrier = pickle.loads(pickle.dumps(first))
    assert barrier.__reduce__()[2] == ((gc.isenabled, 3), None)
    assert barrier.wait() == 0


class NamedEvent(Event):
    def __init__(self, name: str) -> None:
        super().__init__(shared=True)
        self.name = name


class NamedCondition(Condition):
    def __init__(self, name: str) -> None:
        super().__init__(shared=True)
        self.name = name


@pytest.mark.parametrize("cls", [NamedEvent, NamedCondition])
def test_a_subclass_arrives_as_one_with_its_attributes(cls: Any) -> None:
    original = cls("start")
    again = pickle.loads(pickle.dumps(original))
    assert type(again) is cls
    assert again.name == "start"
    assert _core.handle_of(again) == _core.handle_of(original)


class Slotted(Lock):
    __slots__ = ("left_out", "mark")

    def __init__(self, mark: str) -> None:
        super().__init__(shared=True)
        self.mark = mark


class SlottedBarrier(Barrier):
    __slots__ = ("left_out", "mark")

    def __init__(self, mark: str) -> None:
        super().__init__(2, timeout=5, shared=True)
        self.mark = mark


class OfItsOwnState(Semaphore):
    def __init__(self, mark: str) -> None:
        super().__init__(shared=True)
        self.mark = mark
        self.unpicklable = threading.Lock()

    def __getstate__(self) -> tuple[str]:
        return (self.mark,)

    def __setstate__(self, state: tuple[str]) -> None:
        (self.mark,) = state


@pytest.mark.parametrize("cls", [Slotted, SlottedBarrier, OfItsOwnState])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_subclass_takes_along_what_pickle_would(cls: Any, protocol: int) -> None:
    original = cls("kept")
    again = pickle.loads(pickle.dumps(original, protocol))
    assert type(again) is cls
    assert again.mark == "kept"
    assert not hasattr(again, "left_out")
    assert not hasattr(again, "unpicklable")
    assert _core.handle_of(again) == _core.handle_of(original)


def test_a_condition_without_a_lock_says_so() -> None:
    original = Condition(shared=True)
    condition = _core.open_handle(_core.handle_of(original))
    for call in (
        condition.acquire,
        condition.release,
        condition.wait,
        condition.notify,
        condition.notify_all,
    ):
        with pytest.raises(RuntimeError, match="has no lock"):
            call()
    assert "no lock" in repr(condition)


# --- lifetimes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Lock, Semaphore, Event, Condition, Queue])
def test_short_lived_ones_leave_no_memory_taken(cls: Any) -> None:
    def make(count: int) -> dict[str, int]:
        for number in range(count):
            thing = cls(shared=True)
            if cls is Queue:
                thing.put([number])
        del thing
        usage = _core.session_usage()
        assert usage is not None
        return usage

    few = make(100)
    many = make(100_000 if cls is Lock else 10_000)
    for falling in (
        "file_bytes",
        "processes",
    ):  # idle memory may go back to the system meanwhile, and the dead be swept
        assert many.pop(falling) <= few.pop(falling)
    assert many == few
