"""WorkerLostError and TaskTimeoutError: errors whose bases are expensive to import (the tree is in _exceptions)."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import signal as _signal
import sys
from concurrent.futures.process import BrokenProcessPool

from freethreading._exceptions import PUBLIC_MODULE

# What a death most often means, and where its traces are.
_BY_SIGNAL = {
    "SIGKILL": "Likely the kernel's out-of-memory killer or somebody's kill -9; look at dmesg and at memory.events of "
    "the control group.",
    "SIGSEGV": "Likely a bug in an extension module; run with PYTHONFAULTHANDLER=1 to see where.",
    "SIGBUS": "Likely a full file system or memory limit behind a mapped file; look at df and dmesg.",
    "SIGABRT": "Likely a failed assertion in an extension module; its text is on the worker's standard error.",
    "SIGTERM": "Somebody asked it to end: a terminate(), a service manager or a batch system.",
    "SIGXCPU": "It used up its CPU time limit (ulimit -t).",
}
_BY_EXIT = (
    "Likely os._exit() or an extension module that ends the process; look at the worker's standard error."
)
_UNKNOWN = "Look at the worker's standard error and at dmesg."


def _signal_of(exitcode: int | None) -> int | None:
    return -exitcode if exitcode is not None and exitcode < 0 else None


def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _describe(
    pid: int | None, exitcode: int | None, number: int | None, reason: str | None, task: object
) -> str:
    who = "a worker process" if pid is None else f"worker process {pid}"
    if number is not None:
        name = _signal_name(number)
        fact, cause = f"{who} was killed by {name}", _BY_SIGNAL.get(name, _UNKNOWN)
    elif exitcode is not None:
        fact, cause = f"{who} ended with exit code {exitcode}", _BY_EXIT
    else:
        fact, cause = f"{who} is gone", _UNKNOWN
    if task is not None:
        fact += f" while it ran {task if isinstance(task, str) else repr(task)}"
    return f"{fact}. {reason if reason is not None else cause}"


class WorkerLostError(BrokenProcessPool):
    """A worker process died; only what it was doing is lost, the pool goes on.

    ``pid`` and ``exitcode`` (negative: the signal that killed it) are the process's, ``signal`` is that
    signal's number, ``reason`` says why where it is known (such as a memory limit), ``task`` names what it was
    running.
    """

    __module__ = PUBLIC_MODULE

    def __init__(
        self,
        message: str | None = None,
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
        reason: str | None = None,
        task: object = None,
    ) -> None:
        self.pid = pid
        self.exitcode = exitcode
        self.signal: int | None = signal if signal is not None else _signal_of(exitcode)
        self.reason = reason
        self.task = task
        super().__init__(
            message if message is not None else _describe(pid, exitcode, self.signal, reason, task)
        )


if sys.version_info >= (3, 11):

    class _AnyTimeout(TimeoutError, multiprocessing.TimeoutError):
        pass

else:

    class _AnyTimeout(concurrent.futures.TimeoutError, TimeoutError, multiprocessing.TimeoutError):
        pass


class TaskTimeoutError(_AnyTimeout):
    """A task took longer than it was allowed to; whichever TimeoutError is caught, this is one."""

    __module__ = PUBLIC_MODULE
