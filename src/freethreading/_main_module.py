"""How ``__main__`` travels to the workers.

    main program                            kind     in the worker
    file with a guard                       path     imported once under the name __mp_main__, as multiprocessing does
    python -m name, with a guard            module   the same, by the module's name
    anything else: file without a guard,    value    never run again: an empty module, filled with definitions when
    -c, standard input, REPL, notebook               they are first needed (_main_definitions)

A guard is an ``if`` at the top level of the file that compares ``__name__`` with ``"__main__"``. What only the guarded
part binds is missing where the file is imported: those names, and no others, go by value with the first two kinds.

Payloads that need definitions begin with a tag: b"M", how many logs, and for each its version and its handle. A
worker applies its log up to that version before it unpickles; the program, whose ``__main__`` is the real one, skips
the tag. A worker that makes workers of its own publishes its ``__main__`` to them in the same way.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import struct
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

from freethreading import _core
from freethreading._loaded import loaded, look_up

if TYPE_CHECKING:
    from freethreading._main_definitions import Publisher
    from freethreading._main_versions import Subscriber

Plan = dict[str, Any]

TAG = b"M"
_COUNT = struct.Struct("<cB")
_LOG = struct.Struct("<QH")

RUN_NAME = "__mp_main__"


class _State:
    """What this process knows about its ``__main__``; one per process, made anew in a forked child."""

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.main: types.ModuleType | None = None  # the one that kind was found out for
        self.plan: Plan | None = None
        self.log: _core.BlobLog | None = (
            None  # of this process's definitions; opened before there is a publisher
        )
        self.logged: dict[str, Any] | None = None  # the namespace that they are in
        self.publisher: Publisher | None = None
        self.subscriber: Subscriber | None = None


_state = _State()
_replaced: list[types.ModuleType] = []  # a module that goes takes its globals from functions that still run


def _after_fork_in_child() -> None:
    # The log has one writer process: the child of a fork starts its own.
    global _state
    old, _state = _state, _State()
    _state.main, _state.plan, _state.subscriber = old.main, old.plan, old.subscriber
    if _state.subscriber is not None:
        _state.subscriber.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def by_value() -> bool:
    """Whether this process's ``__main__`` goes to workers by value (or came so)."""
    return bool(_kind()["kind"] == "value")


def sent_names() -> frozenset[str] | None:
    """The names of ``__main__`` that go by value; None: all of them."""
    found: frozenset[str] | None = look_up(_kind(), "guarded")
    return found


def goes_by_value(name: str) -> bool:
    """Whether this global of ``__main__`` does."""
    names = sent_names()
    return names is None or name in names


def guarded_definitions() -> tuple[bytes, ...]:
    """Names of functions and classes that pickle would send by name and that no worker would find."""
    found: tuple[bytes, ...] = look_up(_kind(), "definitions") or ()
    return found


def plan() -> Plan:
    """How a worker of this process gets its ``__main__``: plain data for install()."""
    found = dict(_kind())
    main = sys.modules["__main__"]
    sys.modules.setdefault(RUN_NAME, main)  # results may name it so
    if sent_names() != frozenset():
        with _state.guard:
            found["log"] = _log_of(main).handle
    return found


def _log_of(main: types.ModuleType) -> _core.BlobLog:
    # Under the guard.
    if _state.log is None or _state.logged is not main.__dict__:
        _state.log, _state.logged = _core.BlobLog(), main.__dict__
    return _state.log


def publisher() -> Publisher:
    """What writes the log of this process's definitions, made when first needed."""
    with _state.guard:
        main = sys.modules["__main__"]
        if _state.publisher is None or _state.publisher.namespace is not main.__dict__:
            from freethreading._main_definitions import Publisher

            _state.publisher = Publisher(main.__dict__, sent_names(), _log_of(main))
        return _state.publisher


def version() -> int:
    """The newest version of this process's definitions; 0: none was ever needed."""
    return _state.publisher.version if _state.publisher is not None else 0


def publishes() -> bool:
    """Whether definitions made in this process go to workers: not in a worker that has none of its own."""
    return _state.subscriber is None or _state.log is not None


def subscriber() -> Subscriber | None:
    return _state.subscriber


