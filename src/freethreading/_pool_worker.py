"""What a worker process of a pool does: takes tasks from the channel, runs them, publishes each item's outcome."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any

from freethreading import _serialize
from freethreading._contexts import Home
from freethreading._core import (
    BlobLog,
    Channel,
    WorkerRecord,
    WorkerTerms,
    open_handle,
    run_job,
    runs_user_code,
    serve_calls,
)
from freethreading._exceptions import ShutDown
from freethreading._frames import ERROR, JOB, READY, START_FAILED, UNSENT, VALUE, pack, unpack, unpack_number
from freethreading._items import CALL, Outcome, call_item
from freethreading._loaded import loaded, look_up
from freethreading._worker_process import current_record, leave, take_interrupts

# More native calls than a worker ever serves.
_MANY = 1 << 62

# What comes of a message, and what is published of an item: the kind of message, its payload, the shared objects that it
# refers to, and the buffers beside it.
Payload = bytes | tuple[memoryview, list[memoryview]]
Answer = tuple[int, bytes, list[object], list[memoryview]]

_pid = 0  # this worker's
_home = Home(Context())  # this worker's
_interruptible = False  # whether the user's code runs
# A function that calls come for by number, the namespace that has it, and its name there.
Entry = tuple[Callable[..., Any], dict[str, Any], str]


class _Functions:
    """The functions in the engine's log."""

    def __init__(self, log: BlobLog) -> None:
        self._log = log
        self.entries: dict[int, Entry] = {}  # those that were found; serve_calls() reads it
        self._pickles: dict[int, bytes] = {}
        self._read = 0  # so far in the log

    def get(self, number: int) -> Callable[..., Any]:
        """The function; what its name means now."""
        entry = look_up(self.entries, number)
        if entry is None or look_up(entry[1], entry[2]) is not entry[0]:
            entry = self.find(number)
        function: Callable[..., Any] = entry[0]
        return function

    def find(self, number: int) -> Entry:
        """Raises what importing its module raises."""
        for entry, data in self._log.read_after(self._read):
            self._pickles[entry] = data
            self._read = entry
        function = _user(_serialize.loads, self._pickles[number])
        namespace = sys.modules[function.__module__].__dict__
        found = self.entries[number] = function, namespace, function.__qualname__
        return found


