"""The zygote: a process with one thread and a frozen heap that forks spares, one order after another.

A spare is a worker that waits for what it has to do (_worker_process.py).

The supervisor starts it with `main(preparation)` and the descriptors below. What workers are to have from their beginning
is imported in a fork of the zygote that takes its place, if it is fit to be forked afterwards: docs/design/imports.md.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from math import inf
from multiprocessing import process as _process
from typing import Any, NamedTuple, NoReturn

from freethreading import _core, _generators, _main_module, _native_threads, _surroundings
from freethreading._worker_process import COMM, park, rename

# As in core/src/pool/supervisor_protocol.hpp.
ORDERS = 3
REGION = 4
PREPARATION = 5
DEATH_PIPE = 6
_ORDER = struct.Struct("<Q")
_IMPORT = 1
_ANSWER = struct.Struct("<iii")
_SPARE, _SUCCESSOR, _IMPORTED = range(3)

NAME = b"ft-zygote"
_READY = _GO = b"!"
# How long the imports of an order may take together: workers wait for them, and can import for themselves.
IMPORT_SECONDS = 10.0
# Import beforehand what every worker needs, and, when there is nothing to do, what many may need.
WARM = (
    "freethreading._pool_worker",
    "freethreading._process_worker",
    "freethreading._session",
)
MORE = (
    "freethreading._by_value",
    "freethreading._culprit",
    "freethreading._executor",
    "freethreading._main_definitions",
    "traceback",
)
# How long no order comes until there is nothing to do.
IDLE_SECONDS = 0.1


def main(preparation: dict[str, Any]) -> NoReturn:
    """Serves the supervisor's orders until it goes."""
    for descriptor in (ORDERS, REGION, PREPARATION, DEATH_PIPE):
        os.set_inheritable(descriptor, False)
    if not _core.die_with_supervisor(DEATH_PIPE):
        os._exit(1)
    # An interrupt from the terminal goes to everybody; what becomes of the workers is the program's business.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    own_name = _name()
    rename(NAME)
    for name in WARM:
        __import__(name)
    _main_module.expect(preparation["main"])
    zygote = _Zygote(interrupt, own_name)
    if preparation["main"]["kind"] == "value":  # what it defines is needed at once
        zygote.import_more()
    zygote.begin(preparation["preload"], preparation["main"])
    try:
        while zygote.turn():
            pass
    except ConnectionError:
        pass
    os._exit(0)  # the supervisor has gone, or has another zygote


class _Attempt(NamedTuple):
    """Modules to be imported in one fork; or the main module."""

    names: tuple[str, ...]
    main: _main_module.Plan | None = None

    def load(self) -> None:
        if self.main is not None:
            _main_module.install(self.main)
        for name in self.names:
            importlib.import_module(name)

    @property
    def is_needed(self) -> bool:
        return self.main is not None or not all(name in sys.modules for name in self.names)


class _Successor(NamedTuple):
    """A fork that imports, and takes over if it is fit to."""

    pid: int
    ready: int  # it says so here
    go: int  # and waits here
    process: int  # its pidfd: what it has forked itself may hold the other ends of these
    deadline: float  # when it is given up


