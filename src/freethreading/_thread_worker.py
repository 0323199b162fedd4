"""The bodies of workers that are threads."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NoReturn

from freethreading._backend import strict_mode
from freethreading._contexts import Home, private_copy
from freethreading._core import AtomicInt64
from freethreading._exceptions import OwnershipError
from freethreading._threads import Thread
from freethreading._worker import Worker, facade_of

_INTERRUPTING_A_THREAD = (
    "{method}() of a worker that is a thread: a thread cannot be ended from outside without corrupting what it holds. "
    "Have it look at an Event, or make the worker on the process back end (FREETHREADING_BACKEND=multiprocessing)"
)

_thread_numbers = itertools.count(1)
_pool_numbers = itertools.count(1)
# The facades of this process's workers that are threads, from their start to their end, in the order of their starts.
_running: dict[Worker, None] = {}


class FacadeThread(Thread):
    """A thread whose end sets an exit code, and a descriptor where somebody asked for one."""

    def __init__(self, facade: Worker, name: str, daemon: bool | None) -> None:
        super().__init__(name=name, daemon=daemon)
        self.facade = facade
        self.exitcode: int | None = None
        self._ended = False
        self._ends: tuple[int, int] | None = None  # of the pipe behind the sentinel
        self._ends_lock = threading.Lock()
        self.is_closed = False

    @property
    def pid(self) -> int | None:
        return os.getpid() if self.ident is not None else None

    @property
    def sentinel(self) -> int:
        self._check_closed()
        if self.ident is None:
            raise ValueError("the worker has no sentinel before it is started")
        with self._ends_lock:
            if self._ends is None:
                self._ends = os.pipe()
                if self._ended:
                    self._close_end(1)
            return self._ends[0]

    def terminate(self) -> NoReturn:
        raise NotImplementedError(_INTERRUPTING_A_THREAD.format(method="terminate"))

    def kill(self) -> NoReturn:
        raise NotImplementedError(_INTERRUPTING_A_THREAD.format(method="kill"))

    def close(self) -> None:
        if self.is_alive():
            raise ValueError("a worker cannot be closed while it runs: call join() first")
        with self._ends_lock:
            if self._ends is not None:
                self._close_end(0)
                self._close_end(1)
            self.is_closed = True

    def __del__(self) -> None:
        # A thread that ended has closed the other end itself.
        if getattr(self, "_ends", None) is not None and not self.is_closed and self._ended:
            self._close_end(0)

    def _close_end(self, end: int) -> None:
        ends = self._ends
        if ends is not None and ends[end] >= 0:
            descriptor = ends[end]
            self._ends = (-1, ends[1]) if end == 0 else (ends[0], -1)
            os.close(descriptor)

    def _check_closed(self) -> None:
        if self.is_closed:
            raise ValueError("the worker is closed")

    def start(self) -> None:
        _running[self.facade] = None  # before it runs: whoever has started it finds it
        try:
            super().start()
        except BaseException:
            _running.pop(self.facade, None)
            raise

    def _run_recorded(self, work: Callable[[], object]) -> None:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as leaving:
            code = _exit_code_of(leaving)
        finally:
            self.exitcode = code
            _running.pop(self.facade, None)
            with self._ends_lock:
                self._ended = True
                if self._ends is not None:
                    self._close_end(1)


class WorkerThread(FacadeThread):
    """The body of a Worker that is a thread."""

    def __init__(self, facade: Worker, name: str | None, daemon: bool | None) -> None:
        super().__init__(facade, name if name is not None else f"Worker-{next(_thread_numbers)}", daemon)
        self._context = Context()  # what it runs in: the starter's, from start() until it has ended

    @property
    def daemon(self) -> bool:
        return super().daemon

    @daemon.setter
    def daemon(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.ident is not None:
            raise OwnershipError("a worker's daemon attribute can be set before it is started only")
        threading.Thread.daemon.fset(self, value)  # type: ignore[attr-defined]

    def start(self) -> None:
        self._check_closed()
        if self.ident is not None:
            raise OwnershipError("a worker can be started once only")
        facade = self.facade
        if strict_mode():
            from freethreading import _serialize

            call = (facade._target, facade._args, facade._kwargs)
            _serialize.check(call, ("target", "args", "kwargs"))
        self._context = private_copy(copy_context())
        super().start()

    def join(self, timeout: float | None = None) -> None:
        self._check_closed()
        if self.ident is None:
            raise OwnershipError("a worker can be joined after it is started only")
        if threading.current_thread() is self:
            raise OwnershipError("a worker cannot join itself: it would wait for ever")
        super().join(timeout)

    def work(self) -> None:
        facade = self.facade
        context, self._context = self._context, Context()
        try:
            self._run_recorded(partial(context.run, facade.run))
        finally:
            # As Thread and Process do: the arguments may refer to the worker.
            facade._target, facade._args, facade._kwargs = None, (), {}


class PoolThread(FacadeThread):
    """A pool's worker that is a thread, for so many CPUs: its facade is a Worker that nobody made."""

    def __init__(
        self,
        target: Callable[[], object],
        name: str | None,
        daemon: bool,
        cpus: int,
        is_terminated: Callable[[], bool],
    ) -> None:
        super().__init__(
            facade_of(self), name if name is not None else f"PoolWorker-{next(_pool_numbers)}", daemon
        )
        self._work = target
        self.cpus = cpus
        # What a call of its asks: whether its pool is terminated, and the sink of the map that it is an item of.
        self.is_terminated: Callable[[], bool] | None = is_terminated
        self.sink: Any = None
        self.home: Home | None = None  # what its calls' contexts come from, once it serves
        self.busy = AtomicInt64(0, shared=False)  # 1: in a task

    def work(self) -> None:
        try:
            self._run_recorded(super().work)
        finally:
            self.is_terminated = None  # who keeps the worker does not keep its pool


def active_facades() -> list[Worker]:
    """The facades of this process's workers that are threads and have not ended, in the order of their starts."""
    return [facade for facade in list(_running) if facade.is_alive()]


def _exit_code_of(leaving: SystemExit) -> int:
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


os.register_at_fork(after_in_child=_running.clear)
