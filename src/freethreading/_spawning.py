"""Shared objects as arguments of a ``multiprocessing.Process`` of the spawn and forkserver start methods.

Such a child inherits nothing: the session's descriptor travels with the process object, through the launcher's own
means (``DupFd``), and the child attaches the session before it opens the handle. The launcher (the ``Popen`` of the
process object) keeps the shared object for it.
"""

from __future__ import annotations

import struct
import weakref
from typing import Any

from freethreading import _core

_SESSION = struct.Struct("=8xQ")  # a handle's second word


class _Sent:
    """What goes with one child. One descriptor a session: a forkserver takes 256 at most."""

    def __init__(self) -> None:
        self.descriptors: dict[int, Any] = {}
        self.shared: list[object] = []


_sent: weakref.WeakKeyDictionary[Any, _Sent] = weakref.WeakKeyDictionary()


def reduce_for_spawning(popen: Any, obj: object, handle: bytes) -> tuple[Any, ...]:
    from multiprocessing.reduction import DupFd

    (session,) = _SESSION.unpack_from(handle)
    sent = _sent.setdefault(popen, _Sent())
    if session not in sent.descriptors:
        sent.descriptors[session] = DupFd(_core.session_fd(session))
    sent.shared.append(obj)
    return open_in_child, (session, sent.descriptors[session], handle)


def open_in_child(session: int, descriptor: Any, handle: bytes) -> Any:
    if not _core.session_attached(session):
        _core.session_attach(descriptor.detach())
    return _core.open_handle(handle)