def install(how: Plan) -> None:
    """Makes this process's ``__main__`` what the plan says. In a worker, before anything is unpickled."""
    kind = how["kind"]
    if kind == "path":
        _run(_code_of_path(how["path"]), __file__=how["path"], __package__=None)
    elif kind == "module":
        spec = importlib.util.find_spec(how["name"])
        if spec is None or spec.loader is None:
            raise ImportError(
                f"the main module {how['name']!r} cannot be found in the worker", name=how["name"]
            )
        loader: Any = spec.loader
        code: types.CodeType = loader.get_code(spec.name)
        _run(code, __file__=spec.origin, __package__=spec.parent, __spec__=spec, __loader__=spec.loader)
    else:
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = builtins
        if "file" in how:
            main.__file__ = how["file"]
        _become_main(main)
    _state.main, _state.plan = sys.modules["__main__"], {k: v for k, v in how.items() if k != "log"}
    subscribe(how)


def expect(how: Plan) -> None:
    """In the zygote: imports what subscribe() needs in workers of such a program, where they have a log."""
    if look_up(how, "guarded") != frozenset():
        importlib.import_module("freethreading._main_versions")


def subscribe(how: Plan) -> None:
    """Has this process's ``__main__``, which is what the plan says already, filled from the plan's log."""
    if "log" in how:
        from freethreading._main_versions import Subscriber

        _state.subscriber = Subscriber(sys.modules["__main__"].__dict__, how["log"])


def update_to(number: int) -> None:
    """Brings this worker's ``__main__`` up to that version of the program's definitions."""
    if _state.subscriber is not None:
        _state.subscriber.update_to(number)


def tag(logs: list[tuple[int, bytes]]) -> bytes:
    """What a payload begins with that needs these versions of these logs."""
    parts = [_COUNT.pack(TAG, len(logs))]
    for number, handle in logs:
        parts += (_LOG.pack(number, len(handle)), handle)
    return b"".join(parts)


def arrive(data: bytes | memoryview) -> int:
    """Applies a payload's tag and gives its length."""
    _, count = _COUNT.unpack_from(data)
    at = _COUNT.size
    own = _state.subscriber
    for _ in range(count):
        number, length = _LOG.unpack_from(data, at)
        at += _LOG.size
        if own is not None and own.version < number and own.handle == bytes(data[at : at + length]):
            own.update_to(number)
        at += length
    return at


def _kind() -> Plan:
    main = sys.modules["__main__"]
    found = _state.plan
    if found is None or _state.main is not main:
        with _state.guard:
            found = _find_out(main)
            _state.main, _state.plan = main, found
    return found


def _find_out(main: types.ModuleType) -> Plan:
    file = getattr(main, "__file__", None)
    by_value: Plan = {"kind": "value"}
    if not isinstance(file, str):
        return by_value
    path = os.path.abspath(file)
    by_value["file"] = path
    # After the file of "python -i", or of IPython's %run, comes a prompt in the same module.
    if sys.flags.interactive or hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__"):
        return by_value
    try:
        with open(path, "rb") as opened:
            source = opened.read()
    except OSError:
        return by_value
    if b"__name__" not in source:
        return by_value
    from freethreading._main_guard import guarded

    bound = guarded(source)
    if bound is None:
        return by_value
    plan: Plan = {"guarded": bound.names, "definitions": bound.definitions}
    spec = getattr(main, "__spec__", None)
    if spec is None:
        return {**plan, "kind": "path", "path": path}
    # A package's __main__.py is seldom meant to be imported, guard or not.
    name: str = spec.name
    if name == "__main__" or name.endswith(".__main__"):
        return by_value
    return {**plan, "kind": "module", "name": name}


def _code_of_path(path: str) -> types.CodeType:
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec")


def _run(code: types.CodeType, **attributes: Any) -> None:
    main = types.ModuleType(RUN_NAME)
    main.__dict__.update(attributes)
    before = {name: loaded(name) for name in ("__main__", RUN_NAME)}
    _become_main(main)
    try:
        exec(code, main.__dict__)
    except BaseException:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        raise


def _become_main(main: types.ModuleType) -> None:
    _replaced.append(sys.modules["__main__"])
    sys.modules["__main__"] = sys.modules[RUN_NAME] = main
