"""The zygote: a process with one thread and a frozen heap that forks workers, one order after another.

The supervisor starts it with `main(preparation)` and the descriptors below. The main module of the program, where it
can be imported, is imported in a fork that takes the zygote's place, if it is fit to be forked afterwards: one thread,
no signal handler and no socket of its own. Otherwise every worker imports the main module for itself.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import struct
import sys
import threading
from multiprocessing import process as _process
from pathlib import Path
from typing import Any, NoReturn

from freethreading import _core, _main_module
from freethreading._worker_process import hold_interrupts, work

# As in core/src/pool/supervisor_protocol.hpp.
ORDERS = 3
REGION = 4
PREPARATION = 5
DEATH_PIPE = 6
_ORDER = struct.Struct("<Q40s")
_ANSWER = struct.Struct("<Qii")
_MAX_DESCRIPTORS = 253

_TAKES_OVER = b"!"
# Import beforehand what every worker needs.
WARM = ("freethreading._by_value", "freethreading._executor", "freethreading._pool_worker", "traceback")


def main(preparation: dict[str, Any]) -> NoReturn:
    """Serves the supervisor's orders until it goes."""
    for descriptor in (ORDERS, REGION, PREPARATION, DEATH_PIPE):
        os.set_inheritable(descriptor, False)
    if not _core.die_with_supervisor(DEATH_PIPE):
        os._exit(1)
    # An interrupt from the terminal goes to everybody; what becomes of the workers is the program's business.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in WARM:
        __import__(name)
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, ORDERS)
    plan = preparation["main"]
    imported = plan["kind"] != "value" and _import_in_fork(plan)
    gc.collect()
    gc.freeze()
    while True:
        data, descriptors, _, _ = socket.recv_fds(
            orders, _ORDER.size, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if len(data) < _ORDER.size:
            os._exit(0)  # the supervisor has gone, or has another zygote
        ticket, token = _ORDER.unpack(data)
        pid, error = 0, 0
        try:
            pid = _core.fork_worker()
        except OSError as failure:
            error = failure.errno or errno.EAGAIN
        else:
            if pid == 0:
                orders.detach()
                hold_interrupts(interrupt)
                work(token, descriptors, plan if imported else None)
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(_ANSWER.pack(ticket, pid, error))


def _import_in_fork(plan: _main_module.Plan) -> bool:
    # Returns True in the fork that takes over, False in this process where none does.
    ready, tell = os.pipe()
    successor = os.fork()
    if successor == 0:
        os.close(ready)
        if not _core.die_with_supervisor(DEATH_PIPE) or not _import_main(plan):
            os._exit(1)
        os.write(tell, _TAKES_OVER)
        os.close(tell)
        return True
    os.close(tell)
    took_over = os.read(ready, 1) == _TAKES_OVER
    os.close(ready)
    _, status = os.waitpid(successor, 0)
    if took_over:
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    return False


def _import_main(plan: _main_module.Plan) -> bool:
    # Whether the main module was imported and this process can still be forked. Each worker tells of an error itself.
    handlers, sockets = _handlers(), _sockets()
    current: Any = _process.current_process()
    current._inheriting = True  # starting a worker at the top level of the module is an error
    try:
        _main_module.install(plan)
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
