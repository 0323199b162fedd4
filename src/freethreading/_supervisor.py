"""This process's supervisor: started with its first worker, again where it is gone, ended with the process."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from multiprocessing import spawn as _spawn, util as _util
from typing import Any

from freethreading import _core, _imports, _main_module
from freethreading._preload import preloaded
from freethreading._surroundings import environment, surroundings

PROGRAM = os.path.join(os.path.dirname(_core.__file__), "ft-supervisor")
# The zygote's first words: what it imports must be found where this process finds it.
ZYGOTE = """\
import os, pickle, sys
preparation = pickle.loads(os.pread(5, os.fstat(5).st_size, 0))
sys.path[:] = preparation["path"]
from freethreading._zygote import main
main(preparation)
"""
# How long the end of the process waits for the supervisor's, which kills the workers that there still are.
STOP_SECONDS = 2.0
# A supervisor may be killed before it gets its first request; one that always ends at once cannot run here.
STARTS = 3
# Behind the finalizers of others, and after multiprocessing has joined the children.
_EXIT_PRIORITY = -100

_lock = threading.Lock()
_supervisor: _core.Supervisor | None = None  # guarded by _lock
_sent: set[str] = set()  # modules that this one was told of; guarded by _lock


def request(record: _core.WorkerRecord, descriptors: list[int], standby: bool = False) -> None:
    """Has the worker of the record started; a standby where one of its crew dies and none is asked for. Does not wait."""
    global _supervisor
    with _lock:
        if _supervisor is None:
            _supervisor = _core.Supervisor()
        for _ in range(STARTS):
            if _supervisor.request(record, descriptors, standby):
                return
            _start(_supervisor)
        if not _supervisor.request(record, descriptors, standby):
            raise OSError(
                "worker processes cannot be started: the supervisor process ended at once, several times"
            )


def prepare() -> None:
    """Has a supervisor where there is none, so that it is ready when the first worker is asked for."""
    global _supervisor
    with _lock:
        if _supervisor is None:
            _supervisor = _core.Supervisor()
        if not _supervisor.pid:
            _start(_supervisor)


def import_modules(names: tuple[str, ...]) -> None:
    """Has the zygote import them, before workers that are asked for later start. A supervisor that starts is told anyway."""
    with _lock:
        names = tuple(name for name in names if name not in _sent)  # when it started, perhaps
        if names and _supervisor is not None and _supervisor.pid:
            _send_imports(_supervisor, names)


def renew_zygote(names: tuple[str, ...]) -> None:
    """Has later workers come from a new zygote, which imports these modules anew."""
    with _lock:
        if _supervisor is not None and _supervisor.pid:
            _supervisor.renew_zygote()
            _sent.clear()
            _send_imports(_supervisor, names)


def withdraw(record: _core.WorkerRecord) -> None:
    """A worker that has no process yet is not needed any more. Its record says how it ended, as any worker's."""
    with _lock:
        if _supervisor is not None:
            _supervisor.withdraw(record)


def end_task(record: _core.WorkerRecord, tag: int) -> None:
    """Has the worker killed if it is in the task of that tag; its record says so then. It may come too early or too late."""
    with _lock:
        if _supervisor is not None:
            _supervisor.end_task(record, tag)


def pid() -> int:
    """The supervisor's process id; 0: there is none."""
    return _supervisor.pid if _supervisor is not None else 0


def stop() -> None:
    """Ends the supervisor, and with it every worker process that there still is."""
    with _lock:
        if _supervisor is not None:
            _supervisor.stop(STOP_SECONDS)


def _start(supervisor: _core.Supervisor) -> None:
    # Under the lock.
    preparation = {
        "path": [entry or os.getcwd() for entry in sys.path],
        "preload": preloaded(),
        "main": {key: value for key, value in _main_module.plan().items() if key != "log"},
    }
    file = _file_of(preparation)
    try:
        executable = os.fsdecode(_spawn.get_executable())
        private: Any = _util
        flags: list[str] = private._args_from_interpreter_flags()
        supervisor.start(PROGRAM, [executable, *flags, "-c", ZYGOTE], file)
    finally:
        os.close(file)
    _util.Finalize(None, stop, exitpriority=_EXIT_PRIORITY)
    _sent.clear()
    if names := _imports.learned():
        _send_imports(supervisor, names)


def _send_imports(supervisor: _core.Supervisor, names: tuple[str, ...]) -> None:
    # Under the lock. One that takes nothing has gone, and the next is told when it starts.
    try:
        file = _file_of((names, surroundings(environment())))
    except OSError:  # no descriptor is left: each worker imports for itself
        return
    _sent.update(names)
    try:
        supervisor.import_modules(file)
    finally:
        os.close(file)


def _file_of(description: object) -> int:
    # Read with pread(), or from its beginning: its offset is its reader's too.
    file = os.memfd_create("freethreading-preparation", os.MFD_CLOEXEC)
    try:
        data = memoryview(pickle.dumps(description, pickle.HIGHEST_PROTOCOL))
        at = 0
        while at < len(data):
            at += os.pwrite(file, data[at:], at)
    except BaseException:
        os.close(file)
        raise
    return file


def _after_fork_in_child() -> None:
    # The parent's stays the parent's. A thread of the parent may have held the lock.
    global _lock, _supervisor
    _lock = threading.Lock()
    if _supervisor is not None:
        _supervisor.abandon()
        _supervisor = None


os.register_at_fork(after_in_child=_after_fork_in_child)
