"""Shared objects as arguments of a ``multiprocessing.Process`` of the spawn and forkserver start methods.

Such a child inherits nothing: the session's descriptor travels with the process object, through the launcher's own
means (``DupFd``), and the child attaches the session before it opens the handle. The object is counted as in flight
from the pickling until the child has opened it.
"""

from __future__ import annotations

import struct
import weakref
from typing import Any

from freethreading import _core

_SESSION = struct.Struct("=8xQ")  # a handle's second word
# One descriptor a session and child: a forkserver takes 256 at most.
_descriptors: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()


def reduce_for_spawning(popen: Any, handle: bytes) -> tuple[Any, ...]:
    from multiprocessing.reduction import DupFd

    (session,) = _SESSION.unpack_from(handle)
    sent = _descriptors.setdefault(popen, {})
    if session not in sent:
        sent[session] = DupFd(_core.session_fd(session))
    _core.retain_handle(handle)
    return open_in_child, (session, sent[session], handle)


def open_in_child(session: int, descriptor: Any, handle: bytes) -> Any:
    if not _core.session_attached(session):
        _core.session_attach(descriptor.detach())
    obj = _core.open_handle(handle)
    _core.drop_handle(handle)
    return obj
