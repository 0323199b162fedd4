"""Which modules the workers' functions need: the zygote imports them once, and no worker has to. docs/design/imports.md."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterable

from freethreading._contexts import MAIN_NAMES
from freethreading._loaded import loaded, look_up

_guard = threading.Lock()
# Those that were asked for, in the order of their coming, and what each was loaded by: a reload makes that anew.
_learned: dict[str, object] = {}
_others: set[str] = set()  # that nobody can import


def learn(*called: object) -> None:
    """Has later workers begin with the modules of these functions."""
    name_them(name for function in called if (name := _module_of(function)) is not None)


def name_them(names: Iterable[str]) -> None:
    """Has later workers begin with these modules, as they are now, where they can be imported by their names."""
    changed = [
        name for name in names if name not in _others and look_up(_learned, name) is not _spec_of(name)
    ]
    if not changed:
        return
    with _guard:
        changed = [name for name in changed if look_up(_learned, name) is not _spec_of(name)]
        importable = [name for name in dict.fromkeys(changed) if _is_importable(name)]
        _others.update(set(changed) - set(importable))
        is_reloaded = any(name in _learned for name in importable)
        _learned.update((name, _spec_of(name)) for name in importable)
    supervisor = loaded("freethreading._supervisor")
    if importable and hasattr(supervisor, "renew_zygote"):  # else nobody has asked for a worker yet
        if is_reloaded:
            supervisor.renew_zygote(learned())
        else:
            supervisor.import_modules(tuple(importable))


def learned() -> tuple[str, ...]:
    """All of them."""
    with _guard:
        return tuple(_learned)


def _module_of(function: object) -> str | None:
    # Where a worker finds the function, or what is called in the end.
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__module__", None)
    if not isinstance(name, str):
        name = type(function).__module__
    return name


def _is_importable(name: str) -> bool:
    if name in MAIN_NAMES or name in sys.builtin_module_names or name.partition(".")[0] == __package__:
        return False
    return _spec_of(name) is not None


def _spec_of(name: str) -> object:
    return getattr(loaded(name), "__spec__", None)


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork_in_child)
