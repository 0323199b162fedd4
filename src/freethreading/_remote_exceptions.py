"""How an exception gets from a worker to the program: its type, arguments, attributes, notes and chain, as far as
they pickle, and the worker's traceback as text.

A record is a tuple (form, body, type name, text, traceback, cause, context, suppress), the last three for the chain.
form 0: body is the exception's pickle. form 1: body is a pickle of (class, args, attributes), for one whose __init__
cannot be called with its args or some of whose attributes do not pickle. form 2: nothing of it pickles. form 3: a group
some of whose members do not; body is a pickle of (class, message, records of the members).
"""

from __future__ import annotations

import builtins
import pickle
import traceback
from typing import Any

from freethreading._exceptions import RemoteError, RemoteTraceback

_MAX_CHAIN = 20
_SAME = ("the cause",)
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)  # from Python 3.11 on


def dump_exception(error: BaseException) -> bytes:
    """The exception as bytes; never fails."""
    return pickle.dumps(_record(error, "".join(_format(error)), 0, set()))


def load_exception(data: bytes) -> BaseException:
    """The exception, with a RemoteTraceback as its cause; a RemoteError where it cannot be rebuilt. Never fails."""
    try:
        return _rebuild(pickle.loads(data))
    except Exception as error:
        return RemoteError(f"an exception of a worker could not be read: {error!r}", reason=repr(error))


def _format(error: BaseException) -> list[str]:
    try:
        return traceback.format_exception(type(error), error, error.__traceback__)
    except Exception:  # its __str__ may do anything
        return [f"{_type_name(error)}: <no text>\n"]


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<no text>"


def _record(error: BaseException, text: str, depth: int, seen: set[int]) -> tuple[Any, ...]:
    seen.add(id(error))
    form, body = _body(error)

    def link(other: BaseException | None) -> tuple[Any, ...] | None:
        if other is None or id(other) in seen or depth >= _MAX_CHAIN:
            return None
        return _record(other, "", depth + 1, seen)

    cause = link(error.__cause__)
    context = _SAME if error.__context__ is error.__cause__ else link(error.__context__)
    if form == 2 and _is_group(error) and depth < _MAX_CHAIN:
        form, body = _group_body(error, depth, seen)
    return form, body, _type_name(error), _text(error), text, cause, context, error.__suppress_context__


def _body(error: BaseException) -> tuple[int, bytes]:
    from freethreading import _serialize

    # Tried out here, where it costs little: an exception that pickles and then cannot be rebuilt is common.
    for form in (0, 1):
        try:
            data = _serialize.dumps_bare(error if form == 0 else _parts(error))
            if isinstance(_from_body(form, data), type(error)):
                return form, data
        except Exception:
            continue
    return 2, b""


def _is_group(error: BaseException) -> bool:
    return _GROUP is not None and isinstance(error, _GROUP)


def _group_body(error: BaseException, depth: int, seen: set[int]) -> tuple[int, bytes]:
    from freethreading import _serialize

    group: Any = error
    kind: Any = type(error)
    members = [_record(member, "", depth + 1, seen) for member in group.exceptions]
    try:
        return 3, _serialize.dumps_bare((kind, group.message, members))
    except Exception:  # a class that cannot be named
        return 3, pickle.dumps((_GROUP, group.message, members))


def _rebuild_group(data: bytes) -> BaseException:
    from freethreading import _serialize

    kind, message, records = _serialize.loads(data)
    members = [_rebuild(record) for record in records]
    try:
        group: BaseException = kind(message, members)
    except Exception:  # an __init__ of its own
        group = BaseException.__new__(kind, message, members)
        group.args = (message, members)
    return group


def _parts(error: BaseException) -> tuple[Any, ...]:
    return type(error), tuple(map(_or_repr, error.args)), {k: _or_repr(v) for k, v in error.__dict__.items()}


def _or_repr(value: object) -> object:
    from freethreading import _serialize

    try:
        _serialize.dumps_bare(value)
    except Exception:
        return repr(value)
    return value


def _from_body(form: int, data: bytes) -> BaseException:
    from freethreading import _serialize

    found: Any = _serialize.loads(data)
    if form == 1:
        kind, arguments, attributes = found
        found = kind.__new__(kind, *arguments)
        found.args = arguments
        found.__dict__.update(attributes)
    if not isinstance(found, BaseException):
        raise TypeError(f"what came back is a {type(found).__name__}, not an exception")
    return found


def _rebuild(record: tuple[Any, ...]) -> BaseException:
    form, data, type_name, text, trace, cause, context, suppress = record
    error: BaseException
    if form == 2:
        error = RemoteError(f"{type_name}: {text}", type_name, "it could not be pickled in the worker")
    else:
        try:
            error = _rebuild_group(data) if form == 3 else _from_body(form, data)
        except Exception as failure:
            reason = f"it could not be rebuilt here: {type(failure).__name__}: {failure}"
            error = RemoteError(f"{type_name}: {text} ({reason})", type_name, reason)
    original_cause = _rebuild(cause) if cause is not None else None
    if trace:
        remote = RemoteTraceback(f'\n"""\n{trace}"""')
        remote.__cause__ = original_cause
        error.__cause__ = remote
    else:
        error.__cause__ = original_cause
    if context == _SAME:
        error.__context__ = original_cause
    else:
        error.__context__ = _rebuild(context) if context is not None else None
    if not trace:
        error.__suppress_context__ = suppress
    return error
