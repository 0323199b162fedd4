"""What a worker process of a pool does: takes tasks from the channel, runs them, publishes each item's outcome."""

from __future__ import annotations

from typing import Any

from freethreading import _serialize
from freethreading._core import Channel, WorkerRecord
from freethreading._engine import CALL, Outcome, call_item
from freethreading._exceptions import ShutDown
from freethreading._frames import ERROR, READY, START_FAILED, UNSENT, VALUE, unpack
from freethreading._worker_process import current_record


def serve(
    number: int,
    tasks_handle: bytes,
    results_handle: bytes,
    setup: bytes | tuple[Any, tuple[Any, ...]] | None,
    max_tasks: int | None,
) -> None:
    """The worker's main function: `setup` is (initializer, initargs), or its pickle."""
    tasks = Channel.open(tasks_handle)
    results = Channel.open(results_handle)
    record = current_record()
    if setup is not None:
        done, error = call_item(CALL, _initialise, ((setup,), {}))
        if not done:
            results.put(START_FAILED, number, 0, _serialize.dump_exception(error))
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
            _publish(results, tag, 0, _run_call(payload))
        else:
            _run_batch(results, record, kind, tag, payload)
        del payload
        record.item = 0
        if max_tasks is not None:
            max_tasks -= 1


def _initialise(setup: bytes | tuple[Any, tuple[Any, ...]]) -> None:
    initializer, initargs = _serialize.loads(setup) if isinstance(setup, bytes) else setup
    initializer(*initargs)


def _run_call(payload: bytes) -> Outcome:
    try:
        function, args, kwargs = _serialize.loads(payload)
    except BaseException as error:
        return False, error
    return call_item(CALL, function, (args, kwargs))


def _run_batch(results: Channel, record: WorkerRecord, kind: int, tag: int, payload: bytes) -> None:
    frames = unpack(payload)
    function: Any = None
    failure: BaseException | None = None
    try:
        function = _serialize.loads(frames[0])
    except BaseException as error:
        failure = error
    for index, frame in enumerate(frames[1:]):
        record.item = index + 1
        if not frame:
            results.put(UNSENT, tag, index, b"")
        elif failure is not None:
            _publish(results, tag, index, (False, failure))
        else:
            _publish(results, tag, index, _run_item(kind, function, frame))


def _run_item(kind: int, function: Any, frame: memoryview) -> Outcome:
    try:
        item = _serialize.loads(frame)
    except BaseException as error:
        return False, error
    return call_item(kind, function, item)


def _publish(results: Channel, tag: int, index: int, outcome: Outcome) -> None:
    done, value = outcome
    if done:
        try:
            packed = _serialize.dumps(value, where="result")
        except BaseException as error:
            value = error
        else:
            results.put(VALUE, tag, index, packed.data, packed.handles)
            return
    results.put(ERROR, tag, index, _serialize.dump_exception(value))
