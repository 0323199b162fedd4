"""How a process worker is started: what travels to it, and the handle on it here.

A worker's payload lies in its WorkerRecord: a frame of plain data that makes the process what it must be before
anything of the user's is unpickled (`Preparation`), then a frame with the call. Descriptors travel beside it, in the
order of the preparation's `descriptors`. _worker_process.py is the other side; docs/design/workers.md has the whole way.
"""

from __future__ import annotations

import multiprocessing.context as _context
import os
import pickle
import signal
from contextvars import Context
from multiprocessing import util as _util
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from freethreading import _imports, _main_module, _serialize, _supervisor
from freethreading._contexts import Sender
from freethreading._core import WorkerRecord
from freethreading._frames import pack
from freethreading._loaded import loaded, look_up
from freethreading._surroundings import Surroundings, surroundings

if TYPE_CHECKING:
    from freethreading._core import Channel
    from freethreading._process_worker import _FacadeProcess
    from freethreading._worker import Worker

_MULTIPROCESSING = b"multiprocessing."  # in the pickle of what is a multiprocessing object's
# What a supervisor's packet can carry, less the worker's own.
MAX_DESCRIPTORS = 240


class Preparation(TypedDict):
    """What a worker must be before it unpickles its call."""

    main: _main_module.Plan
    process: dict[str, Any]  # _FacadeProcess.description()
    here: Surroundings
    start_method: str | None
    log_level: int | None  # of multiprocessing's logger, where that goes to standard error
    descriptors: list[str]  # names of those that come first: "stdout", "stderr", "tracker"


class InheritedDescriptor:
    """multiprocessing's DupFd for our launcher: names a descriptor that travels with the process."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        """The descriptor, in the worker; it is the caller's."""
        return inherited[self.index]


class Station(NamedTuple):
    """What a worker is to its pool's engine."""

    queues: tuple[Channel, ...]  # whose receivers its end wakes
    crew: int  # which workers it belongs to
    max_memory: int | None  # bytes
    # Not None: a standby, started only where one of its crew dies and no other one is asked for; how many others there are.
    beside: int | None = None


inherited: list[int] = []  # in a worker: the descriptors of its arguments


