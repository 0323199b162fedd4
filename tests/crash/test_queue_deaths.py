"""Workers that are killed in the middle of a batch: what was put is there, what was taken is owed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import freethreading

MAX_BYTES = 1 << 20


class KillsWhoeverUnpicklesIt:
    def __reduce__(self) -> tuple[Any, ...]:
        return kill_self, ()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def numbers_until_death(count: int) -> Iterator[int]:
    yield from range(count)
    kill_self()


def put_until_death(target: Any, count: int) -> None:
    target.put_many(numbers_until_death(count))


def take_batch(source: Any) -> None:
    source.get_many()


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def run_to_its_death(target: Any, *args: Any) -> None:
    worker = freethreading.Worker(target=target, args=args)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL


def test_a_producer_dies_between_two_groups() -> None:
    queue: Any = freethreading.Queue(max_bytes=MAX_BYTES)
    run_to_its_death(put_until_death, queue, 1000)
    got = queue.get_many()
    assert got == list(range(len(got)))
    assert 500 < len(got) <= 1000
    queue.put("next")
    assert queue.get(timeout=20) == "next"


def test_a_consumer_dies_with_a_batch_in_hand() -> None:
    queue: Any = freethreading.Queue(max_bytes=MAX_BYTES)
    queue.put_many([1, KillsWhoeverUnpicklesIt(), b"x" * 100_000])
    run_to_its_death(take_batch, queue)
    assert queue.empty()
    with pytest.raises(freethreading.WorkerLostError):
        queue.join()
    queue.put(b"y" * MAX_BYTES, timeout=20)  # its bytes are not waiting any more
    assert len(queue.get(timeout=20)) == MAX_BYTES
