"""What crosses between processes, and what is refused and how."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import pickle
import select
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import Any

import pytest

import freethreading
from freethreading import _capture, _core, _reducers, _serialize

pytestmark = pytest.mark.usefixtures("kind_of_main")

COUNTER = [0]


def through(obj: Any) -> Any:
    return _serialize.loads(_serialize.dumps(obj).data)


def module_function(x: int) -> int:
    return x + 1


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("_private", "stream")

    def __init__(self, stream: Any) -> None:
        self.stream = stream


@dataclasses.dataclass
class Record:
    name: str
    value: Any


class Stateful:
    """What it pickles is not what it has."""

    def __init__(self, hidden: Any) -> None:
        self._box = lambda: hidden

    def __getstate__(self) -> dict[str, Any]:
        return {"hidden": self._box()}


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        raise self._error


class OwnError(Exception):
    pass


# What goes through ------------------------------------------------------------------------------------------------


def test_plain_data_is_plain_pickle() -> None:
    value = {"a": [1, 2.5, "x", None], "b": (b"y", {3})}
    payload = _serialize.dumps(value)
    assert payload.data == pickle.dumps(value, 5)
    assert payload.shared == []
    assert _serialize.loads(memoryview(payload.data)) == value


def test_lambda_closure_and_local_class() -> None:
    base = 10

    class Local:
        factor = 3

        def times(self, x: int) -> int:
            return self.factor * x + base

    assert through(lambda x: x * base)(2) == 20
    assert through(Local)().times(2) == 16
    assert type(through(Local())) is Local  # within one process it is the same class


def test_recursive_closure() -> None:
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert through(fib)(10) == 55


def test_closures_go_on_sharing_a_variable() -> None:
    total = 0

    def add(x: int) -> None:
        nonlocal total
        total += x

    def get() -> int:
        return total

    far_add, far_get = through((add, get))
    far_add(5)
    assert far_get() == 5
    assert get() == 0


def test_function_of_a_module_keeps_the_modules_globals() -> None:
    far = through(lambda: COUNTER)
    assert far() is COUNTER


def test_function_keeps_defaults_attributes_and_annotations() -> None:
    def f(x: int, /, y: str = "y", *, z: float = 1.0) -> str:
        """Documented."""
        return f"{x}{y}{z}"

    f.mark = "m"  # type: ignore[attr-defined]
    far = through(f)
    assert (far(1), far.__doc__, far.mark, far.__name__, far.__qualname__, far.__module__) == (
        "1y1.0",
        "Documented.",
        "m",
        "f",
        f.__qualname__,
        __name__,
    )
    assert far.__annotations__ == f.__annotations__


def test_partial_method_generator_function_and_wrapped() -> None:
    def gen(n: int) -> Any:
        yield from range(n)

    @functools.lru_cache
    def cached(x: int) -> int:
        return x

    assert through(functools.partial(lambda a, b: a - b, 5))(3) == 2
    assert list(through(gen)(3)) == [0, 1, 2]
    assert through(Plain(f=lambda: 4)).f() == 4
    with pytest.raises(freethreading.NotPicklableError):
        _serialize.dumps(cached)


def test_modules_and_loggers() -> None:
    import logging
    import xml.etree.ElementTree as tree

    assert through((lambda: tree, tree, sys.stdout))[1] is tree
    log = logging.getLogger("x")
    assert through((lambda: 0, log))[1] is log


# What is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def stream(tmp_path: Path) -> Any:
    with (tmp_path / "log").open("w+") as file:
        yield file


def message_of(obj: Any, where: Any = "args") -> str:
    with pytest.raises(freethreading.NotPicklableError, match="must be picklable") as caught:
        _serialize.dumps(obj, where)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, pickle.PicklingError)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_path_to_the_culprit(stream: Any) -> None:
    log = Plain(log=Plain(stream=stream))
    assert "args[1].log.stream: _io.TextIOWrapper" in message_of((1, log))


def test_paths_of_every_kind(stream: Any) -> None:
    assert "args['a']['b'][2]: _io.TextIOWrapper" in message_of({"a": {"b": [0, 1, stream]}})
    assert "args.stream: _io.TextIOWrapper" in message_of(Slotted(stream))
    assert "args[0].value: _io.TextIOWrapper" in message_of([Record("x", stream)])
    assert "args.hidden: _io.TextIOWrapper" in message_of(Stateful(stream))
    assert "args[1]: _thread.lock" in message_of(collections.deque([0, threading.Lock()]))
    assert "args.<closure>.stream: _io.TextIOWrapper" in message_of(lambda: stream)
    assert "_io.TextIOWrapper" in message_of(functools.partial(print, stream))
    assert "args[0]: generator" in message_of([(x for x in ())])
    with select.epoll() as poll:
        assert "args[1]: select.epoll" in message_of([0, poll])


def test_parts_of_a_call_have_names(stream: Any) -> None:
    call = (module_function, (1, stream), {"k": 1})
    assert "args[1]: _io.TextIOWrapper" in message_of(call, ("function", "args", "kwargs"))
    call = (module_function, (), {"k": [stream]})
    assert "kwargs['k'][0]: _io.TextIOWrapper" in message_of(call, ("function", "args", "kwargs"))


def test_cycles_and_great_depth_end(stream: Any) -> None:
    cycle: list[Any] = []
    cycle.extend((cycle, {"s": stream}))
    assert "args[1]['s']: _io.TextIOWrapper" in message_of(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "too deeply" in message_of(deep)
    while deep:  # taken apart by hand: some interpreters free it recursively
        deep = deep[0]


@pytest.mark.parametrize(
    "error",
    [OwnError("mine"), TypeError("mine"), AttributeError("mine"), pickle.PicklingError("mine"), KeyError(1)],
    ids=lambda e: type(e).__name__,
)
def test_an_exception_of_the_users_own_reduce_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        _serialize.dumps([Refuses(error)])
    assert caught.value is error


def test_a_users_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        _serialize.dumps(Refuses(KeyboardInterrupt()))


def test_check_keeps_nothing_and_refuses_the_same(stream: Any) -> None:
    _serialize.check((1, lambda: 2))
    with pytest.raises(freethreading.NotPicklableError, match=r"args\[0\]: _io.TextIOWrapper"):
        _serialize.check((stream,))
    with pytest.raises(OwnError):
        _serialize.check(Refuses(OwnError()))
    _serialize.check([_core.Lock(shared=False)])


def test_while_another_thread_imports_multiprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    half_imported = types.ModuleType("multiprocessing.reduction")
    monkeypatch.setitem(sys.modules, "multiprocessing.reduction", half_imported)
    assert _serialize.loads(_serialize.dumps([1, "two"]).data) == [1, "two"]


# What comes with the bytes ------------------------------------------------------------------------------------------


def test_the_shared_objects_come_with_the_bytes() -> None:
    first, second = _core.Lock(shared=True), _core.Event(shared=True)
    assert _serialize.dumps([first, second, first]).shared == [first, second]
    assert _serialize.dumps_message(first)[1] == [first]
    assert _serialize.dumps([1]).shared == []
    assert _capture.current() is None


def fail_to_dump(obj: object) -> None:
    try:
        _serialize.dumps(obj)
    except BaseException:
        return
    raise AssertionError("it was pickled")


@pytest.mark.parametrize("reducers", [False, True], ids=["plain", "with multiprocessing's reducers"])
@pytest.mark.parametrize("error", [None, OwnError, KeyboardInterrupt])
def test_nothing_is_kept_when_pickling_fails(
    error: type[BaseException] | None, reducers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reducers, "_needed", reducers)
    monkeypatch.setattr(_reducers, "_look", lambda: None)
    lock = _core.Lock(shared=True)
    gone = weakref.ref(lock)
    bad: Any = threading.Lock() if error is None else Refuses(error())
    fail_to_dump([lock, bad])
    assert _capture.current() is None
    del lock, bad  # an exception has its frames
    gc.collect()
    assert gone() is None


def test_the_second_attempt_names_it_once() -> None:
    lock = _core.Lock(shared=True)
    assert _serialize.dumps([lock, lambda: 1]).shared == [lock]


class PicklesWithin:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self) -> Any:
        assert _serialize.dumps(self.inner).shared == [self.inner]
        return int, ()


def test_pickling_within_pickling_has_its_own_capture() -> None:
    first, second = _core.Lock(shared=True), _core.Lock(shared=True)
    assert _serialize.dumps([PicklesWithin(first), second]).shared == [second]


def test_what_was_made_for_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "this Lock was made for threads; make it with shared=True"

    class Private:
        def __reduce__(self) -> Any:
            raise TypeError(text)

    with pytest.raises(TypeError, match="made for threads") as caught:
        _serialize.dumps([Private()])
    assert not isinstance(caught.value, freethreading.NotPicklableError)


class FakePopen:
    """A launcher of multiprocessing's, as far as pickling for its child goes."""

    class DupFd:
        def __init__(self, number: int) -> None:
            self.number = number

        def detach(self) -> int:
            return self.number

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return descriptor


