"""Queue.put_many, get_many and max_bytes, on both back ends."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.subjects import Subject
from support.until import until

KINDS = ["Queue", "SimpleQueue"]


def put_in_batches(target: Any, start: int, stop: int) -> None:
    target.put_many(range(start, stop))


def echo_batches(source: Any, target: Any) -> None:
    while None not in (items := source.get_many(10, timeout=20)):
        target.put_many(items)
    target.put_many(items)


def finish_batches(source: Any, count: int) -> None:
    while count:
        taken = source.get_many(timeout=20)
        count -= len(taken)
        for _ in taken:
            source.task_done()


def report_put_many(target: Any, items: list[object], result: Any) -> None:
    try:
        target.put_many(items, timeout=20)
    except Exception as error:
        result.put(
            (type(error).__name__, getattr(error, "put_count", None), getattr(error, "remaining", None))
        )
    else:
        result.put("put")


def take_all(source: Any) -> list[Any]:
    items: list[Any] = []
    while not source.empty():
        items += source.get_many(timeout=20)
    return items


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_many_comes_in_order(ours: Subject, kind: str) -> None:
    items = getattr(ours, kind)()
    assert items.put_many([]) is None
    assert items.empty()
    values = [1, "two", None, [3], {"four": 4}, b"5" * 1000]
    items.put_many(values)
    items.put("single")
    items.put_many(iter(range(1000)))
    assert items.get_many(3) == [1, "two", None]
    assert items.get() == [3]
    assert items.get_many(max_items=3) == [{"four": 4}, b"5" * 1000, "single"]
    assert items.get_many() == list(range(1000))
    assert items.empty()


@pytest.mark.parametrize("kind", KINDS)
def test_get_many_waits_for_the_first_item_only(ours: Subject, kind: str) -> None:
    items = getattr(ours, kind)()
    with pytest.raises(queue.Empty):
        items.get_many(block=False)
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        items.get_many(5, timeout=0.05)
    assert 0.04 <= time.monotonic() - start < 5
    worker = ours.run(put_in_batches, items, 0, 3)
    got = items.get_many(5, True, 20)
    worker.join()
    assert got + take_all(items) == [0, 1, 2]


@pytest.mark.parametrize("count", [0, -1, -(2**80)])
def test_get_many_of_nothing(ours: Subject, count: int) -> None:
    items = ours.Queue()
    items.put(1)
    with pytest.raises(ValueError, match=f"max_items.*{count}"):
        items.get_many(count)
    with pytest.raises(TypeError):
        items.get_many(1.5)
    with pytest.raises(ValueError, match="non-negative"):
        items.get_many(timeout=-1)
    with pytest.raises(ValueError, match="non-negative"):
        items.put_many([1], timeout=-1)
    with pytest.raises(TypeError):
        items.put_many(5)
    assert items.get_many(2**80) == [1]


def test_put_many_waits_for_room_for_the_rest(ours: Subject) -> None:
    items = ours.Queue(7)
    worker = ours.run(put_in_batches, items, 0, 1000)
    got: list[int] = []
    while len(got) < 1000:
        got += items.get_many(5, timeout=20)
        assert items.qsize() <= 7
    assert got == list(range(1000))
    worker.join()


def test_full_says_how_many_were_put(ours: Subject) -> None:
    items = ours.Queue(5)
    items.put("there")
    for arguments in ({"block": False}, {"timeout": 0.05}):
        numbers = iter(range(10))
        start = time.monotonic()
        with pytest.raises(queue.Full) as caught:
            items.put_many(numbers, **arguments)
        assert time.monotonic() - start < 5
        error: Any = caught.value
        assert error.put_count == 4
        assert [*error.remaining, *numbers] == list(range(4, 10))
        assert take_all(items) == ["there", 0, 1, 2, 3]
        items.put("there")


def test_one_deadline_for_the_whole_of_put_many(ours: Subject) -> None:
    items = ours.Queue(1)
    worker = ours.run(report_slowly, items)
    start = time.monotonic()
    with pytest.raises(queue.Full) as caught:
        items.put_many(range(1000), timeout=0.3)
    assert 0.25 <= time.monotonic() - start < 5
    error: Any = caught.value
    assert error.put_count >= 1
    items.shutdown()
    worker.join()


def report_slowly(source: Any) -> None:
    import freethreading

    while True:
        try:
            source.get()
        except freethreading.ShutDown:
            return
        time.sleep(0.05)


def test_a_shutdown_in_the_middle(ours: Subject) -> None:
    import freethreading

    items, result = ours.Queue(3), ours.Queue()
    worker = ours.run(report_put_many, items, list(range(6)), result)
    until(items.full, "it is full")
    items.shutdown()
    assert result.get(timeout=20) == ("ShutDown", 3, [3, 4, 5])
    worker.join()
    assert items.get_many() == [0, 1, 2]
    with pytest.raises(freethreading.ShutDown):
        items.get_many()
    with pytest.raises(freethreading.ShutDown) as caught:
        items.put_many([7])
    error: Any = caught.value
    assert (error.put_count, error.remaining) == (0, [7])


def test_join_counts_every_item(ours: Subject) -> None:
    items = ours.Queue()
    items.put_many(range(300))
    assert items.unfinished_tasks == 300
    worker = ours.run(finish_batches, items, 300)
    items.join()
    worker.join()
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


@pytest.mark.parametrize("kind", KINDS)
def test_batches_through_another_worker(ours: Subject, kind: str) -> None:
    source, target = getattr(ours, kind)(), getattr(ours, kind)()
    worker = ours.run(echo_batches, source, target)
    source.put_many(range(500))
    source.put(None)
    got: list[object] = []
    while None not in got:
        got += target.get_many(timeout=20)
    worker.join()
    assert got == [*range(500), None]


def test_an_iterator_that_raises(ours: Subject) -> None:
    def some() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    items = ours.Queue()
    with pytest.raises(LookupError, match="no more") as caught:
        items.put_many(some())
    error: Any = caught.value
    assert (error.put_count, error.remaining) == (5, [])
    assert items.get_many() == list(range(5))


def test_an_endless_iterator(ours: Subject) -> None:
    items = ours.Queue(100)
    numbers = itertools.count()
    with pytest.raises(queue.Full) as caught:
        items.put_many(numbers, block=False)
    error: Any = caught.value
    assert error.put_count == 100
    assert 100 + len(error.remaining) == next(numbers)
    assert len(error.remaining) < 200


def test_a_slow_iterator_is_put_as_it_goes(ours: Subject) -> None:
    def slowly() -> Iterator[int]:
        for number in itertools.count():
            yield number
            if items.qsize():
                return
            time.sleep(0.01)

    items = ours.Queue()
    items.put_many(slowly())
    assert 0 < items.qsize() < 20


class FailsToRebuild:
    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return fail_to_rebuild, (self.number,)


def fail_to_rebuild(number: int) -> None:
    raise LookupError(f"cannot rebuild {number}")


def test_items_that_cannot_be_rebuilt_cost_only_themselves(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("threads pass references: nothing is rebuilt")
    items = ours.Queue()
    items.put_many([1, FailsToRebuild(2), [3], FailsToRebuild(4), 5])
    with pytest.raises(LookupError, match="cannot rebuild 2") as caught:
        items.get_many()
    error: Any = caught.value
    other = error.items.pop(2)
    assert error.items == [1, [3], 5]
    assert isinstance(other, LookupError) and str(other) == "cannot rebuild 4"
    assert items.empty()


def test_an_item_that_cannot_be_pickled_ends_put_many(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("threads pass references: nothing is pickled")
    items = ours.Queue()
    with open(__file__) as stream, pytest.raises(ValueError, match="must be picklable") as caught:
        items.put_many([1, [2], stream, 4])
    error: Any = caught.value
    assert (error.put_count, error.remaining) == (2, [stream])
    assert items.get_many() == [1, [2]]


def test_threads_pass_the_objects_themselves(ours: Subject) -> None:
    if ours.processes:
        pytest.skip("processes pass copies")
    items, values = ours.Queue(3), [object() for _ in range(5)]
    with pytest.raises(queue.Full) as caught:
        items.put_many(values, block=False)
    error: Any = caught.value
    got = items.get_many() + error.remaining
    assert all(mine is theirs for mine, theirs in zip(got, values, strict=True))


# --- max_bytes


@pytest.mark.parametrize("bad", [0, -1, 2**70])
def test_a_max_bytes_that_is_none(ours: Subject, bad: int) -> None:
    with pytest.raises(ValueError, match=f"max_bytes.*{bad}"):
        ours.Queue(max_bytes=bad)
    for other in ("many", 1.5):
        with pytest.raises(TypeError, match=f"max_bytes.*{other}"):
            ours.Queue(max_bytes=other)


def test_max_bytes_is_there_to_read(ours: Subject) -> None:
    assert ours.Queue().max_bytes is None
    assert ours.Queue(max_bytes=None).max_bytes is None
    items = ours.Queue(5, max_bytes=1000)
    assert (items.maxsize, items.max_bytes) == (5, 1000)
    with pytest.raises(AttributeError):
        items.max_bytes = 5
    result = ours.Queue()
    ours.run(report_max_bytes, items, result).join()
    assert result.get(timeout=20) == 1000


def report_max_bytes(items: Any, result: Any) -> None:
    result.put(items.max_bytes)


def test_bytes_that_wait_are_bounded(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("threads pass references, which have no bytes of their own")
    items, result = ours.Queue(max_bytes=10_000), ours.Queue()
    with pytest.raises(queue.Full) as caught:
        items.put_many([b"x" * 3000] * 10, block=False)
    error: Any = caught.value
    assert error.put_count == items.qsize() == 3
    assert not items.full()  # something small fits
    with pytest.raises(queue.Full):
        items.put(b"x" * 3000, timeout=0.02)
    items.put("small")
    worker = ours.run(report_put_many, items, [b"y" * 3000] * 4, result)
    got: list[object] = []
    while len(got) < 8:
        got += items.get_many(1, timeout=20)
        assert items.qsize() <= 4
    assert result.get(timeout=20) == "put"
    worker.join()
    assert got == [b"x" * 3000] * 3 + ["small"] + [b"y" * 3000] * 4


def test_an_item_larger_than_max_bytes_goes_in_alone(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("threads pass references, which have no bytes of their own")
    items, result = ours.Queue(max_bytes=100), ours.Queue()
    items.put(b"x" * 5000, block=False)
    assert items.full()
    with pytest.raises(queue.Full):
        items.put(1, block=False)
    worker = ours.run(report_put_many, items, [1, b"y" * 5000, 2], result)
    assert [items.get(timeout=20) for _ in range(4)] == [b"x" * 5000, 1, b"y" * 5000, 2]
    assert result.get(timeout=20) == "put"
    worker.join()


def test_max_bytes_holds_no_reference_up(ours: Subject) -> None:
    if ours.processes:
        pytest.skip("processes pass copies")
    items = ours.Queue(max_bytes=1)
    items.put_many([b"x" * 100] * 10, block=False)
    assert items.qsize() == 10 and not items.full()
