"""The subjects of the conformance suite: ours on both back ends, and the standard library's threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import freethreading


class Subject:
    """The names under test, and how to run a function beside the caller."""

    name: str
    ours: bool
    processes: bool

    def run(self, target: Callable[..., object], *args: object) -> Any:
        """Starts target(*args) in a worker; the worker has join(timeout) and is_alive()."""
        raise NotImplementedError

    def activate(self) -> None:
        """Makes objects that are created from now on this subject's."""

    def __repr__(self) -> str:
        return self.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.namespace, name)

    namespace: Any


class Ours(Subject):
    ours = True
    namespace = freethreading

    def __init__(self, backend: str) -> None:
        self.name = f"freethreading-{backend}"
        self.backend = backend
        self.processes = backend == "multiprocessing"

    def activate(self) -> None:
        os.environ["FREETHREADING_BACKEND"] = self.backend

    def run(self, target: Callable[..., object], *args: object) -> Any:
        worker = freethreading.Worker(target=target, args=args)
        worker.start()
        return worker


class StandardThreads(Subject):
    name = "threading"
    ours = False
    processes = False

    class namespace:
        Lock = staticmethod(threading.Lock)
        RLock = staticmethod(threading.RLock)
        Semaphore = threading.Semaphore
        BoundedSemaphore = threading.BoundedSemaphore
        Condition = threading.Condition
        Event = threading.Event
        Barrier = threading.Barrier
        Queue = queue.Queue
        SimpleQueue = queue.SimpleQueue

    def run(self, target: Callable[..., object], *args: object) -> Any:
        thread = threading.Thread(target=target, args=args)
        thread.start()
        return thread


class StandardProcesses(Subject):
    name = "multiprocessing"
    ours = False
    processes = True

    def __init__(self) -> None:
        self.namespace = multiprocessing.get_context("fork")

    def run(self, target: Callable[..., object], *args: object) -> Any:
        process = self.namespace.Process(target=target, args=args)
        process.start()
        return process


SUBJECTS: list[Subject] = [Ours("threading"), Ours("multiprocessing"), StandardThreads(), StandardProcesses()]
OURS: list[Subject] = SUBJECTS[:2]