class Spawned:
    """A shared object of session 7."""

    handle = b"h" * 8 + (7).to_bytes(8, sys.byteorder) + b"h" * 24

    def __reduce__(self) -> Any:
        return _serialize.reduce_shared(self)


def test_a_child_of_multiprocessing_gets_the_descriptor_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiprocessing.context import set_spawning_popen

    attached: list[int] = []
    monkeypatch.setattr(_core, "handle_of", lambda obj: obj.handle)
    monkeypatch.setattr(_core, "session_fd", lambda session: session + 100, raising=False)
    monkeypatch.setattr(_core, "session_attached", lambda session: session in attached, raising=False)
    monkeypatch.setattr(_core, "session_attach", lambda fd: attached.append(fd - 100), raising=False)
    monkeypatch.setattr(_core, "open_handle", lambda handle: handle)
    popen: Any = FakePopen()
    set_spawning_popen(popen)
    first, second = Spawned(), Spawned()
    kept = weakref.ref(first)
    try:
        data = pickle.dumps([first, second])
    finally:
        set_spawning_popen(None)
    assert popen.descriptors == [107]
    del first
    assert kept() is not None  # as long as the launcher
    assert pickle.loads(data) == [Spawned.handle] * 2
    assert attached == [7]
    del popen
    gc.collect()
    assert kept() is None
