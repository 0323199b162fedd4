"""Queue: what queue.Queue and multiprocessing.JoinableQueue share, and what ours add."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest

from support.subjects import Subject
from support.until import until

VALUES: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    -(2**63),
    2**200,
    1.5,
    float("inf"),
    "",
    "text",
    "\N{SNOWMAN} \ud800",
    b"",
    b"bytes" * 9,
    "x" * 5000,
    b"y" * 70_000,
    (),
    (1, "a", None),
    ((1, (2, b"3")), 4.0),
    [1, [2]],
    {"key": {"nested": [1, 2]}},
    {1, 2},
    range(3),
    slice(1, 2),
    3 + 4j,
    bytearray(b"abc"),
    frozenset({1}),
]


def put_range(target: Any, start: int, stop: int) -> None:
    for number in range(start, stop):
        target.put(number)


def echo(source: Any, target: Any) -> None:
    while (item := source.get(timeout=20)) is not None:
        target.put(item)


def take_all(source: Any, target: Any, count: int) -> None:
    for _ in range(count):
        target.put(source.get(timeout=20))
        source.task_done()


def report_put(target: Any, result: Any) -> None:
    try:
        target.put("late", timeout=20)
    except Exception as error:
        result.put(type(error).__name__)
    else:
        result.put("put")


def report_get(source: Any, result: Any) -> None:
    try:
        result.put(source.get(timeout=20))
    except Exception as error:
        result.put(type(error).__name__)


def test_first_in_first_out(subject: Subject) -> None:
    items = subject.Queue()
    for number in range(100):
        items.put(number)
    assert [items.get(timeout=20) for _ in range(100)] == list(range(100))


def test_full_and_empty_raise(subject: Subject) -> None:
    items = subject.Queue(2)
    items.put(1)
    items.put(2)
    with pytest.raises(queue.Full):
        items.put(3, False)
    with pytest.raises(queue.Full):
        items.put_nowait(3)
    start = time.monotonic()
    with pytest.raises(queue.Full):
        items.put(3, timeout=0.05)
    assert 0.04 <= time.monotonic() - start < 5
    assert items.full()
    assert [items.get(timeout=20), items.get(timeout=20)] == [1, 2]
    with pytest.raises(queue.Empty):
        items.get(timeout=0.02)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(queue.Empty):
        items.get(False)
    assert items.empty()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_values_cross_unchanged(ours: Subject, value: object) -> None:
    items = ours.Queue()
    items.put(value)
    got = items.get(timeout=20)
    assert got == value and type(got) is type(value)


def test_there_and_back_through_another_worker(ours: Subject) -> None:
    source, target = ours.Queue(), ours.Queue()
    worker = ours.run(echo, source, target)
    for value in VALUES[1:]:
        source.put(value)
    source.put(None)
    assert [target.get(timeout=20) for _ in VALUES[1:]] == VALUES[1:]
    worker.join()


def test_visible_as_soon_as_put_returns(ours: Subject) -> None:
    items = ours.Queue()
    items.put("now")
    assert items.qsize() == 1 and not items.empty()
    assert items.get_nowait() == "now"


def test_many_producers_one_consumer(subject: Subject) -> None:
    items = subject.Queue()
    workers = [subject.run(put_range, items, start, start + 500) for start in (0, 1000, 2000)]
    got = [items.get(timeout=20) for _ in range(1500)]
    for start in (0, 1000, 2000):
        assert [number for number in got if start <= number < start + 1000] == list(range(start, start + 500))
    for worker in workers:
        worker.join()


def test_a_producer_waits_for_room(subject: Subject) -> None:
    items = subject.Queue(3)
    worker = subject.run(put_range, items, 0, 200)
    assert [items.get(timeout=20) for _ in range(200)] == list(range(200))
    worker.join()


def test_join_waits_for_task_done(ours: Subject) -> None:
    items, result = ours.Queue(), ours.Queue()
    for number in range(20):
        items.put(number)
    worker = ours.run(take_all, items, result, 20)
    items.join()
    worker.join()
    assert sorted(result.get(timeout=20) for _ in range(20)) == list(range(20))


def test_task_done_too_often(ours: Subject) -> None:
    items = ours.Queue()
    items.put(1)
    items.get(timeout=20)
    items.task_done()
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


@pytest.mark.parametrize("call", [lambda q: q.get(timeout=-1), lambda q: q.put(1, timeout=-1)])
def test_negative_timeout(ours: Subject, call: Any) -> None:
    items = ours.Queue(1)
    items.put(0)
    items.get()
    with pytest.raises(ValueError, match="non-negative"):
        call(items)


def test_maxsize_of_zero_or_less_is_unbounded(ours: Subject) -> None:
    for maxsize in (0, -1):
        items = ours.Queue(maxsize)
        for number in range(300):
            items.put(number, block=False)
        assert not items.full()
        assert items.qsize() == 300


def test_another_maxsize_counts_from_now_on(ours: Subject) -> None:
    items, result = ours.Queue(1), ours.Queue()
    assert items.maxsize == 1
    items.put("first")
    worker = ours.run(report_put, items, result)  # there is no room yet
    items.maxsize = 3
    assert result.get(timeout=20) == "put"
    worker.join()
    items.maxsize = 1  # what is in it stays
    assert items.full() and items.qsize() == 2
    with pytest.raises(queue.Full):
        items.put_nowait("more")
    items.maxsize = -1
    items.put_nowait("more")
    assert not items.full()
    assert [items.get(timeout=20) for _ in range(3)] == ["first", "late", "more"]
    with pytest.raises(TypeError):
        items.maxsize = "many"
    with pytest.raises(AttributeError):
        del items.maxsize


def test_shutdown_ends_waiting_getters_and_putters(ours: Subject) -> None:
    import freethreading

    empty, full, result = ours.Queue(), ours.Queue(1), ours.Queue()
    full.put("there")
    getter, putter = ours.run(report_get, empty, result), ours.run(report_put, full, result)
    empty.shutdown()
    full.shutdown()
    assert [result.get(timeout=20), result.get(timeout=20)] == ["ShutDown", "ShutDown"]
    getter.join()
    putter.join()
    assert full.get(timeout=20) == "there"
    with pytest.raises(freethreading.ShutDown):
        full.get(timeout=20)
    with pytest.raises(freethreading.ShutDown):
        full.put(1)


def test_immediate_shutdown_empties_it_and_ends_join(ours: Subject) -> None:
    import freethreading

    items = ours.Queue()
    for number in range(10):
        items.put(number)
    items.shutdown(immediate=True)
    with pytest.raises(freethreading.ShutDown):
        items.get()
    items.join()
    assert items.qsize() == 0


def test_shutdown_is_the_standard_librarys_where_it_has_one(ours: Subject) -> None:
    import freethreading

    assert freethreading.ShutDown is getattr(queue, "ShutDown", freethreading.ShutDown)


def test_multiprocessing_methods_are_there(ours: Subject) -> None:
    items = ours.Queue()
    items.put(1)
    items.cancel_join_thread()
    items.close()
    items.join_thread()


def test_simple_queue(subject: Subject) -> None:
    source, target = subject.SimpleQueue(), subject.SimpleQueue()
    worker = subject.run(echo_simple, source, target)
    for value in (1, "two", [3]):
        source.put(value)
    source.put(None)
    assert [target.get() for _ in range(3)] == [1, "two", [3]]
    worker.join()
    assert source.empty()


def echo_simple(source: Any, target: Any) -> None:
    while (item := source.get()) is not None:
        target.put(item)


def test_simple_queue_methods(ours: Subject) -> None:
    items = ours.SimpleQueue()
    items.put(1, block=True, timeout=1)
    items.put_nowait(2)
    assert items.qsize() == 2
    assert items.get(True, 1) == 1
    assert items.get_nowait() == 2
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(queue.Empty):
        items.get(timeout=0.02)
    with pytest.raises(ValueError):
        items.get(timeout=-1)
    items.close()


class PutsWhenItDies:
    def __init__(self, target: Any) -> None:
        self.target = target

    def __del__(self) -> None:
        self.target.put("from the finaliser")


def test_simple_queue_is_put_to_from_a_finaliser(ours: Subject) -> None:
    items = ours.SimpleQueue()
    for _ in range(200):
        cycle: list[object] = [PutsWhenItDies(items)]
        cycle.append(cycle)
        del cycle
        items.put("direct")
    import gc

    gc.collect()
    got = [items.get(timeout=20) for _ in range(400)]
    assert got.count("direct") == got.count("from the finaliser") == 200


class FailsToRebuild:
    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return fail_to_rebuild, ()


def fail_to_rebuild() -> None:
    raise LookupError("cannot be rebuilt")


def test_an_item_that_cannot_be_rebuilt_costs_only_itself(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("threads pass references: nothing is rebuilt")
    items = ours.Queue()
    items.put(FailsToRebuild())
    items.put("next")
    with pytest.raises(LookupError, match="cannot be rebuilt"):
        items.get(timeout=20)
    assert items.get(timeout=20) == "next"
    assert items.empty()


def test_what_cannot_be_pickled_fails_its_put(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("threads pass references: nothing is pickled")
    import pickle

    items = ours.Queue()
    with open(__file__) as stream, pytest.raises(ValueError, match="must be picklable") as caught:
        items.put({"log": [stream]})
    assert isinstance(caught.value, pickle.PicklingError)
    assert "TextIOWrapper" in str(caught.value)
    assert items.empty()


def test_threads_pass_the_object_itself(ours: Subject) -> None:
    if ours.processes:
        pytest.skip("processes pass copies")
    items, item = ours.Queue(), object()
    items.put(item)
    assert items.get() is item
    until(items.empty, "it is empty")
