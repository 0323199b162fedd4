"""The public surface: which names there are, their signatures beside the standard library's, and what importing brings in."""

from __future__ import annotations

import concurrent.futures
import importlib
import inspect
import multiprocessing
import multiprocessing.pool
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import freethreading

EIGHTEEN = {
    "Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Queue", "RLock", "Semaphore", "SimpleQueue", "Worker",
    "WorkerPool", "WorkerPoolExecutor", "active_children", "active_count", "current_worker", "enumerate", "get_backend",
    "get_ident",
}  # fmt: skip
NAMES = EIGHTEEN | {"AtomicInt64", "SharedBuffer", "broadcast", "set_preload", "shared_array"}
FACTORIES = {"broadcast", "shared_array"}

# Each name of ours beside the standard library's whose callers it must serve. `_PyRLock`, `_PySimpleQueue`: pure Python
# twins of native classes, which have signatures on every version.
PEERS: dict[str, list[Any]] = {
    "RLock": [threading._PyRLock],  # type: ignore[attr-defined]
    "Semaphore": [threading.Semaphore],
    "BoundedSemaphore": [threading.BoundedSemaphore],
    "Condition": [threading.Condition],
    "Event": [threading.Event],
    "Barrier": [threading.Barrier],
    "Queue": [queue.Queue],
    "SimpleQueue": [queue._PySimpleQueue],  # type: ignore[attr-defined]
    "Worker": [threading.Thread, multiprocessing.Process],
    "WorkerPool": [multiprocessing.pool.Pool],
    "WorkerPoolExecutor": [concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor],
    "current_worker": [threading.current_thread, multiprocessing.current_process],
    "enumerate": [threading.enumerate],
    "active_count": [threading.active_count],
    "active_children": [multiprocessing.active_children],
}
# What the standard library's has and ours has not, or has in another way, on purpose.
DIFFERENT = {
    "RLock.acquire timeout": "None waits for ever; -1 does as well",
    "Worker kwargs": "None or {}: the standard library's two do not agree",
    "Worker context": "threads only",
    "WorkerPool maxtasksperchild": "multiprocessing only",
    "WorkerPool context": "multiprocessing only",
    "WorkerPoolExecutor.map fn": "by position only, as in submit()",
    "WorkerPoolExecutor mp_context": "by keyword only: there is nothing to choose",
    "WorkerPoolExecutor thread_name_prefix": "by keyword only",
}
ONE_ARGUMENT = {"Queue.put_nowait", "SimpleQueue.put_nowait"}  # by position only: twice as fast
RENAMED = {"WorkerPool processes": "workers"}
METHODS_LEFT_OUT = {
    "Condition": {"notifyAll"},
    "Event": {"isSet"},
    "Worker": {"getName", "setName", "isDaemon", "setDaemon", "interrupt"},
    "WorkerPool": {"Process"},
    "WorkerPoolExecutor": {"terminate_workers", "kill_workers"},
}
# Native on both sides, and without a signature of the standard library's to compare with.
SIGNATURES = {
    "Lock": "(*, shared=None)",
    "Lock.acquire": "(self, /, blocking=True, timeout=None)",
    "Lock.release": "(self, /)",
    "Lock.locked": "(self, /)",
    "get_ident": "()",
    "AtomicInt64": "(value=0, *, shared=None)",
    "AtomicInt64.load": "(self, /)",
    "AtomicInt64.fetch_add": "(self, value, /)",
    "AtomicInt64.compare_exchange": "(self, /, expected, desired)",
    "SharedBuffer": "(nbytes, *, shared=None)",
    "SharedBuffer.release": "(self, /)",
    "get_backend": "()",
}


