"""What a worker process of a pool does: takes tasks from the channel, runs them, publishes each item's outcome."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from freethreading import _serialize
from freethreading._core import Channel, WorkerRecord
from freethreading._engine import CALL, Outcome, call_item
from freethreading._exceptions import ShutDown
from freethreading._frames import ERROR, READY, START_FAILED, UNSENT, VALUE, unpack
from freethreading._loaded import loaded
from freethreading._worker_process import current_record, leave, take_interrupts

# What is published of an item: the kind of message, its payload, the shared objects that it refers to.
Answer = tuple[int, bytes, list[object]]

_pid = 0  # this worker's
_interruptible = False  # whether the user's code runs


def serve(
    number: int,
    tasks_handle: bytes,
    results_handle: bytes,
    setup: bytes | tuple[Any, tuple[Any, ...]] | None,
    max_tasks: int | None,
) -> None:
    """The worker's main function: `setup` is (initializer, initargs), or its pickle."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    take_interrupts()
    tasks = Channel.open(tasks_handle)
    results = Channel.open(results_handle)
    record = current_record()
    global _pid
    _pid = os.getpid()
    if setup is not None:
        kind, payload, _ = _answer(_initialise, setup)
        if kind == ERROR:
            results.put(START_FAILED, number, 0, payload)
            return
    del setup
    results.put(READY, number, 0, b"")
    while max_tasks is None or max_tasks > 0:
        try:
            message = tasks.get(None, record)
        except ShutDown:
            return
        if message is None:
            continue
        kind, tag, _, payload, _ = message
        del message
        # Item k runs while record.item is k + 1; 0: none runs. Whoever finds this worker dead reads it.
        record.item = 1
        if kind == CALL:
            answer = _answer(_call, payload)
            results.put(answer[0], tag, 0, *answer[1:])
            del answer
        else:
            _run_batch(results, record, kind, tag, payload)
        del payload
        broadcasts = loaded("freethreading._broadcast")
        if broadcasts is not None:
            broadcasts.purge()
        record.item = 0
        if max_tasks is not None:
            max_tasks -= 1


def _interrupt(*_: object) -> None:
    # An interrupt from the terminal goes to the program and to all of its workers. It ends the call that runs; of an idle
    # worker it is the program's business what becomes.
    if _interruptible:
        raise KeyboardInterrupt


def _user(function: Callable[..., Any], *args: Any) -> Any:
    # function(*args), which runs the user's code: an interrupt is an exception in it.
    global _interruptible
    try:
        try:
            _interruptible = True
            return function(*args)
        finally:
            _interruptible = False
    except KeyboardInterrupt:  # perhaps one that came before the line above
        _interruptible = False
        raise


def _answer(function: Callable[..., Outcome], *args: Any) -> Answer:
    try:
        answer: Answer = _user(_pack, function, *args)
    except KeyboardInterrupt as error:  # behind the call
        answer = ERROR, _serialize.dump_exception(error), []
    if os.getpid() != _pid:
        leave(0)  # a child that the call forked, and that came back from it: the worker is its parent
    return answer


def _pack(function: Callable[..., Outcome], *args: Any) -> Answer:
    done, value = function(*args)
    if done:
        try:
            packed = _serialize.dumps(value, where="result")
        except BaseException as error:
            value = error
        else:
            return VALUE, packed.data, packed.shared
    return ERROR, _serialize.dump_exception(value), []


def _initialise(setup: bytes | tuple[Any, tuple[Any, ...]]) -> Outcome:
    try:
        initializer, initargs = _serialize.loads(setup) if isinstance(setup, bytes) else setup
    except BaseException as error:
        return False, error
    done, value = call_item(CALL, initializer, (initargs, {}))
    return done, None if done else value


def _call(payload: bytes) -> Outcome:
    try:
        function, args, kwargs = _serialize.loads(payload)
    except BaseException as error:
        return False, error
    return call_item(CALL, function, (args, kwargs))


def _item(kind: int, function: Any, failure: BaseException | None, frame: memoryview) -> Outcome:
    if failure is not None:
        return False, failure
    try:
        item = _serialize.loads(frame)
    except BaseException as error:
        return False, error
    return call_item(kind, function, item)


def _run_batch(results: Channel, record: WorkerRecord, kind: int, tag: int, payload: bytes) -> None:
    frames = unpack(payload)
    function: Any = None
    failure: BaseException | None = None
    try:
        function = _user(_serialize.loads, frames[0])
    except BaseException as error:
        failure = error
    for index, frame in enumerate(frames[1:]):
        record.item = index + 1
        if frame:
            answer = _answer(_item, kind, function, failure, frame)
            results.put(answer[0], tag, index, *answer[1:])
            del answer
        else:
            results.put(UNSENT, tag, index, b"")
