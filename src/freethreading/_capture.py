"""Which shared objects a pickle refers to, so that they live as long as the message or task that carries it."""

from __future__ import annotations

import threading
from types import TracebackType

from freethreading import _core


class _Current(threading.local):
    capture: Capture | None = None


_current = _Current()


class Capture:
    """Collects, while it is entered, the handles that this thread's pickling meets. Each is counted as in flight.

    When the block ends with an exception the counts are given back; else they belong to whoever calls keep(), and
    whoever unpickles the payload drops them.
    """

    __slots__ = ("_outer", "handles")

    def __init__(self) -> None:
        self.handles: list[bytes] = []
        self._outer: Capture | None = None

    def __enter__(self) -> Capture:
        self._outer, _current.capture = _current.capture, self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.capture = self._outer
        self._outer = None
        if kind is not None:
            self.drop()

    def add(self, handle: bytes) -> None:
        _core.retain_handle(handle)
        self.handles.append(handle)

    def keep(self) -> list[bytes]:
        handles, self.handles = self.handles, []
        return handles

    def drop(self) -> None:
        for handle in self.keep():
            _core.drop_handle(handle)


def current() -> Capture | None:
    """The innermost capture of this thread."""
    return _current.capture
