"""Modules that this program has imported, and entries of dictionaries that threads share.

``dict.get`` of CPython 3.13's free-threaded build, called by another thread than the dictionary's, may wait for a lock that
it holds itself, and lets go of the interpreter with the lock its own: a process forked just then keeps ``sys.modules``
locked forever. ``in`` and ``[]`` do not. So what the engine's threads look up in a shared dictionary, they look up here.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing's, without its import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def look_up(mapping: Mapping[Any, Any], key: object, default: Any = None) -> Any:
    """What the mapping has under the key, or the default."""
    if key in mapping:
        try:
            return mapping[key]
        except KeyError:  # gone since
            pass
    return default


def loaded(name: str) -> Any:
    """The module of that name if it has been imported; otherwise None."""
    return look_up(sys.modules, name)
