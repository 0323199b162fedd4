"""How a worker keeps its ``__main__`` as the program's is: from the log that _main_definitions tells of.

Workers of most programs have this, and nothing to apply: it imports nothing that pickles.
"""

from __future__ import annotations

import io
import pickle
import threading
from typing import Any

from freethreading import _core
from freethreading._unsent import Unsent

MISSING: Any = object()
# Names, and why others could not be sent.
Heading = tuple[list[str], dict[str, str]]


class Subscriber:
    """A worker's side: its persistent ``__main__`` and how far the log has been applied to it."""

    def __init__(self, namespace: dict[str, Any], handle: bytes) -> None:
        self.namespace = namespace
        self.handle = handle
        self.version = 0
        self._log = _core.BlobLog.open(handle)
        self.installed: dict[str, Any] = {}
        self._held: dict[
            int, list[object]
        ] = {}  # the shared objects of entries that are not superseded, by number
        self._guard = threading.RLock()  # rebuilding an object may load another

    def after_fork_in_child(self) -> None:
        self._guard = threading.RLock()  # another thread of the parent may have held it

    def update_to(self, version: int) -> None:
        if version <= self.version:
            return
        with self._guard:
            found: list[tuple[int, io.BytesIO, Heading]] = []
            dropped: set[int] = set()
            for number, entry in self._log.read_after(self.version):
                if number > version:
                    break
                stream = io.BytesIO(entry)
                names, reasons, gone = pickle.load(stream)
                dropped.update(gone)
                found.append((number, stream, (names, reasons)))
            for number, stream, heading in found:
                if number in dropped:
                    self._skip(heading)
                else:
                    self._apply(number, stream, heading)
                self.version = number
            for number in dropped:
                self._held.pop(number, None)

    def shared(self) -> list[object]:
        """What a payload of this process keeps alive, as the program's do."""
        return [obj for held in list(self._held.values()) for obj in held]

    def _skip(self, heading: Heading) -> None:
        # All its names come again; what stands under them now is older than the program's first value.
        names, reasons = heading
        for name in (*names, *reasons):
            if name in self.namespace:
                self.installed.setdefault(name, MISSING)

    def _apply(self, number: int, stream: io.BytesIO, heading: Heading) -> None:
        names, reasons = heading
        for name, reason in reasons.items():
            self._install(name, Unsent(name, reason))
        apart, handles = pickle.load(stream)
        held = [_core.open_handle(handle) for handle in handles]
        if held:
            self._held[number] = held
        if apart:
            stream = io.BytesIO(memoryview(held[-1]))
        unpickler = pickle.Unpickler(stream)
        broken: str | None = None
        for name in names:
            value: Any = None
            if broken is None:
                try:
                    value = unpickler.load()
                except Exception as error:  # the stream's memo is torn: what follows is lost too
                    broken = f"it could not be rebuilt here ({type(error).__name__}: {error})"
            self._install(name, value if broken is None else Unsent(name, broken))

    def _install(self, name: str, value: Any) -> None:
        # What the worker has set itself, such as a pool's initializer, stays until the program changes its own.
        if name in self.namespace and name not in self.installed:
            self.installed[name] = MISSING
            return
        self.installed[name] = self.namespace[name] = value
