"""The queues that are compared: how each is made, whose workers use it, how it takes and gives batches."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import freethreading

from .comparison import shout

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")  # its locks may go to any worker
BIG = 1_000_000  # bytes, the capacity that faster-fifo has when none is given


class Room(NamedTuple):
    """How much may wait in a queue: items for most (0: any number), bytes for faster-fifo."""

    items: int = 0
    size: int = BIG


ANY = Room()


class Peer(NamedTuple):
    name: str
    make: Callable[[Room], Any]
    start: Callable[..., Any]
    control: Callable[[], Any]  # a plain queue by which the benchmark talks to its workers
    processes: bool
    get_many: Callable[..., list[Any]] | None = None


class PipeQueue:
    """A pipe used as a queue of one-byte messages: what the kernel alone costs."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def put(self, _: object) -> None:
        os.write(self._writer, b"7")

    def get(self) -> bytes:
        return os.read(self._reader, 1)

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def start_ours(target: Any, *arguments: Any) -> Any:
    worker = freethreading.Worker(target=target, args=arguments, daemon=True)
    worker.start()
    return worker


def start_process(target: Any, *arguments: Any) -> Any:
    worker = FORK.Process(target=target, args=arguments, daemon=True)
    worker.start()
    return worker


def start_thread(target: Any, *arguments: Any) -> Any:
    worker = threading.Thread(target=target, args=arguments, daemon=True)
    worker.start()
    return worker


def get_many_ours(source: Any, limit: int, **timeout: float) -> list[Any]:
    return source.get_many(limit, **timeout)  # type: ignore[no-any-return]


def get_many_faster_fifo(source: Any, limit: int, **timeout: float) -> list[Any]:
    return source.get_many(max_messages_to_get=limit, **timeout)  # type: ignore[no-any-return]


def process_peers() -> dict[str, Peer]:
    many = get_many_ours if has_batches() else None
    peers = [
        Peer("ours", lambda r: freethreading.Queue(r.items), start_ours, SPAWN.SimpleQueue, True, many),
        Peer("multiprocessing.Queue", lambda r: FORK.Queue(r.items), start_process, FORK.SimpleQueue, True),
        Peer(
            "multiprocessing.SimpleQueue", lambda r: FORK.SimpleQueue(), start_process, FORK.SimpleQueue, True
        ),
        Peer("pipe", lambda r: PipeQueue(), start_process, FORK.SimpleQueue, True),
    ]
    if faster_fifo := import_faster_fifo():
        make = lambda r: faster_fifo.Queue(max_size_bytes=r.size)  # noqa: E731
        peers.append(Peer("faster-fifo", make, start_process, FORK.SimpleQueue, True, get_many_faster_fifo))
    return {peer.name: peer for peer in peers}


def thread_peers() -> dict[str, Peer]:
    many = get_many_ours if has_batches() else None
    peers = [
        Peer("ours", lambda r: freethreading.Queue(r.items), start_ours, queue.SimpleQueue, False, many),
        Peer("ours, simple", lambda r: freethreading.SimpleQueue(), start_ours, queue.SimpleQueue, False),
        Peer("queue.Queue", lambda r: queue.Queue(r.items), start_thread, queue.SimpleQueue, False),
        Peer("queue.SimpleQueue", lambda r: queue.SimpleQueue(), start_thread, queue.SimpleQueue, False),
    ]
    return {peer.name: peer for peer in peers}


def has_batches() -> bool:
    return hasattr(freethreading.Queue, "put_many") and hasattr(freethreading.Queue, "get_many")


def import_faster_fifo() -> Any:
    """The module, or None and a loud line: it has wheels for few interpreters and turns the GIL on where there is none."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        shout("faster-fifo TURNS THE GIL ON when it is imported: its comparisons are left out")
        return None
    try:
        import faster_fifo
        import faster_fifo_reduction  # noqa: F401  (makes its queues picklable)
    except ImportError as error:
        shout(f"faster-fifo CANNOT BE IMPORTED ({error}): its comparisons are left out")
        return None
    return faster_fifo


def import_numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        shout(f"numpy CANNOT BE IMPORTED ({error}): its cases are left out")
        return None
    return numpy
