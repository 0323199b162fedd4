"""Worker: a thread or a process, chosen when it is made; and who is there.

A Worker is a facade: its *body* is a :class:`threading.Thread` (here) or a multiprocessing process (_process_worker),
and the facade's ``run()`` is what the body runs. Pool workers have facades too, so that :func:`current_worker`,
:func:`enumerate` and :func:`active_children` speak of all workers in the same way.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from freethreading._backend import backend_of_workers, process_backend, strict_mode
from freethreading._exceptions import OwnershipError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_INTERRUPTING_A_THREAD = (
    "{method}() of a worker that is a thread: a thread cannot be ended from outside without corrupting what it holds. "
    "Have it look at an Event, or make the worker on the process back end (FREETHREADING_BACKEND=multiprocessing)"
)


class Body(Protocol):
    """What a facade hands its methods on to."""

    name: str

    @property
    def daemon(self) -> bool: ...
    @daemon.setter
    def daemon(self, value: bool) -> None: ...
    @property
    def ident(self) -> int | None: ...
    @property
    def native_id(self) -> int | None: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    @property
    def sentinel(self) -> int: ...
    def start(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Worker:
    """A thread or a process that runs a call, as the back end chosen when it is made.

    Made and used as :class:`threading.Thread` and :class:`multiprocessing.Process` are: `target` is called with `args`
    and `kwargs`, or a subclass overrides run(). `group` must be None. `daemon` (default: the maker's own) says that the
    program's end does not wait for it: a daemonic thread is abandoned, a daemonic process is terminated.

    On processes the arguments are pickled by start(), which raises where that fails; a worker sees the environment, the
    working directory and ``sys.path`` as they are then. An exception that leaves run() is reported (a thread's by
    :func:`threading.excepthook`, a process's on its standard error) and makes the exit code 1.

    >>> worker = Worker(target=print, args=("hello",))
    >>> worker.start()
    >>> worker.join()
    hello
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        if group is not None:
            raise AssertionError(f"group must be None, not {group!r}: there are no groups of workers")
        name = str(name) if name else None
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs) if kwargs is not None else {}
        self._body: Body
        if backend_of_workers():
            from freethreading._process_worker import WorkerProcess

            self._body = WorkerProcess(self, name, daemon)
        else:
            self._body = WorkerThread(self, name, daemon)

    def run(self) -> None:
        """What the worker does: calls the target. Override it in a subclass."""
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Starts the worker, once. On processes: raises what pickling the target and its arguments raises."""
        self._made_body().start()

    def join(self, timeout: float | None = None) -> None:
        """Waits until the worker has ended, or `timeout` seconds; is_alive() tells which."""
        self._made_body().join(timeout)

    def is_alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._made_body().is_alive()

    def terminate(self) -> None:
        """Ends a process with SIGTERM. A thread cannot be ended: NotImplementedError."""
        self._made_body().terminate()

    def kill(self) -> None:
        """Ends a process with SIGKILL. A thread cannot be ended: NotImplementedError."""
        self._made_body().kill()

    def close(self) -> None:
        """Gives back what the worker holds of the system; it must have ended (else ValueError), and is of no use then."""
        self._made_body().close()

    @property
    def name(self) -> str:
        """A label, with no meaning to the system; not necessarily unique."""
        return self._made_body().name

    @name.setter
    def name(self, value: str) -> None:
        self._made_body().name = str(value)

    @property
    def daemon(self) -> bool:
        """Whether the program's end does not wait for it; can be set before start()."""
        return self._made_body().daemon

    @daemon.setter
    def daemon(self, value: bool) -> None:
        self._made_body().daemon = value

    @property
    def ident(self) -> int | None:
        """What get_ident() gives in the worker; None before it is started."""
        return self._made_body().ident

    @property
    def native_id(self) -> int | None:
        """The kernel's number of the thread, or of the process's first thread; None before it is started."""
        return self._made_body().native_id

    @property
    def pid(self) -> int | None:
        """The process that the worker runs in (on threads: this one); None before it is started."""
        return self._made_body().pid

    @property
    def exitcode(self) -> int | None:
        """None before it has ended; then 0, 1 after an exception, sys.exit()'s code, or minus the signal that ended it."""
        return self._made_body().exitcode

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the worker ends: for :func:`multiprocessing.connection.wait`."""
        return self._made_body().sentinel

    @property
    def authkey(self) -> bytes:
        """multiprocessing's key of the worker's process, by which its connections are authenticated."""
        key: bytes | None = getattr(self._made_body(), "authkey", None)
        if key is None:
            from multiprocessing import process

            key = process.current_process().authkey
        return key

    def __repr__(self) -> str:
        body = self.__dict__.get("_body")
        if body is None:
            return f"<{type(self).__name__} (not initialised)>"
        state = "initial" if body.ident is None else "started" if body.is_alive() else "stopped"
        if state == "stopped":
            state += f" exitcode={body.exitcode}"
        return f"<{type(self).__name__} name={body.name!r} pid={body.pid} {state}{' daemon' if body.daemon else ''}>"

    def __getstate__(self) -> dict[str, Any]:
        if not getattr(self._body, "is_launching", False):
            raise TypeError(
                f"the {type(self).__name__} {self.name!r} cannot be pickled: a worker belongs to who made it; "
                f"send its name or pid instead"
            )
        # What the call is travels beside it, so that an error can name the argument.
        return {k: v for k, v in self.__dict__.items() if k not in ("_body", "_target", "_args", "_kwargs")}

    def _made_body(self) -> Body:
        try:
            return self._body
        except AttributeError:
            raise RuntimeError(
                f"{type(self).__name__}.__init__() was not called: call super().__init__() first"
            ) from None


Worker.__module__ = "freethreading"

_thread_numbers = itertools.count(1)
_pool_numbers = itertools.count(1)
# The facades of this process's workers that are threads, while they run, in the order of their starts.
_running: dict[Worker, None] = {}


class _WorkerBody(threading.Thread):
    """A thread whose end sets an exit code, and a descriptor where somebody asked for one."""

    def __init__(self, facade: Worker, name: str, daemon: bool | None) -> None:
        super().__init__(name=name, daemon=daemon)
        self.facade = facade
        self.exitcode: int | None = None
        self._ended = False
        self._ends: tuple[int, int] | None = None  # of the pipe behind the sentinel
        self._ends_lock = threading.Lock()
        self._closed = False

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
            self._closed = True

    def __del__(self) -> None:
        # A thread that ended has closed the other end itself.
        if getattr(self, "_ends", None) is not None and not self._closed and self._ended:
            self._close_end(0)

    def _close_end(self, end: int) -> None:
        ends = self._ends
        if ends is not None and ends[end] >= 0:
            descriptor = ends[end]
            self._ends = (-1, ends[1]) if end == 0 else (ends[0], -1)
            os.close(descriptor)

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("the worker is closed")

    def _run_recorded(self, work: Callable[[], object]) -> None:
        _running[self.facade] = None
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


class WorkerThread(_WorkerBody):
    """The body of a Worker that is a thread."""

    def __init__(self, facade: Worker, name: str | None, daemon: bool | None) -> None:
        super().__init__(facade, name if name is not None else f"Worker-{next(_thread_numbers)}", daemon)

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
        super().start()

    def join(self, timeout: float | None = None) -> None:
        self._check_closed()
        if self.ident is None:
            raise OwnershipError("a worker can be joined after it is started only")
        if threading.current_thread() is self:
            raise OwnershipError("a worker cannot join itself: it would wait for ever")
        super().join(timeout)

    def run(self) -> None:
        facade = self.facade
        try:
            self._run_recorded(facade.run)
        finally:
            # As Thread and Process do: the arguments may refer to the worker.
            facade._target, facade._args, facade._kwargs = None, (), {}


class PoolThread(_WorkerBody):
    """A pool's worker that is a thread: its facade is a Worker that nobody made."""

    def __init__(self, target: Callable[[], object], name: str | None, daemon: bool) -> None:
        super().__init__(
            facade_of(self), name if name is not None else f"PoolWorker-{next(_pool_numbers)}", daemon
        )
        self._work = target

    def run(self) -> None:
        try:
            self._run_recorded(self._work)
        finally:
            del self._work


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


def facade_of(body: Body) -> Worker:
    """A Worker in front of a body that was not made by one."""
    facade = Worker.__new__(Worker)
    facade._target, facade._args, facade._kwargs = None, (), {}
    facade._body = body
    return facade


def current_worker() -> Worker:
    """The worker that the caller runs in; the main program's is named MainThread, or MainProcess on processes."""
    thread = threading.current_thread()
    if isinstance(thread, _WorkerBody):
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
    if isinstance(threading.current_thread(), _WorkerBody) or not process_backend():
        return threading.get_ident()
    return os.getpid()


def active_children() -> list[Worker]:
    """The workers that this process has started and that have not ended: threads and processes, those of pools too."""
    children = [facade for facade in list(_running) if facade.is_alive()]
    processes: Any = sys.modules.get("freethreading._process_worker")
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


_views: dict[tuple[int, bool], Worker] = {}


def _view(name: str, thread: threading.Thread, process: bool) -> Worker:
    # The same object as long as it is the same thread: workers are compared and used as keys.
    key = (thread.ident or 0, process)
    known = _views.get(key)
    body = known._body if known is not None else None
    if known is None or not isinstance(body, _View) or body._thread is not thread:
        for dead in [k for k, v in list(_views.items()) if not v.is_alive()]:
            _views.pop(dead, None)
        known = _views[key] = facade_of(_View(name, thread, process))
    known._body.name = name
    return known


def _process_object() -> BaseProcess | None:
    # multiprocessing's object of this process; None where that was never imported.
    module: Any = sys.modules.get("multiprocessing.process")
    return module.current_process() if module is not None else None


def _exit_code_of(leaving: SystemExit) -> int:
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def _after_fork_in_child() -> None:
    _running.clear()
    _views.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
