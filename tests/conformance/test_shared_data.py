"""AtomicInt64, SharedBuffer and shared_array between workers: the same on both back ends."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from support.subjects import Subject

WORKERS = 4
ROUNDS = 2000


def start_all(ours: Subject, target: Any, arguments: list[tuple[Any, ...]]) -> None:
    workers = [ours.run(target, *each) for each in arguments]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def count(number: Any) -> None:
    for _ in range(ROUNDS):
        number.fetch_add(3)
        number.fetch_sub(1)
        while True:
            seen = number.load()
            if number.compare_exchange(seen, seen - 1):
                break


def test_an_atomic_loses_nothing(ours: Subject) -> None:
    number = ours.AtomicInt64(-5)
    start_all(ours, count, [(number,)] * WORKERS)
    assert number.load() == -5 + WORKERS * ROUNDS


def claim(winners: Any, number: Any, mine: int) -> None:
    if number.compare_exchange(0, mine):
        winners.put(mine)


def test_one_wins_a_compare_exchange(ours: Subject) -> None:
    winners, number = ours.Queue(), ours.AtomicInt64()
    start_all(ours, claim, [(winners, number, mine) for mine in range(1, WORKERS + 1)])
    assert winners.get(timeout=20) == number.load()
    assert winners.empty()


def write_at(buffer: Any, index: int) -> None:
    with memoryview(buffer) as view:
        struct.pack_into("<q", view, index * 8, index + 1)


def test_a_buffer_is_one_memory(ours: Subject) -> None:
    buffer = ours.SharedBuffer(WORKERS * 8)
    start_all(ours, write_at, [(buffer, index) for index in range(WORKERS)])
    assert struct.unpack(f"<{WORKERS}q", buffer) == tuple(range(1, WORKERS + 1))


def test_a_buffer_goes_through_a_pool_and_comes_back(ours: Subject) -> None:
    buffer = ours.SharedBuffer(16)
    with ours.WorkerPool(workers=2) as pool:
        back = pool.apply(identity, (buffer,))
        pool.starmap(write_at, [(buffer, 0), (back, 1)])
    pool.join()
    assert bytes(back) == bytes(buffer) == struct.pack("<2q", 1, 2)


def identity(thing: Any) -> Any:
    return thing


def fill(part: Any, value: float) -> None:
    part[...] = value


def test_workers_fill_parts_of_an_array(ours: Subject) -> None:
    array = ours.shared_array((WORKERS, 1000))
    assert not array.any()
    start_all(ours, fill, [(array[index], index + 1) for index in range(WORKERS)])
    assert (array == np.arange(1, WORKERS + 1)[:, None]).all()


def test_a_pool_fills_transposed_and_reversed_views(ours: Subject) -> None:
    array = ours.shared_array((4, 6), np.int16)
    views = [array.T[0], array[1, ::-1], array[2:, 1::2], array[3, 3:4]]
    with ours.WorkerPoolExecutor(max_workers=2) as executor:
        for value, view in enumerate(views, 1):
            executor.submit(fill, view, value).result()
    expected = np.zeros((4, 6), np.int16)
    for value, view in enumerate([expected.T[0], expected[1, ::-1], expected[2:, 1::2], expected[3, 3:4]], 1):
        view[...] = value
    assert np.array_equal(array, expected)


def double_what_arrives(source: Any, target: Any) -> None:
    while (part := source.get(timeout=20)) is not None:
        part *= 2
        target.put(part)


def test_an_array_goes_through_queues_and_comes_back(ours: Subject) -> None:
    source, target = ours.Queue(), ours.Queue()
    worker = ours.run(double_what_arrives, source, target)
    array = ours.shared_array(10)
    array[:] = np.arange(10)
    for part in (array, array[5:], array.reshape(2, 5)[:, 0]):
        source.put(part)
        back = target.get(timeout=20)
        assert np.array_equal(back, part)
        back[...] += 1
        assert np.array_equal(back, part)
    source.put(None)
    worker.join()


def make_and_send(target: Any, make: Any) -> None:
    array = make((3,))
    array[:] = (1, 2, 3)
    target.put(array[1:])


def test_an_array_outlives_its_maker(ours: Subject) -> None:
    target = ours.Queue()
    worker = ours.run(make_and_send, target, ours.shared_array)
    worker.join()
    assert target.get(timeout=20).tolist() == [2, 3]


def plus_one(array: Any) -> Any:
    return array + 1


def test_results_of_arithmetic_are_plain_arrays(ours: Subject) -> None:
    array = ours.shared_array(3, int)
    with ours.WorkerPool(workers=1) as pool:
        result = pool.apply(plus_one, (array,))
    pool.join()
    assert type(result) is np.ndarray
    assert result.tolist() == [1, 1, 1]
