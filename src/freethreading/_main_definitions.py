"""How definitions of a ``__main__`` that is never run again reach the workers: a log of versions.

The Publisher (in the program) appends to a BlobLog what a payload needs and the log has not got: a global is sent
when it is first needed and again when the program binds its name to another object, never otherwise. The Subscriber
(in each worker) applies the log to the worker's own ``__main__`` up to the version that a payload names.

An entry is a pickled header (names, those that could not be sent and why), then one stream of pickles, a value a
name, with one memo: what two globals share stays shared, and cycles among classes work.

Identity decides: ``x = other`` is seen, ``x.append(1)`` is not, as it would be too late for a task already sent.
"""

from __future__ import annotations

import io
import pickle
import threading
from typing import Any

from freethreading import _core
from freethreading._by_value import PROTOCOL, ByValuePickler
from freethreading._capture import Capture
from freethreading._culprit import translated
from freethreading._loaded import look_up
from freethreading._unsent import Unsent

_MISSING: Any = object()
_MAX_KNOWN = 256

Needs = tuple[tuple[str, ...], tuple[str, ...]]


class Publisher:
    """The program's side. Thread-safe; no lock is held while objects are pickled, which runs the user's code."""

    def __init__(self, namespace: dict[str, Any], only: frozenset[str] | None) -> None:
        self.namespace = namespace
        self.only = only  # the names that go by value; None: all
        self.log = _core.BlobLog()
        self.version = 0
        # Guarded by _guard, and replaced as a whole so that readers need no lock: what the log holds, by name. The
        # values are kept alive: an identity means something only as long as its object lives.
        self.sent: dict[str, Any] = {}
        self._uses: dict[str, tuple[str, ...]] = {}
        self._unsent: dict[str, BaseException] = {}
        self._shared: list[object] = []  # alive as long as the log, which workers to come will read
        self._guard = threading.Lock()
        # What a payload with these needs depends on in the end, as it was when nothing of it was missing.
        self._known: dict[Needs, tuple[int, list[tuple[str, Any]]]] = {}

    def require(self, named: tuple[str, ...], used: tuple[str, ...]) -> int:
        """Publishes what is missing; the version that has everything.

        What a payload names must be sendable (the error of what is not is raised); what a function may look up when
        it runs is sent where it can be.
        """
        known = self._known.get((named, used))
        if known is not None:
            for name, value in known[1]:
                if look_up(self.namespace, name, _MISSING) is not value:
                    break
            else:
                return known[0]
        return self._publish(named, used)

    def _publish(self, named: tuple[str, ...], used: tuple[str, ...]) -> int:
        while True:
            start, sent, uses, unsent = self.version, self.sent, self._uses, self._unsent
            batch = _Batch(self.namespace, self.only, sent, uses, unsent)
            batch.uses((*named, *used))
            if not batch.pending:
                for name in named:
                    if name in unsent:
                        raise unsent[name]
                with self._guard:
                    if self.version == start:
                        if len(self._known) >= _MAX_KNOWN:
                            self._known = {}
                        self._known[named, used] = start, batch.seen()
                return start
            entry = batch.entry(named)
            with self._guard:
                if self.version != start:  # somebody else published meanwhile: look again at what is missing
                    continue
                number = self.log.append(entry)
                self.sent = {**sent, **batch.values}
                self._uses = {**uses, **batch.used_by}
                self._unsent = {k: v for k, v in unsent.items() if k not in batch.values} | batch.failures
                self._shared += batch.capture.shared
                self._known = {}
                self.version = number


class _Batch:
    """What one entry will hold; the MainView of the pickler that makes it."""

    def __init__(
        self,
        namespace: dict[str, Any],
        only: frozenset[str] | None,
        sent: dict[str, Any],
        uses: dict[str, tuple[str, ...]],
        unsent: dict[str, BaseException],
    ) -> None:
        self.namespace = namespace
        self.capture = Capture()
        self.values: dict[str, Any] = {}
        self.used_by: dict[str, tuple[str, ...]] = {}
        self.failures: dict[str, BaseException] = {}
        self.pending: list[str] = []
        self._only = only
        self._sent, self._uses, self._unsent = sent, uses, unsent
        self._seen: set[str] = set()
        self._current: dict[str, None] = {}

    def uses(self, names: tuple[str, ...]) -> None:
        if self._only is not None:
            names = tuple(filter(self._only.__contains__, names))
        self._current.update(dict.fromkeys(names))
        stack = list(reversed(names))
        while stack:
            name = stack.pop()
            if name in self._seen:
                continue
            self._seen.add(name)
            value = look_up(self.namespace, name, _MISSING)
            if value is _MISSING:  # a builtin, or not defined yet
                continue
            if self._sent.get(name, _MISSING) is value:
                stack += self._uses.get(name, ())
            else:
                self.values[name] = value
                self.pending.append(name)

    def seen(self) -> list[tuple[str, Any]]:
        """Every name that was looked at, and what the log has under it."""
        return [(name, self._sent.get(name, _MISSING)) for name in self._seen]

    def by_reference(self, root: str) -> bool:
        if self._only is not None and root not in self._only:
            return True
        if self._sent.get(root, _MISSING) is look_up(self.namespace, root) and root not in self._unsent:
            self.uses((root,))
            return True
        self.uses((root,))
        return False

    def entry(self, named: tuple[str, ...]) -> bytes:
        try:
            return self._dump()
        except Exception:
            pass
        # One of the names is to blame: find which by pickling each on its own, then send the others.
        for name in self.pending:  # grows while it is walked
            alone = _Batch(self.namespace, self._only, self._sent, self._uses, self._unsent)
            alone.pending, alone.values = [name], {name: self.values[name]}
            try:
                with alone.capture:
                    ByValuePickler(io.BytesIO(), alone).dump(alone.values[name])
            except Exception as error:
                better = translated(alone.values[name], name, error, main_by_name=False)
                if name in named:
                    raise better from (None if better is error else error)
                self.failures[name] = better
            self.uses(tuple(alone.pending[1:]))
        return self._dump()

    def _dump(self) -> bytes:
        stream = io.BytesIO()
        pickler = ByValuePickler(stream, self)
        names: list[str] = []
        with self.capture:
            for name in self.pending:  # grows while it is walked
                if name in self.failures:
                    continue
                self._current = {}
                pickler.dump(self.values[name])
                self.used_by[name] = tuple(self._current)
                names.append(name)
        reasons = {n: f"it did not pickle ({e})" for n, e in self.failures.items()}
        return b"".join((pickle.dumps((names, reasons), PROTOCOL), stream.getbuffer()))


class Subscriber:
    """A worker's side: its persistent ``__main__`` and how far the log has been applied to it."""

    def __init__(self, namespace: dict[str, Any], handle: bytes) -> None:
        self.namespace = namespace
        self.handle = handle
        self.version = 0
        self._log = _core.BlobLog.open(handle)
        self.installed: dict[str, Any] = {}
        self._guard = threading.RLock()  # rebuilding an object may load another

    def after_fork_in_child(self) -> None:
        self._guard = threading.RLock()  # another thread of the parent may have held it

    def update_to(self, version: int) -> None:
        if version <= self.version:
            return
        with self._guard:
            for number, entry in self._log.read_after(self.version):
                if number > version:
                    break
                self._apply(entry)
                self.version = number

    def _apply(self, entry: bytes) -> None:
        stream = io.BytesIO(entry)
        names, reasons = pickle.load(stream)
        for name, reason in reasons.items():
            self._install(name, Unsent(name, reason))
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
            self.installed[name] = _MISSING
            return
        self.installed[name] = self.namespace[name] = value
