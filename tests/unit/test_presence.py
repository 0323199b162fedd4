"""Which workers there are, from the moment of their start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import freethreading
from freethreading._thread_worker import FacadeThread

SECONDS = 30.0


def test_a_thread_that_was_just_started_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    go_on = threading.Event()
    run: Any = FacadeThread._run_recorded

    def run_later(self: FacadeThread, work: Callable[[], object]) -> None:
        assert go_on.wait(SECONDS)
        run(self, work)

    monkeypatch.setattr(FacadeThread, "_run_recorded", run_later)
    worker = freethreading.Worker(target=int)
    assert worker not in freethreading.active_children()
    worker.start()  # the thread is there, and has come to nothing of its own
    assert worker in freethreading.active_children()
    assert worker in freethreading.enumerate()
    go_on.set()
    worker.join()
    assert worker not in freethreading.active_children()


def test_one_that_cannot_be_started_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    worker = freethreading.Worker(target=int)
    with pytest.raises(RuntimeError, match="new thread"):
        worker.start()
    assert worker not in freethreading.active_children()
