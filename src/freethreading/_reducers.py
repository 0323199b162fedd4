"""How multiprocessing's own objects (connections, sockets, arrays) go to another process: by its reducers.

They are registered with ``multiprocessing.reduction.ForkingPickler`` only, so that a plain pickle of a Connection carries
a descriptor's bare number. A pickler with them costs more than the pickling of a small message, so it is used only where
some were registered besides those that multiprocessing always has and that plain pickle refuses by itself.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable
from typing import Any

from freethreading._loaded import loaded

PROTOCOL = 5
# Whether a buffer goes inside of the pickle; else it travels beside it.
Outside = Callable[[pickle.PickleBuffer], bool]
# What multiprocessing.reduction registers when it is imported: methods and partials (which plain pickle does as well) and
# sockets (which plain pickle refuses).
_ALWAYS_THERE = ("multiprocessing.reduction", "socket")

_table: dict[type, Any] = {}
_seen = 0  # how many reducers there were when _table was made
_needed = False


def registered() -> dict[type, Any]:
    """All reducers that apply between processes: copyreg's and multiprocessing's."""
    _look()
    return _table or copyreg.dispatch_table


def dumps(obj: object, outside: Outside | None = None) -> bytes:
    """pickle.dumps() with multiprocessing's reducers; `outside` is its buffer_callback."""
    _look()
    if not _needed:
        return pickle.dumps(obj, PROTOCOL, buffer_callback=outside)
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, PROTOCOL, buffer_callback=outside)
    pickler.dispatch_table = _table
    try:
        pickler.dump(obj)
    except BaseException:
        # The traceback holds this pickler, and before Python 3.11 the collector does not see what a memo holds.
        pickler.clear_memo()
        raise
    return stream.getvalue()


def _look() -> None:
    global _table, _seen, _needed
    # None: it is not there, or another thread imports it just now.
    forking = getattr(loaded("multiprocessing.reduction"), "ForkingPickler", None)
    if forking is None:
        return
    # Each dictionary grows only; a table that is one behind is made anew.
    count = len(forking._extra_reducers) + len(copyreg.dispatch_table)
    if count != _seen:
        _table = {**copyreg.dispatch_table, **forking._extra_reducers}
        _needed = any(reducer.__module__ not in _ALWAYS_THERE for reducer in forking._extra_reducers.values())
        _seen = count