def serve(
    number: int,
    tasks_handle: bytes,
    results_handle: bytes,
    functions_handle: bytes,
    surplus_handle: bytes,
    made_in: bytes,
    setup: bytes | tuple[Any, tuple[Any, ...]] | None,
    max_tasks: int | None,
    idle_timeout: float | None,
    max_memory: int | None,
) -> None:
    """The worker's main function.

    `surplus_handle` is that of an AtomicInt64, how many workers are to leave; `made_in` is the context of the pool's
    maker, as the difference to an empty one; `setup` is (initializer, initargs), or its pickle.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    take_interrupts()
    tasks = Channel.open(tasks_handle)
    results = Channel.open(results_handle)
    functions = _Functions(BlobLog.open(functions_handle))
    record = current_record()
    terms = WorkerTerms(record, open_handle(surplus_handle), idle_timeout, max_memory)
    global _pid, _home
    _pid = os.getpid()
    _home = Home(Home(Context()).received(made_in))
    if setup is not None:
        kind, payload, *_ = _answer(_initialise, setup)
        if kind == ERROR:
            results.put(START_FAILED, number, 0, payload)
            return
    del setup
    record.set_ready()
    results.put(READY, number, 0, b"")
    while max_tasks is None or max_tasks > 0:
        try:
            served, message = serve_calls(
                tasks,
                results,
                terms,
                functions.entries,
                functions.find,
                _home.made_in,
                _home.preparation(_home.made_in),
                _answer_of,
                _MANY if max_tasks is None else max_tasks,
            )
        except ShutDown:
            return
        if os.getpid() != _pid:
            leave(0)  # a child that a call forked, and that came back from it: the worker is its parent
        if max_tasks is not None:
            max_tasks -= served
        if message is None:
            if record.leaving:
                return
            _purge()
            continue
        kind, tag, index, payload, block = message
        del message
        # Item k runs while record.item is k + 1; 0: none runs. Whoever finds this worker dead reads it.
        record.item = 1
        if kind == CALL:
            answer = _answer(_call, payload)
            results.put(answer[0], tag, 0, *answer[1:])
            del answer
        elif kind == JOB:
            frames = unpack(payload)
            jobs = [(tag, open_handle(bytes(frames[0])))]
            jobs += [(job, open_handle(bytes(handle))) for job, handle in map(unpack_number, frames[2:])]
            function = _function_of_job(functions, index, frames[1])
            del block  # it has kept alive the buffers, and what the function refers to
            context, preparation = _home.made_in, _home.preparation(_home.made_in)
            left: bool | None = True
            while jobs and left:
                job, buffer = jobs[-1]
                left = run_job(
                    results, buffer, job, number, function, context, preparation, _answer_of, terms, tasks
                )
                del buffer
                if left:
                    del jobs[-1], frames[-1]
            if left is None:
                # Behind those that wait, for another worker where this one leaves. Where the channel is closed the pool
                # ends, and the program has failed the job.
                with contextlib.suppress(ShutDown):
                    tasks.put(JOB, tag, index, pack(frames), [buffer for _, buffer in jobs])
            elif not left:
                leave(0)  # a child that an item forked, and that came back from it
            del frames, jobs, function
            if record.leaving:
                return
        else:
            _run_batch(results, record, kind, tag, payload)
        del payload
        block = None
        _purge()
        record.item = 0
        if kind != JOB:
            terms.has_worked = True
        if max_tasks is not None:
            max_tasks -= 1


def _function_of_job(functions: _Functions, number: int, pickled: memoryview) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = functions.get(number) if number else _user(_serialize.loads, pickled)
    except BaseException as error:
        function = _raising(error)
    return function


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def _purge() -> None:
    # Broadcasts that the program has dropped.
    broadcasts = loaded("freethreading._broadcast")
    if broadcasts is not None:
        broadcasts.purge()


def _interrupt(*_: object) -> None:
    # An interrupt from the terminal goes to the program and to all of its workers. It ends the call that runs; of an idle
    # worker it is the program's business what becomes.
    if _interruptible or runs_user_code():
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
        answer = ERROR, _serialize.dump_exception(error), [], []
    if os.getpid() != _pid:
        leave(0)  # a child that the call forked, and that came back from it: the worker is its parent
    return answer


def _answer_of(done: bool, value: Any) -> Answer:
    # For an outcome that the codec does not take.
    try:
        answer: Answer = _user(_pack_outcome, done, value)
    except KeyboardInterrupt as error:
        answer = ERROR, _serialize.dump_exception(error), [], []
    return answer


def _pack(function: Callable[..., Outcome], *args: Any) -> Answer:
    return _pack_outcome(*function(*args))


def _pack_outcome(done: bool, value: Any) -> Answer:
    if done:
        try:
            return VALUE, *_serialize.dumps_message(value, where="result")
        except BaseException as error:
            value = error
    return ERROR, _serialize.dump_exception(value), [], []


def _initialise(setup: bytes | tuple[Any, tuple[Any, ...]]) -> Outcome:
    try:
        initializer, initargs = _serialize.loads(setup) if isinstance(setup, bytes) else setup
    except BaseException as error:
        return False, error
    done, value = _home.initialise(call_item, CALL, initializer, (initargs, {}))
    return done, None if done else value


def _call(payload: Payload) -> Outcome:
    try:
        function, args, kwargs, *difference = _serialize.load_payload(payload)
        context = _context_of(*difference)
    except BaseException as error:
        return False, error
    return context.run(call_item, CALL, function, (args, kwargs))


def _context_of(difference: bytes = b"") -> Context:
    # For one call of the caller whose context differs so from that of the pool's maker.
    return _home.context_for(_home.received(difference))


def _item(
    kind: int, function: Any, failure: BaseException | None, difference: bytes, frame: memoryview
) -> Outcome:
    if failure is not None:
        return False, failure
    try:
        item = _serialize.loads(frame)
        context = _context_of(difference)
    except BaseException as error:
        return False, error
    return context.run(call_item, kind, function, item)


def _run_batch(results: Channel, record: WorkerRecord, kind: int, tag: int, payload: bytes) -> None:
    frames = unpack(payload)
    function: Any = None
    failure: BaseException | None = None
    try:
        function = _user(_serialize.loads, frames[0])
    except BaseException as error:
        failure = error
    difference = bytes(frames[1])
    for index, frame in enumerate(frames[2:]):
        record.item = index + 1
        if frame:
            answer = _answer(_item, kind, function, failure, difference, frame)
            results.put(answer[0], tag, index, *answer[1:])
            del answer
        else:
            results.put(UNSENT, tag, index, b"")
