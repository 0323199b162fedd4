"""How definitions of a ``__main__`` that is never run again reach the workers: a log of versions.

The Publisher (in the program) appends to a BlobLog what a payload needs and the log has not got: a global is sent
when it is first needed and again when the program binds its name to another object, never otherwise. The Subscriber
(in each worker, _main_versions) applies the log to the worker's own ``__main__`` up to the version that a payload names.

An entry is three pickles: its heading (names, those that could not be sent and why, the entries that nobody needs any
more), the shared objects that it holds, and one stream of pickles, a value a name, with one memo: what two globals share
stays shared, and cycles among classes work. A stream that is not small lies in a buffer, the last of the shared objects.

Identity decides: ``x = other`` is seen, ``x.append(1)`` is not, as it would be too late for a task already sent.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import threading
from typing import Any

from freethreading import _core, _imports
from freethreading._by_value import PROTOCOL, ByValuePickler
from freethreading._capture import Capture
from freethreading._culprit import translated
from freethreading._loaded import look_up
from freethreading._main_versions import MISSING as _MISSING, Heading

_MAX_KNOWN = 256
_MAX_INSIDE = 4096  # bytes of a stream that the log keeps for good

Needs = tuple[tuple[str, ...], tuple[str, ...]]
# The newest version that a payload needs, and the shared objects that its receiver may meet in the log up to there.
Required = tuple[int, tuple[object, ...]]


@dataclasses.dataclass(frozen=True)
class _Entry:
    shared: list[object]
    needs: frozenset[int]  # entries that it refers to by name


@dataclasses.dataclass(frozen=True)
class _Published:
    """What the log holds, by name. The values are kept: an identity means something only as long as its object lives."""

    version: int = 0
    sent: dict[str, Any] = dataclasses.field(default_factory=dict)
    uses: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unsent: dict[str, BaseException] = dataclasses.field(default_factory=dict)
    # The entry that has the name's newest value.
    where: dict[str, int] = dataclasses.field(default_factory=dict)
    entries: dict[int, _Entry] = dataclasses.field(default_factory=dict)  # those that a new worker applies
    shared: tuple[object, ...] = ()  # theirs


class Publisher:
    """The program's side. Thread-safe; no lock is held while objects are pickled, which runs the user's code."""

    def __init__(self, namespace: dict[str, Any], only: frozenset[str] | None, log: _core.BlobLog) -> None:
        self.namespace = namespace
        self.only = only  # the names that go by value; None: all
        self.log = log
        self._published = _Published()  # replaced as a whole, so that readers need no lock
        self._guard = threading.Lock()
        # What a payload with these needs depends on in the end, as it was when nothing of it was missing.
        self._known: dict[Needs, tuple[Required, list[tuple[str, Any]]]] = {}

    @property
    def version(self) -> int:
        return self._published.version

    def require(self, named: tuple[str, ...], used: tuple[str, ...]) -> Required:
        """Publishes what is missing; the version that has everything, and what a payload that names it keeps alive.

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

    def _publish(self, named: tuple[str, ...], used: tuple[str, ...]) -> Required:
        while True:
            old = self._published
            batch = _Batch(self.namespace, self.only, old)
            batch.uses((*named, *used))
            if not batch.pending:
                for name in named:
                    if name in old.unsent:
                        raise old.unsent[name]
                required = old.version, old.shared
                with self._guard:
                    if self._published is old:
                        if len(self._known) >= _MAX_KNOWN:
                            self._known = {}
                        self._known[named, used] = required, batch.seen()
                return required
            heading, shared, stream = batch.entry(named)
            _imports.name_them(batch.modules)
            apart = len(stream) > _MAX_INSIDE
            if apart:
                buffer = _core.SharedBuffer(len(stream), shared=True)
                _core.copy_into(buffer, 0, stream)
                shared, stream = [*shared, buffer], b""
            body = pickle.dumps((apart, [_core.handle_of(obj) for obj in shared]), PROTOCOL) + stream
            with self._guard:
                # Where somebody else published meanwhile: look again at what is missing.
                if self._published is old:
                    self._append(old, batch, heading, shared, body)

    def _append(
        self, old: _Published, batch: _Batch, heading: Heading, shared: list[object], body: bytes
    ) -> None:
        # Under the guard.
        needs = frozenset(old.where[name] for name in batch.referenced)
        others = {name: number for name, number in old.where.items() if name not in batch.values}
        kept = _with_needs(old.entries, {*others.values(), *needs})
        dropped = tuple(old.entries.keys() - kept)
        number = self.log.append(pickle.dumps((*heading, dropped), PROTOCOL) + body)
        entries = {n: e for n, e in old.entries.items() if n in kept} | {number: _Entry(shared, needs)}
        self._known = {}
        self._published = _Published(
            number,
            {**old.sent, **batch.values},
            {**old.uses, **batch.used_by},
            {k: v for k, v in old.unsent.items() if k not in batch.values} | batch.failures,
            others | dict.fromkeys(batch.values, number),
            entries,
            tuple({id(obj): obj for e in entries.values() for obj in e.shared}.values()),
        )


def _with_needs(entries: dict[int, _Entry], roots: set[int]) -> set[int]:
    found: set[int] = set()
    pending = list(roots)
    while pending:
        number = pending.pop()
        if number not in found:
            found.add(number)
            pending += entries[number].needs
    return found


class _Batch:
    """What one entry will hold; the MainView of the pickler that makes it."""

    def __init__(self, namespace: dict[str, Any], only: frozenset[str] | None, published: _Published) -> None:
        self.namespace = namespace
        self.capture = Capture()
        self.values: dict[str, Any] = {}
        self.used_by: dict[str, tuple[str, ...]] = {}
        self.failures: dict[str, BaseException] = {}
        self.pending: list[str] = []
        self.referenced: set[str] = set()  # what the pickles refer to by name
        self._only = only
        self._published = published
        self._seen: set[str] = set()
        self._current: dict[str, None] = {}
        self.modules: dict[str, None] = {}  # that the receiver imports for these values

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
            if self._published.sent.get(name, _MISSING) is value:
                stack += self._published.uses.get(name, ())
            else:
                self.values[name] = value
                self.pending.append(name)

    def seen(self) -> list[tuple[str, Any]]:
        """Every name that was looked at, and what the log has under it."""
        return [(name, self._published.sent.get(name, _MISSING)) for name in self._seen]

    def by_reference(self, root: str) -> bool:
        if self._only is not None and root not in self._only:
            return True
        old = self._published
        if old.sent.get(root, _MISSING) is look_up(self.namespace, root) and root not in old.unsent:
            self.uses((root,))
            self.referenced.add(root)
            return True
        self.uses((root,))
        return False

    def entry(self, named: tuple[str, ...]) -> tuple[Heading, list[object], bytes]:
        """The heading, the shared objects and the stream of pickles."""
        try:
            return self._dump()
        except Exception:
            pass
        # One of the names is to blame: find which by pickling each on its own, then send the others.
        for name in self.pending:  # grows while it is walked
            alone = _Batch(self.namespace, self._only, self._published)
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

    def _dump(self) -> tuple[Heading, list[object], bytes]:
        stream = io.BytesIO()
        self.referenced = set()
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
        self.modules = pickler.modules
        reasons = {n: f"it did not pickle ({e})" for n, e in self.failures.items()}
        return (names, reasons), self.capture.shared, stream.getvalue()
