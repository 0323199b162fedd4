"""The zygote: a process with one thread and a frozen heap that forks spares, one order after another.

A spare is a worker that waits for what it has to do (_worker_process.py).

The supervisor starts it with `main(preparation)` and the descriptors below. The modules that the program has named
(set_preload()), and its main module where it can be imported, are imported in forks that take the zygote's place, if they
are fit to be forked afterwards: one thread, no signal handler and no socket of its own. Otherwise every worker imports
them for itself.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from multiprocessing import process as _process
from pathlib import Path
from typing import Any, NoReturn

from freethreading import _core, _main_module, _native_threads
from freethreading._worker_process import COMM, park, rename

# As in core/src/pool/supervisor_protocol.hpp.
ORDERS = 3
REGION = 4
PREPARATION = 5
DEATH_PIPE = 6
_ORDER = struct.Struct("<Q")
_ANSWER = struct.Struct("<ii")

NAME = b"ft-zygote"
_TAKES_OVER = b"!"
# How long the import of modules that the program has named may take.
PRELOAD_SECONDS = 10.0
# Import beforehand what every worker needs.
WARM = (
    "freethreading._by_value",
    "freethreading._culprit",
    "freethreading._executor",
    "freethreading._main_definitions",
    "freethreading._pool_worker",
    "freethreading._process_worker",
    "freethreading._session",
    "traceback",
)


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
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, ORDERS)
    plan = preparation["main"]
    _preload(preparation["preload"])
    imported = plan["kind"] != "value" and _in_fork(lambda: _main_module.install(plan), None)
    gc.collect()
    gc.freeze()
    _core.expect_workers()
    try:
        while orders.recv(_ORDER.size):
            _fork_spare(orders, plan if imported else None, interrupt, own_name)
    except ConnectionError:
        pass
    os._exit(0)  # the supervisor has gone, or has another zygote


def _fork_spare(
    orders: socket.socket, imported: _main_module.Plan | None, interrupt: Any, name: bytes
) -> None:
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as failure:
        orders.send(_ANSWER.pack(0, failure.errno or errno.EMFILE))
        return
    with ours, theirs:
        try:
            pid = _core.fork_worker()
        except OSError as failure:
            orders.send(_ANSWER.pack(0, failure.errno or errno.EAGAIN))
            return
        if pid == 0:
            orders.detach()
            ours.close()
            park(theirs, imported, interrupt, name)
        # The other end is the spare's alone from here on: the end of one is known to the other.
        theirs.close()
        socket.send_fds(orders, [_ANSWER.pack(pid, 0)], [ours.fileno()])


def _name() -> bytes:
    try:
        return Path(COMM).read_bytes().rstrip(b"\n")
    except OSError:
        return b""


def _preload(names: tuple[str, ...]) -> None:
    def load(names: tuple[str, ...]) -> bool:
        return _in_fork(lambda: [importlib.import_module(name) for name in names], PRELOAD_SECONDS)

    if names and not load(names):
        for name in names if len(names) > 1 else ():
            load((name,))  # those that are fit, without the others


def _in_fork(load: Callable[[], object], seconds: float | None) -> bool:
    # Calls load() in a fork that takes over if that leaves it fit to be forked: returns True there, False in this process
    # where it does not, or takes longer than so many seconds.
    ready, tell = os.pipe()
    successor = os.fork()
    if successor == 0:
        os.close(ready)
        if not _core.die_with_supervisor(DEATH_PIPE) or not _loads(load):
            os._exit(1)
        os.write(tell, _TAKES_OVER)
        os.close(tell)
        return True
    os.close(tell)
    in_time = bool(select.select([ready], [], [], seconds)[0])
    took_over = in_time and os.read(ready, 1) == _TAKES_OVER
    os.close(ready)
    if not in_time:
        os.kill(successor, signal.SIGKILL)
    _, status = os.waitpid(successor, 0)
    if took_over:
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    return False


def _loads(load: Callable[[], object]) -> bool:
    # Whether it went well and this process can still be forked. Each worker tells of an error itself.
    handlers, sockets = _handlers(), _sockets()
    current: Any = _process.current_process()
    current._inheriting = True  # starting a worker at the top level of a module is an error
    try:
        with _native_threads.single():
            load()
    except BaseException:
        return False
    finally:
        del current._inheriting
    one_thread = threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1
    return one_thread and _handlers() == handlers and _sockets() <= sockets


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _sockets() -> set[str]:
    found: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


if __name__ == "__main__":
    sys.exit("this is a part of freethreading, which starts it by itself")
