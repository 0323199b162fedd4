"""An interrupted join(): who is waited for goes on, is known to run, and is waited for by the next join()."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import freethreading


class Interrupted(Exception):
    """What the signal's handler raises."""


@pytest.fixture(params=["threading", "multiprocessing"], autouse=True)
def on_both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", request.param)


def interrupt_join(join: Callable[[], object]) -> None:
    """Interrupts join() until that has raised once."""
    came = threading.Event()

    def handle(*_: object) -> None:
        if not came.is_set():
            came.set()
            raise Interrupted

    def interrupt() -> None:
        while not came.wait(0.02):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    try:
        with pytest.raises(Interrupted):
            thread.start()
            join()
            raise AssertionError("it did not wait")
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def wait_for(event: Any) -> int:
    event.wait()
    return 7


def test_a_worker() -> None:
    event = freethreading.Event()
    worker = freethreading.Worker(target=wait_for, args=(event,))
    worker.start()
    interrupt_join(worker.join)
    assert worker.is_alive()
    worker.join(0.0)
    assert worker.exitcode is None
    interrupt_join(worker.join)
    event.set()
    worker.join()
    assert worker.exitcode == 0


def test_a_pool() -> None:
    event = freethreading.Event()
    pool = freethreading.WorkerPool(1)
    result = pool.apply_async(wait_for, (event,))
    pool.close()
    interrupt_join(pool.join)
    interrupt_join(pool.join)
    event.set()
    pool.join()
    assert result.get(0) == 7


def test_an_executor() -> None:
    event = freethreading.Event()
    executor = freethreading.WorkerPoolExecutor(1)
    future = executor.submit(wait_for, event)
    interrupt_join(executor.shutdown)
    interrupt_join(executor.shutdown)
    event.set()
    executor.shutdown()
    assert future.result(0) == 7
