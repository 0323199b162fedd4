"""FREETHREADING_STRICT=1: calls on threads run only where processes could run them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from freethreading import _serialize
from freethreading._items import CALL, Outcome, call_item


def check_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises what pickling the call would raise on processes."""
    _serialize.check((function, args, kwargs), ("func", "args", "kwargs"))


def strict_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call's outcome, which would pickle."""
    done, value = call_item(CALL, function, (args, kwargs))
    _serialize.check(value, "result")
    if not done:
        raise value
    return value


def strict_outcome(kind: int, function: Callable[..., Any], item: Any) -> Outcome:
    """Runs an item only if it and its result would pickle."""
    try:
        _serialize.check(item, "item")
        outcome = call_item(kind, function, item)
        _serialize.check(outcome[1], "result")
    except BaseException as error:
        return False, error
    return outcome