def pairs(name: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, ours, theirs) of a class or function of PEERS and of its public methods."""
    ours = getattr(freethreading, name)
    for theirs in PEERS[name]:
        yield name, ours, theirs
        if not inspect.isclass(theirs):
            continue
        for method, value in inspect.getmembers(theirs, inspect.isroutine):
            if not method.startswith("_") and method not in METHODS_LEFT_OUT.get(name, ()):
                yield f"{name}.{method}", getattr(ours, method), value


def parameters(path: str, thing: Any) -> dict[str, inspect.Parameter]:
    # `self` is there where the callable is a plain function or a native method.
    found = inspect.signature(thing).parameters
    return {
        RENAMED.get(f"{path} {name}", name): each
        for name, each in found.items()
        if not name.startswith("_") and name != "self" and f"{path} {name}" not in DIFFERENT
    }


@pytest.mark.parametrize("name", PEERS)
def test_a_call_of_the_standard_librarys_is_a_call_of_ours(name: str) -> None:
    for path, ours, theirs in pairs(name):
        mine = parameters(path, ours)
        ordered = [name for name, each in mine.items() if each.kind is not each.KEYWORD_ONLY]
        place = 0
        for parameter, their in parameters(path, theirs).items():
            if their.kind in (their.VAR_POSITIONAL, their.VAR_KEYWORD):
                assert any(each.kind is their.kind for each in mine.values()), f"{path}({their})"
                continue
            assert parameter in mine, f"{path} lacks {parameter}"
            assert mine[parameter].default == their.default, f"{path}({parameter})"
            if their.kind is their.KEYWORD_ONLY:
                continue
            assert ordered[place] == parameter, path
            place += 1
            if their.kind is their.POSITIONAL_OR_KEYWORD and mine[parameter].kind is their.POSITIONAL_ONLY:
                assert path in ONE_ARGUMENT, f"{path}({parameter}) by keyword"


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path: str) -> None:
    thing: Any = freethreading
    for name in path.split("."):
        thing = getattr(thing, name)
    assert str(inspect.signature(thing)).partition(" ->")[0] == SIGNATURES[path]


def test_the_reference_gives_the_signatures() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    given = dict(re.findall(r"^\| `(\w+)(\(.*?\))` \|", page, re.MULTILINE))
    classes = {name for name in NAMES if inspect.isclass(getattr(freethreading, name))}
    assert set(given) == classes | FACTORIES
    for name, text in given.items():
        bare = [
            each.replace(annotation=inspect.Parameter.empty)
            for each in inspect.signature(getattr(freethreading, name)).parameters.values()
        ]
        assert str(inspect.Signature(bare)).replace("<class 'float'>", "float") == text
    assert set(re.findall(r"^::: freethreading\.(\w+)", page, re.MULTILINE)) == set(freethreading.__all__)


def test_the_eighteen_names_are_there() -> None:
    assert set(freethreading.__all__) >= NAMES
    for name in freethreading.__all__:
        assert getattr(freethreading, name) is not None
        assert name in dir(freethreading)


def test_public_names_have_docstrings() -> None:
    for name in NAMES:
        thing = getattr(freethreading, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for method, value in vars(thing).items():
                if not method.startswith("_") and callable(value):
                    assert inspect.getdoc(value), f"{name}.{method}"


def test_types_say_where_they_are_from() -> None:
    for name in NAMES:
        assert getattr(freethreading, name).__module__.partition(".")[0] == "freethreading"


HEAVY = {
    "multiprocessing",
    "cloudpickle",
    "asyncio",
    "subprocess",
    "ctypes",
    "concurrent",
    "socket",
    "pickle",
    "typing",
    "numpy",
}
ON_THREADS = """
import sys, freethreading
for make in (freethreading.Lock, freethreading.RLock, freethreading.Event, freethreading.Condition, freethreading.Queue,
             freethreading.SimpleQueue, freethreading.Semaphore, freethreading.BoundedSemaphore):
    make()
freethreading.Barrier(1).wait()
freethreading.AtomicInt64().load()
freethreading.SharedBuffer(8).release()
queue = freethreading.Queue()
queue.put(1)
queue.get()
"""


@pytest.mark.parametrize("code", ["import sys, freethreading", ON_THREADS], ids=["import", "use"])
def test_threads_do_not_pay_for_processes(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    # -S: what an environment's site hooks import is not ours. The package's folder is given instead.
    code = f"import sys; sys.path.append({str(Path(freethreading.__file__).parents[1])!r})\n{code}"
    code += f"\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_session_before_something_is_shared() -> None:
    code = (
        "import freethreading; from freethreading import _core\n"
        "freethreading.Lock(shared=False); freethreading.Queue(shared=False); freethreading.active_children()\n"
        "print(_core.session_usage())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_the_gil_stays_off_on_a_free_threaded_build() -> None:
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("the GIL is on")
    importlib.import_module("freethreading._core")
    assert not sys._is_gil_enabled()


@pytest.mark.parametrize("value", ["threads", "", "MULTIPROCESSING "])
def test_an_unknown_back_end_is_a_clear_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", value)
    if not value:
        assert freethreading.get_backend() in ("threading", "multiprocessing")
        return
    for make in (freethreading.get_backend, freethreading.Lock, freethreading.Queue, freethreading.Worker):
        with pytest.raises(ValueError, match=f"FREETHREADING_BACKEND.*{value}.*threading"):
            make()


@pytest.mark.parametrize(("enabled", "expected"), [(True, "multiprocessing"), (False, "threading")])
def test_the_back_end_follows_the_gil(enabled: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FREETHREADING_BACKEND", raising=False)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert freethreading.get_backend() == expected
    reloaded = importlib.reload(freethreading)
    assert reloaded.get_backend() == expected
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    assert importlib.reload(freethreading).get_backend() == "threading"


def test_the_executor_is_the_standard_librarys_kind() -> None:
    assert issubclass(freethreading.WorkerPoolExecutor, concurrent.futures.Executor)