class _Zygote:
    """What a zygote knows. A fork of it that takes its place goes on with the copy that it has."""

    def __init__(self, interrupt: Any, name: bytes) -> None:
        self._orders = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, ORDERS)
        self._interrupt = interrupt
        self._name = name
        self._imported: _main_module.Plan | None = None  # the main module that is there
        self._attempts: deque[_Attempt] = deque()
        self._deadline = 0.0  # when those that are left are given up
        self._here: _surroundings.Surroundings | None = None  # the program's, for these
        self._successor: _Successor | None = None
        self._ordered = False  # whether the supervisor waits for the end of these imports
        self._has_more = False

    def begin(self, preload: tuple[str, ...], plan: _main_module.Plan) -> None:
        """Before any order: what the program has named, and its main module."""
        first = os.getpid()
        self._plan(preload)
        if plan["kind"] != "value":
            self._attempts.append(_Attempt((), plan))
        self._attempt()
        while self._successor is not None:
            self._await_successor()
        if os.getpid() == first:  # a successor has done so before it took over
            self._settle()

    def import_more(self) -> None:
        """What many workers need, but not the first ones of a program."""
        for name in MORE:
            __import__(name)
        self._has_more = True

    def turn(self) -> bool:
        """Serves an order, or what has become of an import. False: there will be no more."""
        successor = self._successor
        if (
            successor is None
            and not self._has_more
            and not _await_any([self._orders], time.monotonic() + IDLE_SECONDS)
        ):
            self.import_more()
            self._settle()
            # Its own successor: the spares that it forked before have less.
            self._orders.send(_ANSWER.pack(_SUCCESSOR, os.getpid(), 0))
        if successor is not None:
            readable = _await_any([self._orders, successor.ready, successor.process], successor.deadline)
            if self._orders not in readable:
                self._await_successor()
                return True
        order, descriptors, _, _ = socket.recv_fds(self._orders, _ORDER.size, 1)
        if not order:
            return False
        if _ORDER.unpack(order)[0] == _IMPORT:
            with open(descriptors[0], "rb") as file:
                names, self._here = pickle.load(file)
            self._ordered = True
            self._plan(names)
            self._attempt()
        else:
            self._fork_spare()
        return True

    def _fork_spare(self) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as failure:
            self._orders.send(_ANSWER.pack(_SPARE, 0, failure.errno or errno.EMFILE))
            return
        with ours, theirs:
            try:
                pid = _core.fork_worker()
            except OSError as failure:
                self._orders.send(_ANSWER.pack(_SPARE, 0, failure.errno or errno.EAGAIN))
                return
            if pid == 0:
                self._orders.detach()
                ours.close()
                if self._successor is not None:
                    for descriptor in self._successor[1:4]:
                        os.close(int(descriptor))
                park(theirs, self._imported, self._interrupt, self._name)
            # The other end is the spare's alone from here on: the end of one is known to the other.
            theirs.close()
            socket.send_fds(self._orders, [_ANSWER.pack(_SPARE, pid, 0)], [ours.fileno()])

    def _plan(self, names: tuple[str, ...]) -> None:
        # All at once; those that are fit without the others, if need be.
        self._deadline = time.monotonic() + IMPORT_SECONDS
        self._attempts.append(_Attempt(names))
        if len(names) > 1:
            self._attempts.extend(_Attempt((name,)) for name in names)

    def _attempt(self) -> None:
        # Begins the next import, in a fork; this process may be that fork when it returns.
        while self._attempts:
            attempt = self._attempts.popleft()
            if attempt.main is not None:  # has no limit: no worker can do without it
                self._fork_successor(attempt, inf)
                return
            if attempt.is_needed and time.monotonic() < self._deadline:
                self._fork_successor(attempt, self._deadline)
                return
        if self._ordered:
            self._ordered = False
            self._orders.send(_ANSWER.pack(_IMPORTED, 0, 0))

    def _fork_successor(self, attempt: _Attempt, deadline: float) -> None:
        ready, tell = os.pipe()
        wait, go = os.pipe()
        pid = os.fork()
        if pid != 0:
            os.close(tell)
            os.close(wait)
            self._successor = _Successor(pid, ready, go, os.pidfd_open(pid), deadline)
            return
        os.close(ready)
        os.close(go)
        if not _core.die_with_supervisor(DEATH_PIPE) or not _loads(attempt, deadline, self._here):
            os._exit(1)
        if attempt.main is not None:
            self._imported = attempt.main
        self._settle()
        try:
            os.write(tell, _READY)
        except BrokenPipeError:
            os._exit(1)  # the zygote has gone, and there is another one
        if os.read(wait, 1) != _GO:
            os._exit(1)
        os.close(tell)
        os.close(wait)
        self._attempt()

    def _await_successor(self) -> None:
        # It is ready, has ended, or its time is over.
        successor = self._successor
        assert successor is not None
        known = _await_any([successor.ready, successor.process], successor.deadline)
        in_time = bool(known)
        if successor.process not in known and in_time and os.read(successor.ready, 1) == _READY:
            # From here on no order is read here.
            self._orders.send(_ANSWER.pack(_SUCCESSOR, successor.pid, 0))
            os.write(successor.go, _GO)
            os._exit(0)
        if not in_time:
            os.kill(successor.pid, signal.SIGKILL)
        for descriptor in (successor.ready, successor.go, successor.process):
            os.close(descriptor)
        os.waitpid(successor.pid, 0)
        self._successor = None
        self._attempt()

    @staticmethod
    def _settle() -> None:
        gc.collect()
        _core.keep_definitions(gc.get_objects())
        gc.freeze()
        _core.fill_memory()
        _core.expect_workers()


def _name() -> bytes:
    try:
        with open(COMM, "rb") as file:
            return file.read().rstrip(b"\n")
    except OSError:
        return b""


def _await_any(readers: list[Any], deadline: float) -> list[Any]:
    # Those that can be read; none when it is over.
    left = None if deadline == inf else max(0.0, deadline - time.monotonic())
    return select.select(readers, [], [], left)[0]


def _loads(attempt: _Attempt, deadline: float, here: _surroundings.Surroundings | None) -> bool:
    # Whether it went well and this process can still be forked. Each worker tells of an error itself.
    before, sockets = _state(), _sockets()
    current: Any = _process.current_process()
    current._inheriting = True  # starting a worker at the top level of a module is an error
    if deadline != inf:  # in case that the zygote has gone
        signal.setitimer(signal.ITIMER_REAL, max(0.0, deadline - time.monotonic()) + 1)
    try:
        if here is not None:
            _surroundings.take(here)
        with _native_threads.single(), _generators.watched():
            attempt.load()
    except BaseException:
        return False
    finally:
        del current._inheriting
    signal.setitimer(signal.ITIMER_REAL, 0)
    one_thread = threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1
    return one_thread and _state() == before and _sockets() <= sockets


def _state() -> tuple[object, ...]:
    # What of the process each worker would have after an import, also one that needs no such module.
    umask = os.umask(0)
    os.umask(umask)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return handlers, blocked, umask, sys.getrecursionlimit(), gc.isenabled(), os.nice(0)


def _sockets() -> set[str]:
    found: set[str] = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


if __name__ == "__main__":
    sys.exit("this is a part of freethreading, which starts it by itself")
