"""put_many and get_many where Python code runs in their middle: iterators, finalisers, signals, the garbage collector."""

from __future__ import annotations

import gc
import itertools
import queue
import signal
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import freethreading
from support.until import until

BOTH = pytest.mark.parametrize("shared", [False, True])


@BOTH
def test_the_iterator_uses_the_queue(shared: bool) -> None:
    items: Any = freethreading.Queue(shared=shared)

    def meanwhile() -> Iterator[str]:
        for number in range(3):
            items.put(f"from inside {number}")
            yield f"from outside {number}"

    items.put_many(meanwhile())
    assert sorted(items.get_many()) == sorted(
        f"from {where} {number}" for where in ("inside", "outside") for number in range(3)
    )


@BOTH
def test_an_interrupt_in_an_endless_iterator_that_runs_no_python(shared: bool) -> None:
    items: Any = freethreading.Queue(shared=shared)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt) as caught:
            items.put_many(itertools.count())
    finally:
        signal.signal(signal.SIGALRM, before)
    count = caught.value.put_count  # type: ignore[attr-defined]
    assert caught.value.remaining == []  # type: ignore[attr-defined]
    assert items.qsize() == count
    assert items.get_many(1000) == list(range(min(count, 1000)))


@BOTH
def test_other_threads_run_between_groups(shared: bool) -> None:
    items: Any = freethreading.Queue(shared=shared)
    ends = threading.Thread(
        target=lambda: until(lambda: items.qsize() and (items.shutdown(True), True), "it runs")
    )
    ends.start()
    with pytest.raises(freethreading.ShutDown):
        items.put_many(itertools.count())
    ends.join()


@BOTH
def test_an_exception_raised_twice_has_one_note(shared: bool) -> None:
    error = ValueError("mine")

    def fails() -> Iterator[int]:
        yield 1
        raise error

    for _ in range(3):
        with pytest.raises(ValueError, match="mine"):
            freethreading.Queue(shared=shared).put_many(fails())
    assert len(getattr(error, "__notes__", ["before 3.11"])) == 1


@BOTH
def test_an_interrupt_while_it_waits_for_room(shared: bool) -> None:
    items: Any = freethreading.Queue(2, shared=shared)
    sender = threading.Thread(target=interrupt_when_full, args=(items,))
    sender.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        items.put_many(["a", "b", "c"])
    sender.join()
    error: Any = caught.value
    assert (error.put_count, error.remaining) == (2, ["c"])
    assert items.get_many() == ["a", "b"]


def interrupt_when_full(items: Any) -> None:
    until(items.full, "it is full")
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@BOTH
def test_an_interrupt_in_the_iterator_waits_for_nothing(shared: bool) -> None:
    items: Any = freethreading.Queue(2, shared=shared)

    def interrupted() -> Iterator[str]:
        yield from "abcd"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        items.put_many(interrupted())
    error: Any = caught.value
    assert (error.put_count, error.remaining) == (2, ["c", "d"])
    assert items.get_many() == ["a", "b"]


@BOTH
def test_full_before_the_iterators_own_error(shared: bool) -> None:
    items: Any = freethreading.Queue(1, shared=shared)

    def raises() -> Iterator[str]:
        yield from "ab"
        raise LookupError("later")

    with pytest.raises(queue.Full) as caught:
        items.put_many(raises(), timeout=0.02)
    assert isinstance(caught.value.__context__, LookupError)
    error: Any = caught.value
    assert (error.put_count, error.remaining) == (1, ["b"])


@dataclass(frozen=True)
class FrozenError(Exception):
    reason: str


def test_an_exception_that_takes_no_attributes() -> None:
    items: Any = freethreading.Queue()

    def raises() -> Iterator[int]:
        yield 1
        raise FrozenError("stuck")

    with pytest.raises(FrozenError) as caught:
        items.put_many(raises())
    error: Any = caught.value
    assert (error.reason, error.put_count) == ("stuck", 1)


class Thing:
    pass


def test_threads_keep_no_reference() -> None:
    items: Any = freethreading.Queue(3, shared=False)
    things = [Thing() for _ in range(6)]
    seen = [weakref.ref(thing) for thing in things]
    with pytest.raises(queue.Full):
        items.put_many(things, block=False)
    del things
    assert [ref() is not None for ref in seen] == [True] * 3 + [False] * 3
    items.get_many(2)
    assert [ref() is not None for ref in seen] == [False] * 2 + [True] + [False] * 3
    cycle: list[object] = [items]
    items.put_many([cycle, Thing()])
    gone = weakref.ref(items)
    del items, cycle
    gc.collect()
    assert gone() is None and seen[2]() is None


def test_the_collector_runs_all_the_time() -> None:
    items: Any = freethreading.Queue(50, shared=False)
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        producer = threading.Thread(target=items.put_many, args=([[number] for number in range(2000)],))
        producer.start()
        got: list[list[int]] = []
        while len(got) < 2000:
            got += items.get_many()
        producer.join()
    finally:
        gc.set_threshold(*threshold)
    assert got == [[number] for number in range(2000)]


def test_memory_of_what_was_not_put_comes_back() -> None:
    items: Any = freethreading.Queue(10, shared=True)
    session = freethreading._core.session_usage  # type: ignore[attr-defined]
    items.put_many([b"x" * 5000] * 10)
    before = session()["blocks"]
    for _ in range(50):
        with pytest.raises(queue.Full):
            items.put_many([b"y" * 5000] * 20, block=False)
    assert session()["blocks"] == before


@BOTH
def test_a_small_group_of_an_endless_iterator_is_drawn(shared: bool) -> None:
    items: Any = freethreading.Queue(1, shared=shared)
    big = itertools.repeat(b"x" * 100_000)
    with pytest.raises(queue.Full) as caught:
        items.put_many(big, block=False)
    error: Any = caught.value
    assert len(error.remaining) < (12 if shared else 200)


def test_many_threads_lose_nothing() -> None:
    items: Any = freethreading.Queue(64, shared=False)
    taken: list[list[int]] = [[] for _ in range(3)]

    def consume(mine: list[int]) -> None:
        try:
            while True:
                mine += items.get_many(20)
        except freethreading.ShutDown:
            pass

    producers = [
        threading.Thread(target=items.put_many, args=(range(start, start + 3000),))
        for start in (0, 3000, 6000)
    ]
    consumers = [threading.Thread(target=consume, args=(mine,)) for mine in taken]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join()
    items.shutdown()
    for thread in consumers:
        thread.join()
    assert sorted(itertools.chain(*taken)) == list(range(9000))
