"""A worker process from its fork to its end.

A spare first: it does what does not depend on its order, and waits for that. Then it becomes what the preparation says,
unpickles its call, and runs it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import socket
import struct
import sys
from array import array
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn

from freethreading import _core, _generators, _main_module, _native_threads, _serialize, _surroundings
from freethreading._core import WorkerRecord
from freethreading._frames import unpack

if TYPE_CHECKING:
    from freethreading._launch import Preparation

# As in core/src/pool/supervisor_protocol.hpp: what a worker still has of its zygote's.
_ORDERS, _REGION, _PREPARATION, _DEATH_PIPE = 3, 4, 5, 6
_ORDER = struct.Struct("<40s")
_MAX_DESCRIPTORS = 253

# What ps shows of it beside its command line.
COMM = "/proc/self/comm"
SPARE = b"ft-spare"

_record: WorkerRecord | None = None
_mask: set[signal.Signals | int] = set()  # the signals that were blocked before hold_interrupts()


def current_record() -> WorkerRecord:
    """This worker's record."""
    assert _record is not None, "this process is no worker"
    return _record


def is_worker() -> bool:
    """Whether this process is a worker; the zygote, which has this module too, is none."""
    return _record is not None


def hold_interrupts(handler: Any) -> None:
    """An interrupt (SIGINT) that comes while a worker is being made waits for take_interrupts(): it is the call's."""
    global _mask
    _mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    signal.signal(signal.SIGINT, handler)


def take_interrupts() -> None:
    """Before the user's code runs: interrupts reach it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask)


def rename(name: bytes) -> None:
    """Gives this process the name that ps shows."""
    try:
        file = os.open(COMM, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # no /proc: nobody will miss it
    try:
        os.write(file, name)
    finally:
        os.close(file)


def park(orders: socket.socket, imported: _main_module.Plan | None, interrupt: Any, name: bytes) -> NoReturn:
    """The whole life of a spare and of the worker that becomes of it, in the child that the zygote forked.

    `imported`: the main module that is there; `interrupt`: the handler of a worker's interrupts; `name`: a worker's, for ps.
    """
    code = 1
    is_worker = False
    try:
        if _core.die_with_supervisor(_DEATH_PIPE):
            rename(SPARE)
            for descriptor in (_ORDERS, _PREPARATION, _DEATH_PIPE):
                os.close(descriptor)
            _core.session_attach(_REGION)
            _surroundings.expect()
            order, descriptors = _receive(orders)
            if not order:
                # Nobody needs it; or the supervisor has gone, or the zygote that did not tell of it.
                _core.leave_sessions()
                os._exit(0)
            is_worker = True
            hold_interrupts(interrupt)
            orders.close()
            rename(name)
            token: bytes = _ORDER.unpack(order)[0]
            code = _live(token, descriptors, imported)
    except BaseException:
        _report()
    finally:
        try:
            if is_worker:
                # multiprocessing's own is among them: it joins children, and the threads that feed its queues.
                atexit._run_exitfuncs()
        except BaseException:
            _report()
        finally:
            leave(code, _core.end_worker)


def _receive(orders: socket.socket) -> tuple[bytes, list[int]]:
    # Not recv_fds(), which forgets the flags.
    room = socket.CMSG_LEN(_MAX_DESCRIPTORS * array("i").itemsize)
    order, ancillary, _, _ = orders.recvmsg(_ORDER.size, room, socket.MSG_CMSG_CLOEXEC)
    return order, [number for _, _, data in ancillary for number in array("i", data)]


def _live(token: bytes, descriptors: list[int], imported: _main_module.Plan | None) -> int:
    global _record
    record = WorkerRecord.open(token)
    if not record.begin(os.getpid()):
        return 0  # nobody waits for this worker any more
    _record = record
    payload = record.take_payload()
    first, second = unpack(payload)
    preparation: Preparation = pickle.loads(first)
    _take_descriptors(preparation["descriptors"], descriptors)
    from freethreading._contexts import Home
    from freethreading._process_worker import rebuild

    _become(preparation)
    _take_main(preparation["main"], imported)
    _native_threads.settle(preparation["here"]["environ"])
    facade, target, args, kwargs, context = _serialize.loads(second)
    body = rebuild(preparation["process"], facade, Home(Context()).received(context))
    body.facade._target, body.facade._args, body.facade._kwargs = target, args, kwargs
    del facade, target, args, kwargs, payload, first, second
    process: Any = body
    return int(process._bootstrap(os.pidfd_open(preparation["process"]["_parent_pid"])))


def _take_descriptors(names: list[str], descriptors: list[int]) -> None:
    from freethreading import _launch

    for number, name in enumerate(names):
        if name == "tracker":
            from multiprocessing import resource_tracker

            tracker: Any = resource_tracker._resource_tracker
            tracker._fd = descriptors[number]
        else:
            os.dup2(descriptors[number], {"stdout": 1, "stderr": 2}[name])
            os.close(descriptors[number])
    _launch.inherited[:] = descriptors[len(names) :]


def _become(preparation: Preparation) -> None:
    _surroundings.take(preparation["here"])
    import multiprocessing.context as context
    from multiprocessing import process, util

    description = preparation["process"]
    current: Any = process.current_process()
    current.authkey = description["_config"]["authkey"]
    current.name = description["_name"]
    if preparation["log_level"] is not None:
        util.log_to_stderr(preparation["log_level"])
    if preparation["start_method"] is not None:
        context._default_context.set_start_method(preparation["start_method"], force=True)
    _generators.renew()


def _take_main(plan: _main_module.Plan, imported: _main_module.Plan | None) -> None:
    from multiprocessing import process

    if imported is not None and {k: v for k, v in plan.items() if k != "log"} == imported:
        _main_module.subscribe(plan)
        return
    current: Any = process.current_process()
    current._inheriting = True  # starting a worker at the top level of the module is an error
    try:
        _main_module.install(plan)
    finally:
        del current._inheriting


def _report() -> None:
    import traceback
    from multiprocessing import process

    print(f"Process {process.current_process().name}:", file=sys.stderr)
    traceback.print_exc()


def leave(code: int, end: Callable[[int], NoReturn] = os._exit) -> NoReturn:
    """Ends this process, cleanly to those who share a session with it."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        pass  # nobody reads what it says any more
    finally:
        _core.leave_sessions()
        _core.note_written_pages()
        end(code & 0xFF)
