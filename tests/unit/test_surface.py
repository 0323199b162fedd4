"""The public surface: which names there are, their signatures beside the standard library's, and what importing brings in."""

from __future__ import annotations

import concurrent.futures
import importlib
import inspect
import subprocess
import sys

import pytest

import freethreading

EIGHTEEN = {
    "Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Queue", "RLock", "Semaphore", "SimpleQueue", "Worker",
    "WorkerPool", "WorkerPoolExecutor", "active_children", "active_count", "current_worker", "enumerate", "get_backend",
    "get_ident",
}  # fmt: skip

SIGNATURES = {
    "Lock.acquire": ["blocking=True", "timeout=None"],
    "RLock.acquire": ["blocking=True", "timeout=None"],
    "Semaphore": ["value=1"],
    "BoundedSemaphore": ["value=1"],
    "Semaphore.acquire": ["blocking=True", "timeout=None"],
    "Semaphore.release": ["n=1"],
    "Condition": ["lock=None"],
    "Condition.wait": ["timeout=None"],
    "Condition.wait_for": ["predicate", "timeout=None"],
    "Condition.notify": ["n=1"],
    "Condition.notify_all": [],
    "Event.wait": ["timeout=None"],
    "Barrier": ["parties", "action=None", "timeout=None"],
    "Barrier.wait": ["timeout=None"],
    "Queue": ["maxsize=0"],
    "Queue.put": ["item", "block=True", "timeout=None"],
    "Queue.get": ["block=True", "timeout=None"],
    "Queue.shutdown": ["immediate=False"],
    "SimpleQueue.put": ["item", "block=True", "timeout=None"],
    "SimpleQueue.get": ["block=True", "timeout=None"],
    "Worker": ["group=None", "target=None", "name=None", "args=()", "kwargs=None", "daemon=None"],
    "Worker.join": ["timeout=None"],
    "WorkerPool": ["workers=None", "initializer=None", "initargs=()"],
    "WorkerPool.map": ["func", "iterable", "chunksize=None", "return_exceptions=False"],
    "WorkerPool.apply": ["func", "args=()", "kwds={}"],
    "WorkerPool.apply_async": ["func", "args=()", "kwds={}", "callback=None", "error_callback=None"],
    "WorkerPool.imap": ["func", "iterable", "chunksize=1", "return_exceptions=False"],
    "WorkerPoolExecutor": ["max_workers=None", "initializer=None", "initargs=()"],
    "WorkerPoolExecutor.shutdown": ["wait=True", "cancel_futures=False"],
}


def parameters(thing: object) -> list[str]:
    """The parameters a caller sees, `name` or `name=default`, without self and without `shared` and catch-alls."""
    found = []
    for parameter in inspect.signature(thing).parameters.values():  # type: ignore[arg-type]
        if parameter.name in ("self", "shared") or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        found.append(parameter.name + default)
    return found


def test_the_eighteen_names_are_there() -> None:
    assert set(freethreading.__all__) >= EIGHTEEN
    for name in freethreading.__all__:
        assert getattr(freethreading, name) is not None
        assert name in dir(freethreading)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signature(path: str) -> None:
    thing: object = freethreading
    for name in path.split("."):
        thing = getattr(thing, name)
    got = parameters(thing)
    assert got[: len(SIGNATURES[path])] == SIGNATURES[path]


def test_public_names_have_docstrings() -> None:
    for name in EIGHTEEN:
        thing = getattr(freethreading, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for method, value in vars(thing).items():
                if not method.startswith("_") and callable(value):
                    assert inspect.getdoc(value), f"{name}.{method}"


def test_types_say_where_they_are_from() -> None:
    for name in EIGHTEEN:
        assert getattr(freethreading, name).__module__.partition(".")[0] == "freethreading"


def test_import_brings_in_little() -> None:
    code = (
        "import sys, freethreading; heavy = {'multiprocessing', 'cloudpickle', 'asyncio', 'subprocess', 'ctypes'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
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
