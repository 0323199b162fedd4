"""Who is there: the worker that the caller runs in, and those that this process has started."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NoReturn

from freethreading import _thread_worker
from freethreading._backend import process_backend
from freethreading._exceptions import OwnershipError
from freethreading._loaded import loaded, look_up
from freethreading._worker import Worker, facade_of

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


def current_worker() -> Worker:
    """The worker that the caller runs in; the main program's is named MainThread, or MainProcess on processes."""
    thread = threading.current_thread()
    if isinstance(thread, _thread_worker.FacadeThread):
        return thread.facade
    process = _process_object()
    facade = getattr(process, "facade", None)
    if isinstance(facade, Worker):
        return facade
    if process_backend():
        return _view("MainProcess" if process is None else process.name, threading.main_thread(), True)
    return _view(thread.name, thread, False)


def get_ident() -> int:
    """The current worker's identifier: threading.get_ident() on threads, the process id on processes."""
    if isinstance(threading.current_thread(), _thread_worker.FacadeThread) or not process_backend():
        return threading.get_ident()
    return os.getpid()


def active_children() -> list[Worker]:
    """The workers that this process has started and that have not ended: threads and processes, those of pools too."""
    children = _thread_worker.active_facades()
    processes = loaded("freethreading._process_worker")
    if processes is not None:
        children += processes.active_facades()
    return children


def enumerate() -> list[Worker]:
    """All live workers of this process: the one that its main thread is, then active_children()."""
    process = _process_object()
    main = getattr(process, "facade", None)
    if not isinstance(main, Worker):
        thread = threading.main_thread()
        if process_backend():
            main = _view("MainProcess" if process is None else process.name, thread, True)
        else:
            main = _view(thread.name, thread, False)
    return [main, *active_children()]


def active_count() -> int:
    """How many workers enumerate() lists."""
    return len(enumerate())


class _View:
    """The body of the main program's worker, and of threads and processes that are no workers of ours."""

    is_launching = False
    exitcode = None

    def __init__(self, name: str, thread: threading.Thread, process: bool) -> None:
        self.name = name
        self._thread = thread
        self._process = process

    @property
    def daemon(self) -> bool:
        if not self._process:
            return self._thread.daemon
        process = _process_object()
        return process is not None and process.daemon

    @daemon.setter
    def daemon(self, value: bool) -> None:  # noqa: ARG002
        raise OwnershipError("a worker's daemon attribute can be set before it is started only")

    @property
    def ident(self) -> int | None:
        return os.getpid() if self._process else self._thread.ident

    @property
    def native_id(self) -> int | None:
        return self._thread.native_id

    @property
    def pid(self) -> int | None:
        return os.getpid()

    @property
    def sentinel(self) -> int:
        raise ValueError("only workers that were started here have a sentinel")

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> NoReturn:
        raise OwnershipError("a worker can be started once only")

    def join(self, timeout: float | None = None) -> None:  # noqa: ARG002
        raise OwnershipError("only workers that were started here can be joined")

    def terminate(self) -> NoReturn:
        raise OwnershipError("only workers that were started here can be ended")

    kill = terminate

    def close(self) -> NoReturn:
        raise ValueError("a worker cannot be closed while it runs")


_views: dict[tuple[int, bool], Worker] = {}


def _view(name: str, thread: threading.Thread, process: bool) -> Worker:
    # The same object as long as it is the same thread: workers are compared and used as keys.
    key = (thread.ident or 0, process)
    known: Worker | None = look_up(_views, key)
    body = known._body if known is not None else None
    if known is None or not isinstance(body, _View) or body._thread is not thread:
        for dead in [k for k, v in list(_views.items()) if not v.is_alive()]:
            _views.pop(dead, None)
        known = _views[key] = facade_of(_View(name, thread, process))
    known._body.name = name
    return known


def _process_object() -> BaseProcess | None:
    # multiprocessing's object of this process; None where that was never imported.
    module = loaded("multiprocessing.process")
    return module.current_process() if module is not None else None


os.register_at_fork(after_in_child=_views.clear)
