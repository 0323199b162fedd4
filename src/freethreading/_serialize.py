"""How objects become bytes for another process, and what goes with them.

dumps() tries plain pickle first and, for what pickle cannot name (lambdas, closures, local classes), the pickler of
_by_value; where ``__main__`` travels by value it is that one at once, because it must know what of ``__main__`` a
payload needs. The bytes say by themselves what loads() has to do before it unpickles (see _main_module).

The shared objects that a payload refers to come with it: the sender keeps them until the payload has been unpickled, or
gives them to the message that carries it. What cannot be pickled raises NotPicklableError with the path to the culprit;
an exception of the user's own ``__reduce__`` or ``__getstate__`` passes through as it is.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from freethreading import _core, _main_module, _reducers
from freethreading._capture import Capture, current
from freethreading._loaded import loaded, look_up
from freethreading._remote_exceptions import (
    dump_exception as dump_exception,
    load_exception as load_exception,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from freethreading._culprit import Where

PROTOCOL = 5
# What _core says of an object that was made for threads: no second attempt would help.
_MADE_FOR_THREADS = "made for threads"
# A smaller buffer goes inside of the pickle: that is cheaper than a view of its own.
_OUTSIDE_BYTES = 4096
_ATOMS = frozenset((int, float, bool, str, bytes, type(None)))
_TAG = _main_module.TAG[0]
# In front of what goes as a description instead of a pickle: shared_array()'s arrays. For their type, what describes one:
# the shared object that it refers to and the bytes; None where that one needs a pickle.
_DESCRIPTION = b"D"
describers: dict[type, Callable[[Any], tuple[object, bytes] | None]] = {}


class Payload(NamedTuple):
    """Bytes for loads(), and the shared objects that they refer to."""

    data: bytes
    shared: list[object]


def dumps(obj: object, where: Where = "args") -> Payload:
    """Pickles ``obj`` for another process.

    ``where`` is what the culprit's path begins with; for a tuple a name for each of its elements can be given.
    """
    if type(obj) in _ATOMS:
        return Payload(pickle.dumps(obj, PROTOCOL), [])
    with Capture() as capture:
        data = _dumps(obj, where)
    return Payload(data, capture.shared)


def dumps_bare(obj: object, where: Where = "args") -> bytes:
    """The bytes alone: they keep no shared object alive."""
    return _dumps(obj, where)


def loads(data: bytes | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """The object; whatever its rebuilding raises."""
    kind = data[0] if len(data) else 0
    if kind == _TAG:
        data = memoryview(data)[_main_module.arrive(data) :]
    elif kind == _DESCRIPTION[0]:
        from freethreading import _ndarray

        return _ndarray.from_description(data[1:])
    return pickle.loads(data, buffers=buffers)


def dumps_message(obj: object, where: Where = "item") -> tuple[bytes, list[object], list[memoryview]]:
    """dumps() for an item of a queue, with the big buffers that go beside its bytes."""
    describe = look_up(describers, type(obj))
    if describe is not None and (description := describe(obj)) is not None:
        return _DESCRIPTION + description[1], [description[0]], []
    buffers: list[memoryview] = []
    with Capture() as capture:
        data = _dumps(obj, where, buffers)
    return data, capture.shared, buffers


loads_message = loads


def load_payload(payload: bytes | tuple[memoryview, list[memoryview]]) -> Any:
    """loads() of what a channel gives: bytes, or a pickle with the buffers beside it."""
    return loads(*payload) if isinstance(payload, tuple) else loads(payload)


def check(obj: object, where: Where = "args") -> None:
    """Raises what dumps() would raise on the process back end; keeps nothing. For FREETHREADING_STRICT=1."""
    from freethreading import _culprit

    try:
        _culprit.Checker(io.BytesIO(), _culprit.References()).dump(obj)
    except Exception as error:
        better = _culprit.translated(obj, where, error)
        if better is error:
            raise
        raise better from error


def reduce_shared(obj: object) -> tuple[Any, ...]:
    """``__reduce__`` of a shared object: a payload of ours, a process that multiprocessing starts, or bare bytes."""
    handle = _core.handle_of(obj)
    capture = current()
    if capture is not None:
        capture.shared.append(obj)
        return _core.open_handle, (handle,)
    spawning = _spawning_popen()
    if spawning is not None:
        from freethreading._spawning import reduce_for_spawning

        return reduce_for_spawning(spawning, obj, handle)
    return _core.open_handle, (handle,)


def state_of(obj: object) -> object:
    """What an instance of a subclass of a shared object's class takes along: its ``__getstate__()``.

    Before Python 3.11 not every object has that method; then what it would be: attributes, or a pair with those of slots.
    """
    get_state: Any = getattr(obj, "__getstate__", None)
    if get_state is not None:
        return get_state()
    private: Any = copyreg
    slot_names: list[str] = private._slotnames(type(obj))
    slots = {name: getattr(obj, name) for name in slot_names if hasattr(obj, name)}
    attributes = getattr(obj, "__dict__", None)
    return (attributes, slots) if slots else attributes


def _spawning_popen() -> Any:
    context = loaded("multiprocessing.context")
    return context.get_spawning_popen() if context is not None else None


def _outside(buffers: list[memoryview]) -> _reducers.Outside:
    def goes_inside(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < _OUTSIDE_BYTES:
            return True
        buffers.append(view)
        return False

    return goes_inside


def _dumps(obj: object, where: Where, buffers: list[memoryview] | None = None) -> bytes:
    outside = None if buffers is None else _outside(buffers)
    if not _main_module.by_value():
        capture = current()
        mark = len(capture.shared) if capture is not None else 0
        try:
            data = _reducers.dumps(obj, outside)
            if not _names_guarded(data):
                return data
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
            if _MADE_FOR_THREADS in str(error):
                raise
        if capture is not None:
            del capture.shared[mark:]
        if buffers is not None:
            buffers.clear()
    try:
        return _dumps_with_definitions(obj, outside, where != "item")
    except Exception as error:
        from freethreading import _culprit

        better = _culprit.translated(obj, where, error)
        if better is error:
            raise
        raise better from error


def _names_guarded(data: bytes) -> bool:
    """Whether a pickle may name what only the guarded part of the main file defines; seldom yes without reason."""
    definitions = _main_module.guarded_definitions()
    return bool(definitions) and b"main__" in data and any(name in data for name in definitions)


class _Needs:
    """The MainView of a payload: collects what it needs of ``__main__``."""

    def __init__(self) -> None:
        import sys

        self.namespace: dict[str, Any] = sys.modules["__main__"].__dict__
        self.named: dict[str, None] = {}
        self.used: dict[str, None] = {}
        self._only = _main_module.sent_names()
        self._publishes = _main_module.publishes()
        self._subscriber = _main_module.subscriber()

    def by_reference(self, root: str) -> bool:
        if self._only is not None and root not in self._only:
            return True
        if not self._publishes and self._subscriber is not None:
            # A worker's result: the program knows by name what it has sent, and nothing else.
            value = look_up(self.namespace, root)
            if self._subscriber.installed.get(root, self) is not value:
                return False
        self.named[root] = None
        return True

    def uses(self, names: tuple[str, ...]) -> None:
        if self._only is not None:
            names = tuple(filter(self._only.__contains__, names))
        self.used.update(dict.fromkeys(names))

    def logs(self) -> list[tuple[int, bytes]]:
        if not (self.named or self.used):
            return []
        found: list[tuple[int, bytes]] = []
        if self._subscriber is not None:
            found.append((self._subscriber.version, self._subscriber.handle))
            _keep(self._subscriber.shared())
        if self._publishes:
            publisher = _main_module.publisher()
            version, shared = publisher.require(tuple(self.named), tuple(self.used))
            _keep(shared)
            found.append((version, publisher.log.handle))
        return found


def _keep(shared: Iterable[object]) -> None:
    capture = current()
    if capture is not None:
        capture.shared += shared


def _dumps_with_definitions(obj: object, outside: _reducers.Outside | None, is_call: bool) -> bytes:
    from freethreading._by_value import ByValuePickler

    needs = _Needs()
    stream = io.BytesIO()
    pickler = ByValuePickler(stream, needs, outside)
    pickler.dump(obj)
    if is_call and _main_module.publishes():
        from freethreading import _imports

        _imports.name_them(pickler.modules)
    logs = needs.logs()
    return _main_module.tag(logs) + stream.getvalue() if logs else stream.getvalue()