class Popen:
    """The launcher's handle on one process: what multiprocessing calls a Popen."""

    method = "freethreading"
    DupFd = InheritedDescriptor

    def __init__(
        self,
        body: _FacadeProcess,
        facade: Worker | None,
        call: tuple[Any, Any, Any],
        context: Context | None = None,
        station: Station | None = None,
    ) -> None:
        _util._flush_std_streams()  # type: ignore[attr-defined]
        self.returncode: int | None = None
        self._descriptors: list[int] = []
        self._sentinel = -1
        self.finalizer: Any = None
        # Before anything is pickled: from here on, what this process defines goes to workers.
        plan = _main_module.plan()
        packed = self._pickle(facade, call, context if context is not None else Context())
        if station is None:
            _imports.learn(facade, call[0])
        # What the call refers to lives here until the worker has ended, so that the worker finds it whenever it comes to
        # unpickle: shared objects, and multiprocessing's locks and queues, which go with the last reference here.
        self._kept: list[object] = [*packed.shared, call if _MULTIPROCESSING in packed.data else None]
        first, names = _descriptors_of_all()
        preparation = pickle.dumps(_preparation(body, plan, names), pickle.HIGHEST_PROTOCOL)
        self.record = WorkerRecord()
        self._pid = 0
        # By an engine, which reads from the record what a dead worker had.
        self._is_watched = station is not None
        if station is not None:
            self.record.set_queues(*station.queues)
            self.record.crew = station.crew
            self.record.beside = station.beside or 0
            self.record.memory_limit = station.max_memory or 0
        self.record.set_payload(pack([preparation, packed.data]))
        is_standby = station is not None and station.beside is not None
        _supervisor.request(self.record, [*first, *self._descriptors], is_standby)

    def _pickle(
        self, facade: Worker | None, call: tuple[Any, Any, Any], context: Context
    ) -> _serialize.Payload:
        _context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            difference, shared = Sender(Context()).pack(context)
            where = ("self", "target", "args", "kwargs", "context")
            packed = _serialize.dumps((facade, *call, difference), where)
            return _serialize.Payload(packed.data, [*packed.shared, *shared])
        finally:
            _context.set_spawning_popen(None)

    def duplicate_for_child(self, descriptor: int) -> int:
        """What multiprocessing calls while it pickles: the descriptor's index in the worker."""
        if len(self._descriptors) >= MAX_DESCRIPTORS:
            raise ValueError(f"a worker's arguments may hold {MAX_DESCRIPTORS} descriptors at most")
        self._descriptors.append(descriptor)
        return len(self._descriptors) - 1

    @property
    def pid(self) -> int:
        """The process id; waits until the worker is there."""
        record = self._record_if_needed()
        if record is not None and self._pid == 0:
            record.wait_start()
            self._pid = max(record.pid, 0)  # -1: it could not be started
        return self._pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable when the process has ended; waits until the worker is there."""
        if self._sentinel < 0:
            self._sentinel = self._open_sentinel()
            self.finalizer = _util.Finalize(self, os.close, (self._sentinel,))
        return self._sentinel

    def _open_sentinel(self) -> int:
        pid = self.pid
        if self.poll() is None:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                pass
            else:
                # The end is recorded before the process is reaped: without it, the number is still the worker's.
                if self.poll() is None:
                    return descriptor
                os.close(descriptor)
        ready, other = os.pipe()
        os.close(other)
        return ready

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        record = self._record_if_needed()
        if record is not None and (flag != os.WNOHANG or record.ended()):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        record = self._record_if_needed()
        if record is not None and record.wait_exit(timeout):
            self._pid = max(record.pid, 0)  # -1: it could not be started
            self.returncode = record.exitcode
            # Now, not when the garbage collector comes by: a worker and its body refer to each other.
            self._kept = []
            if not self._is_watched:
                self.__dict__.pop("record", None)
        return self.returncode

    def _record_if_needed(self) -> WorkerRecord | None:
        # None: the end is known. Another thread may find it out, and drop the record, at any time.
        record: WorkerRecord | None = look_up(self.__dict__, "record")
        return record if self.returncode is None else None

    def _send_signal(self, number: int) -> None:
        if self.poll() is None:
            descriptor = (
                self._open_sentinel()
            )  # not the sentinel itself, which stays open as long as its worker
            try:
                signal.pidfd_send_signal(descriptor, number)
            except OSError:
                if self.wait(timeout=1.0) is None:
                    raise
            finally:
                os.close(descriptor)

    def interrupt(self) -> None:
        self._send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._send_signal(signal.SIGKILL)

    def close(self) -> None:
        if self.finalizer is not None:
            self.finalizer()
            self._sentinel = -1


def _preparation(body: _FacadeProcess, plan: _main_module.Plan, names: list[str]) -> Preparation:
    logging = _util._log_to_stderr and _util._logger is not None  # type: ignore[attr-defined]
    return Preparation(
        main=plan,
        process=body.description(),
        here=surroundings(body.environ()),
        start_method=_context._default_context.get_start_method(allow_none=True),
        log_level=_util._logger.getEffectiveLevel() if logging else None,  # type: ignore[attr-defined]
        descriptors=names,
    )


def _descriptors_of_all() -> tuple[list[int], list[str]]:
    # What a worker gets whatever its arguments are: the standard streams as they are now, and the resource tracker of
    # this process, so that a shared memory that a worker makes lives on.
    found: list[int] = []
    names: list[str] = []
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if _is_open(descriptor):
            found.append(descriptor)
            names.append(name)
    tracker = loaded("multiprocessing.resource_tracker")
    pipe: int | None = tracker._resource_tracker._fd if tracker is not None else None
    if pipe is not None and _is_open(pipe):
        found.append(pipe)
        names.append("tracker")
    return found, names


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
