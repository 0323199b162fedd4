"""Worker: a thread or a process, chosen when it is made.

A Worker is a facade: its *body* is a :class:`threading.Thread` (_thread_worker) or a multiprocessing process
(_process_worker), and the facade's ``run()`` is what the body runs. Pool workers have facades too, so that those who ask
who is there (_presence) hear of all workers in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from freethreading._backend import backend_of_workers
from freethreading._loaded import look_up


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
            from freethreading._thread_worker import WorkerThread

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
        return self._open_body().is_alive()

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
        return self._open_body().ident

    @property
    def native_id(self) -> int | None:
        """The kernel's number of the thread, or of the process's first thread; None before it is started."""
        return self._open_body().native_id

    @property
    def pid(self) -> int | None:
        """The process that the worker runs in (on threads: this one); None before it is started."""
        return self._open_body().pid

    @property
    def exitcode(self) -> int | None:
        """None before it has ended; then 0, 1 after an exception, sys.exit()'s code, or minus the signal that ended it."""
        return self._open_body().exitcode

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
        body = look_up(self.__dict__, "_body")
        if body is None:
            return f"<{type(self).__name__} (not initialised)>"
        if _is_closed(body):
            return f"<{type(self).__name__} name={body.name!r} closed>"
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

    def _open_body(self) -> Body:
        body = self._made_body()
        if _is_closed(body):
            raise ValueError(f"the worker {body.name!r} is closed")
        return body

    def _made_body(self) -> Body:
        try:
            return self._body
        except AttributeError:
            raise RuntimeError(
                f"{type(self).__name__}.__init__() was not called: call super().__init__() first"
            ) from None


Worker.__module__ = "freethreading"


def _is_closed(body: Body) -> bool:
    closed: bool = getattr(body, "is_closed", False)  # threads and processes that are not ours cannot be
    return closed


def facade_of(body: Body) -> Worker:
    """A Worker in front of a body that was not made by one."""
    facade = Worker.__new__(Worker)
    facade._target, facade._args, facade._kwargs = None, (), {}
    facade._body = body
    return facade
