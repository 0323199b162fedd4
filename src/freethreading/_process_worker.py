"""The bodies of workers that are processes: multiprocessing processes with a launcher of ours."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from multiprocessing import process as _process
from types import FrameType
from typing import TYPE_CHECKING, Any

from freethreading import _native_threads, _serialize, _supervisor, _surroundings
from freethreading._exceptions import OwnershipError
from freethreading._fork_gate import fork_gate
from freethreading._launch import Popen, Station
from freethreading._loaded import loaded
from freethreading._worker import Worker, facade_of

if TYPE_CHECKING:
    from freethreading._core import WorkerRecord

_pool_numbers = itertools.count(1)


class _FacadeProcess(_process.BaseProcess):
    """A process that runs its facade. multiprocessing knows it as one of its own."""

    _start_method = None
    _popen: Popen | None  # type: ignore[assignment]

    def __init__(self, name: str | None, daemon: bool | None) -> None:
        super().__init__(name=name, daemon=daemon)
        self.facade: Worker
        self.is_launching = False
        self.context = Context()  # what it runs in, in the worker

    takes_interrupts_itself = False  # a pool's worker, which first says what an interrupt is to it

    @staticmethod
    def _Popen(body: _process.BaseProcess) -> Popen:
        raise AssertionError(f"{body!r} is started by start() only")

    @property
    def native_id(self) -> int | None:
        return self.pid

    def run(self) -> None:
        if not self.takes_interrupts_itself:
            from freethreading._worker_process import take_interrupts

            take_interrupts()
        self.context.run(self.facade.run)

    def start(self) -> None:
        self._check_closed()
        if self._popen is not None:
            raise OwnershipError("a worker can be started once only")
        if self._parent_pid != os.getpid():  # type: ignore[attr-defined]
            raise OwnershipError("a worker can be started by the process only that made it")
        if getattr(_process.current_process(), "_inheriting", False):
            raise RuntimeError(
                "this process is being made: it imports the main module, whose top level starts a worker. Put what "
                'starts workers under `if __name__ == "__main__":`'
            )
        refuse_at_import()
        with fork_gate:
            _process._cleanup()  # type: ignore[attr-defined]
            self._launch()
            self._sentinel = None  # close() deletes it; ours is the launcher's
            if not self._is_standby():
                _process._children.add(self)  # type: ignore[attr-defined]

    def _is_standby(self) -> bool:
        return False

    def _launch(self) -> None:
        raise NotImplementedError

    def _check_started_here(self, what: str) -> Popen:
        self._check_closed()
        popen = self._popen
        if popen is None or self._parent_pid != os.getpid():  # type: ignore[attr-defined]
            raise OwnershipError(f"only a worker that was started here can be {what}")
        return popen

    def join(self, timeout: float | None = None) -> None:
        if self is _process.current_process():
            raise OwnershipError("a worker cannot join itself: it would wait for ever")
        if self._check_started_here("joined").wait(timeout) is not None:
            _process._children.discard(self)  # type: ignore[attr-defined]

    def is_alive(self) -> bool:
        self._check_closed()
        if self is _process.current_process():
            return True
        popen = self._popen
        if popen is not None and popen.wait(0) is None:
            return True  # said also in a process that inherited it, where multiprocessing's own refuses to answer
        _process._children.discard(self)  # type: ignore[attr-defined]
        return False

    def terminate(self) -> None:
        self._check_started_here("ended").terminate()

    def kill(self) -> None:
        self._check_started_here("ended").kill()

    @property
    def sentinel(self) -> int:
        self._check_closed()
        if self._popen is None:
            raise ValueError("the worker has no sentinel before it is started")
        return self._popen.sentinel

    @property
    def daemon(self) -> bool:
        return super().daemon

    @daemon.setter
    def daemon(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._popen is not None:
            raise OwnershipError("a worker's daemon attribute can be set before it is started only")
        self._config["daemon"] = value  # type: ignore[attr-defined]

    @property
    def is_closed(self) -> bool:
        mine: Any = self
        return bool(mine._closed)

    def _check_closed(self) -> None:
        if self.is_closed:
            raise ValueError("the worker is closed")

    def environ(self) -> dict[bytes, bytes]:
        """The environment that the worker gets."""
        return _surroundings.environment()

    def description(self) -> dict[str, Any]:
        """What rebuild() makes it of in the worker; plain data."""
        mine: Any = self
        return {
            "_identity": mine._identity,
            "_config": {**mine._config, "authkey": bytes(mine._config["authkey"])},
            "_parent_pid": os.getpid(),
            "_parent_name": _process.current_process().name,
            "_name": self.name,
        }


class WorkerProcess(_FacadeProcess):
    """The body of a Worker that is a process."""

    def __init__(self, facade: Worker, name: str | None, daemon: bool | None) -> None:
        super().__init__(name, daemon)
        self.facade = facade
        if name is None:
            identity: Sequence[int] = self._identity  # type: ignore[attr-defined]
            self.name = "Worker-" + ":".join(map(str, identity))

    def _launch(self) -> None:
        facade = self.facade
        self.is_launching = True
        try:
            call = (facade._target, facade._args, facade._kwargs)
            self._popen = Popen(self, facade, call, context=copy_context())
        finally:
            self.is_launching = False
        # As Thread and Process do: the arguments may refer to the worker.
        facade._target, facade._args, facade._kwargs = None, (), {}


class PoolProcess(_FacadeProcess):
    """A pool's worker that is a process, for so many CPUs. A standby is nobody's child until enlist()."""

    def __init__(
        self,
        target: Callable[..., object],
        name: str | None,
        args: tuple[Any, ...],
        station: Station,
        cpus: int,
    ) -> None:
        # Daemonic to multiprocessing here, which must not wait for it; not in the worker, which may have children.
        super().__init__(name if name is not None else f"PoolWorker-{next(_pool_numbers)}", True)
        self.facade = facade_of(self)
        self._call = (target, args)
        self._station = station
        self.cpus = cpus

    def _is_standby(self) -> bool:
        return self._station.beside is not None

    @property
    def record(self) -> WorkerRecord:
        assert self._popen is not None
        return self._popen.record

    def _launch(self) -> None:
        target, args = self._call
        self._popen = Popen(self, None, (target, args, {}), station=self._station)
        self._station = self._station._replace(queues=())

    def enlist(self) -> None:
        """It was a standby, and was started."""
        self._station = self._station._replace(beside=None)
        _process._children.add(self)  # type: ignore[attr-defined]

    def run(self) -> None:
        self.facade.run()  # which takes interrupts when it can

    def environ(self) -> dict[bytes, bytes]:
        return _native_threads.limited(super().environ(), self.cpus)

    def description(self) -> dict[str, Any]:
        found = super().description()
        found["_config"]["daemon"] = False
        found["takes_interrupts_itself"] = True
        found["cpus"] = self.cpus
        return found


def prepare_start() -> None:
    """Has ready what the first worker's start would have to wait for."""
    if getattr(_process.current_process(), "_inheriting", False):
        return  # it imports what makes a pool at its top level: so would that zygote, and so on
    with fork_gate:
        _supervisor.prepare()


