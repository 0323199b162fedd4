"""Which part of an object does not pickle, and the path to it: for the message of NotPicklableError."""

from __future__ import annotations

import io
import pickle
import re
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

from freethreading import _core
from freethreading._by_value import PROTOCOL, ByValuePickler, References as References
from freethreading._exceptions import NotPicklableError
from freethreading._loaded import loaded

Where = str | tuple[str, ...]

_MAX_NODES = 200_000
_MAX_DEPTH = 200
_ATOMS = (int, float, complex, str, bytes, bytearray, bool, type(None), types.ModuleType)


class _Tracer(ByValuePickler):
    """Remembers what it was about to pickle: when it fails, that is the culprit."""

    last: Any = None

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _ATOMS):
            self.last = obj
        return None


_PRIMITIVES: tuple[type[Any], ...] = (
    _core.Lock,
    _core.RLock,
    _core.Semaphore,
    _core.BoundedSemaphore,
    _core.Condition,
    _core.Event,
    _core.Barrier,
    _core.Queue,
    _core.SimpleQueue,
    _core.AtomicInt64,
    _core.SharedBuffer,
)


class Checker(ByValuePickler):
    """Pickles as for a process, but takes as sent what threads have in private memory and processes would share."""

    def persistent_id(self, obj: object) -> str | None:
        return type(obj).__qualname__ if isinstance(obj, _PRIMITIVES) or _is_broadcast(obj) else None


def _is_broadcast(obj: object) -> bool:
    module = loaded("freethreading._broadcast")
    return module is not None and isinstance(obj, module.Broadcast)


def translated(obj: object, where: Where, error: Exception, main_by_name: bool = True) -> Exception:
    """The error itself where it says best what is wrong, or the NotPicklableError that names the culprit."""
    # What _core says of an object that was made for threads is a better text than any found here.
    if isinstance(error, NotPicklableError) or "made for threads" in str(error):
        return error
    return explain(obj, where, error, main_by_name) if is_pickles_own(error) else error


def explain(obj: object, where: Where, error: BaseException, main_by_name: bool = True) -> NotPicklableError:
    """The error to raise for an object that did not pickle because of ``error``."""
    culprit, found = _culprit(obj, main_by_name)
    reason = str(found if found is not None else error).rstrip(".")
    try:
        path = _path(obj, culprit, where) if culprit is not None else None
    except Exception:  # an object on the way fails when it is looked at
        path = None
    name = where if isinstance(where, str) else " and ".join(where)
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return NotPicklableError(
            f"{name} must be picklable to go to another process, and is nested too deeply"
        )
    if culprit is None:
        return NotPicklableError(f"{name} must be picklable to go to another process: {reason}")
    part = re.split(r"[.\[]", path)[0] if path else name
    return NotPicklableError(
        f"{part} must be picklable to go to another process: {path or part}: {_type_name(culprit)} ({reason})"
    )


def _type_name(obj: object) -> str:
    if isinstance(obj, types.FunctionType | type):
        return f"{obj.__module__}.{obj.__qualname__}"
    kind = type(obj)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _culprit(obj: object, main_by_name: bool) -> tuple[object, BaseException | None]:
    tracer = _Tracer(io.BytesIO(), References(main_by_name))
    try:
        tracer.dump(obj)
    except Exception as error:
        return tracer.last, error
    return None, None


def _path(obj: Any, culprit: object, where: Where) -> str | None:
    """The shortest path from obj to culprit, as one would write it in Python."""
    start: list[tuple[str, Any]]
    if isinstance(where, tuple) and issubclass(type(obj), tuple):
        start = list(zip(where, obj))
    else:
        start = [(where if isinstance(where, str) else where[0], obj)]
    queue: deque[tuple[str, Any, int]] = deque((name, value, 0) for name, value in start)
    seen: dict[int, Any] = {}  # keeps what it has seen alive, so that an id stays one object's
    while queue and len(seen) < _MAX_NODES:
        path, value, depth = queue.popleft()
        if value is culprit:
            return path
        if depth < _MAX_DEPTH and id(value) not in seen and not isinstance(value, _ATOMS):
            seen[id(value)] = value
            queue.extend((path + step, child, depth + 1) for step, child in _children(value))
    return None


def _children(obj: Any) -> Iterator[tuple[str, Any]]:
    kind = type(obj)  # pyright: ignore[reportUnknownVariableType]
    items: list[Any]
    if issubclass(kind, dict):
        for key, value in list(obj.items()):
            yield f"[{_short(key)}]", value
            yield f".<key {_short(key)}>", key
    elif issubclass(kind, list | tuple | deque):
        items = list(obj)
        for index, value in enumerate(items):
            yield f"[{index}]", value
    elif issubclass(kind, set | frozenset):
        items = list(obj)
        for value in items:
            yield f".<element {_short(value)}>", value
    if isinstance(obj, types.FunctionType):
        yield from _function_children(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
    yield from _attributes(obj)
    if not isinstance(obj, type | types.FunctionType):
        yield from _reduced(obj)


def _short(obj: object) -> str:
    text = repr(obj) if isinstance(obj, _ATOMS) else type(obj).__qualname__
    return text if len(text) <= 40 else text[:37] + "..."


def _function_children(func: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or ()):
        try:
            yield f".<closure>.{name}", cell.cell_contents
        except ValueError:
            continue
    if func.__defaults__:
        yield ".__defaults__", func.__defaults__
    if func.__kwdefaults__:
        yield ".__kwdefaults__", func.__kwdefaults__
    # What cloudpickle takes along of a function that no module has.
    for name in func.__code__.co_names:
        if name in func.__globals__:
            yield f".<global>.{name}", func.__globals__[name]


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    attributes: dict[str, Any] = dict(getattr(obj, "__dict__", None) or {})
    for name, value in attributes.items():
        yield f".{name}", value
    if isinstance(obj, type):
        return
    for kind in type(obj).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            try:
                yield f".{name}", object.__getattribute__(obj, mangled)
            except AttributeError:
                continue


def _reduced(obj: Any) -> Iterator[tuple[str, Any]]:
    """What else its own __reduce__ or __getstate__ gives."""
    try:
        reduced: Any = obj.__reduce_ex__(PROTOCOL)
    except Exception:
        return
    if isinstance(reduced, str):
        return
    parts: list[Any] = [*reduced, None, None]
    for value in parts[1] or ():
        yield "", value
    state: Any = parts[2]
    halves: list[Any] = [*state] if issubclass(type(state), tuple) and len(state) == 2 else [state]
    for half in halves:
        if issubclass(type(half), dict):
            for name, value in half.items():
                yield f".{name}", value
        elif half is not None:
            yield "", half


_PICKLERS = ("freethreading", "cloudpickle", "pickle", "copyreg")


def is_pickles_own(error: BaseException) -> bool:
    """Whether pickle says that something cannot be pickled, rather than a method of the user's having failed."""
    if not isinstance(error, pickle.PicklingError | TypeError | AttributeError | RecursionError):
        return False
    step = error.__traceback__
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", "")).split(".")[0]
        if module not in _PICKLERS:  # the first frame that a method of the object's had
            return module in sys.stdlib_module_names and "pickle" in str(error)
        step = step.tb_next
    return True
