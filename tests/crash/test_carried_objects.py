"""Shared objects in a message whose taker is killed: they end as if the message had been discarded."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

import freethreading
from freethreading import _core
from support.until import until


class KillsWhoeverUnpicklesIt:
    def __reduce__(self) -> tuple[Any, ...]:
        return _kill_self, ()


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take(queue: Any) -> None:
    queue.get()


def is_gone(handle: bytes) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            _core.open_handle(handle)
        except freethreading.HandleGoneError:
            return True
        return False

    return ask


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def test_an_item_whose_taker_dies_before_it_is_unpickled() -> None:
    queue: Any = freethreading.SimpleQueue()
    lock = freethreading.Lock()
    handle = _core.handle_of(lock)
    queue.put((lock, KillsWhoeverUnpicklesIt()))
    del lock
    assert not is_gone(handle)()  # the item keeps it
    worker = freethreading.Worker(target=take, args=(queue,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    until(is_gone(handle), "the lock is gone")
