"""A task message of a process engine, from its encoding until its last outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from freethreading import _serialize
from freethreading._engine import CALL, Task
from freethreading._frames import pack


class PreparedFunction:
    """A batch's function, pickled once for all its messages."""

    __slots__ = ("data", "function", "kept")

    def __init__(self, function: Callable[..., Any]) -> None:
        packed = _serialize.dumps(function, where="func")
        self.function = function
        self.data = packed.data
        self.kept: Sequence[object] = packed.shared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Flight:
    """Items of a task that travel in one message.

    It keeps the shared objects that its message refers to. A batch also keeps its frames, to fly again with what a dead
    worker left of them; a single call does not: a worker that dies with it fails it.
    """

    __slots__ = ("arrived", "begun", "first", "frames", "kept", "length", "number", "task", "unsent")

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
        # A batch: the function's, then the items'; a call: its one, until it is sent.
        self.frames: Sequence[bytes] = frames
        self.kept = kept
        self.unsent = unsent  # why an item could not be pickled
        self.arrived = 0  # outcomes that came; a worker publishes them in order
        self.begun: bool | None = None

    def begin(self) -> bool:
        """Whether the task still wants to run; asks its sink once."""
        if self.begun is None:
            self.begun = self.task.sink.begin()
        return self.begun

    def message(self) -> bytes:
        """The payload to send. Once for each flight."""
        if self.task.kind == CALL:
            payload, self.frames = self.frames[0], ()
            return payload
        return pack(self.frames)

    def rest(self, start: int, number: int) -> Flight | None:
        """A new flight of the items from `start` on; None: there are none."""
        if start >= self.length:
            return None
        unsent = {index - start: error for index, error in self.unsent.items() if index >= start}
        frames = [self.frames[0], *self.frames[1 + start :]]
        rest = Flight(number, self.task, self.first + start, self.length - start, frames, self.kept, unsent)
        rest.begun = True
        return rest

    def drop(self) -> None:
        """It is done or will not fly: nothing is kept alive for it any more."""
        self.kept = ()


def encode(task: Task, number: int) -> Flight:
    """Pickles a task. A call raises what that raises; an item of a batch fails alone."""
    function = task.function
    if task.kind == CALL:
        args, kwargs = task.items[0]
        packed = _serialize.dumps((function, args, kwargs), where=("func", "args", "kwargs"))
        return Flight(number, task, 0, 1, (packed.data,), packed.shared, {})
    assert isinstance(function, PreparedFunction)
    frames = [function.data]
    kept = [*function.kept]
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
    function = task.function.function if isinstance(task.function, PreparedFunction) else task.function
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"{name}()" if task.kind == CALL else f"{name}() of item {task.first + index}"
