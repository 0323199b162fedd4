"""What stands in a worker's ``__main__`` for a global that could not come."""

from __future__ import annotations

import importlib
import sys
from typing import Any


class Unsent:
    """Stands in a worker's ``__main__`` for a global that could not come; whatever is done with it says why."""

    def __init__(self, name: str, reason: str) -> None:
        object.__setattr__(self, "_unsent", (name, reason))

    def _explain(self, *_: object, **__: object) -> Any:
        name, reason = object.__getattribute__(self, "_unsent")
        raise NameError(
            f"name {name!r} of the main program is not available in this worker: {reason}. Make it in the worker "
            f"(for example in a pool's initializer), or pass it as an argument."
        )

    def __repr__(self) -> str:
        name, reason = object.__getattribute__(self, "_unsent")
        return f"<{name!r}, not available in this worker: {reason}>"

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__", "__reduce__", "__doc__"):
            return object.__getattribute__(self, name)
        return object.__getattribute__(self, "_explain")()

    __call__ = __iter__ = __next__ = __len__ = __bool__ = __contains__ = __getitem__ = __setitem__ = _explain
    __delitem__ = __enter__ = __exit__ = __setattr__ = __delattr__ = __str__ = __format__ = _explain
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __reduce_ex__ = _explain
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _explain
    __floordiv__ = __mod__ = __pow__ = __and__ = __or__ = __xor__ = __neg__ = __iadd__ = __await__ = _explain
    __hash__ = object.__hash__


def import_or_explain(name: str) -> Any:
    """The module, or, where it cannot be imported here, what says so when it is used."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return Unsent(name, f"the module could not be imported here ({type(error).__name__}: {error})")
    return sys.modules[name]