def rebuild(description: dict[str, Any], facade: Worker | None, context: Context) -> _FacadeProcess:
    """The body in the worker; the facade is the one that was sent, or a new one of a pool worker."""
    body = WorkerProcess.__new__(WorkerProcess)
    state = dict(description)
    state["_config"]["authkey"] = _process.AuthenticationString(state["_config"]["authkey"])  # type: ignore[attr-defined]
    state |= {
        "_popen": None,
        "_closed": False,
        "is_launching": False,
        "context": context,
        "_target": None,
        "_args": (),
        "_kwargs": {},
    }
    body.__dict__.update(state)
    body.facade = facade if facade is not None else facade_of(body)
    body.facade._body = body
    return body


def refuse_at_import() -> None:
    """Raises the error of a module that starts work when it is imported, where this process is a worker that imports it for
    the call that it was given: each worker would import it in its turn, without an end.
    """
    in_worker = loaded("freethreading._worker_process")
    if in_worker is None or not in_worker.is_worker():
        return
    frame: FrameType | None = sys._getframe(1)
    module = None
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            module = frame.f_globals.get("__name__")
        elif module is not None and frame.f_code is _serialize.loads.__code__:
            raise RuntimeError(
                f"this worker imports the module {module!r} to find what it has to run, and the module starts workers when "
                f"it is imported: so would theirs, without an end. Have {module!r} start them in a function"
            )
        frame = frame.f_back


def active_facades() -> list[Worker]:
    """The facades of this process's children that are ours and have not ended."""
    children = [child for child in _process.active_children() if isinstance(child, _FacadeProcess)]
    children.sort(key=lambda child: child._identity)  # type: ignore[attr-defined]
    return [child.facade for child in children]


def _after_fork_in_child() -> None:
    # They are the parent's: at its end a child must neither wait for them nor terminate them.
    private: Any = _process
    children: set[object] = private._children
    children -= {child for child in children if isinstance(child, _FacadeProcess)}


os.register_at_fork(after_in_child=_after_fork_in_child)
