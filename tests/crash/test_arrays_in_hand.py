"""Memory of items whose producers and consumers are killed, and of very many items: all of it comes back, nothing is torn."""

from __future__ import annotations

import itertools
import os
import random
import signal
from typing import Any

import numpy as np
import pytest

import freethreading
from freethreading import _core
from support.program import run_program
from support.until import until

MIB = 1 << 20
# What the region may keep warm of what was in use lately, and what it is besides.
WARM = 64 * MIB + 16 * MIB


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def usage(what: str) -> int:
    found = _core.session_usage()
    assert found is not None
    return int(found[what])  # type: ignore[literal-required]


def hold(source: Any, has: Any, count: int) -> None:
    held = [source.get() for _ in range(count)]
    has.put([int(array[0]) for array in held])
    source.get()  # for ever
    del held


def test_a_consumer_is_killed_with_arrays_in_hand() -> None:
    before = usage("block_bytes")
    source: Any = freethreading.Queue()
    has: Any = freethreading.Queue()
    worker = freethreading.Worker(target=hold, args=(source, has, 5))
    worker.start()
    for number in range(5):
        source.put(np.full(8 * MIB, number, np.uint8))
    assert has.get() == [0, 1, 2, 3, 4]
    assert usage("block_bytes") >= before + 40 * MIB
    worker.kill()
    worker.join()
    until(lambda: usage("block_bytes") < before + MIB, "the arrays' memory is free again")
    source.put(np.full(8 * MIB, 9, np.uint8))
    assert (source.get() == 9).all()


def take_and_die(source: Any) -> None:
    array = source.get()
    array[:] = 77
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_array_that_a_dead_consumer_wrote_to_is_nobody_elses() -> None:
    source: Any = freethreading.Queue()
    original = np.full(4 * MIB, 5, np.uint8)
    for _ in range(2):
        source.put(original)
    worker = freethreading.Worker(target=take_and_die, args=(source,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert (source.get() == 5).all()
    assert (original == 5).all()


def put_for_ever(target: Any, size: int) -> None:
    for number in itertools.count():
        target.put(np.full(size, number % 251, np.uint8))


@pytest.mark.watchdog(300)
def test_a_hundred_producers_killed_in_the_middle_of_puts(seed: int) -> None:
    chance = random.Random(seed)
    before = usage("block_bytes")
    for _ in range(100):
        queue: Any = freethreading.Queue(3)
        size = chance.choice([100_000, MIB, 2 * MIB])
        worker = freethreading.Worker(target=put_for_ever, args=(queue, size))
        worker.start()
        received = 0
        arrays: list[Any] = [queue.get() for _ in range(chance.randrange(1, 4))]
        for _ in range(chance.randrange(20_000)):  # at any moment
            pass
        worker.kill()
        worker.join()
        while not queue.empty():
            arrays.append(queue.get())
        for received, array in enumerate(arrays):
            assert array.nbytes == size
            assert (array == received % 251).all(), f"seed {seed}"
        del arrays, array, queue
    until(lambda: usage("block_bytes") < before + MIB, "what the producers had is free again")
    assert usage("file_bytes") < before + WARM


WITHOUT_A_SUPERVISOR = """
    import multiprocessing
    import os
    import resource
    import time
    import numpy as np
    from freethreading import Queue, _core

    MIB = 1 << 20
    fork = multiprocessing.get_context("fork")
    queue, has = Queue(), Queue()

    def hold():
        held = [queue.get() for _ in range(4)]
        has.put(len(held))
        time.sleep(1000)

    def held_by_the_dead():
        for _ in range(4):
            queue.put(np.ones(8 * MIB, np.uint8))
        process = fork.Process(target=hold)
        process.start()
        assert has.get() == 4
        process.kill()
        process.join()

    def block_bytes():
        return _core.session_usage()["block_bytes"]
"""


def test_the_dead_are_swept_also_where_no_worker_was_ever_started() -> None:
    result = run_program(
        WITHOUT_A_SUPERVISOR
        + """
    held_by_the_dead()
    assert block_bytes() >= 32 * MIB
    deadline = time.monotonic() + 20
    while block_bytes() >= 32 * MIB:
        assert time.monotonic() < deadline
        queue.put(np.ones(MIB, np.uint8))
        queue.get()
        time.sleep(0.01)
    """,
        "multiprocessing",
    )
    assert result.returncode == 0, result.stderr


def test_the_deads_memory_is_taken_before_there_is_none() -> None:
    result = run_program(
        WITHOUT_A_SUPERVISOR
        + """
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (60 * MIB, hard))
    for _ in range(10):
        held_by_the_dead()
    """,
        "multiprocessing",
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.watchdog(300)
def test_memory_is_flat_over_a_million_messages() -> None:
    queue: Any = freethreading.Queue()
    sizes = []
    for _ in range(10):
        for _ in range(100):
            queue.put_many(range(500))
            queue.put_many([b"x" * 300] * 480)
            queue.put_many([b"y" * 5000] * 20)
            assert len(queue.get_many(1000)) == 1000
        assert queue.empty()
        sizes.append((usage("block_bytes"), usage("file_bytes")))
    assert max(sizes[1:]) <= sizes[0], sizes


def count_sum(source: Any, results: Any) -> None:
    total = 0
    while (array := source.get()) is not None:
        total += int(array[0]) + int(array[-1])
    results.put(total)


@pytest.mark.watchdog(300)
def test_memory_is_flat_over_a_thousand_large_arrays() -> None:
    queue: Any = freethreading.Queue(2)
    results: Any = freethreading.Queue()
    worker = freethreading.Worker(target=count_sum, args=(queue, results))
    worker.start()
    array = np.zeros(64 * MIB, np.uint8)
    most = 0
    for number in range(1000):
        array[0], array[-1] = number % 2, 1
        queue.put(array)
        if number % 50 == 0:
            most = max(most, usage("file_bytes"))
    queue.put(None)
    assert results.get() == 1500
    worker.join()
    # Two wait, one is being put, one is looked at, and one was dropped late.
    assert most <= 5 * 64 * MIB + WARM
