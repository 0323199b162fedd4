"""Forks beside the synchronisation types: what a child that multiprocessing makes leaves behind, and what it holds."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from multiprocessing import forkserver, util
from typing import Any

import pytest

from freethreading import Event, Lock
from support import processes

METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(scope="module", autouse=True)
def servers() -> None:
    """multiprocessing's servers stay for the program's life: they are there before a test counts what is open."""
    forkserver.ensure_running()


def run_child(method: str, target: Any, *args: Any) -> None:
    process = multiprocessing.get_context(method).Process(target=target, args=args)
    with warnings.catch_warnings():
        # The watchdog is a thread, and 3.12 warns of any fork beside one.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join(60)
    assert process.exitcode == 0


def hold(lock: Any) -> None:
    assert lock.acquire(timeout=20)


def set_from_a_thread_of_its_own(begun: Any, done: Any) -> None:
    threading.Thread(target=lambda: begun.wait(20) and done.set()).start()


def begin(begun: Any, done: Any) -> None:
    set_from_a_thread_of_its_own(begun, done)
    # The process's end has begun: before Python 3.13 multiprocessing's finalizers come first, then the end of threads.
    util.Finalize(None, begun.set, exitpriority=0)
    threading._register_atexit(begun.set)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_a_lock_stays_held_by_a_process_that_ended_cleanly(method: str) -> None:
    lock = Lock(shared=True)
    run_child(method, hold, lock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no OwnerDiedWarning: nobody died
        assert lock.acquire(timeout=0.05) is False
    lock.release()
    assert lock.acquire(False) is True


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_ended_keeps_nothing(method: str) -> None:
    before = processes.region_objects()
    lock = Lock(shared=True)
    run_child(method, hold, lock)
    del lock
    assert processes.region_objects() == before


@pytest.mark.parametrize("method", METHODS)
def test_threads_of_a_process_use_shared_objects_until_they_end(method: str) -> None:
    begun, done = Event(shared=True), Event(shared=True)
    run_child(method, begin, begun, done)
    assert done.is_set()
