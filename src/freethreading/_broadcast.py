"""broadcast(): an object that is sent to the workers once, however many tasks use it.

On processes it is pickled once, with its big buffers beside the pickle, into a SharedBuffer; what travels with a task is the
buffer's handle. Each worker unpickles it when it first needs it and keeps it: the buffers are pages of the region that are
copied where the worker writes them. docs/design/messages.md says more.
"""

from __future__ import annotations

import collections
import os
import threading
import weakref
from typing import Any, Generic, NoReturn, TypeVar

from freethreading import _core, _serialize
from freethreading._backend import strict_mode

T = TypeVar("T")

_ALIGNMENT = 64
_HEAD = _ALIGNMENT  # bytes in front: the first is 1 once who made it has dropped it
_MOST_KEPT = 8  # by a worker, of those that no task of its uses

# (bytes of the pickle, then for each buffer its offset, its bytes, whether it is read-only)
Layout = tuple[int, tuple[tuple[int, int, bool], ...]]


class Broadcast(Generic[T]):
    """What :func:`broadcast` gives: an object that is sent to each worker once."""

    def __init__(
        self, value: T, buffer: _core.SharedBuffer | None, layout: Layout | None, shared: list[object]
    ) -> None:
        self._value = value
        self._buffer = buffer
        self._layout = layout
        self._shared = shared  # shared objects within it live as long
        if buffer is not None:
            weakref.finalize(self, _tell_dropped, buffer, os.getpid())

    @property
    def value(self) -> T:
        """The object; on processes each worker's own copy. Not to be changed: other tasks of the worker have the same."""
        try:
            return self._value
        except AttributeError:
            value: T = _loaded(self)
            return value

    def __repr__(self) -> str:
        if self._buffer is None:
            return f"<{type(self).__name__} of {self._value!r}>"
        return f"<{type(self).__name__} of {self._buffer.nbytes} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._buffer is None:
            raise TypeError(
                "this Broadcast was made for threads and cannot go to another process; make it with shared=True or under "
                "FREETHREADING_BACKEND=multiprocessing"
            )
        return _open, (self._buffer, self._layout, self._shared)

    def __copy__(self) -> Broadcast[T]:
        return self

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("cannot copy a Broadcast: copy its value")


def broadcast(obj: T, *, shared: bool | None = None) -> Broadcast[T]:
    """Has `obj` sent to each worker once: give the result to tasks, and take its ``value`` there.

    On threads ``value`` is the object itself. On processes it is pickled by this call; each worker unpickles it once.
    Arrays (whatever gives pickle's buffers) are not copied there: a worker sees the one copy in shared memory, and where it
    writes, its own pages. Read-only by contract all the same, since other tasks of the worker get the same object.

    `shared`: True for processes, False for threads; None does what the back end (get_backend()) needs. Raises
    :class:`NotPicklableError` where `obj` cannot be sent, MemoryError where it does not fit.

    >>> table = broadcast({"a": 1})
    >>> table.value["a"]
    1
    """
    if shared is None:
        shared = _core.get_backend() == "multiprocessing"
    if not shared:
        if strict_mode():
            _serialize.check(obj, "obj")
        return Broadcast(obj, None, None, [])
    data, inner, buffers = _serialize.dumps_message(obj, "obj")
    layout: list[tuple[int, int, bool]] = []
    end = _HEAD + len(data)
    for view in buffers:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        layout.append((start, view.nbytes, view.readonly))
        end = start + view.nbytes
    buffer = _core.SharedBuffer(end, shared=True)
    _core.copy_into(buffer, _HEAD, data)
    for view, (start, _, _) in zip(buffers, layout, strict=True):
        _core.copy_into(buffer, start, view)
    return Broadcast(obj, buffer, (len(data), tuple(layout)), inner)


class _Entry:
    """A worker's copy; made once."""

    def __init__(self, buffer: _core.SharedBuffer) -> None:
        self.buffer = buffer
        self.lock = threading.RLock()  # its rebuilding may need another broadcast
        self.is_loaded = False
        self.value: Any = None


# By handle, the one that was used last at the end. What is used elsewhere lives on without its entry.
_kept: collections.OrderedDict[bytes, _Entry] = collections.OrderedDict()
_guard = threading.Lock()


def purge() -> None:
    """Forgets the copies of what has been dropped by who made it."""
    if _kept:
        with _guard:
            _forget_dropped()


def _forget_dropped() -> None:
    for handle in [handle for handle, entry in _kept.items() if memoryview(entry.buffer)[0]]:
        del _kept[handle]


def _tell_dropped(buffer: _core.SharedBuffer, pid: int) -> None:
    if os.getpid() == pid:
        memoryview(buffer)[0] = 1


def _open(buffer: _core.SharedBuffer, layout: Layout, shared: list[object]) -> Any:
    kind: Any = Broadcast
    opened = kind.__new__(kind)
    opened._buffer, opened._layout, opened._shared = buffer, layout, shared
    return opened


def _loaded(opened: Broadcast[Any]) -> Any:
    assert opened._buffer is not None
    assert opened._layout is not None
    handle = _core.handle_of(opened._buffer)
    with _guard:
        entry = _kept.get(handle)
        if entry is None:
            _forget_dropped()
            entry = _kept[handle] = _Entry(opened._buffer)
            while len(_kept) > _MOST_KEPT:
                _kept.popitem(last=False)
        else:
            _kept.move_to_end(handle)
    with entry.lock:
        if not entry.is_loaded:
            entry.value = _load(opened._buffer, opened._layout)
            entry.is_loaded = True
    opened._value = entry.value
    return entry.value


def _load(buffer: _core.SharedBuffer, layout: Layout) -> Any:
    size, places = layout
    view = memoryview(_core.map_privately(buffer))
    buffers = [view[start : start + length] for start, length, _ in places]
    buffers = [b.toreadonly() if place[2] else b for b, place in zip(buffers, places, strict=True)]
    return _serialize.loads(view[_HEAD : _HEAD + size], buffers)


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for entry in list(_kept.values()):
        if not entry.is_loaded:  # a thread that the child has not got was at it
            entry.lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
