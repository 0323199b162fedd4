"""A task message of a process engine, from its encoding until its last outcome."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, cast

from freethreading import _imports, _main_module, _serialize
from freethreading._contexts import MAIN_NAMES, Sender
from freethreading._core import decode_value
from freethreading._engine import Outcome, Task
from freethreading._frames import NATIVE_VALUE, VALUE, pack
from freethreading._loaded import loaded, look_up


class PreparedFunction:
    """A batch's function, pickled once for all its messages."""

    __slots__ = ("data", "function", "kept")

    def __init__(self, function: Callable[..., Any]) -> None:
        _imports.learn(function)
        packed = _serialize.dumps(function, where="func")
        self.function = function
        self.data = packed.data
        self.kept: Sequence[object] = packed.shared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Flight:
    """Items of a chunk that travel in one message.

    It keeps the shared objects that its message refers to, and its frames, to fly again with what a dead worker left of
    them.
    """

    __slots__ = (
        "arrived",
        "begun",
        "first",
        "frames",
        "is_cancelled",
        "kept",
        "length",
        "number",
        "sequence",
        "task",
        "unsent",
    )

    def __init__(
        self,
        number: int,
        task: Task,
        first: int,
        length: int,
        frames: Sequence[bytes],
        kept: Sequence[object],
        unsent: dict[int, BaseException],
    ) -> None:
        self.number = number
        self.task = task
        self.first = first  # index in the task of its item 0
        self.length = length
        # The function's, the context's difference, then the items'.
        self.frames: Sequence[bytes] = frames
        self.kept = kept
        self.unsent = unsent  # why an item could not be pickled
        self.arrived = 0  # outcomes that came; a worker publishes them in order
        self.begun: bool | None = None
        self.sequence = 0  # its message's number in the channel; 0: it was not sent
        self.is_cancelled = False  # what a dead worker leaves of it does not fly again

    def begin(self) -> bool:
        """Whether the task still wants to run; asks its sink once."""
        if self.begun is None:
            self.begun = self.task.sink.begin()
        return self.begun

    def message(self) -> bytes:
        """The payload to send."""
        return pack(self.frames)

    def rest(self, start: int, number: int) -> Flight | None:
        """A new flight of the items from `start` on; None: there are none."""
        if start >= self.length:
            return None
        unsent = {index - start: error for index, error in self.unsent.items() if index >= start}
        frames = [*self.frames[:2], *self.frames[2 + start :]]
        rest = Flight(number, self.task, self.first + start, self.length - start, frames, self.kept, unsent)
        rest.begun = True
        return rest

    def drop(self) -> None:
        """It is done or will not fly: nothing is kept alive for it any more."""
        self.kept = ()


def pack_call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Context,
    sender: Sender,
) -> tuple[bytes, list[object], list[memoryview]]:
    """The payload of a CALL, what it refers to, and the buffers beside it. Raises what pickling it raises."""
    _imports.learn(function)
    difference, shared = sender.pack(context)
    call = (function, args, kwargs, difference) if difference else (function, args, kwargs)
    where = ("func", "args", "kwargs", "context")[: len(call)]
    data, of_call, buffers = _serialize.dumps_message(call, where)
    return data, [*of_call, *shared], buffers


def encode(task: Task, number: int, sender: Sender) -> Flight:
    """Pickles a chunk. An item that cannot be pickled fails alone."""
    function = task.function
    difference, shared = sender.pack(task.context)
    assert isinstance(function, PreparedFunction)
    frames = [function.data, difference]
    kept = [*function.kept, *shared]
    unsent: dict[int, BaseException] = {}
    for index, item in enumerate(task.items):
        try:
            packed = _serialize.dumps(item, where="item")
        except Exception as error:
            unsent[index] = error
            frames.append(b"")
        else:
            frames.append(packed.data)
            kept.extend(packed.shared)
    return Flight(number, task, 0, len(task.items), frames, kept, unsent)


def describe_item(task: Task, index: int) -> str:
    """Names one item's call in an error."""
    return describe_call(task.function, task.first + index)


def describe_call(function: object, item: int | None) -> str:
    """Names a call of a function, or of a name, and of which item of a map it is, in an error."""
    name = function if isinstance(function, str) else name_of(function)
    return f"{name}()" if item is None else f"{name}() of item {item}"


def name_of(function: object) -> str:
    """What errors call it."""
    if isinstance(function, PreparedFunction):
        function = function.function
    return getattr(function, "__qualname__", None) or repr(function)


def named(function: Callable[..., Any]) -> tuple[bytes, dict[str, Any], str] | None:
    """A function whose pickle is its module's name for it, the same for each call: that pickle, who has it, and as what."""
    name: str = function.__qualname__
    if function.__module__ in MAIN_NAMES and _main_module.goes_by_value(name):
        return None
    found: Any = getattr(loaded(function.__module__ or ""), "__dict__", None)
    namespace = cast("dict[str, Any]", found)
    if type(found) is not dict or look_up(namespace, name) is not function:
        return None
    try:
        payload = _serialize.dumps(function, where="func")
        if payload.shared or payload.data != pickle.dumps(function, _serialize.PROTOCOL):
            return None
    except Exception:
        return None  # said by the call
    return payload.data, namespace, name


def load_answer(kind: int, payload: Any) -> Outcome:
    """What a result message says; where it cannot be rebuilt here, why."""
    try:
        if kind == VALUE:
            return True, _serialize.load_payload(payload)
        if kind == NATIVE_VALUE:
            return True, decode_value(payload)
        return False, _serialize.load_exception(payload)
    except BaseException as error:
        return False, error
