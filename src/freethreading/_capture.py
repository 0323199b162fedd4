"""Which shared objects a pickle refers to, so that they live as long as the message or task that carries it."""

from __future__ import annotations

import threading
from types import TracebackType


class _Current(threading.local):
    capture: Capture | None = None


_current = _Current()


class Capture:
    """Collects, while it is entered, the shared objects that this thread's pickling meets; none where that raises.

    They live as long as they are kept: by the sender, or by the block of the message that carries them.
    """

    __slots__ = ("_outer", "shared")

    def __init__(self) -> None:
        self.shared: list[object] = []
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
            self.shared = []


def current() -> Capture | None:
    """The innermost capture of this thread."""
    return _current.capture
